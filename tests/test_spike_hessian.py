"""The streamed Hessian: batches of any size and kind add up to what one batch gives."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from helpers import assert_close, eps, exact_spike_sum, spike_train
from hypothesis import given, settings
from hypothesis import strategies as st

import sbc_kernels as sbc
from sbc_kernels.backends.native.gram import CpuGram
from sbc_kernels.hessian import one_byte, unit_of
from sbc_kernels.neurons import Neuron
from sbc_kernels.ops import reference

D = 13
LANES = [name for name in sbc.available_backends("cpu") if name != "amx"]


def _batches(rng: np.random.Generator, sizes: tuple[int, ...], T: int = 4) -> list[np.ndarray]:
    return [spike_train(rng, T, size, D) for size in sizes]


def _fed(batches: list[Any], neuron: Neuron | None, **options: Any) -> sbc.SpikeHessian:
    hessian = sbc.SpikeHessian(neuron, **options)
    for batch in batches:
        assert hessian.update(batch) is hessian
    return hessian


@pytest.mark.parametrize("neuron", [None, sbc.IF(), sbc.LIF(2.0), sbc.LIF(3.0)], ids=repr)
@pytest.mark.parametrize("conv", [None, sbc.Conv((3, 3), padding=1)], ids=["linear", "conv"])
def test_unequal_batches_are_one_batch(
    backend: str, neuron: Neuron | None, conv: sbc.Conv | None
) -> None:
    rng = np.random.default_rng(0)
    shape = (D,) if conv is None else (2, 5, 4)
    batches = [spike_train(rng, 4, n, *shape) for n in (1, 7, 2, 30)]
    streamed = _fed(batches, neuron, conv=conv, backend=backend)
    whole = sbc.SpikeHessian(neuron, conv=conv, backend=backend).update(np.concatenate(batches, 1))
    assert streamed.num_samples == whole.num_samples == 40
    if "weighted in float64" in whole.paths[0]:  # 16 pairs of times in each of 4 batches
        bound = 2 * (16 + 4) * eps(np.float64) * whole.sum()
        assert_close(streamed.sum(), whole.sum(), bound, "sum")
        return
    assert np.array_equal(streamed.sum(), whole.sum())  # integers, also where M'M was rounded
    assert np.array_equal(streamed.matrix(), whole.matrix())


@pytest.mark.parametrize("neuron", [None, sbc.IF(), sbc.LIF(2.0), sbc.LIF(3.0)], ids=repr)
@pytest.mark.parametrize("values", ["binary", "signed", "analog"])
def test_one_batch_at_once_is_a_stream_of_one(
    backend: str, neuron: Neuron | None, values: str
) -> None:
    """`spike_gram`, which spares the stream's memory, to the last bit."""
    rng = np.random.default_rng(9)
    for shape, conv in (
        ((3, 7, D), None),
        ((1, 7, 70), None),
        ((2, 7, 3, 40), None),  # three positions
        ((3, 7, 4, 5, 4), sbc.Conv((3, 2), padding=1, groups=2)),
    ):
        spikes: Any = spike_train(rng, *shape)
        if values == "signed":
            spikes = rng.integers(-128, 128, shape)
        elif values == "analog":
            spikes = rng.random(shape) * spikes
        stream = _fed([spikes], neuron, conv=conv, backend=backend)
        once = sbc.spike_gram(spikes, neuron, conv=conv, backend=backend)
        assert np.array_equal(once, stream.matrix())


