"""Weights of any scale: the same mask and codes, and the loss in the caller's units."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from helpers import quantize_problem
from layers import OPTIONS, layer_case

import sbc_kernels as sbc
from sbc_kernels.sparsity import parse_sparsity

CHOSEN = [option for option in OPTIONS if option not in ("default", "current", "magnitude")]


def assert_scaled(out: sbc.CompressedLayer, base: sbc.CompressedLayer, power: int) -> None:
    assert np.array_equal(out.weight, np.ldexp(base.weight, power))
    assert np.array_equal(out.loss, np.ldexp(base.loss, 2 * power))
    for name in ("mask", "codes", "zero_point"):
        assert np.array_equal(getattr(out, name), getattr(base, name))


@pytest.mark.parametrize("option", CHOSEN)
def test_scale_changes_nothing(option: str) -> None:
    """Squares of float32 numbers of 2^70 overflow, and those of 2^-80 are zero."""
    weight, spikes, geometry = layer_case("grouped", np.float32)
    base = sbc.compress_layer(weight, spikes, **OPTIONS[option], **geometry)
    for power in (-100, -80, 70, 120):
        out = sbc.compress_layer(np.ldexp(weight, power), spikes, **OPTIONS[option], **geometry)
        assert_scaled(out, base, power)


@pytest.mark.parametrize("option", ["exact", "blocked", "magnitude"])
def test_float64_of_any_scale(option: str) -> None:
    weight, spikes, _ = layer_case("linear")
    base = sbc.compress_layer(weight, spikes, **OPTIONS[option])
    for power in (-400, 400):
        assert_scaled(
            sbc.compress_layer(np.ldexp(weight, power), spikes, **OPTIONS[option]), base, power
        )
    for power, value in ((700, np.inf), (-700, 0.0)):
        with pytest.warns(RuntimeWarning, match="losses of 12 rows are beyond float64's range"):
            out = sbc.compress_layer(np.ldexp(weight, power), spikes, **OPTIONS[option])
        assert np.array_equal(out.weight, np.ldexp(base.weight, power))
        assert (out.loss == value).all()


@pytest.mark.parametrize("method", ["exact", "blocked", "magnitude"])
@pytest.mark.parametrize("power", [-20, -75, -120])
def test_a_small_row_is_pruned_as_by_itself(method: str, power: int) -> None:
    """Of rows 2^75 apart the small one goes first, and of it the same weights as by itself."""
    weight, spikes, _ = layer_case("linear", np.float32)
    small = weight.copy()
    small[4] = np.ldexp(weight[4], power)
    out = sbc.compress_layer(small, spikes, sparsity=1 / 24, method=method, block_size=24)
    alone = sbc.compress_layer(weight[4:5], spikes, sparsity=0.5, method=method, block_size=24)
    assert out.mask[np.arange(12) != 4].all()
    assert np.array_equal(out.mask[4:5], alone.mask)
    bound = 1e-4 * np.abs(alone.weight).max()
    assert np.abs(np.ldexp(out.weight[4:5].astype(float), -power) - alone.weight).max() < bound


def test_kept_weights_far_below_the_rows_largest_stay_as_they_are() -> None:
    weight, spikes, _ = layer_case("linear", np.float32)
    weight[:, 0] = np.float32(1e30)
    weight[:, 1] = np.float32(1.2345e-14)  # a subnormal number beside a largest of 1
    out = sbc.compress_layer(weight, spikes, sparsity=0.5, method="magnitude")
    assert np.array_equal(out.weight[out.mask], weight[out.mask])


def test_what_a_grid_cannot_hold() -> None:
    weight, spikes, _ = layer_case("linear")
    with pytest.raises(
        sbc.ParameterError, match=r"W has weights whose grid needs a scale of .*e\+59"
    ):
        sbc.compress_layer(np.ldexp(weight, 200), spikes, bits=4)
    with pytest.raises(
        sbc.ParameterError, match=r"weight needs a grid's scale of .* float32 cannot"
    ):
        sbc.fit_grid(np.ldexp(weight, 200), 4)
    tiny = weight.astype(np.float32)
    tiny[3] = np.ldexp(tiny[3], -140)
    for bits in (1, 4):
        with pytest.warns(RuntimeWarning, match="1 groups of weights are too small for the scale"):
            out = sbc.compress_layer(tiny, spikes, bits=bits, sym=True)
        assert (out.weight[3] == 0).all()
        assert np.isfinite(out.loss).all()
        assert np.array_equal(out.compressed.to_dense(), out.weight)


@pytest.mark.parametrize("power", [-90, 80])
def test_ops_of_any_scale(power: int) -> None:
    weight, H = quantize_problem("correlated", 20, np.float32)
    scaled, G = np.ldexp(weight, power), sbc.damped_inverse(H, 0.0)
    order, loss = sbc.obs_order(weight, G)
    other, there = sbc.obs_order(scaled, G)
    assert np.array_equal(order, other)
    assert np.array_equal(there, np.full_like(loss, 3.4028235e38 if power > 0 else 0.0))
    grid, far = sbc.fit_grid(weight, 3), sbc.fit_grid(scaled, 3)
    assert np.array_equal(np.ldexp(grid.scale, power), far.scale)
    for pattern in (None, parse_sparsity(0.5), parse_sparsity("2:4")):
        arguments: dict[str, Any] = {"pattern": pattern, "act_order": False}
        rows = sbc.obs_quantize(weight, H, grid, **arguments)
        moved = sbc.obs_quantize(scaled, H, far, **arguments)
        assert np.array_equal(rows.codes, moved.codes)
        assert np.array_equal(np.ldexp(rows.weight, power), moved.weight)


def test_powers_of_two_are_exact_in_torch() -> None:
    weight, spikes, _ = layer_case("linear", np.float32)
    base = sbc.compress_layer(weight, spikes, bits=3, sparsity=0.5)
    far = torch.tensor(np.ldexp(weight, 90))
    out = sbc.compress_layer(far, torch.tensor(spikes), bits=3, sparsity=0.5)
    assert np.array_equal(out.weight.numpy(), np.ldexp(base.weight, 90))
