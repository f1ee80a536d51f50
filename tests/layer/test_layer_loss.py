"""The loss of one layer: by the spikes, against brute force, under changes that should not matter."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from helpers import (
    assert_close,
    eps,
    fixed_point_error,
    inverse_of,
    scaled_condition,
    spike_train,
)
from layers import LAYERS, OPTIONS, conv_of, layer_case

import sbc_kernels as sbc
from sbc_kernels.ops import reference
from sbc_kernels.sparsity import parse_sparsity, prune_least

# ---- layers and options ------------------------------------------------------------------------


def _bursts(rng: np.random.Generator, T: int, N: int, d: int) -> np.ndarray:
    """Inputs in pairs: of two one fires early, the other one late, with one drive behind both."""
    time = np.arange(T)[:, None, None] / T
    early = np.arange(d) % 2 == 0
    drive = rng.random((1, N, d // 4))[..., np.arange(d) % (d // 4)]
    return rng.random((T, N, d)) < drive * np.where(early, 1 - time, time)


# ---- the loss ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_loss_is_what_the_spikes_show(backend: str, name: str, dtype: Any) -> None:
    """Every way of compressing reports the growth of the filtered output error, measured afresh.

    Within the rounding of d_in squared products, and of M'M where that has no unit: an entry of it
    stands before every pair of spikes of a sample.
    """
    weight, spikes, geometry = layer_case(name, dtype)
    conv, d = conv_of(weight, geometry), weight[0].size
    counts = spikes.sum(axis=0, keepdims=True)
    for option, chosen in OPTIONS.items():
        for neuron in (sbc.LIF(2.0), sbc.IF(), sbc.LIF(3.0)):
            filter_ = None if chosen.get("hessian") == "current" else neuron
            out = sbc.compress_layer(weight, spikes, neuron, backend=backend, **chosen, **geometry)
            assert out.loss.dtype == np.float64
            measured = reference.output_error(weight, out.weight, spikes, filter_, conv)
            change = np.abs(out.weight.astype(np.float64) - weight)
            terms = reference.output_error(0 * change, change, spikes, filter_, conv)
            pairs = reference.output_error(0 * change, change, counts, None, conv)
            entry = fixed_point_error(filter_, len(spikes), backend)
            bound = 4 * d * eps(np.float64) * terms + entry * pairs
            assert_close(out.loss, measured, bound, option)


def test_methods_in_the_order_of_their_loss() -> None:
    """Exact OBS, then one shared order, then magnitude; compensated rounding, then nearest."""
    for seed in range(3):
        rng = np.random.default_rng(seed)
        weight, spikes = rng.standard_normal((20, 40)), spike_train(rng, 6, 150, 40)
        for sparsity in (0.5, 0.8, 0.95, "2:4", "1:4"):
            exact, blocked, magnitude = (
                sbc.compress_layer(
                    weight, spikes, sbc.LIF(), sparsity=sparsity, method=m
                ).loss.sum()
                for m in ("exact", "blocked", "magnitude")
            )
            assert exact < blocked < magnitude
        for bits in (2, 3, 4):
            swept, nearest, absmax = (
                sbc.compress_layer(weight, spikes, sbc.LIF(), bits=bits, **options).loss.sum()
                for options in ({}, {"method": "rtn"}, {"grid": "absmax"})
            )
            assert swept < 0.8 * nearest
            assert swept < 1.1 * absmax


@pytest.mark.parametrize("sparsity", [0.6, 0.8, 0.9])
def test_sbc_beats_current_on_what_the_neuron_sees(sparsity: float) -> None:
    neuron, totals = sbc.LIF(4.0), {"smp": 0.0, "current": 0.0}
    for seed in range(4):
        rng = np.random.default_rng(seed)
        spikes, weight = _bursts(rng, 10, 200, 32), rng.standard_normal((16, 32))
        for hessian in totals:
            out = sbc.compress_layer(weight, spikes, neuron, sparsity=sparsity, hessian=hessian)
            totals[hessian] += reference.output_error(weight, out.weight, spikes, neuron).sum()
    assert totals["smp"] < 0.97 * totals["current"]


# ---- against brute force -----------------------------------------------------------------------


def _brute_exact(
    weight: np.ndarray, stack: np.ndarray, sparsity: float | str, damp: float
) -> tuple[np.ndarray, np.ndarray]:
    """Mask and weights of ExactOBS from the reference ops; every input live."""
    pattern = parse_sparsity(sparsity)
    flat = weight.reshape(len(stack), len(weight) // len(stack), -1)
    d = flat.shape[2]
    orders, losses, damped = [], [], []
    for rows, H in zip(flat, stack, strict=True):
        damped.append(H + damp * np.diagonal(H).mean() * np.eye(d))
        group = quota = None
        if pattern.of_m:
            group = (np.arange(d) // pattern.of_m).astype(np.int32)
            quota = np.full(d // pattern.of_m, pattern.of_m - pattern.keep_n, np.int32)
        steps = d if quota is None else int(quota.sum())
        order, loss = reference.obs_order(
            rows, inverse_of(damped[-1]), steps, group=group, quota=quota
        )
        orders.append(order)
        losses.append(loss)
    keep = np.ones(flat.shape, dtype=bool)
    step_of = np.full(flat.shape, d)
    np.put_along_axis(step_of, np.stack(orders), np.arange(orders[0].shape[1]), axis=2)
    if pattern.of_m:
        keep = step_of == d
    else:
        every = np.stack(losses)
        cheapest = np.argsort(every, axis=None, kind="stable")[: pattern.num_pruned(weight.size)]
        chosen = np.zeros(every.size, dtype=bool)
        chosen[cheapest] = True
        keep = step_of >= chosen.reshape(every.shape).sum(axis=2, keepdims=True)
    solved = [
        reference.obs_solve(rows, H, k) for rows, H, k in zip(flat, damped, keep, strict=True)
    ]
    return keep.reshape(weight.shape), np.stack(solved).reshape(weight.shape)


@pytest.mark.parametrize("name", LAYERS)
def test_exact_is_brute_force(backend: str, name: str) -> None:
    weight, spikes, geometry = layer_case(name)
    neuron = sbc.LIF(2.0)
    stack = reference.spike_gram(spikes, neuron, conv_of(weight, geometry))
    damped = stack[0] + 0.02 * np.diagonal(stack[0]).mean() * np.eye(len(stack[0]))
    bound = 100 * eps(np.float64) * scaled_condition(damped) * np.abs(weight).max()
    for sparsity in (0.0, 0.3, 0.75, 0.97, 1.0, "2:4", "1:4", "0:4", "4:4"):
        mask, solved = _brute_exact(weight, stack, sparsity, 0.02)
        out = sbc.compress_layer(
            weight,
            spikes,
            neuron,
            sparsity=sparsity,
            damp_percent=0.02,
            backend=backend,
            **geometry,
        )
        assert np.array_equal(out.mask, mask), sparsity
        assert_close(out.weight, solved, bound, f"weight at {sparsity}")
        assert (out.weight[~out.mask] == 0).all()


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("act_order", [True, False])
def test_quantizing_is_gptq(backend: str, name: str, act_order: bool) -> None:
    weight, spikes, geometry = layer_case(name)
    stack = reference.spike_gram(spikes, sbc.IF(), conv_of(weight, geometry))
    out = sbc.compress_layer(
        weight, spikes, sbc.IF(), bits=3, act_order=act_order, backend=backend, **geometry
    )
    per_group = len(weight) // len(stack)
    for group, H in enumerate(stack):
        rows = slice(group * per_group, (group + 1) * per_group)
        flat = weight[rows].reshape(per_group, -1)
        grid = sbc.fit_grid(flat, 3, importance=np.diagonal(H))
        damped = H + 0.01 * np.diagonal(H).mean() * np.eye(len(H))
        codes, _, _ = reference.obs_quantize(flat, damped, grid, act_order=act_order)
        assert np.array_equal(out.codes[rows].reshape(per_group, -1), codes)
        assert np.array_equal(out.scale[rows], grid.scale)
        assert np.array_equal(out.zero_point[rows], grid.zero_point)


def test_magnitude_and_nearest_look_at_the_weights_only() -> None:
    weight, spikes, _ = layer_case("linear")
    out = sbc.compress_layer(weight, spikes, sparsity=0.7, method="magnitude")
    keep = prune_least(np.abs(weight), parse_sparsity(0.7))
    assert np.array_equal(out.mask, keep)
    assert np.array_equal(out.weight, np.where(keep, weight, 0))
    out = sbc.compress_layer(weight, spikes, bits=3, method="rtn")
    codes, q = sbc.fit_grid(weight, 3, kind="absmax").round(weight)
    assert np.array_equal(out.codes, codes)
    assert np.array_equal(out.weight, q)
    assert out.mask is None


# ---- metamorphic -------------------------------------------------------------------------------


def test_current_is_no_neuron() -> None:
    """hessian="current" asks the neuron nothing; a neuron without memory is that Hessian too."""
    weight, spikes, _ = layer_case("linear")
    current = sbc.compress_layer(weight, spikes, hessian="current", sparsity=0.7)
    for neuron in (sbc.LIF(9.0), sbc.IF(), sbc.Alpha(0.9, 0.5)):
        other = sbc.compress_layer(weight, spikes, neuron, hessian="current", sparsity=0.7)
        assert np.array_equal(other.weight, current.weight)
    without = sbc.compress_layer(weight, spikes, None, sparsity=0.7)  # as in spike_gram
    assert np.array_equal(without.weight, current.weight)
    assert np.array_equal(without.loss, current.loss)
    forgetful = sbc.compress_layer(weight, spikes, sbc.LIF(1.0), sparsity=0.7)
    assert np.array_equal(forgetful.weight, current.weight)
    remembering = sbc.compress_layer(weight, spikes, sbc.LIF(2.0), sparsity=0.7)
    assert not np.array_equal(remembering.weight, current.weight)
    default = sbc.compress_layer(weight, spikes, sparsity=0.7)
    assert np.array_equal(default.weight, remembering.weight)
    assert "no neuron given: LIF(tau=2.0)" in default.log
    assert "no neuron given: LIF(tau=2.0)" not in remembering.log


@pytest.mark.parametrize("option", ["exact", "exact 2:4", "blocked", "4 bits", "exact, 4 bits"])
@pytest.mark.parametrize("power", [1, -20, 20, -70, 70])
def test_gain_of_the_neuron_cancels(option: str, power: int) -> None:
    weight, spikes, _ = layer_case("linear", np.float32)
    k = sbc.LIF(2.0).impulse_response(5)
    one = sbc.compress_layer(weight, spikes, sbc.Kernel(k), **OPTIONS[option])
    other = sbc.compress_layer(weight, spikes, sbc.Kernel(np.ldexp(k, power)), **OPTIONS[option])
    assert np.array_equal(one.weight, other.weight)
    assert_close(np.ldexp(one.loss, 2 * power), other.loss, 1e-12 * other.loss, "loss")


@pytest.mark.parametrize("option", ["exact", "blocked", "4 bits", "exact, 4 bits", "nearest"])
@pytest.mark.parametrize("power", [-25, 25])
def test_size_of_the_weights_cancels(option: str, power: int) -> None:
    weight, spikes, _ = layer_case("linear", np.float32)
    one = sbc.compress_layer(weight, spikes, sbc.LIF(), **OPTIONS[option])
    other = sbc.compress_layer(np.ldexp(weight, power), spikes, sbc.LIF(), **OPTIONS[option])
    assert np.array_equal(np.ldexp(one.weight, power), other.weight)


@pytest.mark.parametrize("option", OPTIONS)
def test_repeating_the_samples_changes_nothing(option: str) -> None:
    """An expectation over samples does not count them."""
    weight, spikes, _ = layer_case("linear", np.float32)
    once = sbc.compress_layer(weight, spikes, sbc.LIF(), **OPTIONS[option])
    twice = sbc.compress_layer(
        weight, np.concatenate([spikes] * 2, 1), sbc.LIF(), **OPTIONS[option]
    )
    assert np.array_equal(once.weight, twice.weight)
    assert np.array_equal(once.loss, twice.loss)


def test_groups_share_one_quota() -> None:
    """A group whose inputs hardly fire gives up more than its share."""
    weight, spikes, geometry = layer_case("grouped")
    quiet = spikes.copy()
    quiet[:, 2:, 2:] = 0
    out = sbc.compress_layer(weight, quiet, sbc.LIF(), sparsity=0.5, **geometry)
    assert (~out.mask).sum() == weight.size // 2
    assert (~out.mask[4:]).sum() > 1.4 * (~out.mask[:4]).sum()


@pytest.mark.parametrize("option", OPTIONS)
def test_backends_agree(option: str) -> None:
    weight, spikes, geometry = layer_case("conv2d")
    outs = [
        sbc.compress_layer(weight, spikes, sbc.LIF(), backend=name, **OPTIONS[option], **geometry)
        for name in sbc.available_backends("cpu")
    ]
    for out in outs[1:]:
        assert out.mask is None or np.array_equal(out.mask, outs[0].mask)
        assert out.codes is None or np.array_equal(out.codes, outs[0].codes)
        bound = 1e5 * eps(np.float64) * np.abs(outs[0].weight).max()
        assert_close(out.weight, outs[0].weight, bound, "weight")


@pytest.mark.parametrize("option", OPTIONS)
def test_threads_and_repetition_change_nothing(
    backend: str, option: str, set_threads: Callable[[int], None]
) -> None:
    weight, spikes, geometry = layer_case("conv2d", np.float32)
    outs = []
    for threads in (1, 2, 2):
        set_threads(threads)
        outs.append(
            sbc.compress_layer(
                weight, spikes, sbc.LIF(3.0), backend=backend, **OPTIONS[option], **geometry
            )
        )
    for out in outs[1:]:
        assert np.array_equal(out.weight, outs[0].weight)
        assert np.array_equal(out.loss, outs[0].loss)