def test_no_memory_is_taken_as_it_comes(amx: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A response so small that its square is 0."""
    neuron = sbc.Kernel([2.0**-600, 2.0**-600])
    monkeypatch.setattr(np, "empty", lambda shape, dtype=float: np.full(shape, 77, dtype))
    for spikes in (np.ones((2, 3, D), bool), np.full((2, 3, D), 2)):
        assert np.array_equal(sbc.spike_gram(spikes, neuron, backend=amx), np.zeros((D, D)))


def test_sums_beyond_53_bits_are_symmetric(amx: str) -> None:
    rng = np.random.default_rng(0)
    neuron = sbc.Kernel(rng.integers(1, 2**22, 5).astype(float))
    spikes = rng.integers(-60, 61, (5, 4000, 40))
    stream = _fed([spikes], neuron, backend=amx)
    assert stream.paths == ["integers of over 53 bits, products of 7 byte(s): 1 batch(es)"]
    gram = sbc.spike_gram(spikes, neuron, backend=amx)
    assert np.array_equal(gram, gram.T)
    assert np.array_equal(gram, stream.matrix())


def test_analog_batches_add_up() -> None:
    rng = np.random.default_rng(1)
    batches = [rng.standard_normal((4, n, D)) for n in (1, 7, 2, 30)]
    streamed, all_of_it = _fed(batches, sbc.LIF(2.0)), np.concatenate(batches, 1)
    size = reference.spike_sum(np.abs(all_of_it), sbc.LIF(2.0))[0]
    bound = 4 * 160 * eps(np.float64) * size
    assert_close(streamed.sum(), reference.spike_sum(all_of_it, sbc.LIF(2.0))[0], bound, "sum")


@pytest.mark.parametrize("cut", [0, 1, 3, 4])
def test_merge_is_the_same_stream(cut: int) -> None:
    """Streams of both paths and two lengths, cut anywhere."""
    rng = np.random.default_rng(2)
    batches: list[Any] = [
        *_batches(rng, (3, 5)),
        0.5 * spike_train(rng, 6, 4, D),
        *_batches(rng, (2,), 6),
    ]
    left, right = _fed(batches[:cut], sbc.LIF(2.0)), _fed(batches[cut:], sbc.LIF(2.0))
    merged = sbc.SpikeHessian(sbc.LIF(2.0)).merge(left).merge(right)
    straight = _fed(batches, sbc.LIF(2.0))
    assert merged.num_samples == straight.num_samples == 14
    assert np.array_equal(merged.sum(), straight.sum())
    assert sorted(merged.paths) == sorted(straight.paths)
    left_sum = left.sum() if cut else None
    merged.update(batches[0])  # the parts are not touched by what is fed afterwards
    if cut:
        assert np.array_equal(left.sum(), left_sum)


@pytest.mark.parametrize("neuron", [None, sbc.LIF(2.0), sbc.LIF(3.0)], ids=repr)
@pytest.mark.parametrize("conv", [None, sbc.Conv((3, 3), padding=1)], ids=["linear", "conv"])
@pytest.mark.parametrize("lanes", LANES)
def test_merge_of_two_backends(
    amx: str, lanes: str, neuron: Neuron | None, conv: sbc.Conv | None
) -> None:
    """They round M'M to units of their own, and neither loses anything to the other."""
    rng = np.random.default_rng(2)
    one, two = (rng.integers(0, 4, (4, n, *((D,) if conv is None else (2, 5, 4)))) for n in (7, 30))
    for names in ((amx, lanes), (lanes, amx)):
        parts = [
            _fed([batch], neuron, conv=conv, backend=name)
            for name, batch in zip(names, (one, two), strict=True)
        ]
        wanted = parts[0].sum() + parts[1].sum()
        assert np.array_equal(parts[0].merge(parts[1]).sum(), wanted)
        if neuron != sbc.LIF(3.0):
            exact = reference.spike_sum(np.concatenate([one, two], 1), neuron, conv)[0]
            assert np.array_equal(wanted, exact)


@pytest.mark.parametrize("lanes", LANES)
def test_merging_before_or_after_a_batch(amx: str, lanes: str) -> None:
    batch = np.random.default_rng(2).integers(0, 4, (4, 30, D))
    for mine, others in ((amx, lanes), (lanes, amx)):
        other = _fed([batch], sbc.LIF(3.0), backend=others)
        before = sbc.SpikeHessian(sbc.LIF(3.0), backend=mine).merge(other).update(batch)
        after = sbc.SpikeHessian(sbc.LIF(3.0), backend=mine).update(batch).merge(other)
        assert sorted(before.paths) == sorted(after.paths)
        assert np.array_equal(before.sum(), after.sum())


def test_merge_with_itself_doubles() -> None:
    hessian = _fed(_batches(np.random.default_rng(3), (5,)), sbc.IF())
    before = hessian.sum()
    assert np.array_equal(hessian.merge(hessian).sum(), 2 * before)
    assert hessian.num_samples == 10


@settings(max_examples=30)
@given(st.data())
def test_any_stream(data: st.DataObject) -> None:
    """Mixed lengths, dtypes and ranges; binary, signed and half-integer batches in any order."""
    rng = np.random.default_rng(data.draw(st.integers(0, 999), "seed"))
    kinds = data.draw(
        st.lists(
            st.sampled_from(["bool", "ternary", "counts", "bytes", "halves"]),
            min_size=1,
            max_size=5,
        )
    )
    neuron = data.draw(st.sampled_from([None, sbc.IF(), sbc.LIF(2.0)]))
    hessian, wanted, samples = sbc.SpikeHessian(neuron), np.zeros((D, D)), 0
    for kind in kinds:
        shape = (data.draw(st.integers(1, 9)), data.draw(st.integers(1, 6)), D)
        batch = {
            "bool": lambda s: rng.random(s) < 0.3,
            "ternary": lambda s: rng.integers(-1, 2, s).astype(np.int8),
            "counts": lambda s: rng.integers(0, 128, s),
            "bytes": lambda s: rng.integers(-128, 128, s).astype(np.float32),
            "halves": lambda s: rng.integers(-5, 6, s) / 2,
        }[kind](shape)
        hessian.update(batch)
        wanted += reference.spike_sum(batch, neuron)[0]
        samples += shape[1]
    # Multiples of 2^-20 below 2^33: no path rounds anything here.
    assert np.array_equal(hessian.sum(), wanted)
    largest = np.abs(wanted).max() / samples
    assert_close(hessian.matrix(), 2.0 / samples * wanted, 8 * eps(np.float64) * largest, "matrix")
    assert hessian.num_samples == samples
    assert sum(int(path.split(": ")[1].split()[0]) for path in hessian.paths) == len(kinds)


def _wide(N: int) -> tuple[sbc.Kernel, np.ndarray]:
    """Filter rows of 48 bits: N samples of two steps sum up to 5 * 2^46 N."""
    return sbc.Kernel([2.0**23, 2.0**23 - 1]), np.ones((2, N, 2), dtype=np.int8)


@pytest.mark.parametrize("how", ["merge", "update", "at once"])
def test_sums_beyond_64_bits_do_not_wrap(how: str) -> None:
    neuron, spikes = _wide(2**13)
    hessian = sbc.SpikeHessian(neuron)
    for _ in range(1 if how == "at once" else 5):
        if how == "merge":
            hessian.merge(sbc.SpikeHessian(neuron).update(spikes))
        else:
            hessian.update(spikes if how == "update" else np.repeat(spikes, 5, axis=1))
    exact = 5 * 2**13 * exact_spike_sum(spikes[:, :1], neuron)
    assert exact[0, 0] > 2**63
    assert_close(hessian.sum(), exact, 2.0**-36 * exact, "sum")


@pytest.mark.parametrize("how", ["merge", "update", "at once"])
def test_exact_is_said_only_where_it_is(how: str) -> None:
    """Where every path is said to be exact, so is the sum: also past 2^53, and after a merge."""
    rng = np.random.default_rng(4)
    neuron, _ = _wide(1)
    for count in (1, 2, 5, 40):
        batches = [rng.integers(0, 2, (2, 3, 2)).astype(np.int8) for _ in range(count)]
        hessian = sbc.SpikeHessian(neuron)
        for batch in batches if how != "at once" else [np.concatenate(batches, 1)]:
            if how == "merge":
                hessian.merge(sbc.SpikeHessian(neuron).update(batch))
            else:
                hessian.update(batch)
        exact = exact_spike_sum(np.concatenate(batches, 1), neuron)
        if all("exact integers" in path for path in hessian.paths):
            assert np.array_equal(hessian.sum(), exact), count
        assert_close(hessian.sum(), exact, 2.0**-36 * exact.max(), how)


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        ([0.0, 1.0, 0.0], "bool"),
        ([0.0, -0.0, 127.0], "uint8"),
        ([-128.0, 0.0, 127.0], "int8"),
        ([0.0, 128.0, 1.0], None),
        ([0.0, 0.5, 1.0], None),
        ([0.0, np.nan, 1.0], None),
        ([0.0, np.inf, 1.0], None),
    ],
)
@pytest.mark.parametrize("source", [np.float32, np.float64, np.int64])
def test_one_byte_tells_the_range(values: list[float], dtype: str | None, source: Any) -> None:
    if source is np.int64 and not np.array_equal(values, np.round(values)):
        pytest.skip("no integers")
    if source is np.int64 and not np.isfinite(values).all():
        pytest.skip("no integers")
    whole = np.zeros((5, 7, 3), dtype=source)
    whole[3, 2] = values
    for spikes in (whole, whole.T, whole[1:, ::2], whole.transpose(1, 0, 2)):
        tensor = torch.from_numpy(spikes)
        narrow = one_byte(tensor)
        if dtype is None:
            assert narrow is tensor
        else:
            assert str(narrow.dtype) == f"torch.{dtype}"
            assert torch.equal(narrow.to(tensor.dtype), tensor)
    empty = one_byte(torch.zeros((0, 3)))
    assert empty.shape == (0, 3)


