"""Floats that are integers times one unit: summed as integers, and what the unit rounds."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from helpers import assert_close, eps, fixed_point_error
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import sbc_kernels as sbc
from sbc_kernels.backends.multiples import common_unit, finer_unit, ratio, tolerance_of
from sbc_kernels.model.provenance import InputKind
from sbc_kernels.neurons import Neuron
from sbc_kernels.ops import reference

D = 13
CONV = sbc.Conv((3, 2), padding=1, groups=2)
SHAPES = {
    "linear": ((4, 9, D), None),
    "positions": ((4, 3, 5, D), None),
    "conv": ((4, 3, 4, 6, 5), CONV),
}


def qcfs(integers: Any, dtype: Any) -> Any:
    """QCFS' activations: a level's fraction times a learned threshold, each rounded."""
    return integers.astype(dtype) / dtype(8) * dtype(1.2345678)


FORMS: dict[str, Any] = {  # integers 0..8 and signed ones as published networks have them
    "MultiSpike / 4": lambda k, dtype: k.astype(dtype) / dtype(4),
    "average of 9": lambda k, dtype: k.astype(dtype) / dtype(9),
    "QCFS": qcfs,
    "scale of 1000.1": lambda k, dtype: k.astype(dtype) * dtype(1000.1),
    "scale of 1e-30": lambda k, dtype: k.astype(dtype) * dtype(1e-30),
}


def rounded(dtype: Any, size: Any) -> Any:
    """Bound on what it changes in a sum of this size that spikes stand for multiples of their unit."""
    return 2 * tolerance_of(np.zeros(0, dtype)) * size


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("low", [0, -8])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("shape", SHAPES)
def test_multiples_are_summed_as_integers(
    backend: str, form: str, low: int, dtype: Any, shape: str
) -> None:
    extent, conv = SHAPES[shape]
    integers = np.random.default_rng(0).integers(low, 9, extent)
    spikes = FORMS[form](integers, dtype)
    for neuron in (None, sbc.LIF(2.0), sbc.LIF(3.0)):
        hessian = sbc.SpikeHessian(neuron, conv=conv, backend=backend).update(spikes)
        (path,) = hessian.paths
        assert "float64 matrix products" not in path
        assert "multiples of" in path
        wanted = reference.spike_sum(spikes, neuron, conv)
        size = reference.spike_sum(np.abs(spikes), neuron, conv)
        total = np.asarray(hessian.sum()).reshape(wanted.shape)
        error = fixed_point_error(neuron, 4 if neuron else 1, backend) * np.abs(spikes).max() ** 2
        terms = spikes.size // extent[2 if conv else -1] * 16
        assert_close(total, wanted, rounded(dtype, size) + error * terms, path)
        once = np.asarray(sbc.spike_gram(spikes, neuron, conv=conv, backend=backend))
        assert_close(once, np.asarray(hessian.matrix()), 4 * eps(np.float64) * np.abs(once), "once")


@pytest.mark.parametrize("shape", SHAPES)
def test_a_power_of_two_rounds_nothing(backend: str, shape: str) -> None:
    """A quarter of the counts: a sixteenth of their sum, to the last bit."""
    extent, conv = SHAPES[shape]
    counts = np.random.default_rng(1).integers(-5, 6, extent)
    for neuron in (None, sbc.IF(), sbc.LIF(2.0)):
        whole = sbc.SpikeHessian(neuron, conv=conv, backend=backend).update(counts)
        parts = sbc.SpikeHessian(neuron, conv=conv, backend=backend)
        parts.update((counts / 4).astype(np.float32))
        assert parts.paths == [
            whole.paths[0].replace(": 1 b", " (spikes are multiples of 0.25): 1 b")
        ]
        assert np.array_equal(16 * parts.sum(), whole.sum())


def test_scaled_binary_spikes_are_counted_as_binary_ones(backend: str) -> None:
    spikes = np.random.default_rng(2).random((4, 9, D)) < 0.3
    plain = sbc.SpikeHessian(sbc.LIF(3.0), backend=backend).update(spikes)
    scaled = sbc.SpikeHessian(sbc.LIF(3.0), backend=backend).update(spikes * np.float32(0.7))
    assert scaled.paths == [plain.paths[0].replace(": 1 b", " (spikes are multiples of 0.7): 1 b")]
    bound = 4 * eps(np.float64) * plain.sum()
    assert_close(scaled.sum() / float(np.float32(0.7)) ** 2, plain.sum(), bound, "sum")


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_what_has_no_unit_stays_analog(dtype: Any) -> None:
    rng = np.random.default_rng(3)
    normal = rng.standard_normal((4, 9, D)).astype(dtype)
    late = (rng.integers(0, 5, (4, 400, D)) / 4).astype(dtype)
    late[3, 399, 12] = 0.3217  # the last value of all
    sparse = np.where(rng.random((4, 9, D)) < 0.01, normal, 0).astype(dtype)
    sparse[0, 0, :3] = (1.0, np.pi, np.e)
    wide = (rng.integers(0, 1000, (4, 9, D)) / 4).astype(dtype)  # more than 127 quarters
    for spikes in (normal, late, sparse, wide):
        hessian = sbc.SpikeHessian(sbc.LIF(2.0)).update(spikes)
        assert hessian.paths[0].startswith("float64 matrix products (spikes are not integers")
        size = reference.spike_sum(np.abs(spikes), sbc.LIF(2.0))[0]
        bound = spikes.shape[1] * 16 * eps(np.float64) * size
        assert_close(hessian.sum(), reference.spike_sum(spikes, sbc.LIF(2.0))[0], bound, "sum")


@pytest.mark.parametrize("finest", [(3, 399, 12), (0, 0, 0), (2, 17, 5)])
def test_the_finest_step_may_come_once(finest: tuple[int, ...]) -> None:
    """Halves throughout, and a single sixth: the unit is a sixth wherever that lies."""
    spikes = np.random.default_rng(4).integers(0, 3, (4, 400, D)) / 2
    spikes[finest] = 1 / 6
    hessian = sbc.SpikeHessian(sbc.IF()).update(spikes)
    assert "multiples of 0.166667" in hessian.paths[0]
    wanted = reference.spike_sum(spikes, sbc.IF())[0]
    assert_close(hessian.sum(), wanted, rounded(np.float64, wanted), "sum")


def test_threads_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    spikes = np.random.default_rng(5).integers(0, 3, (4, 400, D)) * np.float32(0.3)
    spikes[[0, 1, 2, 3], [7, 399, 3, 200], 4] = np.float32(0.1)
    sums = []
    for threads in (1, 3):
        monkeypatch.setattr("sbc_kernels.backends.native.gram.thread_count", lambda n=threads: n)
        sums.append(sbc.SpikeHessian(sbc.IF()).update(spikes).sum())
    assert np.array_equal(sums[0], sums[1])


@pytest.mark.parametrize("pair", [(2, 4), (4, 2), (2, 6), (6, 4), (4, 6), (3, 7)], ids=str)
@pytest.mark.parametrize("merged", [False, True], ids=["stream", "merge"])
def test_batches_of_several_units(pair: tuple[int, int], merged: bool, backend: str) -> None:
    """Integers, fractions and bools in one stream. Units that share none go on in float64."""
    rng = np.random.default_rng(6)
    batches: list[Any] = [rng.integers(0, 5, (3, 4, D)) / part for part in pair]
    batches += [rng.random((3, 4, D)) < 0.3, rng.integers(0, 3, (3, 4, D)) / pair[0]]
    hessian, wanted = sbc.SpikeHessian(sbc.LIF(2.0), backend=backend), np.zeros((D, D))
    for batch in batches:
        if merged:
            part = sbc.SpikeHessian(sbc.LIF(2.0), backend=backend).update(batch)
            kept = part.sum()
            hessian.merge(part)
            assert np.array_equal(part.sum(), kept)
        else:
            hessian.update(batch)
        wanted += reference.spike_sum(batch, sbc.LIF(2.0))[0]
    assert hessian.num_samples == 16
    if set(pair) == {2, 4}:
        assert np.array_equal(hessian.sum(), wanted)
    assert_close(hessian.sum(), wanted, rounded(np.float64, wanted), "sum")


@pytest.mark.parametrize("kind", [np.asarray, torch.from_numpy])
def test_a_coarser_unit_of_another_dtype(kind: Any, backend: str) -> None:
    """Sixths in float32 are no sixths in float64, where the halves come: these are three each."""
    rng = np.random.default_rng(9)
    sixths = rng.integers(0, 7, (3, 4, D)).astype(np.float32) / np.float32(6)
    sixths[0, 0, 0] = np.float32(1 / 6)
    halves = rng.integers(-3, 4, (3, 4, D)) / 2
    hessian = sbc.SpikeHessian(sbc.LIF(2.0), backend=backend)
    hessian.update(kind(sixths)).update(kind(halves))
    assert all("multiples of 0.166667" in path for path in hessian.paths)
    both = [np.abs(sixths), np.abs(halves)]
    size = sum(reference.spike_sum(batch, sbc.LIF(2.0))[0] for batch in both)
    wanted = sum(reference.spike_sum(batch, sbc.LIF(2.0))[0] for batch in (sixths, halves))
    assert_close(np.asarray(hessian.sum()), wanted, rounded(np.float32, size), "sum")


def test_a_refined_sum_does_not_claim_more_than_it_has() -> None:
    """Sums of 52 bits are too long once their unit is a hundredth of what it was."""
    neuron = sbc.Kernel([2.0**22])
    coarse, fine = np.full((1, 64, 2), 0.5), np.full((1, 1, 2), 0.5)
    fine[0, 0, 0] = 0.5 / 100
    hessian = sbc.SpikeHessian(neuron).update(np.repeat(coarse, 40, 1))
    assert "exact integers" in hessian.paths[0]
    hessian.update(fine)
    wanted = reference.spike_sum(np.concatenate([np.repeat(coarse, 40, 1), fine], 1), neuron)[0]
    assert_close(hessian.sum(), wanted, rounded(np.float64, wanted), "sum")
    assert hessian._sums is not None
    assert hessian._sums.bound >= 2560 * 100**2


@settings(max_examples=200, deadline=None)
@given(
    st.floats(1e-30, 1e30),
    st.lists(st.integers(-127, 127), min_size=1, max_size=40),
    st.sampled_from([np.float32, np.float64]),
)
def test_the_unit_is_the_largest(unit: float, integers: list[int], dtype: Any) -> None:
    values = (np.array(integers) * unit).astype(dtype)
    found = common_unit(values, tolerance_of(values))
    divisor = int(np.gcd.reduce(integers))
    if divisor == 0:
        assert found is None
        return
    assert found is not None
    assert ratio(divisor * unit, found, 2.0**-18) == 1


@pytest.mark.parametrize("bad", [0.0, np.nan, np.inf, 1e300, 1e-300, np.sqrt(2)])
def test_no_finer_unit(bad: float) -> None:
    assert finer_unit(1.0, bad, 2.0**-50) is None
    assert common_unit(np.array([1.0, bad]), 2.0**-50) is None or bad == 0.0


def test_nan_among_multiples_is_refused() -> None:
    spikes = np.random.default_rng(7).integers(0, 5, (3, 40, D)) / 4
    for bad in (np.nan, np.inf, -np.inf):
        spikes[2, 39, 12] = bad
        hessian = sbc.SpikeHessian()
        with pytest.raises(
            sbc.ParameterError, match=r"spikes has 1 values that are NaN or infinite"
        ):
            hessian.update(spikes)
        assert hessian.num_samples == 0


@pytest.mark.parametrize("options", [{"sparsity": 0.5}, {"bits": 3}, {"sparsity": "2:4"}], ids=str)
@pytest.mark.parametrize("neuron", [sbc.IF(), sbc.LIF(3.0)], ids=repr)
def test_a_layer_is_compressed_as_on_its_integers(options: Any, neuron: Neuron) -> None:
    rng = np.random.default_rng(8)
    weight, counts = rng.standard_normal((6, 16)), rng.integers(0, 5, (4, 30, 16))
    whole = sbc.compress_layer(weight, counts, neuron, **options)
    part = sbc.compress_layer(weight, counts.astype(np.float32) / 4, neuron, **options)
    assert np.array_equal(part.weight, whole.weight)
    assert_close(16 * part.loss, whole.loss, 1e-12 * whole.loss, "loss")


@pytest.mark.parametrize(
    ("calls", "name", "unit"),
    [
        ([[0.0, 1.0], [1.0, 1.0]], "binary", 1.0),
        ([[0.0, 0.0], [0.5, 1.0]], "integer", 0.5),
        ([[0.5, 1.0], [0.0, 0.25], [1.0, 1.0]], "integer", 0.25),
        ([[1.0, 0.0], [0.5, 0.0], [1 / 3, 0.0]], "integer", 1 / 6),
        ([[0.01, 0.0], [1.0, 0.0]], "integer", 0.01),
        ([[0.01, 0.0], [2.0, 0.0]], "analog", 0.01),
        ([[1.0, 0.0], [2**0.5, 0.0], [1.0, 0.0]], "analog", None),
        ([[1.0, 0.0], [300.0, 0.0]], "analog", None),
        ([[1.0, float("nan")]], "analog", None),
    ],
)
def test_the_kind_of_several_calls(calls: list[list[float]], name: str, unit: float | None) -> None:
    kind = InputKind()
    for values in calls:
        kind.add(torch.tensor(values, dtype=torch.float64))
    assert kind.name == name
    assert kind.unit == (None if unit is None else pytest.approx(unit, rel=1e-12))
    whole = InputKind()
    whole.add(torch.tensor([3, 127], dtype=torch.int64))
    assert (whole.name, whole.unit) == ("integer", 1.0)
    whole.add(torch.tensor([3, 128], dtype=torch.int64))
    assert whole.name == "analog"


def test_a_network_with_pooled_spikes_is_planned_with_its_unit() -> None:
    """The input of the second layer is a mean of 4 spikes."""
    from spikingjelly.activation_based import functional, layer, neuron

    net = nn.Sequential(
        layer.Conv2d(1, 4, 3, padding=1, step_mode="m"),
        neuron.LIFNode(step_mode="m"),
        layer.AvgPool2d(2, step_mode="m"),
        layer.Conv2d(4, 3, 3, step_mode="m"),
        neuron.LIFNode(step_mode="m"),
    )
    functional.set_step_mode(net, "m")
    torch.manual_seed(0)
    x = 3 * torch.rand(3, 2, 1, 8, 8)
    plan = sbc.trace(net, x)
    assert plan["3"].input_kind == "integer"
    assert plan["3"].input_unit == 0.25
    assert plan["0"].input_kind == "analog"
    assert plan["0"].input_unit == 1.0
    assert "integer/4" in str(plan)
    out = sbc.compress_model(net, [x], sparsity=0.5)
    (record,) = (layer for layer in out.layers if layer.name == "3")
    assert "multiples of 0.25" in record.gram_path
