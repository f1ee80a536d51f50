"""obs_order against OBC's loop of rank-1 updates."""

from __future__ import annotations

from typing import Any

import pytest
import rivals
from problems import inverse, problem

import sbc_kernels as sbc

STEPS = 24  # steps of the rival that are timed and scaled to d: all of its steps cost the same


@pytest.mark.parametrize(("rows", "d", "target"), [(64, 512, 80), (64, 1152, 150)])
def test_all_removed(versus: Any, sgemm_rate: float, rows: int, d: int, target: int) -> None:
    weight, hessian = problem(rows, d)
    G = inverse(hessian)
    versus(
        f"exact order {rows}x{d}, all removed",
        lambda: sbc.obs_order(weight, G),
        lambda: rivals.obs_order(weight, G, STEPS),
        rival_name="one at a time, batched rank-1",
        rival_scale=d / STEPS,
        work=rows * d**3 / 3,
        unit="FLOP/s",
        limit=sgemm_rate,
        limit_name="sgemm",
        target=target,
        rounds=5,
        note=f"rival: {STEPS} steps, scaled to {d}",
    )


@pytest.mark.parametrize(
    ("rows", "d"), [(256, 256), (128, 512), (64, 1152), (500, 2312), (8, 4608)]
)
def test_growth(versus: Any, sgemm_rate: float, rows: int, d: int) -> None:
    weight, hessian = problem(rows, d)
    G = inverse(hessian)
    versus(
        f"exact order {rows}x{d}, growth with d",
        lambda: sbc.obs_order(weight, G),
        None,
        rival_name="-",
        work=rows * d**3 / 3,
        unit="FLOP/s",
        limit=sgemm_rate,
        limit_name="sgemm",
        rounds=1 if d == 2312 else 3,
        note="at least 50 % of sgemm at d=2312" if d == 2312 else "",
    )