@pytest.mark.parametrize(
    ("values", "unit"),
    [
        ([0.0, 1.0, 5.0], 1.0),
        ([0.0, -0.75, 0.5], 0.25),
        ([0.0, 0.7, 0.0], 0.7),
        ([0.0, 0.0, 0.0], 1.0),
        ([1.0, 2**0.5, 0.0], None),
        ([1.0, np.nan, 0.0], None),
        ([1.0, np.inf, 0.0], None),
    ],
)
def test_the_unit_of_any_array(values: list[float], unit: float | None) -> None:
    whole = np.zeros((5, 7, 3))
    whole[3, 2] = values
    for spikes in (whole, whole.T, whole[1:, ::2], torch.from_numpy(whole)):
        assert unit_of(spikes) == unit
    assert unit_of(np.array([[3, 4], [300, 0]])) is None
    assert unit_of(np.array([[3, 4], [-128, 0]])) == 1.0


def test_answers_are_the_callers_own() -> None:
    hessian = _fed(_batches(np.random.default_rng(5), (4,)), sbc.IF())
    first = hessian.sum()
    kept = first.copy()
    first[:] = 7
    assert np.array_equal(hessian.sum(), kept)
    hessian.matrix()[:] = 7
    assert np.array_equal(hessian.sum(), kept)


