"""Layers whose inputs never spike, and Hessians that fail."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from helpers import (
    assert_close,
    eps,
    spike_train,
)
from layers import OPTIONS, assert_consistent, layer_case

import sbc_kernels as sbc
from sbc_kernels.backends.gram_sums import ScaledHessian
from sbc_kernels.sparsity import parse_sparsity, prune_least

# ---- inputs that never spike -------------------------------------------------------------------


DEAD = [1, 2, 7, 11, 12, 13, 18, 23]


def _with_dead(dtype: Any = np.float64) -> tuple[np.ndarray, np.ndarray]:
    weight, spikes, _ = layer_case("linear", dtype)
    spikes[:, :, DEAD] = 0
    return weight, spikes


@pytest.mark.parametrize("method", ["exact", "blocked"])
def test_dead_inputs_go_first(method: str) -> None:
    weight, spikes = _with_dead()
    dead = np.isin(np.arange(24), DEAD)
    out = sbc.compress_layer(weight, spikes, sbc.LIF(), sparsity=0.5, method=method)
    assert not out.mask[:, dead].any()
    assert (~out.mask).sum() == 144
    assert any("8 of 24 inputs never spiked" in line for line in out.log)
    alone = sbc.compress_layer(  # the rest is the layer without them
        weight[:, ~dead], spikes[:, :, ~dead], sbc.LIF(), sparsity=(144 - 96) / 192, method=method
    )
    if method == "exact":
        assert np.array_equal(out.mask[:, ~dead], alone.mask)
        bound = 1e4 * eps(np.float64) * np.abs(weight).max()
        assert_close(out.weight[:, ~dead], alone.weight, bound, "weight")


@pytest.mark.parametrize("method", ["exact", "blocked"])
@pytest.mark.parametrize("sparsity", [0.0, 0.1, 0.25])
def test_fewer_go_than_are_dead(method: str, sparsity: float) -> None:
    """The smallest weights of dead inputs fill the quota; all others stay as they were."""
    weight, spikes = _with_dead()
    out = sbc.compress_layer(weight, spikes, sbc.LIF(), sparsity=sparsity, method=method)
    assert (out.loss == 0).all()
    assert (~out.mask).sum() == round(sparsity * 288)
    assert np.array_equal(out.weight, np.where(out.mask, weight, 0))
    if method == "exact":
        sizes = np.where(np.isin(np.arange(24), DEAD), np.abs(weight), np.inf)
        assert np.array_equal(out.mask, prune_least(sizes, parse_sparsity(sparsity)))


@pytest.mark.parametrize("sparsity", ["1:4", "2:4", "3:4", "2:3", "5:12"])
def test_dead_inputs_fill_their_groups(sparsity: str) -> None:
    weight, spikes = _with_dead()
    pattern = parse_sparsity(sparsity)
    out = sbc.compress_layer(weight, spikes, sbc.LIF(), sparsity=sparsity)
    assert_consistent(out, weight, {"sparsity": sparsity})
    dead = np.isin(np.arange(24), DEAD).reshape(-1, pattern.of_m)
    keep, size = (a.reshape(12, -1, pattern.of_m) for a in (out.mask, np.abs(weight)))
    for group, silent in enumerate(dead):
        gone = pattern.of_m - pattern.keep_n
        for row in range(12):
            pruned = ~keep[row, group]
            assert (pruned & silent).sum() == min(gone, silent.sum())
            if 0 < (pruned & silent).sum() < silent.sum():
                kept = size[row, group][silent & ~pruned]
                assert size[row, group][silent & pruned].max() <= kept.min()


@pytest.mark.parametrize("option", ["4 bits", "exact, 4 bits", "blocked, 4 bits", "nearest"])
def test_kept_weights_of_dead_inputs_are_rounded(option: str) -> None:
    weight, spikes = _with_dead()
    chosen = OPTIONS[option] | ({"sparsity": 0.2} if "sparsity" in OPTIONS[option] else {})
    out = sbc.compress_layer(weight, spikes, sbc.LIF(), **chosen)
    assert_consistent(out, weight, chosen)
    grid = sbc.Grid(4, out.scale, out.zero_point, -1)
    nearest = grid.round(weight)[1]
    keep = np.ones_like(weight, bool) if out.mask is None else out.mask
    wanted = np.where(keep, nearest, 0)[:, DEAD]
    assert_close(out.weight[:, DEAD], wanted, 4 * eps(np.float64) * np.abs(wanted), "dead weights")


@pytest.mark.parametrize("method", ["exact", "blocked", "magnitude"])
@pytest.mark.parametrize("sparsity", [0.9, 0.5, "2:4"])
def test_a_silent_layer_is_pruned_by_magnitude(method: str, sparsity: float | str) -> None:
    weight, spikes, _ = layer_case("linear", np.float32)
    with pytest.warns(RuntimeWarning, match="no input spiked in calibration"):
        out = sbc.compress_layer(weight, 0 * spikes, sparsity=sparsity, method=method)
    keep = prune_least(np.abs(weight), parse_sparsity(sparsity))
    assert np.array_equal(out.mask, keep)
    assert np.array_equal(out.weight, np.where(keep, weight, 0))
    assert (out.loss == 0).all()
    assert any("no input spiked" in line for line in out.log)


@pytest.mark.parametrize("name", ["linear", "grouped"])
def test_a_silent_layer_is_rounded_to_nearest(name: str) -> None:
    weight, spikes, geometry = layer_case(name, np.float32)
    with pytest.warns(RuntimeWarning, match="no input spiked in calibration"):
        out = sbc.compress_layer(weight, 0 * spikes, bits=3, **geometry)
    flat = weight.reshape(len(weight), -1)
    grid = sbc.fit_grid(flat, 3)
    assert np.array_equal(out.codes.reshape(flat.shape), grid.round(flat)[0])


@pytest.mark.parametrize("option", ["exact", "exact 2:4", "blocked", "4 bits", "exact, 4 bits"])
def test_one_silent_group(option: str) -> None:
    weight, spikes, geometry = layer_case("grouped")
    spikes[:, :, 2:] = 0
    with pytest.warns(RuntimeWarning, match="no input spiked in calibration"):
        out = sbc.compress_layer(weight, spikes, **OPTIONS[option], **geometry)
    assert_consistent(out, weight, OPTIONS[option])
    assert (out.loss[4:] == 0).all()
    if option == "exact":
        assert not out.mask[4:].any()


# ---- Hessians that fail ------------------------------------------------------------------------


@pytest.mark.parametrize("option", ["exact", "exact 2:4", "blocked", "4 bits"])
def test_damping_is_raised_until_it_helps(option: str) -> None:
    """Four copies of one input without damping: H = 9 everywhere, whose root and that of any 4^n 9 is
    exact, so that the second pivot is exactly 0."""
    spikes = np.full((2, 8, 4), 1.5)
    weight = np.array([[1.0, 2.0, -3.0, 0.5]])
    with pytest.warns(
        RuntimeWarning, match=r"Cholesky failed at damp_percent 0 .*retry 1 with 0\.0001"
    ):
        out = sbc.compress_layer(
            weight, spikes, hessian="current", damp_percent=0.0, **OPTIONS[option]
        )
    assert_consistent(out, weight, OPTIONS[option])
    assert out.damp_percent == 1e-4
    assert sum("Cholesky failed" in line for line in out.log) == 1
    assert any("retry 1 with 0.0001" in line for line in out.log)
    assert out.retries == 1


@pytest.mark.parametrize("option", ["exact", "blocked", "4 bits"])
def test_after_five_retries_it_raises(option: str, monkeypatch: pytest.MonkeyPatch) -> None:
    indefinite = 1e9 - 1e9 * np.eye(4)[None] + 1
    fired = np.ones((1, 4), dtype=bool)
    scaled = ScaledHessian(indefinite, 0, fired)
    monkeypatch.setattr(sbc.SpikeHessian, "scaled", lambda self: scaled)
    weight = np.array([[1.0, 2.0, -3.0, 0.5]])
    with (
        pytest.warns(RuntimeWarning, match="Cholesky failed") as warned,
        pytest.raises(
            np.linalg.LinAlgError, match="5 retries up to damp_percent 1000 did not help"
        ),
    ):
        sbc.compress_layer(weight, np.ones((2, 8, 4), bool), **OPTIONS[option])
    assert len(warned) == 5


def test_damping_is_of_the_live_diagonal() -> None:
    """Dead inputs neither lower the mean nor change what happens to the others."""
    weight, spikes, _ = layer_case("linear")
    padded = np.concatenate([spikes, 0 * spikes], axis=2)
    wide = np.concatenate([weight, weight], axis=1)
    out = sbc.compress_layer(wide, padded, sbc.LIF(), bits=4, grid="absmax", damp_percent=0.3)
    alone = sbc.compress_layer(weight, spikes, sbc.LIF(), bits=4, grid="absmax", damp_percent=0.3)
    assert np.array_equal(out.codes[:, :24], alone.codes)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_an_answer_that_leaves_the_dtype_is_refused(dtype: str) -> None:
    """The survivor of two copies must carry both, which is more than the dtype holds."""
    most = float(torch.finfo(getattr(torch, dtype)).max)
    weight = torch.full((1, 2), 0.6 * most, dtype=getattr(torch, dtype))
    spikes = torch.tensor(np.repeat(spike_train(np.random.default_rng(0), 4, 30, 1), 2, axis=2))
    with pytest.raises((ValueError, OverflowError), match=r"W|weight"):
        sbc.compress_layer(weight, spikes, sparsity=0.5)
