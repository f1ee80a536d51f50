"""obs_select against the exact order of the weights that it leaves out, the inverse not counted."""

from __future__ import annotations

from typing import Any

import pytest
from problems import inverse, problem

import sbc_kernels as sbc


@pytest.mark.parametrize("percent", [90, 95, 97])
def test_against_the_exact_order(versus: Any, sgemm_rate: float, percent: int) -> None:
    rows, d = 16, 2312
    weight, hessian = problem(rows, d)
    G = inverse(hessian)
    kept = d - d * percent // 100
    versus(
        f"forward selection {rows}x{d}, {percent} %",
        lambda: sbc.obs_select(weight, hessian, kept),
        lambda: sbc.obs_order(weight, G, d - kept),
        rival_name="our exact order, inverse not counted",
        work=rows * d * (kept**2 + 2 * d),
        unit="FLOP/s",
        limit=sgemm_rate,
        limit_name="sgemm",
        rounds=3,
    )
