"""obs_quantize against GPTQ's column loop."""

from __future__ import annotations

from typing import Any

import rivals
import torch
from problems import problem

import sbc_kernels as sbc


def test_four_bits(versus: Any, sgemm_rate: float) -> None:
    weight, hessian = problem(512, 2312)
    grid = sbc.fit_grid(weight.numpy(), 4, kind="absmax")
    scale, zero = torch.from_numpy(grid.scale), torch.from_numpy(grid.zero_point)
    versus(
        "obs_quantize 512x2312, 4 bit",
        lambda: sbc.obs_quantize(weight, hessian, grid),
        lambda: rivals.gptq(weight, hessian, scale, zero, 15),
        rival_name="GPTQ's column loop, Cholesky included",
        work=2312**3 / 3 + 512 * 2312**2,
        unit="FLOP/s",
        limit=sgemm_rate,
        limit_name="sgemm",
        target=2,
    )
