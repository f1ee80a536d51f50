"""One layer from end to end: what comes back, what it costs, and what it should have been."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from helpers import (
    assert_close,
    eps,
    fixed_point_error,
    inverse_of,
    layouts,
    scaled_condition,
    spike_train,
)
from hypothesis import given, settings
from hypothesis import strategies as st

import sbc_kernels as sbc
from sbc_kernels.ops import reference
from sbc_kernels.sparsity import parse_sparsity, prune_least

# ---- layers and options ------------------------------------------------------------------------

# Weight's shape, spikes' shape, the convolution's options. Every d_in is a multiple of 4.
LAYERS: dict[str, tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]] = {
    "linear": ((12, 24), (5, 60, 24), {}),
    "positions": ((6, 16), (4, 20, 3, 16), {}),
    "conv1d": ((8, 3, 4), (4, 15, 3, 11), {"padding": 2, "stride": 2}),
    "conv2d": ((6, 4, 3, 3), (3, 12, 4, 6, 5), {"padding": "same"}),
    "grouped": ((8, 2, 3, 2), (3, 12, 4, 6, 5), {"groups": 2, "padding": (1, 0), "dilation": 2}),
    "depthwise": ((4, 1, 2, 2), (3, 12, 4, 6, 5), {"groups": 4}),
}

OPTIONS: dict[str, dict[str, Any]] = {
    "default": {},
    "exact": {"sparsity": 0.6},
    "exact 2:4": {"sparsity": "2:4"},
    "blocked": {"sparsity": 0.6, "method": "blocked", "block_size": 8},
    "blocked 1:4": {"sparsity": "1:4", "method": "blocked", "block_size": 6},
    "magnitude": {"sparsity": 0.6, "method": "magnitude"},
    "4 bits": {"bits": 4},
    "2 bits, symmetric": {"bits": 2, "sym": True, "grid": "absmax", "act_order": False},
    "3 bits, groups": {"bits": 3, "group_size": 3, "damp_percent": 0.1},
    "1 bit": {"bits": 1},
    "nearest": {"bits": 4, "method": "rtn"},
    "exact, 4 bits": {"sparsity": 0.6, "bits": 4},
    "exact 2:4, 4 bits": {"sparsity": "2:4", "bits": 4, "group_size": 4},
    "blocked, 4 bits": {"sparsity": 0.6, "bits": 4, "method": "blocked", "block_size": 8},
    "blocked 2:4, 4 bits": {"sparsity": "2:4", "bits": 4, "method": "blocked"},
    "magnitude, 4 bits": {"sparsity": 0.6, "bits": 4, "method": "magnitude"},
    "current": {"sparsity": 0.6, "hessian": "current"},
}


def _layer(name: str, dtype: Any = np.float64, seed: int = 0) -> tuple[Any, Any, dict[str, Any]]:
    weight_shape, spike_shape, geometry = LAYERS[name]
    rng = np.random.default_rng(seed)
    return rng.standard_normal(weight_shape).astype(dtype), spike_train(rng, *spike_shape), geometry


def _conv(weight: np.ndarray, geometry: dict[str, Any]) -> sbc.Conv | None:
    return None if weight.ndim == 2 else sbc.Conv(weight.shape[2:], **geometry)


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
    weight, spikes, geometry = _layer(name, dtype)
    conv, d = _conv(weight, geometry), weight[0].size
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
    weight, spikes, geometry = _layer(name)
    neuron = sbc.LIF(2.0)
    stack = reference.spike_gram(spikes, neuron, _conv(weight, geometry))
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
    weight, spikes, geometry = _layer(name)
    stack = reference.spike_gram(spikes, sbc.IF(), _conv(weight, geometry))
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
    weight, spikes, _ = _layer("linear")
    out = sbc.compress_layer(weight, spikes, sparsity=0.7, method="magnitude")
    keep = prune_least(np.abs(weight), parse_sparsity(0.7))
    assert np.array_equal(out.mask, keep)
    assert np.array_equal(out.weight, np.where(keep, weight, 0))
    out = sbc.compress_layer(weight, spikes, bits=3, method="rtn")
    codes, q = sbc.fit_grid(weight, 3, kind="absmax").round(weight)
    assert np.array_equal(out.codes, codes)
    assert np.array_equal(out.weight, q)
    assert out.mask is None


# ---- what comes back ---------------------------------------------------------------------------


def _numpy(array: Any) -> np.ndarray:
    if isinstance(array, torch.Tensor):
        array = array.detach()
        return (array.double() if array.is_floating_point() else array).numpy()
    return np.asarray(array)


def assert_consistent(out: sbc.CompressedLayer, weight: Any, chosen: dict[str, Any]) -> None:
    """Kinds and shapes, exact quotas, and codes that are the weight."""
    assert type(out.weight) is (torch.Tensor if isinstance(weight, torch.Tensor) else np.ndarray)
    assert out.weight.dtype == weight.dtype
    assert out.weight.shape == weight.shape
    answer, d_out = _numpy(out.weight).astype(np.float64), weight.shape[0]
    assert np.isfinite(answer).all()
    losses = _numpy(out.loss)
    assert losses.shape == (d_out,)
    assert (losses >= -1e-12 * np.abs(losses).max()).all()
    assert out.sparsity == (answer == 0).mean()
    assert out.seconds > 0
    bits, sparsity = chosen.get("bits"), chosen.get("sparsity", None if "bits" in chosen else 0.9)
    keep = np.ones(answer.shape, dtype=bool)
    if sparsity is None:
        assert out.mask is None
    else:
        pattern, keep = parse_sparsity(sparsity), _numpy(out.mask)
        assert keep.dtype == bool
        assert keep.shape == answer.shape
        assert (answer[~keep] == 0).all()
        if pattern.of_m:
            assert (keep.reshape(-1, pattern.of_m).sum(axis=1) == pattern.keep_n).all()
        else:
            assert (~keep).sum() == pattern.num_pruned(keep.size)
            if bits is None:
                assert out.sparsity == (~keep).mean()
    assert out.bits == bits
    if bits is None:
        assert out.codes is out.scale is out.zero_point is out.group_size is None
        return
    codes, scale, zero = (
        _numpy(part).astype(np.float64) for part in (out.codes, out.scale, out.zero_point)
    )
    d = answer[0].size
    size = d if out.group_size == -1 else out.group_size
    assert codes.shape == answer.shape
    assert _numpy(out.codes).dtype == np.uint8
    assert codes.max() <= 2**bits - 1
    assert scale.shape == zero.shape == (d_out, -(-d // size))
    group = np.arange(d) // size
    value = (codes.reshape(d_out, d) - zero[:, group]) * scale[:, group]
    value = np.where(keep.reshape(d_out, d), value, 0)
    unit = 2 * float(torch.finfo(weight.dtype).eps) if isinstance(weight, torch.Tensor) else 0
    unit = unit or 2 * eps(weight.dtype)
    assert_close(answer.reshape(d_out, d), value, unit * np.abs(value), "value of the codes")


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("option", OPTIONS)
def test_numpy_answers(dtype: Any, option: str) -> None:
    for name in LAYERS:
        weight, spikes, geometry = _layer(name, dtype)
        out = sbc.compress_layer(weight, spikes, sbc.LIF(), **OPTIONS[option], **geometry)
        assert_consistent(out, weight, OPTIONS[option])


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
@pytest.mark.parametrize("option", OPTIONS)
def test_torch_answers(dtype: str, option: str) -> None:
    for name in ("linear", "grouped"):
        weight, spikes, geometry = _layer(name)
        tensor = torch.tensor(weight).to(getattr(torch, dtype)).requires_grad_()
        out = sbc.compress_layer(
            tensor, torch.tensor(spikes), sbc.LIF(), **OPTIONS[option], **geometry
        )
        assert_consistent(out, tensor, OPTIONS[option])
        for part in (out.weight, out.mask, out.codes, out.scale, out.zero_point, out.loss):
            assert part is None or isinstance(part, torch.Tensor)
            assert part is None or part.device.type == "cpu"
            assert part is None or not part.requires_grad


@settings(max_examples=150)
@given(st.data())
def test_any_layer(data: st.DataObject) -> None:
    """Small layers of any shape with dead, silent and saturated inputs."""
    d_out, d = data.draw(st.integers(1, 6), "d_out"), data.draw(st.integers(1, 20), "d_in")
    T, N = data.draw(st.integers(1, 5), "T"), data.draw(st.integers(1, 9), "N")
    rng = np.random.default_rng(data.draw(st.integers(0, 999), "seed"))
    spikes = rng.random((T, N, d)) < rng.choice([0, 0.3, 1], d)
    spikes[0, 0, data.draw(st.integers(0, d - 1))] = True
    weight = rng.standard_normal((d_out, d)).astype(data.draw(st.sampled_from(["f4", "f8"])))
    chosen: dict[str, Any] = {"method": data.draw(st.sampled_from(["exact", "blocked"]), "method")}
    job = data.draw(
        st.sampled_from(["N:M", "fraction", "bits", "N:M, bits", "fraction, bits"]), "job"
    )
    if "N:M" in job:
        of_m = data.draw(st.sampled_from([m for m in range(1, d + 1) if d % m == 0]), "M")
        chosen["sparsity"] = f"{data.draw(st.integers(0, of_m), 'N')}:{of_m}"
    elif "fraction" in job:
        chosen["sparsity"] = data.draw(st.floats(0, 1), "sparsity")
    if "bits" in job:
        chosen["bits"] = data.draw(st.integers(1, 8), "bits")
        chosen["group_size"] = data.draw(st.sampled_from([-1, 1, d]), "group_size")
    out = sbc.compress_layer(weight, spikes, sbc.LIF(), **chosen)
    assert_consistent(out, weight, chosen)


def test_defaults_are_said() -> None:
    weight, spikes, _ = _layer("linear")
    out = sbc.compress_layer(weight, spikes)
    log = "\n".join(out.log)
    assert "LIF(tau=2.0)" in log
    assert "90 %" in log
    assert "exact integers" in log
    assert out.damp_percent == 0.01
    assert (out.weight == 0).sum() == 259  # 90 % of 288
    explicit = sbc.compress_layer(weight, spikes, sbc.LIF(2.0), sparsity=0.9, method="exact")
    assert np.array_equal(out.weight, explicit.weight)
    assert "neither sparsity nor bits" not in "\n".join(explicit.log)


def test_log_says_how() -> None:
    weight, spikes, _ = _layer("linear")
    out = sbc.compress_layer(
        weight, 0.3 * spikes, sbc.IF(), sparsity="2:4", bits=4, group_size=8, sym=True
    )
    log = "\n".join(out.log)
    for said in ("IF()", "60 samples", "float64 matrix products", "2:4", "exact OBS", "4 bits"):
        assert said in log
    for said in ("mse grid", "symmetric", "group_size 8"):
        assert said in log
    current = sbc.compress_layer(weight, spikes, hessian="current")
    assert "Hessian: current" in "\n".join(current.log)
    assert "LIF" not in "\n".join(current.log)


@pytest.mark.parametrize("method", ["exact", "blocked", "magnitude"])
def test_nothing_to_prune_changes_nothing(method: str) -> None:
    weight, spikes, _ = _layer("linear", np.float32)
    out = sbc.compress_layer(weight, spikes, sparsity=0.0, method=method)
    assert np.array_equal(out.weight, weight)
    assert out.mask.all()
    assert (out.loss == 0).all()
    everything = sbc.compress_layer(weight, spikes, sparsity=1.0, method=method)
    assert (everything.weight == 0).all()


@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (5, 1), (1, 1, 1), (1, 1, 1, 1)])
@pytest.mark.parametrize("option", ["default", "blocked", "4 bits", "1 bit", "exact, 4 bits"])
def test_one_element_layers(shape: tuple[int, ...], option: str) -> None:
    weight = np.linspace(-1, 2, int(np.prod(shape)), dtype=np.float32).reshape(shape)
    spikes = np.ones((2, 1, *shape[1:]), dtype=bool)
    out = sbc.compress_layer(weight, spikes, **OPTIONS[option])
    assert_consistent(out, weight, OPTIONS[option])


# ---- metamorphic -------------------------------------------------------------------------------


def test_current_is_no_neuron() -> None:
    """hessian="current" asks the neuron nothing; a neuron without memory is that Hessian too."""
    weight, spikes, _ = _layer("linear")
    current = sbc.compress_layer(weight, spikes, hessian="current", sparsity=0.7)
    for neuron in (sbc.LIF(9.0), sbc.IF(), sbc.Alpha(0.9, 0.5)):
        other = sbc.compress_layer(weight, spikes, neuron, hessian="current", sparsity=0.7)
        assert np.array_equal(other.weight, current.weight)
    forgetful = sbc.compress_layer(weight, spikes, sbc.LIF(1.0), sparsity=0.7)
    assert np.array_equal(forgetful.weight, current.weight)
    remembering = sbc.compress_layer(weight, spikes, sbc.LIF(2.0), sparsity=0.7)
    assert not np.array_equal(remembering.weight, current.weight)


@pytest.mark.parametrize("option", ["exact", "exact 2:4", "blocked", "4 bits", "exact, 4 bits"])
@pytest.mark.parametrize("power", [1, -20, 20, -70, 70])
def test_gain_of_the_neuron_cancels(option: str, power: int) -> None:
    weight, spikes, _ = _layer("linear", np.float32)
    k = sbc.LIF(2.0).impulse_response(5)
    one = sbc.compress_layer(weight, spikes, sbc.Kernel(k), **OPTIONS[option])
    other = sbc.compress_layer(weight, spikes, sbc.Kernel(np.ldexp(k, power)), **OPTIONS[option])
    assert np.array_equal(one.weight, other.weight)
    assert_close(np.ldexp(one.loss, 2 * power), other.loss, 1e-12 * other.loss, "loss")


@pytest.mark.parametrize("option", ["exact", "blocked", "4 bits", "exact, 4 bits", "nearest"])
@pytest.mark.parametrize("power", [-25, 25])
def test_size_of_the_weights_cancels(option: str, power: int) -> None:
    weight, spikes, _ = _layer("linear", np.float32)
    one = sbc.compress_layer(weight, spikes, sbc.LIF(), **OPTIONS[option])
    other = sbc.compress_layer(np.ldexp(weight, power), spikes, sbc.LIF(), **OPTIONS[option])
    assert np.array_equal(np.ldexp(one.weight, power), other.weight)


@pytest.mark.parametrize("option", OPTIONS)
def test_repeating_the_samples_changes_nothing(option: str) -> None:
    """An expectation over samples does not count them."""
    weight, spikes, _ = _layer("linear", np.float32)
    once = sbc.compress_layer(weight, spikes, sbc.LIF(), **OPTIONS[option])
    twice = sbc.compress_layer(
        weight, np.concatenate([spikes] * 2, 1), sbc.LIF(), **OPTIONS[option]
    )
    assert np.array_equal(once.weight, twice.weight)
    assert np.array_equal(once.loss, twice.loss)


def test_groups_share_one_quota() -> None:
    """A group whose inputs hardly fire gives up more than its share."""
    weight, spikes, geometry = _layer("grouped")
    quiet = spikes.copy()
    quiet[:, 2:, 2:] = 0
    out = sbc.compress_layer(weight, quiet, sbc.LIF(), sparsity=0.5, **geometry)
    assert (~out.mask).sum() == weight.size // 2
    assert (~out.mask[4:]).sum() > 1.4 * (~out.mask[:4]).sum()


@pytest.mark.parametrize("option", OPTIONS)
def test_backends_agree(option: str) -> None:
    weight, spikes, geometry = _layer("conv2d")
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
    weight, spikes, geometry = _layer("conv2d", np.float32)
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


# ---- input in every form -----------------------------------------------------------------------


@pytest.mark.parametrize("option", ["default", "blocked, 4 bits"])
def test_layouts(option: str) -> None:
    for name in ("linear", "grouped"):
        weight, spikes, geometry = _layer(name, np.float32)
        wanted = sbc.compress_layer(weight, spikes, **OPTIONS[option], **geometry)
        forms = zip(layouts(weight).items(), layouts(spikes.astype("f4")).values(), strict=True)
        for (form, other), moved in forms:
            out = sbc.compress_layer(other, moved, **OPTIONS[option], **geometry)
            assert np.array_equal(out.weight, wanted.weight), form
            assert np.array_equal(out.loss, wanted.loss), form


@pytest.mark.parametrize("option", OPTIONS)
def test_inputs_are_left_alone(option: str) -> None:
    for name in ("linear", "grouped"):
        weight, spikes, geometry = _layer(name)
        spikes = spikes.astype(np.float32) * np.float32(0.5)
        copies = weight.copy(), spikes.copy()
        out = sbc.compress_layer(weight, spikes, **OPTIONS[option], **geometry)
        assert np.array_equal(weight, copies[0])
        assert np.array_equal(spikes, copies[1])
        assert not np.shares_memory(out.weight, weight)
        tensors = torch.tensor(weight), torch.tensor(spikes)
        sbc.compress_layer(*tensors, **OPTIONS[option], **geometry)
        assert np.array_equal(tensors[0].numpy(), copies[0])
        assert np.array_equal(tensors[1].numpy(), copies[1])


@pytest.mark.parametrize("name", ["linear", "conv2d", "grouped"])
def test_a_fed_hessian_is_the_spikes(name: str) -> None:
    weight, spikes, geometry = _layer(name)
    hessian = sbc.SpikeHessian(sbc.IF(), conv=_conv(weight, geometry))
    for batch in np.array_split(spikes, 3, axis=1):
        hessian.update(batch)
    direct = sbc.compress_layer(weight, spikes, sbc.IF(), sparsity="2:4", bits=4, **geometry)
    for neuron in (None, sbc.IF()):  # and it is not used up
        fed = sbc.compress_layer(weight, hessian, neuron, sparsity="2:4", bits=4, **geometry)
        assert np.array_equal(fed.weight, direct.weight)
        assert np.array_equal(fed.loss, direct.loss)
    assert "3 batch(es)" in "\n".join(fed.log)
    assert hessian.num_samples == spikes.shape[1]


def test_a_hessian_without_neuron_is_the_current_one() -> None:
    weight, spikes, _ = _layer("linear")
    fed = sbc.SpikeHessian().update(torch.tensor(spikes))  # of another framework than W
    out = sbc.compress_layer(weight, fed, hessian="current", sparsity=0.5)
    direct = sbc.compress_layer(weight, spikes, hessian="current", sparsity=0.5)
    assert isinstance(out.weight, np.ndarray)
    assert np.array_equal(out.weight, direct.weight)


@pytest.mark.parametrize("kind", ["negative", "ternary", "analog", "counts", "large"])
def test_spikes_of_other_kinds(kind: str) -> None:
    weight, spikes, _ = _layer("linear")
    sign = np.where(np.arange(24) % 2, -1, 1)
    form = {
        "negative": -spikes.astype(np.int8),
        "ternary": spikes * sign.astype(np.int8),
        "analog": spikes * np.linspace(0.1, 2, 24),
        "counts": spikes.astype(np.int64) * 100,
        "large": spikes.astype(np.int64) * 100_000,
    }[kind]
    for option in ("exact", "4 bits"):
        out = sbc.compress_layer(weight, form, sbc.IF(), **OPTIONS[option])
        assert_consistent(out, weight, OPTIONS[option])
        measured = reference.output_error(weight, out.weight, form, sbc.IF())
        size = reference.output_error(
            0 * weight, np.abs(out.weight - weight), np.abs(form), sbc.IF()
        )
        assert_close(out.loss, measured, 2.0**-40 * size, kind)
    if kind in ("negative", "counts", "large"):  # a common factor decides nothing
        plain = sbc.compress_layer(weight, spikes, sbc.IF(), sparsity=0.6)
        out = sbc.compress_layer(weight, form, sbc.IF(), sparsity=0.6)
        assert np.array_equal(out.mask, plain.mask)


# ---- inputs that never spike -------------------------------------------------------------------

DEAD = [1, 2, 7, 11, 12, 13, 18, 23]


def _with_dead(dtype: Any = np.float64) -> tuple[np.ndarray, np.ndarray]:
    weight, spikes, _ = _layer("linear", dtype)
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
    weight, spikes, _ = _layer("linear", np.float32)
    with pytest.warns(RuntimeWarning, match="no input spiked in calibration"):
        out = sbc.compress_layer(weight, 0 * spikes, sparsity=sparsity, method=method)
    keep = prune_least(np.abs(weight), parse_sparsity(sparsity))
    assert np.array_equal(out.mask, keep)
    assert np.array_equal(out.weight, np.where(keep, weight, 0))
    assert (out.loss == 0).all()
    assert any("no input spiked" in line for line in out.log)


@pytest.mark.parametrize("name", ["linear", "grouped"])
def test_a_silent_layer_is_rounded_to_nearest(name: str) -> None:
    weight, spikes, geometry = _layer(name, np.float32)
    with pytest.warns(RuntimeWarning, match="no input spiked in calibration"):
        out = sbc.compress_layer(weight, 0 * spikes, bits=3, **geometry)
    flat = weight.reshape(len(weight), -1)
    grid = sbc.fit_grid(flat, 3)
    assert np.array_equal(out.codes.reshape(flat.shape), grid.round(flat)[0])


@pytest.mark.parametrize("option", ["exact", "exact 2:4", "blocked", "4 bits", "exact, 4 bits"])
def test_one_silent_group(option: str) -> None:
    weight, spikes, geometry = _layer("grouped")
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


@pytest.mark.parametrize("option", ["exact", "blocked", "4 bits"])
def test_after_five_retries_it_raises(option: str, monkeypatch: pytest.MonkeyPatch) -> None:
    indefinite = 1e9 - 1e9 * np.eye(4)[None] + 1
    monkeypatch.setattr(sbc.SpikeHessian, "stacked", lambda self: indefinite)
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
    weight, spikes, _ = _layer("linear")
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