def test_kind_of_the_answer_follows_the_last_batch() -> None:
    batch = _batches(np.random.default_rng(6), (4,))[0]
    hessian = sbc.SpikeHessian(sbc.IF()).update(batch)
    assert isinstance(hessian.sum(), np.ndarray)
    hessian.update(torch.tensor(batch))
    assert isinstance(hessian.sum(), torch.Tensor)
    assert hessian.matrix().dtype == torch.float64
    merged = sbc.SpikeHessian(sbc.IF()).merge(hessian)
    assert isinstance(merged.matrix(), torch.Tensor)


def test_what_it_knows_about_itself() -> None:
    hessian = sbc.SpikeHessian(conv=sbc.Conv((3, 2), groups=2))
    assert hessian.in_features is None
    assert hessian.groups == 2
    assert hessian.paths == []
    assert sbc.SpikeHessian(in_features=5).in_features == 5
    assert sbc.SpikeHessian(conv=sbc.Conv((3, 2), groups=2), in_channels=4).in_features == 12
    hessian.update(np.zeros((1, 1, 4, 5, 5), dtype=bool))
    assert hessian.in_features == 12
    assert hessian.matrix().shape == (2, 12, 12)


@pytest.mark.parametrize(
    "bad",
    [
        np.ones((4, 0, D), bool),
        np.ones((0, 2, D), bool),
        np.ones((4, 2, D + 1), bool),
        np.ones((4, D), bool),
        np.full((4, 2, D), np.nan),
        np.ones((9, 2, D), bool),  # longer than the kernel
        np.ones((4, 2, D), complex),
    ],
    ids=["N = 0", "T = 0", "d_in", "2-D", "NaN", "T of the kernel", "complex"],
)
def test_a_refused_batch_leaves_no_trace(bad: np.ndarray) -> None:
    neuron = sbc.Kernel([1.0, 0.5, 0.25, 0.5, 0.5, 0.5])
    good = _batches(np.random.default_rng(7), (4, 3))
    hessian = sbc.SpikeHessian(neuron).update(good[0])
    with pytest.raises((TypeError, ValueError)):
        hessian.update(bad)
    hessian.update(good[1])
    assert np.array_equal(hessian.sum(), _fed(good, neuron).sum())
    assert hessian.paths == _fed(good, neuron).paths
    assert hessian.num_samples == 7


