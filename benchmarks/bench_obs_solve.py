"""obs_solve against a loop of torch Cholesky solves."""

from __future__ import annotations

from typing import Any

import pytest
import rivals
import torch
from problems import problem

import sbc_kernels as sbc


@pytest.mark.parametrize("sparsity", [0.5, 0.9, 0.97])
def test_rows(versus: Any, sgemm_rate: float, sparsity: float) -> None:
    weight, hessian = problem(500, 2312)
    mask = torch.rand(weight.shape, generator=torch.Generator().manual_seed(1)) >= sparsity
    flops = float((mask.sum(1).double() ** 3).sum() / 3)
    versus(
        f"obs_solve 500x2312 at {100 * sparsity:g} %",
        lambda: sbc.obs_solve(weight, hessian, mask),
        lambda: rivals.obs_solve(weight, hessian, mask),
        rival_name="loop of torch Cholesky solves",
        work=flops,
        unit="FLOP/s",
        limit=sgemm_rate,
        limit_name="sgemm",
        target=3,
        rounds=2 if sparsity < 0.9 else 5,
    )
