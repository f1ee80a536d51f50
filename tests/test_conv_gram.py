"""Convolutions: the Gram that never unfolds, against unfolding; and the unfolding against torch."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from helpers import spike_train
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

import sbc_kernels as sbc
from sbc_kernels import conv as geometry
from sbc_kernels.ops import reference

Padding = int | tuple[int, ...] | str


def _torch_padding(conv: sbc.Conv) -> list[int]:
    """(left, right, top, bottom), for torch.nn.functional.pad."""
    return [extent for pair in reversed(conv.pads()) for extent in pair]


# ---- the reference -----------------------------------------------------------------------------


@pytest.mark.parametrize("kernel", [(1, 1), (3, 3), (2, 3), (4, 5)])
def test_reference_unfold_is_torchs(kernel: tuple[int, int]) -> None:
    maps = torch.arange(2 * 3 * 9 * 11, dtype=torch.float64).reshape(2, 3, 9, 11).sin()
    for padding, stride, dilation in itertools.product(
        (0, 1, (2, 0), "same", "valid"), (1, 2, (2, 3)), (1, 2, (2, 1))
    ):
        if padding == "same" and stride != 1:
            continue
        conv = sbc.Conv(kernel, stride, padding, dilation)
        padded = functional.pad(maps, _torch_padding(conv))
        wanted = functional.unfold(padded, kernel, dilation, 0, stride).transpose(1, 2)
        assert np.array_equal(reference.unfold(maps.numpy(), conv), wanted.numpy()), conv


@pytest.mark.parametrize("kernel", [1, 3, 4, 5])
def test_reference_unfold_is_torchs_in_one_dimension(kernel: int) -> None:
    maps = torch.arange(2 * 3 * 13, dtype=torch.float64).reshape(2, 3, 1, 13).sin()
    for padding, stride, dilation in itertools.product(
        (0, 2, (1,), "same", "valid"), (1, 2, 3), (1, 2)
    ):
        if padding == "same" and stride != 1:
            continue
        conv = sbc.Conv((kernel,), stride, padding, dilation)
        padded = functional.pad(maps, _torch_padding(conv))
        wanted = functional.unfold(padded, (1, kernel), (1, dilation), 0, (1, stride))
        unfolded = reference.unfold(maps[:, :, 0].numpy(), conv)
        assert np.array_equal(unfolded, wanted.transpose(1, 2).numpy()), conv


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("padding", ["same", "valid", (1, 2)])
@pytest.mark.parametrize("kernel", [(3, 3), (2, 4)])
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
def test_reference_loss_is_the_change_of_torchs_output(
    groups: int, padding: Padding, kernel: tuple[int, int]
) -> None:
    """`output_error` on integers is conv2d's own answer, summed: no unfolding on torch's side."""
    rng = np.random.default_rng(0)
    spikes = rng.integers(0, 3, (1, 5, 4, 6, 7))
    change = rng.integers(-3, 4, (8, 4 // groups, *kernel)).astype(np.float64)
    conv = sbc.Conv(kernel, padding=padding, groups=groups)
    maps = torch.tensor(spikes[0], dtype=torch.float64)
    outputs = functional.conv2d(maps, torch.tensor(change), padding=padding, groups=groups)
    wanted = (outputs.numpy() ** 2).sum(axis=(0, 2, 3)) / 5
    assert np.array_equal(reference.output_error(0 * change, change, spikes, None, conv), wanted)


# ---- the geometry ------------------------------------------------------------------------------


@pytest.mark.parametrize("kernel", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("padding", [0, 1, 3, "same", "valid"])
def test_output_size_is_torchs(kernel: int, padding: Padding) -> None:
    for stride, dilation, extent in itertools.product((1, 2, 3), (1, 2), range(1, 12)):
        if padding == "same" and stride != 1:
            continue
        conv = sbc.Conv((kernel,), stride, padding, dilation)
        maps, weight = (torch.empty(1, 1, size, device="meta") for size in (extent, kernel))
        pad = 0 if padding == "valid" else padding
        fits = padding == "same" or extent + 2 * pad >= dilation * (kernel - 1) + 1
        if fits:
            wanted = functional.conv1d(maps, weight, None, stride, padding, dilation).shape[2:]
            assert conv.output_size((extent,)) == tuple(wanted)
        else:
            with pytest.raises(ValueError, match=rf"spikes is a map of {extent} positions .* fits"):
                conv.output_size((extent,))


def test_number_of_products() -> None:
    """3 x 3 at stride 1 needs 13 shifts, as the design promises, and every block exactly once."""
    conv = sbc.Conv((3, 3))
    inside = max(geometry.regions(conv, (9, 9)), key=lambda region: len(region.positions))
    assert len(inside.neighbours) == 13
    blocks = [(a, b) for _, a, b in inside.blocks]
    assert sorted(blocks) == [(a, b) for a in range(9) for b in range(a, 9)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kernel_size": 3}, "kernel_size is 3; accepted is a tuple of 1 or 2 integers"),
        ({"kernel_size": (3, 3, 3)}, r"kernel_size is \(3, 3, 3\)"),
        ({"kernel_size": (0,)}, r"kernel_size is \(0,\); accepted is an integer of at least 1"),
        ({"kernel_size": (3,), "stride": 0}, "stride is 0; accepted is an integer of at least 1"),
        ({"kernel_size": (3, 3), "stride": (1, 2, 3)}, r"stride is \(1, 2, 3\); .* or 2 of them"),
        ({"kernel_size": (3,), "stride": 1.5}, r"stride is 1\.5"),
        ({"kernel_size": (3,), "stride": True}, "stride is True"),
        (
            {"kernel_size": (3,), "padding": -1},
            "padding is -1; accepted is an integer of at least 0",
        ),
        (
            {"kernel_size": (3,), "padding": "full"},
            "padding is 'full'; accepted is an integer, one a dimension, 'same'",
        ),
        (
            {"kernel_size": (3,), "stride": 2, "padding": "same"},
            r"padding is 'same' with stride \(2,\)",
        ),
        ({"kernel_size": (3,), "dilation": "2"}, "dilation is '2'"),
        ({"kernel_size": (3,), "groups": 0}, "groups is 0"),
        ({"kernel_size": (3,), "groups": (2, 2)}, r"groups is \(2, 2\)"),
    ],
)
def test_wrong_geometry(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sbc.Conv(**arguments)


def test_equal_geometries_are_equal() -> None:
    assert sbc.Conv((3, 3), 1, 1) == sbc.Conv([3, 3], (1, 1), [1, 1], 1, 1)  # type: ignore[arg-type]
    assert hash(sbc.Conv((3, 3), 1, 1)) == hash(sbc.Conv((3, 3), (1, 1), (1, 1)))


# ---- the kernels -------------------------------------------------------------------------------


def _check(conv: sbc.Conv, spikes: np.ndarray, neuron: sbc.Neuron | None, backend: str) -> None:
    hessian = sbc.SpikeHessian(neuron, conv=conv, backend=backend).update(spikes)
    assert "exact integers" in hessian.paths[0]
    total = np.asarray(hessian.sum()).reshape(conv.groups, hessian.in_features, -1)
    assert np.array_equal(total, reference.spike_sum(spikes, neuron, conv)), conv


@pytest.mark.parametrize("kernel", [1, 2, 3, 4, 5])
def test_kernels_strides_dilations_paddings(backend: str, kernel: int) -> None:
    """Every stride, dilation and padding, on maps larger and smaller than the kernel's reach."""
    rng = np.random.default_rng(kernel)
    checked = 0
    for stride, dilation, padding in itertools.product(
        (1, 2, 3), (1, 2), (0, 1, 3, "same", "valid", (2, 1))
    ):
        if padding == "same" and stride != 1:
            continue
        conv = sbc.Conv((kernel, kernel), stride, padding, dilation)
        for size in ((6, 7), (3, 2), (9, 1)):
            spikes = spike_train(rng, 2, 3, 2, *size)
            try:
                conv.output_size(size)
            except ValueError:
                with pytest.raises(ValueError, match=r"a map of .* positions"):
                    sbc.SpikeHessian(conv=conv, backend=backend).update(spikes)
                continue
            _check(conv, spikes, sbc.IF(), backend)
            checked += 1
    assert checked >= 30


