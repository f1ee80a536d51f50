"""Floats with a common unit, and spikes of any scale, where the tensors lie."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from helpers import assert_close
from interpreted import DEVICE, GPU_BACKENDS, needs_triton

import sbc_kernels as sbc
from sbc_kernels.ops import reference

pytestmark = needs_triton

D = 5
CONV = sbc.Conv((3, 2), padding=1)
SHAPES = {"linear": ((3, 6, D), None), "conv": ((2, 1, 3, 3, 4), CONV)}


@pytest.fixture(params=GPU_BACKENDS)
def gpu_backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def counts(shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(0).integers(-2, 9, shape)


def fed(values: Any, backend: str | None, **options: Any) -> sbc.SpikeHessian:
    where = DEVICE if backend else "cpu"
    hessian = sbc.SpikeHessian(sbc.LIF(2.0), backend=backend, **options)
    return hessian.update(torch.from_numpy(values).to(where))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("unit", [0.25, 1 / 9, 0.7])
def test_multiples_are_summed_as_integers(
    unit: float, dtype: Any, shape: str, gpu_backend: str
) -> None:
    extent, conv = SHAPES[shape]
    spikes = (counts(extent) * unit).astype(dtype)
    there = fed(spikes, gpu_backend, conv=conv)
    assert there.paths[0].startswith("exact integers, products of ")
    assert f"(spikes are multiples of {unit:.6g})" in there.paths[0]
    assert torch.equal(there.sum().cpu(), fed(spikes, None, conv=conv).sum())
    size = reference.spike_sum(np.abs(spikes), sbc.LIF(2.0), conv)[0]
    wanted = reference.spike_sum(spikes, sbc.LIF(2.0), conv)[0]
    bound = 2.0 ** (-20 if dtype is np.float32 else -49) * size
    assert_close(there.sum().cpu(), wanted, bound, "sum")


def test_the_finest_step_may_come_once(gpu_backend: str) -> None:
    """Past the sample of every third value, and in the second batch."""
    spikes = counts((4, 200, D)) / np.float64(2)
    spikes[1, 7, 3] = 1 / 6
    halves = counts((4, 3, D)) / np.float64(2)
    sixths = spikes.astype(np.float32)  # whose unit is no sixth in float64: halves are three of it
    mixed = fed(sixths, gpu_backend).update(torch.from_numpy(halves).to(DEVICE))
    assert all("multiples of 0.166667" in path for path in mixed.paths)
    whole = np.concatenate([spikes, halves], 1)
    size = reference.spike_sum(np.abs(whole), sbc.LIF(2.0))[0]
    wanted = reference.spike_sum(whole, sbc.LIF(2.0))[0]
    assert_close(mixed.sum().cpu(), wanted, 2.0**-20 * size, "sum")
    there = fed(spikes, gpu_backend).update(torch.from_numpy(halves).to(DEVICE))
    host = fed(spikes, None).update(torch.from_numpy(halves))
    assert all("multiples of 0.166667" in path for path in there.paths)
    assert torch.equal(there.sum().cpu(), host.sum())


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_what_has_no_unit_stays_analog(dtype: Any, gpu_backend: str) -> None:
    normal = np.random.default_rng(1).standard_normal((3, 6, D)).astype(dtype)
    late = (counts((3, 6, D)) / 4).astype(dtype)
    late[2, 5, 4] = 0.3217
    for spikes in (normal, late):
        there = fed(spikes, gpu_backend)
        assert "are not integers" in there.paths[0]
        size = reference.spike_sum(np.abs(spikes), sbc.LIF(2.0))[0]
        wanted = reference.spike_sum(spikes, sbc.LIF(2.0))[0]
        assert_close(there.sum().cpu(), wanted, 2.0**-17 * size, "sum")


@pytest.mark.parametrize("power", [-100, 100])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", SHAPES)
def test_analog_spikes_of_any_scale(shape: str, dtype: Any, power: int, gpu_backend: str) -> None:
    """Squares of 2^100 are no float32, in whose parts a card without float64 units multiplies."""
    extent, conv = SHAPES[shape]
    spikes = np.random.default_rng(2).standard_normal(extent).astype(dtype)
    plain = fed(spikes, gpu_backend, conv=conv).sum().cpu()
    far = fed(np.ldexp(spikes, power), gpu_backend, conv=conv).sum().cpu()
    size = torch.from_numpy(reference.spike_sum(np.abs(spikes), sbc.LIF(2.0), conv)[0])
    assert_close(torch.ldexp(far, torch.tensor(-2 * power)), plain, 2.0**-18 * size, "sum")


@pytest.mark.parametrize("kind", ["counts", "analog"])
@pytest.mark.parametrize("power", [-700, 700])
def test_what_float64_cannot_hold(power: int, kind: str, gpu_backend: str) -> None:
    spikes = counts((3, 6, D)) + (0 if kind == "counts" else np.random.default_rng(3).random(D))
    spikes[:, :, 2] = 0
    there = fed(np.ldexp(spikes.astype(np.float64), power), gpu_backend)
    assert there.scaled().fired.tolist() == [[True, True, False, True, True]]
    if power > 0:
        with pytest.raises(
            sbc.ParameterError, match="spikes have a Hessian that float64 cannot hold"
        ):
            there.matrix()
    else:
        assert not there.matrix().any()
    weight = torch.randn(3, D, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    masks = []
    for scale, rows in ((0, None), (power, gpu_backend)):
        values = torch.from_numpy(np.ldexp(spikes.astype(np.float64), scale))
        where = DEVICE if rows else "cpu"
        with pytest.warns(RuntimeWarning) if scale else nullcontext():
            out = sbc.compress_layer(
                weight.to(where), values.to(where), sbc.IF(), sparsity=0.4, backend=rows
            )
        masks.append(out.mask.cpu())
    assert torch.equal(*masks)
