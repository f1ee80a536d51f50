"""Sums of analog spikes in Triton, within bounds; every Gram matrix is float64 and symmetric."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gram_sums import PRECISIONS, SMALL, float_bound, on_cpu, zeros
from helpers import assert_close, eps
from interpreted import DEVICE, needs_triton

import sbc_kernels as sbc
from sbc_kernels.conv import regions
from sbc_kernels.neurons import Neuron, membrane_matrix
from sbc_kernels.ops import reference

pytest.importorskip("triton")
from sbc_kernels import _native
from sbc_kernels.backends.triton import spike_gram as module
from sbc_kernels.backends.triton.spike_gram import Schedule
from sbc_kernels.backends.triton.spike_gram_schedule import Tile

pytestmark = needs_triton


@pytest.mark.parametrize(("dtype", "precision"), PRECISIONS, ids=str)
@pytest.mark.parametrize("neuron", [None, sbc.IF(), sbc.LIF(3.0)], ids=repr)
def test_analog_sums(dtype: torch.dtype, precision: torch.dtype, neuron: Neuron | None) -> None:
    T, N, d = 3, 21, 35
    values = torch.randn(T, N, d, dtype=dtype, generator=torch.Generator().manual_seed(0))
    membrane = membrane_matrix(neuron, T)
    wide = values.double().numpy()
    wanted = reference.spike_sum(wide, neuron)[0]
    Y = np.tensordot(np.abs(membrane), np.abs(wide), axes=1).reshape(-1, d)
    bound = float_bound(precision, T, T * N) * (Y.T @ Y)
    made = []
    for schedule in (SMALL._replace(samples=17, depth=3),) * 2 + (None,):
        total = torch.zeros(d, d, dtype=torch.float64, device=DEVICE)
        module.add_floats(
            values=values.to(DEVICE),
            membrane=torch.from_numpy(membrane),
            total=total,
            precision=precision,
            schedule=schedule,
        )
        assert torch.equal(total.tril(-1), torch.zeros_like(total))
        made.append(module.mirror_upper(total, 1.0).cpu().numpy())
        assert_close(made[-1], wanted, bound, str(schedule))
    assert np.array_equal(made[0], made[1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_float32_keeps_its_precision(dtype: torch.dtype) -> None:
    """Where high parts cancel, what is left comes from the low ones."""
    values = torch.ones(1, 64, 2, dtype=dtype)
    values[:, :, 1] += 2.0**-14  # one part of 11 bits does not hold it
    values[:, ::2] *= -1
    total = torch.zeros(2, 2, dtype=torch.float64, device=DEVICE)
    module.add_floats(
        values=values.to(DEVICE),
        membrane=torch.eye(1, dtype=torch.float64),
        total=total,
        precision=dtype,
    )
    exact = 64 * (1 + 2.0**-14)
    assert_close(total.cpu().numpy()[0, 1], exact, 2 * eps(np.float32) * exact)


@pytest.mark.parametrize(("dtype", "precision"), PRECISIONS, ids=str)
def test_analog_convolution(dtype: torch.dtype, precision: torch.dtype) -> None:
    conv, size, T, N, channels = sbc.Conv((2, 2), padding=1, groups=2), (3, 2), 3, 7, 6
    neuron, parts, per_group = sbc.LIF(3.0), regions(conv, size), 3
    values = torch.randn(T, N, channels, 6, dtype=dtype, generator=torch.Generator().manual_seed(1))
    sums = zeros(parts, per_group, 2)
    module.add_floats_conv(
        values=values.to(DEVICE).movedim(2, 3),
        membrane=torch.from_numpy(membrane_matrix(neuron, T)),
        sums=sums,
        groups=2,
        precision=precision,
        schedule=Schedule(depth=4, tile=Tile(16, 16, 4, 2)),
        **on_cpu(parts),
    )
    d = per_group * conv.taps
    made = [
        module.assemble_conv(
            sums[first : first + len(parts)], [part.blocks for part in parts], 1.0, d, conv.taps
        )
        for first in (0, len(parts))
    ]
    maps = values.double().numpy().reshape(T, N, channels, *size)
    wanted = reference.spike_sum(maps, neuron, conv)
    Y = reference.filtered_input(np.abs(maps), neuron, conv)
    bound = float_bound(precision, T, Y.shape[1]) * (Y.transpose(0, 2, 1) @ Y)
    assert_close(torch.stack(made).cpu().numpy(), wanted, bound)


@pytest.mark.parametrize("shape", [(1, 1), (33, 33), (2, 70, 70), (0, 0)])
def test_mirror_upper(shape: tuple[int, ...]) -> None:
    matrix = np.random.default_rng(0).standard_normal(shape)
    wanted = matrix.copy()
    for square in wanted.reshape(-1, *shape[-2:]) if matrix.size else []:
        _native.mirror_upper(square, 1 / 3, 1)
    made = module.mirror_upper(torch.from_numpy(matrix.copy()).to(DEVICE), 1 / 3)
    assert np.array_equal(made.cpu().numpy(), wanted)
