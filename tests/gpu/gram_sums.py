"""Sums of spike trains in Triton, and what they are compared with: shared by their tests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from helpers import draw_spikes, eps
from interpreted import DEVICE

import sbc_kernels as sbc
from sbc_kernels.backends import gram_plan
from sbc_kernels.backends.matched_filter import BYTES_FIXED_POINT_BITS, matched_filter
from sbc_kernels.conv import Region, linear_regions
from sbc_kernels.neurons import Neuron

pytest.importorskip("triton")
from sbc_kernels.backends.triton import spike_gram as module
from sbc_kernels.backends.triton.spike_gram import Schedule
from sbc_kernels.backends.triton.spike_gram_schedule import Tile

# Several tiles, units, batches and chunks of what the interpreter can walk.
SMALL = Schedule(samples=50, depth=2, units=9, tile=Tile(16, 32, 4, 2))
NEURONS: dict[str, Neuron | None] = {
    "current": None,
    "IF": sbc.IF(),
    "LIF 2": sbc.LIF(2.0),
    "LIF 1.7": sbc.LIF(1.7),
    "signed kernel": sbc.Kernel([1.0, -0.5, 0.25, -0.125, 1.0, 0.5, -1.0, 0.0]),
}


def plan_of(
    neuron: Neuron | None, T: int, low: int, high: int, shifted: bool = False
) -> gram_plan.BytesPlan:
    filter_ = matched_filter(neuron, T, BYTES_FIXED_POINT_BITS)
    algorithms = frozenset({"bytes"})
    plan = gram_plan.plan_gram(filter_, low, high, 1, shifted=shifted, algorithms=algorithms)
    assert isinstance(plan, gram_plan.BytesPlan)
    return plan


def draw_bytes(seed: int, low: int, high: int, *shape: int) -> np.ndarray:
    return draw_spikes(np.random.default_rng(seed), low, high, *shape).astype(np.int8)


def on_cpu(parts: Sequence[Region]) -> dict[str, list[torch.Tensor]]:
    return {
        "positions": [torch.from_numpy(part.positions) for part in parts],
        "neighbours": [torch.from_numpy(part.neighbours) for part in parts],
    }


def zeros(parts: Sequence[Region], channels: int, groups: int = 1) -> list[torch.Tensor]:
    shape = (channels, channels)
    return [
        torch.zeros((len(part.neighbours), *shape), dtype=torch.float64, device=DEVICE)
        for _ in range(groups)
        for part in parts
    ]


def linear_sums(spikes: np.ndarray, plan: gram_plan.BytesPlan, **options: Any) -> np.ndarray:
    """Of [T, N, d], mirrored and in the plan's unit."""
    part = linear_regions()[0]
    sums = zeros([part], spikes.shape[2])
    module.add_integers(
        spikes=torch.from_numpy(spikes).to(DEVICE).unsqueeze(2),
        first_channel=0,
        channels=spikes.shape[2],
        plan=plan,
        sums=sums,
        **on_cpu([part]),
        **options,
    )
    return module.mirror_upper(sums[0], plan.factor)[0].cpu().numpy()


def integer_sum(spikes: np.ndarray, plan: gram_plan.BytesPlan) -> np.ndarray:
    """``X' K X`` of the plan's own integers, whether exact or rounded."""
    matrix = plan.filter.astype(object)
    K = matrix.T @ matrix if plan.squared else matrix
    X = spikes.astype(object)
    total = sum(K[t, u] * (X[t].T @ X[u]) for t in range(len(K)) for u in range(len(K)))
    return np.asarray(total, dtype=object)


def float_bound(dtype: torch.dtype, T: int, rows: int) -> float:
    """Of sums of ``|Y|' |Y|``: T roundings of either Y, and of sums over 1024 samples, or all; float32
    products lose 2^-21 in three parts, and matrix units may cut where others round."""
    unit = eps(np.float32 if dtype == torch.float32 else np.float64)
    terms = min(rows, 1024) if dtype == torch.float32 else rows
    return unit * (2 * (T + 1) + 2 * terms + (4 if dtype == torch.float32 else 0))


# What the values come in, and what is computed in.
PRECISIONS = [
    (torch.float32, torch.float32),
    (torch.float32, torch.float64),
    (torch.float64, torch.float64),
]