@settings(max_examples=120)
@given(st.data())
def test_any_convolution(data: st.DataObject) -> None:
    dims = data.draw(st.integers(1, 2), "dims")

    def each(low: int, high: int, name: str) -> tuple[int, ...]:
        return tuple(data.draw(st.tuples(*[st.integers(low, high)] * dims), name))

    kernel, stride, dilation = each(1, 5, "kernel"), each(1, 3, "stride"), each(1, 2, "dilation")
    padding: Padding = data.draw(st.sampled_from(["valid", "same", "numbers"]), "padding")
    if padding == "numbers":
        padding = each(0, 4, "padding")
    if padding == "same":
        stride = (1,) * dims
    groups = data.draw(st.integers(1, 3), "groups")
    channels = groups * data.draw(st.integers(1, 3), "channels of a group")
    conv = sbc.Conv(kernel, stride, padding, dilation, groups)
    size = tuple(
        data.draw(st.integers(max(1, d * (k - 1) + 1 - sum(pad)), 9), "size")
        for d, k, pad in zip(dilation, kernel, conv.pads(), strict=True)
    )
    T, N = data.draw(st.integers(1, 3), "T"), data.draw(st.integers(1, 5), "N")
    low = data.draw(st.sampled_from([0, 0, -1, -7]), "low")
    rng = np.random.default_rng(data.draw(st.integers(0, 99), "seed"))
    spikes = rng.integers(low, data.draw(st.integers(1, 3), "high") + 1, (T, N, channels, *size))
    neuron = data.draw(st.sampled_from([None, sbc.IF(), sbc.LIF(2.0), sbc.LIF(4.0)]), "neuron")
    _check(
        conv, spikes, neuron, data.draw(st.sampled_from(sbc.available_backends("cpu")), "backend")
    )