@pytest.mark.parametrize(
    "bad", [np.ones((9, 2, D + 4), bool), np.ones((4, 2, 5, D + 4)) * np.inf], ids=["T", "Inf"]
)
def test_a_refused_first_batch_fixes_nothing(bad: np.ndarray) -> None:
    hessian = sbc.SpikeHessian(sbc.Kernel([1.0, 0.5, 0.25, 0.5]))
    with pytest.raises(ValueError, match="accepted"):
        hessian.update(bad)
    assert hessian.in_features is None
    assert hessian.num_samples == 0
    hessian.update(_batches(np.random.default_rng(8), (4,))[0])
    assert hessian.in_features == D


@pytest.mark.parametrize("method", ["narrow", "add_integers", "add_floats"])
@pytest.mark.parametrize("first", [False, True], ids=["later", "first"])
def test_a_batch_that_fails_leaves_no_trace(
    method: str, first: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory runs out somewhere in the middle of a batch: it may be fed again, or left out."""
    rng = np.random.default_rng(7)
    good: list[Any] = [rng.integers(0, 5, (4, 3, D)) / 4, rng.random((4, 3, D))]
    bad: Any = (
        rng.random((4, 5, D)) if method == "add_floats" else rng.integers(0, 4, (4, 5, D)) / 6
    )

    def fail(*_: Any, **__: Any) -> None:
        raise MemoryError("of this test")

    hessian = sbc.SpikeHessian(sbc.LIF(2.0))
    for batch in [] if first else good:
        hessian.update(batch)
    with monkeypatch.context() as patch:
        patch.setattr(CpuGram, method, fail)
        with pytest.raises(MemoryError, match="of this test"):
            hessian.update(bad)
    assert hessian.num_samples == (0 if first else 6)
    for batch in good if first else []:
        hessian.update(batch)
    wanted = _fed(good, sbc.LIF(2.0))
    assert hessian.paths == wanted.paths
    assert_close(hessian.sum(), wanted.sum(), 4 * eps(np.float64) * wanted.sum(), "sum")


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (
            lambda: sbc.SpikeHessian(in_features=0),
            ValueError,
            "in_features is 0; accepted is a pos",
        ),
        (lambda: sbc.SpikeHessian(in_features=2.5), ValueError, r"in_features is 2\.5"),
        (lambda: sbc.SpikeHessian(in_channels=3), ValueError, "in_channels is given without conv"),
        (
            lambda: sbc.SpikeHessian(conv=sbc.Conv((3,)), in_features=3),
            ValueError,
            "in_features is given with conv; accepted is in_channels",
        ),
        (
            lambda: sbc.SpikeHessian(conv=sbc.Conv((3,), groups=2), in_channels=3),
            ValueError,
            "3 channels; accepted is a multiple of groups = 2",
        ),
        (lambda: sbc.SpikeHessian(conv=(3, 3)), TypeError, "conv is a tuple; accepted is a Conv"),
        (
            lambda: sbc.SpikeHessian(backend="cuda9"),
            ValueError,
            "backend is 'cuda9'; accepted is one that this machine",
        ),
        (lambda: sbc.SpikeHessian().matrix(), ValueError, "has seen 0 samples"),
        (lambda: sbc.SpikeHessian(in_features=4).sum(), ValueError, "has seen 0 samples"),
        (
            lambda: sbc.SpikeHessian().merge("x"),
            TypeError,
            "other is a str; accepted is a SpikeHess",
        ),
        (
            lambda: sbc.SpikeHessian(sbc.IF()).merge(sbc.SpikeHessian(sbc.LIF())),
            ValueError,
            r"other has LIF\(.*accepted are this one's IF\(\)",
        ),
        (
            lambda: sbc.SpikeHessian(in_features=4).merge(sbc.SpikeHessian(in_features=5)),
            ValueError,
            "other has 5 inputs or channels; accepted are 4",
        ),
    ],
)
def test_wrong_use(make: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make()
