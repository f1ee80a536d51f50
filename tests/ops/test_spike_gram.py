"""The public Gram op, and its kernels at the limits of their lanes."""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Callable
from math import isqrt
from typing import Any

import numpy as np
import pytest
import torch
from helpers import (
    assert_close,
    draw_spikes,
    eps,
    exact_spike_sum,
    fixed_point_error,
    layouts,
    spike_train,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from interpreted import DEVICE
from on_backends import Ops

import sbc_kernels as sbc
from sbc_kernels.backends import gram_plan
from sbc_kernels.backends.matched_filter import matched_filter
from sbc_kernels.backends.registry import BACKENDS
from sbc_kernels.neurons import Neuron
from sbc_kernels.ops import reference

NEURONS: dict[str, Neuron | None] = {
    "current": None,
    "IF": sbc.IF(),
    "LIF 2": sbc.LIF(2.0),
    "LIF 4/3": sbc.LIF(4 / 3),
    "LIF 4": sbc.LIF(4.0),
    "signed kernel": sbc.Kernel([1.0, -0.5, 0.25, -0.125, 1.0, 0.5, -1.0, 0.0, 0.5, 0.5, 0.5, 2.0]),
}
# Those that know nothing faster than looking up, of pairs and in lanes.
LOOK_UP = [name for name in sbc.available_backends("cpu") if name not in ("amx", "vpopcnt")]
RANGES = {"binary": (0, 1), "ternary": (-1, 1), "counts": (0, 127), "bytes": (-128, 127)}


def ways(hessian: sbc.SpikeHessian) -> set[str]:
    """How its batches were summed: "pairs", the lanes' width, or "3 byte" and the like. Asserts that
    all were exact."""
    found = set()
    for path in hessian.paths:
        match = re.fullmatch(
            r"exact integers(?:, by (pairs) of times| in (\d+)-bit lanes"
            r"|, products of (\d+ byte)\(s\)): \d+ batch.*",
            path,
        )
        assert match, path
        found.add(match[1] or match[2] or match[3])
    return found


def test_exact_reference_agrees_with_the_reference() -> None:
    spikes = draw_spikes(np.random.default_rng(0), -2, 3, 4, 5, 6)
    for neuron in NEURONS.values():
        assert np.array_equal(
            exact_spike_sum(spikes, neuron), reference.spike_sum(spikes, neuron)[0]
        )


def assert_exact_everywhere(backend: str) -> set[str]:
    """Binary, ternary, counts to 127 and down to -128, T from 1 to 12: bit for bit. The ways it went,
    those of T = 1 and of negative spikes told apart."""
    rng = np.random.default_rng(0)
    reached = set()
    for neuron, (low, high), T, d in itertools.product(
        NEURONS.values(), RANGES.values(), (1, 2, 3, 5, 8, 12), (19, 128)
    ):
        if d == 128 and (high > 1 or T > 8):
            continue
        spikes = draw_spikes(rng, low, high, T, 7, d)
        hessian = sbc.SpikeHessian(neuron, backend=backend).update(spikes)
        if "exact" not in hessian.paths[0]:
            continue
        for way in ways(hessian):
            reached.add(way + (", signed" if low < 0 else "") + (", T = 1" if T == 1 else ""))
        total = hessian.sum()
        assert np.array_equal(total, exact_spike_sum(spikes, neuron)), (neuron, low, high, T)
        if np.abs(total).max() / matched_filter(neuron, T).factor < 2**53:
            assert np.array_equal(total, reference.spike_sum(spikes, neuron)[0])
    return reached


@pytest.mark.parametrize(
    "backend", [name for name in sbc.available_backends("cpu") if name != "amx"]
)
def test_exact_paths_are_exact(backend: str) -> None:
    reached = assert_exact_everywhere(backend)
    assert {"32", "64", "pairs", "pairs, T = 1"} <= reached
    assert {"16, signed", "32, signed", "64, signed"} <= reached
    assert {"8", "16"} <= reached or backend not in LOOK_UP


def test_exact_products_of_bytes_are_exact(amx: str) -> None:
    reached = assert_exact_everywhere(amx)
    for digits in range(1, 7):
        assert {f"{digits} byte", f"{digits} byte, signed"} <= reached
    assert {"1 byte, T = 1", "1 byte, signed, T = 1"} <= reached


@pytest.mark.parametrize(
    ("neuron", "T"),
    [(None, 12), (sbc.IF(), 12), (sbc.LIF(2.0), 12), (sbc.LIF(4 / 3), 12), (sbc.LIF(4.0), 11)],
)
def test_which_neurons_are_exact(neuron: Neuron | None, T: int) -> None:
    for steps in range(1, T + 1):
        hessian = sbc.SpikeHessian(neuron).update(np.ones((steps, 2, 2), dtype=bool))
        assert "exact integers" in hessian.paths[0], steps


@pytest.mark.parametrize(
    ("width", "signed"),
    [(8, False), (16, False), (16, True), (32, False), (32, True), (64, False), (64, True)],
)
@pytest.mark.parametrize("backend", LOOK_UP)
def test_lanes_filled_to_the_brim(backend: str, width: int, signed: bool) -> None:
    """The largest filter that a lane admits, every spike at its end, more samples than a block."""
    low, high = (-1, 1) if signed else (0, 1)
    N = 9001  # 18002 samples: two blocks, and passes that do not come out even
    fitting = None
    for power in range(25):
        for a in (2**power, 2**power + 2 ** (power - 1) if power else 1):
            # M'M of k = (a, 1) has a largest row sum of a^2 + a + 1.
            neuron = sbc.Kernel([float(a), 1.0])
            filter_ = matched_filter(neuron, 2)
            plan = gram_plan.plan_gram(filter_, low, high, 5) if filter_.exact else None
            if not isinstance(plan, gram_plan.TablesPlan) or plan.sum_bound * 2 * N >= 2**53:
                continue
            if plan.lane_bytes * 8 == width:
                fitting = a
    assert fitting is not None
    neuron = sbc.Kernel([float(fitting), 1.0])
    spikes = np.full((2, N, 5), high, dtype=np.int8)
    spikes[:, :, 3] = low
    spikes[1, :, 4] = 0
    hessian = sbc.SpikeHessian(neuron, backend=backend).update(spikes)
    assert ways(hessian) == {str(width)}
    one = exact_spike_sum(spikes[:, :1], neuron)
    assert np.array_equal(hessian.sum(), N * one)


@pytest.mark.parametrize(
    ("digits", "signed", "largest"),
    [
        *itertools.product(range(1, 7), [False], [2]),
        *itertools.product(range(1, 7), [True], [1]),
        (2, True, 128),
        (7, False, 3),
        (7, True, 1),
    ],
)
def test_bytes_filled_to_the_brim(amx: str, digits: int, signed: bool, largest: int) -> None:
    """The largest filter that so many digits admit, and the least that takes one more; every spike
    at its end; 18002 samples, two blocks, where the sums stay below 2^53."""
    brim = 2 ** (8 * digits - signed) - 1
    # k = (a, 1): a row of M sums to a + 1 and one of M'M to a^2 + a + 1, of at most 48 bits. What is
    # squared is M, and only in one digit.
    fitting = min((isqrt(4 * (brim // largest) - 3) - 1) // 2, 2**24 - 1)
    if digits == 1:
        fitting = brim // largest - 1
    for a in range(fitting, min(fitting + 1, 2**24 - 1) + 1):
        bound = ((a * a + a + 1) * largest + signed * 256 ** min(digits, 6)) * largest
        N = min(9001, (2**53 - 1) // (2 * bound))
        spikes = np.full((2, N, 5), min(largest, 127), dtype=np.int8)
        spikes[:, :, 3] = -largest if signed else 0
        spikes[1, :, 4] = 0
        neuron = sbc.Kernel([float(a), 1.0])
        hessian = sbc.SpikeHessian(neuron, backend=amx).update(spikes)
        assert ways(hessian) == {f"{digits + (a > fitting)} byte"}
        assert np.array_equal(hessian.sum(), N * exact_spike_sum(spikes[:, :1], neuron))


def test_bytes_at_their_limits(amx: str) -> None:
    """-128 is a byte as it is. A response below 0 makes bytes of spikes above it that are signed."""
    spikes = draw_spikes(np.random.default_rng(10), -128, 127, 3, 20, 40)
    hessian = sbc.SpikeHessian(backend=amx).update(spikes)
    assert ways(hessian) == {"1 byte"}
    assert np.array_equal(hessian.sum(), exact_spike_sum(spikes, None))
    doubled = np.full((2, 20, 3), 2)
    for taps, way in (([-50, -13], "1 byte"), ([-51, -14], "2 byte"), ([-91, 33], "2 byte")):
        neuron = sbc.Kernel([float(tap) for tap in taps])
        hessian = sbc.SpikeHessian(neuron, backend=amx).update(doubled)
        assert ways(hessian) == {way}
        assert np.array_equal(hessian.sum(), exact_spike_sum(doubled, neuron))


def test_sums_leave_8_and_16_bits(backend: str) -> None:
    """IF over 3 steps, all spiking: up to 6 a term in 8 bits, past 65535 inside one block."""
    spikes = np.ones((3, 6000, 70), dtype=bool)
    hessian = sbc.SpikeHessian(sbc.IF(), backend=backend).update(spikes)
    assert ways(hessian) == {{"amx": "1 byte", "vpopcnt": "pairs"}.get(backend, "8")}
    assert np.array_equal(hessian.sum(), np.full((70, 70), 6000.0 * (1 + 4 + 9)))


@pytest.mark.parametrize(("T", "N", "d"), [(1, 70001, 3), (1, 17000, 130), (5, 17000, 128)])
def test_counts_of_pairs_leave_4_8_and_16_bits(backend: str, T: int, N: int, d: int) -> None:
    """By pairs, all spiking but every seventh input: counts far past 15, 255 and 65535. By bytes, more
    samples than a block holds."""
    spikes = np.ones((T, N, d), dtype=bool)
    spikes[:, :, ::7] = False
    spikes[:, 0, 0] = True
    neuron = sbc.LIF(4.0)
    hessian = sbc.SpikeHessian(neuron, backend=backend).update(spikes)
    assert ways(hessian) == {"3 byte" if backend == "amx" and T > 1 else "pairs"}
    wanted = (N - 1) * exact_spike_sum(spikes[:, 1:2], neuron)
    assert np.array_equal(hessian.sum(), wanted + exact_spike_sum(spikes[:, :1], neuron))


@pytest.mark.parametrize("d", [1, 2, 15, 16, 31, 32, 33, 63, 64, 65, 100, 127, 128, 129, 300, 520])
def test_any_number_of_inputs(backend: str, d: int) -> None:
    spikes = spike_train(np.random.default_rng(d), 3, 11, d)
    for neuron in (None, sbc.IF(), sbc.LIF(2.0)):
        total = sbc.SpikeHessian(neuron, backend=backend).update(spikes).sum()
        assert np.array_equal(total, reference.spike_sum(spikes, neuron)[0])


@settings(max_examples=80)
@given(st.data())
def test_any_shape_range_and_backend(data: st.DataObject) -> None:
    T, N, d = (
        data.draw(st.integers(1, top), name) for top, name in ((8, "T"), (40, "N"), (70, "d"))
    )
    low = data.draw(st.sampled_from([0, 0, -1, -3, -128]), "low")
    high = data.draw(st.sampled_from([0, 1, 1, 2, 5, 127]), "high")
    rng = np.random.default_rng(data.draw(st.integers(0, 99), "seed"))
    spikes = draw_spikes(rng, low, high, T, N, d).astype(
        data.draw(st.sampled_from([np.int8, np.int16, np.int32, np.int64, np.float32, np.float64]))
    )
    name = data.draw(st.sampled_from(sorted(NEURONS)), "neuron")
    backend = data.draw(st.sampled_from(sbc.available_backends("cpu")), "backend")
    hessian = sbc.SpikeHessian(NEURONS[name], backend=backend).update(spikes)
    assert "exact integers" in hessian.paths[0]
    assert np.array_equal(hessian.sum(), reference.spike_sum(spikes, NEURONS[name])[0])


@pytest.mark.parametrize(
    "neuron",
    [
        sbc.LIF(3.0),
        sbc.LIF(20.0),
        sbc.Leaky(0.9),
        sbc.CubaLIF(0.8, 0.6),
        sbc.Alpha(0.9, 0.8),
        sbc.NorseLIF(),
        sbc.SinabsLIF(10.0, 5.0),
        sbc.Kernel([1.0, -0.3, 0.1, 1e-9, 0.7, -0.9, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7]),
    ],
    ids=repr,
)
def test_fixed_point(backend: str, neuron: Neuron) -> None:
    """Entries of M'M are off by half a unit, of row sums of 38 bits in lanes and 31 by bytes.

    Binary spikes may go by pairs, whose weights are rounded to float64 only.
    """
    rng = np.random.default_rng(1)
    taken = {"fixed": 0, "float64": 0}
    bits = 31 if backend == "amx" else 38
    for (low, high), T, d in itertools.product(RANGES.values(), (2, 3, 7, 12), (23, 128)):
        if d == 128 and (low, high) != (0, 1):
            continue
        spikes = draw_spikes(rng, low, high, T, 30 if d == 23 else 5, d)
        hessian = sbc.SpikeHessian(neuron, backend=backend).update(spikes)
        total, exact = hessian.sum(), exact_spike_sum(spikes, neuron)
        k = neuron.impulse_response(T)
        M = np.array([[k[t - s] if t >= s else 0.0 for s in range(T)] for t in range(T)])
        counts = np.abs(spikes).sum(axis=0).astype(np.float64)  # of one input in one sample
        together = np.abs(spikes).reshape(T, -1, d).astype(np.float64)
        whole = np.einsum("tni,tu,unj->ij", together, np.abs(M.T) @ np.abs(M), together)
        rounding = 8 * T * eps(np.float64) * whole
        if f"fixed point ({bits} bits of M'M)" in hessian.paths[0]:
            taken["fixed"] += 1
            rounding += fixed_point_error(neuron, T, backend) * (counts.T @ counts)
        elif "counts weighted in float64, by pairs of times" in hessian.paths[0]:
            taken["float64"] += 1
        else:
            assert "exact integers" in hessian.paths[0]  # two steps of a short decay
        assert_close(total, exact, rounding, "entry by entry")
        assert_close(total, exact, 2.0 ** (2 - bits) * whole.max(), "of the largest")
    assert taken["fixed"] >= 9
    assert taken["float64"] >= 2


@pytest.mark.parametrize(
    "conv", [None, sbc.Conv((3, 3), padding=1, groups=2)], ids=["linear", "conv"]
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_analog_input(conv: sbc.Conv | None, dtype: Any) -> None:
    """Floats go through float64: within rounding of a plain float64 run, whatever their dtype."""
    rng = np.random.default_rng(2)
    shape = (5, 40, 17) if conv is None else (3, 6, 4, 5, 4)
    spikes = rng.standard_normal(shape).astype(dtype)
    for neuron in (None, sbc.LIF(2.0), sbc.LIF(3.0)):
        hessian = sbc.SpikeHessian(neuron, conv=conv).update(spikes)
        assert hessian.paths[0].startswith("float64 matrix products (spikes are not integers")
        Y = np.abs(reference.filtered_input(np.abs(spikes), neuron, conv))
        total = np.asarray(hessian.sum()).reshape(len(Y), Y.shape[2], -1)
        bound = 2 * Y.shape[1] * eps(np.float64) * (Y.transpose(0, 2, 1) @ Y)
        assert_close(total, reference.spike_sum(spikes, neuron, conv), bound, repr(neuron))


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0, 3), (-1, 1)])
def test_every_backend_gives_the_same_bits(low: int, high: int) -> None:
    """All where the sums are exact; where M'M is rounded, all that round it alike."""
    spikes = draw_spikes(np.random.default_rng(3), low, high, 6, 50, 90)
    for neuron in (None, sbc.IF(), sbc.LIF(2.0), sbc.LIF(4.0)):
        sums = [
            sbc.SpikeHessian(neuron, backend=name).update(spikes).sum()
            for name in sbc.available_backends("cpu")
        ]
        assert all(np.array_equal(total, sums[0]) for total in sums)
    alike = [  # what counts whole vectors adds up binary spikes in another order
        name
        for name in sbc.available_backends("cpu")
        if name in LOOK_UP or (name == "vpopcnt" and (low, high) != (0, 1))
    ]
    sums = [sbc.SpikeHessian(sbc.LIF(3.0), backend=name).update(spikes).sum() for name in alike]
    assert all(np.array_equal(total, sums[0]) for total in sums)


@pytest.mark.skipif("amx" not in sbc.available_backends("cpu"), reason="AMX against its plain twin")
@pytest.mark.parametrize(("low", "high"), [(0, 3), (-1, 1), (-128, 127)])
def test_tiles_give_the_bits_of_plain_loops(
    low: int, high: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(3)
    flat, maps = draw_spikes(rng, low, high, 6, 50, 90), draw_spikes(rng, low, high, 3, 5, 20, 6, 5)
    answers = []
    for name in ("amx", "portable"):
        kernels = dataclasses.replace(BACKENDS["amx"], isa=name)
        monkeypatch.setitem(BACKENDS, "amx", kernels)
        for neuron in (None, sbc.IF(), sbc.LIF(3.0), sbc.LIF(4.0)):
            answers.append(sbc.spike_gram(flat, neuron, backend="amx"))
            conv = sbc.Conv((3, 2), padding=1)
            answers.append(sbc.spike_gram(maps, neuron, conv=conv, backend="amx"))
    for tiles, loops in zip(answers[:8], answers[8:], strict=True):
        assert np.array_equal(tiles, loops)


@pytest.mark.parametrize("kind", ["integers", "analog"])
def test_threads_and_repetition_change_nothing(
    backend: str, kind: str, set_threads: Callable[[int], None]
) -> None:
    rng = np.random.default_rng(4)
    flat = draw_spikes(rng, -1, 1, 4, 60, 300).astype(np.float64)
    maps = draw_spikes(rng, 0, 1, 2, 9, 20, 7, 7).astype(np.float64)
    if kind == "analog":
        flat, maps = flat * 0.3, maps * 0.3
    binary = spike_train(rng, 4, 60, 300)
    answers = []
    for threads in (1, 2, 2):
        set_threads(threads)
        answers.append(
            (
                sbc.spike_gram(flat, sbc.LIF(2.0), backend=backend),
                sbc.spike_gram(binary, sbc.LIF(3.0), backend=backend),
                sbc.spike_gram(maps, sbc.IF(), conv=sbc.Conv((3, 3)), backend=backend),
            )
        )
    for answer in answers[1:]:
        for gram, first in zip(answer, answers[0], strict=True):
            assert np.array_equal(gram, first)


INTEGER_DTYPES = ["bool", "uint8", "int8", "int16", "uint16", "int32", "uint32", "int64", "uint64"]
FLOAT_DTYPES = ["float16", "float32", "float64"]


@pytest.mark.parametrize("dtype", INTEGER_DTYPES + FLOAT_DTYPES)
def test_numpy_dtypes(dtype: str) -> None:
    binary = spike_train(np.random.default_rng(5), 4, 9, 20)
    wanted = reference.spike_gram(binary, sbc.LIF(2.0))[0]
    for name, spikes in layouts(binary.astype(dtype)).items():
        gram = sbc.spike_gram(spikes, sbc.LIF(2.0))
        assert isinstance(gram, np.ndarray)
        assert gram.dtype == np.float64
        assert np.array_equal(gram, wanted), name


@pytest.mark.parametrize(
    "dtype", ["bool", "uint8", "int8", "int16", "int32", "int64", "float16", "bfloat16", "float32"]
)
def test_torch_dtypes(dtype: str) -> None:
    binary = spike_train(np.random.default_rng(6), 4, 9, 20)
    wanted = reference.spike_gram(binary, sbc.LIF(2.0))[0]
    tensor = torch.tensor(binary).to(getattr(torch, dtype))
    forms = {
        "plain": tensor,
        "transposed": tensor.transpose(0, 2).contiguous().transpose(0, 2),
        "strided": torch.stack([tensor, torch.ones_like(tensor)], 3)[..., 0],
    }
    if tensor.is_floating_point():
        forms["requires grad"] = tensor.clone().requires_grad_()
        forms["negated view"] = torch._neg_view(-tensor)
    for name, spikes in forms.items():
        gram = sbc.spike_gram(spikes, sbc.LIF(2.0))
        assert isinstance(gram, torch.Tensor), name
        assert gram.dtype == torch.float64
        assert not gram.requires_grad
        assert np.array_equal(gram.numpy(), wanted), name


@pytest.mark.parametrize("value", [128, 200, 255, -129, 1000])
def test_integers_beyond_a_byte_go_through_floats(value: int) -> None:
    spikes = np.zeros((2, 3, 4), dtype=np.int32)
    spikes[0, 0, :2] = value
    hessian = sbc.SpikeHessian(sbc.IF()).update(spikes)
    assert hessian.paths == [
        "float64 matrix products (spikes are not integers in [-128, 127]): 1 batch(es)"
    ]
    assert np.array_equal(hessian.sum(), reference.spike_sum(spikes, sbc.IF())[0])
    if 0 < value < 256:
        unsigned = sbc.spike_gram(spikes.astype(np.uint8), sbc.IF())
        assert np.array_equal(unsigned, hessian.matrix())


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 1, 5), (1, 6, 1), (7, 1, 1), (2, 1, 3, 1)])
def test_one_element_and_silence(backend: str, shape: tuple[int, ...]) -> None:
    for spikes in (np.ones(shape, bool), np.zeros(shape, bool), np.full(shape, 0.25)):
        gram = sbc.spike_gram(spikes, sbc.IF(), backend=backend)
        assert np.array_equal(gram, reference.spike_gram(spikes, sbc.IF())[0])


def test_positions_share_the_weights() -> None:
    """[T, N, positions, d_in]: positions add up, samples are averaged."""
    spikes = spike_train(np.random.default_rng(7), 4, 6, 5, 11)
    apart = sbc.SpikeHessian()
    for p in range(5):
        apart.update(spikes[:, :, p])
    together = sbc.SpikeHessian().update(spikes)
    assert np.array_equal(together.sum(), apart.sum())
    assert together.num_samples == 6
    assert np.array_equal(together.matrix(), reference.spike_gram(spikes)[0])


def test_gram_is_symmetric_and_positive() -> None:
    spikes = spike_train(np.random.default_rng(8), 5, 80, 40)
    for neuron in (None, sbc.LIF(2.0), sbc.LIF(3.0)):
        gram = sbc.spike_gram(spikes, neuron)
        assert np.array_equal(gram, gram.T)
        values = np.linalg.eigvalsh(gram)
        assert values[0] >= -(2.0**-36) * values[-1]


def test_gain_and_leak_limits() -> None:
    """tau = 1 is the current Hessian; without decay_input it is tau^2 times as large."""
    spikes = spike_train(np.random.default_rng(9), 6, 20, 12)
    assert np.array_equal(sbc.spike_gram(spikes, sbc.LIF(1.0)), sbc.spike_gram(spikes))
    with_decay, without = (sbc.spike_gram(spikes, sbc.LIF(2.0, decay)) for decay in (True, False))
    assert np.array_equal(4 * with_decay, without)


@pytest.mark.parametrize("dtype", [np.bool_, np.uint8, np.int8, np.int64, np.float32, np.float64])
@pytest.mark.parametrize("values", ["binary", "counts", "analog"])
def test_every_gram_is_float64(ops: Ops, dtype: Any, values: str) -> None:
    """Whatever the spikes are and however they are summed, also as torch tensors and convolutions."""
    rng = np.random.default_rng(11)
    scale = {"binary": 1, "counts": 100, "analog": 0.3}[values]
    for neuron in ops.several((None, sbc.LIF(2.0), sbc.LIF(3.0)), (sbc.LIF(2.0),)):
        for shape, conv in (((3, 5, 6), None), ((3, 2, 4, 5), sbc.Conv((3,), groups=2))):
            spikes = ((rng.random(shape) < 0.5) * scale).astype(dtype)
            tensor = torch.from_numpy(spikes).to(DEVICE if ops.on_gpu else "cpu")
            gram = sbc.spike_gram(tensor, neuron, conv=conv, backend=ops.name)
            assert gram.dtype == torch.float64
            if not ops.on_gpu:
                array = sbc.spike_gram(spikes, neuron, conv=conv, backend=ops.name)
                assert array.dtype == np.float64
                assert np.array_equal(gram.numpy(), array)