@pytest.mark.parametrize("channels", [1, 16, 33, 70])
def test_many_channels(backend: str, channels: int) -> None:
    spikes = spike_train(np.random.default_rng(channels), 3, 6, channels, 5, 6)
    _check(sbc.Conv((3, 3), padding=1), spikes, sbc.LIF(2.0), backend)
    _check(sbc.Conv((1, 1)), spikes, sbc.IF(), backend)


def test_many_images(backend: str) -> None:
    """More samples than one block holds."""
    spikes = spike_train(np.random.default_rng(1), 3, 700, 2, 5, 5)
    _check(sbc.Conv((3, 3), padding=1), spikes, sbc.IF(), backend)


def test_maps_of_several_sizes() -> None:
    conv, rng = sbc.Conv((3, 2), padding="same"), np.random.default_rng(2)
    batches = [spike_train(rng, 2, 4, 3, *size) for size in ((5, 5), (1, 4), (7, 3))]
    hessian = sbc.SpikeHessian(sbc.IF(), conv=conv)
    for batch in batches:
        hessian.update(batch)
    wanted = sum(reference.spike_sum(batch, sbc.IF(), conv)[0] for batch in batches)
    assert np.array_equal(hessian.sum(), wanted)


def test_a_kernel_that_sees_only_padding(backend: str) -> None:
    conv = sbc.Conv((1,), stride=3, padding=1)
    _check(conv, np.ones((2, 3, 2, 1), dtype=bool), sbc.IF(), backend)


def test_one_by_one_is_a_linear_layer_over_positions() -> None:
    spikes = spike_train(np.random.default_rng(3), 3, 5, 7, 4, 6)
    flat = spikes.reshape(3, 5, 7, 24).transpose(0, 1, 3, 2)
    convolution = sbc.SpikeHessian(sbc.IF(), conv=sbc.Conv((1, 1))).update(spikes)
    linear = sbc.SpikeHessian(sbc.IF()).update(flat)
    assert np.array_equal(convolution.sum(), linear.sum())


def test_groups_are_convolutions_of_their_own() -> None:
    spikes = spike_train(np.random.default_rng(4), 3, 5, 6, 5, 5)
    stack = sbc.spike_gram(spikes, sbc.IF(), conv=sbc.Conv((2, 3), padding=1, groups=3))
    assert stack.shape == (3, 12, 12)
    for group in range(3):
        part = np.ascontiguousarray(spikes[:, :, 2 * group : 2 * group + 2])
        alone = sbc.spike_gram(part, sbc.IF(), conv=sbc.Conv((2, 3), padding=1))
        assert np.array_equal(stack[group], alone)


def test_analog_maps_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    from sbc_kernels.backends.native import gram

    spikes = np.random.default_rng(5).integers(-999, 999, (2, 7, 4, 5, 4)) / 4
    conv = sbc.Conv((3, 2), (1, 2), 1, 1, 2)
    monkeypatch.setattr(gram, "_UNFOLD_BYTES", 1)  # one image at a time
    total = sbc.SpikeHessian(sbc.LIF(2.0), conv=conv).update(spikes).sum()
    assert np.array_equal(total, reference.spike_sum(spikes, sbc.LIF(2.0), conv))


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((2, 3, 4, 5), r"shape \[2, 3, 4, 5\]; accepted is \[T, N, C, H, W\]"),
        ((2, 3, 4, 5, 0), "no axis empty"),
        ((2, 3, 3, 5, 5), "3 channels; accepted is a multiple of groups = 2"),
        (
            (2, 3, 4, 1, 5),
            r"spikes is a map of 1 positions along dimension 0; accepted is at least",
        ),
    ],
)
def test_wrong_maps(shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sbc.spike_gram(np.zeros(shape, bool), conv=sbc.Conv((3, 3), groups=2))
