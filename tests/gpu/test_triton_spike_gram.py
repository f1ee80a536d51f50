"""Sums of spike trains in Triton: integers bit for bit, floats within bounds, however they are cut."""

from __future__ import annotations

import gc
import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from gram_sums import (
    NEURONS,
    PRECISIONS,
    SMALL,
    draw_bytes,
    float_bound,
    integer_sum,
    linear_sums,
    on_cpu,
    plan_of,
    zeros,
)
from helpers import assert_close, exact_spike_sum, spike_train
from interpreted import DEVICE, needs_gpu, needs_triton

import sbc_kernels as sbc
from sbc_kernels import _native
from sbc_kernels.backends import gram_plan
from sbc_kernels.backends.matched_filter import matched_filter
from sbc_kernels.conv import Region, linear_regions, regions
from sbc_kernels.neurons import Neuron, membrane_matrix
from sbc_kernels.ops import reference

pytest.importorskip("triton")
from sbc_kernels.backends.cuda.device import has_kernel
from sbc_kernels.backends.cuda.spike_gram import multiply_bytes
from sbc_kernels.backends.kernels import recorded_kernels
from sbc_kernels.backends.triton import spike_gram as module
from sbc_kernels.backends.triton import spike_gram_schedule as work
from sbc_kernels.backends.triton.spike_gram import Schedule
from sbc_kernels.backends.triton.spike_gram_planes import planes_of_integers
from sbc_kernels.backends.triton.spike_gram_schedule import Tile, geometry_of

pytestmark = needs_triton

# ---- linear layers -----------------------------------------------------------------------------


@pytest.mark.parametrize("neuron", NEURONS.values(), ids=NEURONS)
@pytest.mark.parametrize(("T", "low", "high"), [(4, 0, 1), (3, -1, 1), (8, 0, 1), (2, -3, 7)])
def test_integers_are_exact(neuron: Neuron | None, T: int, low: int, high: int) -> None:
    spikes = draw_bytes(T, low, high, T, 70, 37)
    if neuron is None:  # time steps are samples
        spikes = spikes.reshape(1, -1, 37)
    plan = plan_of(neuron, len(spikes), low, high)
    total = linear_sums(spikes, plan, schedule=SMALL)
    wanted = integer_sum(spikes, plan)
    assert np.array_equal(total, wanted.astype(np.float64) * plan.factor)
    if plan.exact:
        assert np.array_equal(total, exact_spike_sum(spikes, neuron))


@pytest.mark.parametrize(
    ("digits", "signed"), [(d, s) for d in range(1, 8) for s in (False, True)], ids=str
)
def test_sums_of_bytes_filled_to_the_brim(digits: int, signed: bool) -> None:
    """The largest k = (a, 1) that so many digits admit, every spike at its end."""
    found, low = None, -3 if signed else 0
    for power, less in itertools.product(range(1, 25), (1, 0)):
        neuron = sbc.Kernel([float(2**power - less), 1.0])
        filter_ = matched_filter(neuron, 2)
        plan = plan_of(neuron, 2, low, 3) if filter_.largest_row_sum * 3 < 1 << 52 else None
        if plan is not None and plan.exact and (plan.digits, plan.is_signed) == (digits, signed):
            found = plan if found is None or plan.max_term > found.max_term else found
    assert found is not None
    spikes = np.full((2, 90, 5), 3, dtype=np.int8)
    spikes[:, :, 3] = low
    spikes[1, :, 4] = 0
    # One chunk: rounded once where it passes 2^53.
    whole = Schedule(samples=90, depth=1, tile=Tile(16, 16, 4, 2))
    total = linear_sums(spikes, found, schedule=whole) / found.factor
    wanted = integer_sum(spikes, found)
    assert int(np.abs(wanted).max()) < 1 << 63
    assert np.array_equal(total, wanted.astype(np.float64))


def test_bytes_at_their_ends() -> None:
    """-128 throughout; 255, which lies as 127."""
    spikes = np.full((1, 1300, 2), -128, dtype=np.int8)
    total = linear_sums(spikes, plan_of(None, 1, -128, 127))
    assert np.array_equal(total, np.full((2, 2), 1300.0 * 2**14))
    spikes = np.ones((8, 100, 3), dtype=np.int8)
    plan = plan_of(sbc.LIF(2.0), 8, 0, 1)
    assert plan.squared
    assert plan.max_term == 255
    assert np.array_equal(linear_sums(spikes, plan), exact_spike_sum(spikes, sbc.LIF(2.0)))


def test_a_program_stays_below_32_bits() -> None:
    planes = planes_of_integers(plan_of(None, 1, -128, 127), torch.device("cpu"))
    assert planes.most_steps * planes.width * 128 * 128 < 1 << 31


@pytest.mark.parametrize("d", [1, 15, 16, 33, 64, 65])
def test_sums_of_any_number_of_inputs(d: int) -> None:
    spikes = spike_train(np.random.default_rng(d), 3, 23, d).astype(np.int8)
    for neuron in (sbc.IF(), sbc.LIF(1.7)):
        plan = plan_of(neuron, 3, 0, 1)
        wanted = integer_sum(spikes, plan).astype(np.float64) * plan.factor
        assert np.array_equal(linear_sums(spikes, plan), wanted)


@pytest.mark.parametrize(("T", "N"), [(1, 1), (1, 128), (1, 129), (5, 1), (3, 127), (25, 6)])
def test_any_number_of_samples(T: int, N: int) -> None:
    spikes = draw_bytes(N, 0, 1, T, N, 6)
    plan = plan_of(sbc.LIF(1.7), T, 0, 1)
    wanted = integer_sum(spikes, plan).astype(np.float64) * plan.factor
    assert np.array_equal(linear_sums(spikes, plan), wanted)


@pytest.mark.parametrize("neuron", [sbc.IF(), sbc.LIF(1.7)], ids=repr)
def test_however_it_is_cut(neuron: Neuron) -> None:
    spikes, tile = draw_bytes(3, -1, 1, 4, 60, 35), Tile(16, 32, 4, 2)
    plan = plan_of(neuron, 4, -1, 1)
    wanted = integer_sum(spikes, plan).astype(np.float64) * plan.factor
    for schedule in (
        None,
        Schedule(samples=60, depth=1, units=1000, tile=Tile(32, 32, 4, 2)),
        Schedule(samples=33, tile=Tile(16, 64, 4, 3, tma=True)),
        Schedule(samples=47, depth=1, units=1, tile=Tile(64, 16, 4, 2)),
    ):
        assert np.array_equal(linear_sums(spikes, plan, schedule=schedule), wanted)
    # A bound on memory makes two chunks: of 240 rows 128, of 35 channels in all their planes.
    planes = planes_of_integers(plan, torch.device("cpu"))
    bytes_ = 4 * 35 * (128 * planes.planes + 4) // 3 + 4
    cut = Schedule(units=50, tile=tile)
    assert np.array_equal(linear_sums(spikes, plan, max_memory=bytes_, schedule=cut), wanted)


def test_what_spikes_may_be() -> None:
    """bool and uint8, a slice of channels, groups, any strides; what is there is added to and the
    spikes stay as they are."""
    spikes = spike_train(np.random.default_rng(0), 3, 20, 1, 14)
    plan, part = plan_of(sbc.IF(), 3, 0, 1), linear_regions()[0]
    wanted = [
        np.triu(integer_sum(spikes[:, :, 0, first : first + 5], plan)).astype(np.float64)
        for first in (3, 8)
    ]
    whole = torch.from_numpy(spikes).to(DEVICE)
    spaced = torch.zeros((3, 20, 1, 28), dtype=torch.uint8, device=DEVICE)
    spaced[..., ::2] = whole
    turned = whole.permute(3, 0, 2, 1).contiguous().permute(1, 3, 2, 0)
    kept = whole.clone()
    for form in (whole, whole.bool(), whole.to(torch.int8), spaced[..., ::2], turned):
        sums = zeros([part], 5, 2)
        for _ in range(2):
            module.add_integers(
                spikes=form, first_channel=3, channels=5, plan=plan, sums=sums, groups=2,
                **on_cpu([part]),
            )  # fmt: skip
        for total, once in zip(sums, wanted, strict=True):
            assert np.array_equal(total[0].cpu().numpy(), 2 * once)
    assert torch.equal(whole, kept)


# ---- convolutions ------------------------------------------------------------------------------


def native_sums(
    spikes: np.ndarray, plan: gram_plan.BytesPlan, parts: Sequence[Region], groups: int
) -> list[np.ndarray]:
    """The same plan in C++. spikes: [T, N, P, C]."""
    per_group = spikes.shape[3] // groups
    sums = [np.zeros((groups, len(part.neighbours), per_group, per_group)) for part in parts]
    _native.gram_bytes(
        spikes=spikes, groups=groups, triangle=False, **plan.arguments(), finish=0.0,
        positions=[part.positions for part in parts],
        neighbours=[part.neighbours for part in parts], sums=sums, isa="portable", threads=1,
    )  # fmt: skip
    return [total[group] for group in range(groups) for total in sums]


def assert_same_sums(
    sums: Sequence[torch.Tensor], wanted: Sequence[np.ndarray], parts: Sequence[Region]
) -> None:
    """Entry by entry; of a shift by nothing the upper triangle."""
    for k, (total, true) in enumerate(zip(sums, wanted, strict=True)):
        part, made = parts[k % len(parts)], total.cpu().numpy()
        for shift, leads in enumerate(part.neighbours):
            if np.array_equal(leads[part.positions], part.positions):
                assert np.array_equal(made[shift], np.triu(true[shift])), k
            else:
                assert np.array_equal(made[shift], true[shift]), (k, shift)


CONVS = {
    "3x3": (sbc.Conv((3, 3), padding=1), (3, 4), 17),
    "strided, dilated": (sbc.Conv((2, 3), (2, 1), (1, 0), (1, 2)), (3, 5), 4),
    "groups": (sbc.Conv((2, 2), groups=2), (3, 2), 6),
    "1-D": (sbc.Conv((3,), padding="same"), (7,), 5),
    "1x1": (sbc.Conv((1, 1), stride=2), (3, 3), 20),
    "one channel": (sbc.Conv((2,), stride=3, padding=1), (4,), 1),
}
CASES: dict[str, tuple[Neuron | None, int, int, int]] = {
    "IF": (sbc.IF(), 3, 0, 1),
    "biased": (sbc.LIF(2.0), 8, 0, 1),
    "fixed point": (sbc.LIF(1.7), 2, -1, 2),
    "current": (None, 1, -128, 127),
}


@pytest.mark.parametrize(
    ("geometry", "case"),
    [
        ("3x3", "IF"),
        ("3x3", "current"),
        ("strided, dilated", "IF"),
        ("strided, dilated", "biased"),
        ("groups", "biased"),
        ("1-D", "fixed point"),
        ("1-D", "biased"),
        ("1x1", "biased"),
        ("1x1", "fixed point"),
        ("one channel", "fixed point"),
        ("one channel", "IF"),
    ],
)
def test_convolutions_are_exact(geometry: str, case: str) -> None:
    """Against the same sums in C++; also squared, which there only a linear layer is."""
    conv, size, channels = CONVS[geometry]
    neuron, T, low, high = CASES[case]
    parts, per_group = regions(conv, size), channels // conv.groups
    spikes = draw_bytes(T, low, high, T, 9, channels, *size)
    maps = spikes.reshape(T, 9, channels, -1)
    plan = plan_of(neuron, T, low, high, shifted=True)
    wanted = native_sums(np.ascontiguousarray(maps.swapaxes(2, 3)), plan, parts, conv.groups)
    tensor = torch.from_numpy(maps).to(DEVICE).movedim(2, 3)  # positions contiguous
    forms = [(tensor, plan)]
    squared = plan_of(neuron, T, low, high)
    if squared.squared:
        forms.append((tensor.contiguous(), squared))
    schedule = Schedule(samples=9, depth=0, units=400, tile=Tile(16, 32, 4, 2))
    for form, way in forms:
        sums = zeros(parts, per_group, conv.groups)
        module.add_integers(
            spikes=form, first_channel=0, channels=per_group, plan=way, sums=sums,
            groups=conv.groups, schedule=schedule, **on_cpu(parts),
        )  # fmt: skip
        assert_same_sums(sums, wanted, parts)


def test_convolutions_in_chunks_of_one_group() -> None:
    """The last group alone, cut small, on a channels-last tensor."""
    conv, size = sbc.Conv((2, 2), padding=1, groups=2), (3, 2)
    parts = regions(conv, size)
    spikes = np.ascontiguousarray(draw_bytes(0, -2, 1, 3, 70, 6, 36))
    plan = plan_of(sbc.LIF(4.0), 3, -2, 1, shifted=True)
    assert plan.digits > 1
    wanted = native_sums(spikes, plan, parts, 2)[len(parts) :]
    sums = zeros(parts, 18)
    module.add_integers(
        spikes=torch.from_numpy(spikes).to(DEVICE), first_channel=18, channels=18, plan=plan,
        sums=sums, schedule=SMALL._replace(depth=5, units=40), **on_cpu(parts),
    )  # fmt: skip
    assert_same_sums(sums, wanted, parts)


@pytest.mark.parametrize(
    ("conv", "size", "channels"), list(CONVS.values())[:4], ids=list(CONVS)[:4]
)
def test_assembled_is_the_hessian(conv: sbc.Conv, size: tuple[int, ...], channels: int) -> None:
    parts, per_group = regions(conv, size), channels // conv.groups
    rng = np.random.default_rng(1)
    sums = [rng.standard_normal((len(part.neighbours), per_group, per_group)) for part in parts]
    wanted = np.empty((1, per_group, conv.taps, per_group, conv.taps))
    blocks = [np.asarray(part.blocks, dtype=np.int32) for part in parts]
    _native.assemble_conv([total[None] for total in sums], blocks, 0.75, wanted, 1)
    d = per_group * conv.taps
    made = module.assemble_conv(
        [torch.from_numpy(total).to(DEVICE) for total in sums],
        [part.blocks for part in parts],
        0.75,
        d,
        conv.taps,
    )
    assert np.array_equal(made.cpu().numpy(), wanted.reshape(d, d))


# ---- the rest ----------------------------------------------------------------------------------


def test_nothing_comes_of_no_samples() -> None:
    plan, part = plan_of(sbc.IF(), 3, 0, 1), linear_regions()[0]
    sums = zeros([part], 4)
    module.add_integers(
        spikes=torch.zeros((3, 0, 1, 4), dtype=torch.bool, device=DEVICE), first_channel=0,
        channels=4, plan=plan, sums=sums, **on_cpu([part]),
    )  # fmt: skip
    assert not sums[0].any()


def test_a_geometry_is_built_once() -> None:
    conv = sbc.Conv((3, 3), padding=1)
    tensors = on_cpu(regions(conv, (4, 4)))
    first = geometry_of(**tensors)
    assert geometry_of(**tensors) is first
    others = on_cpu(regions(conv, (5, 4)))
    assert geometry_of(**others) is not first
    assert geometry_of(**others).positions == 20
    key = tuple(id(tensor) for part in tensors.values() for tensor in part)
    assert key in work._GEOMETRIES
    del tensors, first
    gc.collect()
    geometry_of(**on_cpu(regions(conv, (6, 4))))
    assert key not in work._GEOMETRIES


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"spikes": torch.zeros(3, 5, 1, 4)}, TypeError, "spikes is torch.float32; accepted are int8"),
        ({"spikes": torch.zeros(2, 5, 1, 4).bool()}, ValueError, r"with T = 3 and"),
        ({"first_channel": 1}, ValueError, "at least 5 channels"),
        ({"sums": [torch.zeros(1, 4, 4)]}, ValueError, r"accepted are float64 \[num_shifts, 4, 4\]"),
        ({"sums": []}, ValueError, "1 positions and 0 sums came; accepted are 1 and 1"),
        ({"max_memory": 600}, MemoryError, "one sample of 3 time steps.* takes 512 bytes .* are 450"),
        ({"max_memory": 4096}, MemoryError, "partial sums take 4096 bytes; there are 1024"),
    ],
)  # fmt: skip
def test_what_is_not_accepted(change: dict[str, Any], error: type[Exception], message: str) -> None:
    part = linear_regions()[0]
    arguments: dict[str, Any] = {
        "spikes": torch.zeros((3, 5, 1, 4), dtype=torch.bool),
        "first_channel": 0,
        "channels": 4,
        "plan": plan_of(sbc.IF(), 3, 0, 1),
        "sums": [torch.zeros(1, 4, 4, dtype=torch.float64)],
        **on_cpu([part]),
    }
    with pytest.raises(error, match=message):
        module.add_integers(**(arguments | change))


def test_plans_that_are_not_of_bytes() -> None:
    filter_ = matched_filter(sbc.IF(), 3)
    plan: Any = gram_plan.plan_gram(filter_, 0, 1, 4)
    part = linear_regions()[0]
    with pytest.raises(ValueError, match="plan is a TablesPlan; accepted is a BytesPlan"):
        module.add_integers(
            spikes=torch.zeros((3, 5, 1, 4), dtype=torch.bool), first_channel=0, channels=4,
            plan=plan, sums=zeros([part], 4), **on_cpu([part]),
        )  # fmt: skip


def plain_multiply_bytes(
    made: torch.Tensor,
    units: torch.Tensor,
    pairs: torch.Tensor,
    partials: torch.Tensor,
    slots: int,
    channels: int,
) -> None:
    """What csrc/spike_gram/bytes_cuda.cu does."""
    height, width = partials.shape[1:]
    rows = torch.cat([made, made.new_zeros(width, made.shape[1])]).double()
    for left, right, first_pair, count, first, last, slot, _ in units.tolist():
        total = torch.zeros(height, width, dtype=torch.float64)
        for k in range(first, last):
            p, q = pairs[first_pair + k % count].tolist()
            a, b = ((k // count * slots + at) * channels for at in (p, q))
            total += rows[a + left : a + left + height] @ rows[b + right : b + right + width].T
        partials[slot] = total.int()


@pytest.mark.skipif(DEVICE != "cpu", reason="the kernel itself is there")
@pytest.mark.parametrize("groups", [1, 2])
def test_tables_of_the_native_kernel(groups: int) -> None:
    """Its tiles are larger; several of them, not all full, and digits that are biased."""
    tile = Tile(16, 32, 8, 4, native=True)
    conv, size, T, N, channels = sbc.Conv((1, 2), groups=groups), (1, 3), 2, 3, 37 * groups
    spikes = draw_bytes(0, 0, 100, T, N, channels, 3)
    parts, plan = regions(conv, size), plan_of(sbc.IF(), T, 0, 100)
    sums = zeros(parts, 37, groups)
    module.add_integers(
        spikes=torch.from_numpy(spikes).movedim(2, 3), first_channel=0, channels=37, plan=plan,
        groups=groups, sums=sums, schedule=Schedule(samples=2, tile=tile),
        multiply_bytes=plain_multiply_bytes, **on_cpu(parts),
    )  # fmt: skip
    each, d = len(parts), 37 * conv.taps
    blocks = [part.blocks for part in parts]
    made = [
        module.assemble_conv(sums[g * each : g * each + each], blocks, plan.factor, d, conv.taps)
        for g in range(groups)
    ]
    maps = spikes.reshape(T, N, channels, *size).astype(np.float64)
    wanted = reference.spike_sum(maps, sbc.IF(), conv)
    assert np.array_equal(torch.stack(made).numpy(), wanted)


def test_a_grid_has_room_for_any_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    """CUDA's grids end at 65535 programs in all axes but the first."""
    grids = []

    class Kernel:
        def __getitem__(self, grid: tuple[int, ...]) -> Any:
            grids.append(grid)
            return lambda *arguments, **constants: None

    monkeypatch.setattr(module, "assemble", Kernel())
    for channels, taps in ((16384, 1), (64, 23 * 23)):
        blocks = tuple((0, a, b) for a in range(taps) for b in range(a, taps))
        sums = torch.empty((1, channels, channels), dtype=torch.float64, device="meta")
        module.assemble_conv([sums], [blocks], 1.0, channels * taps, taps)
    assert all(axis <= 65535 for grid in grids for axis in grid[1:])
    assert [math.prod(grid) for grid in grids] == [512**2, 23**2 * (23**2 + 1) // 2 * 4]


class TestOnAGpu:
    """At the sizes and with the tiles that are chosen there."""

    pytestmark = needs_gpu

    @pytest.mark.parametrize("native", [True, False])
    @pytest.mark.parametrize("d", [64, 128, 300, 1152])
    @pytest.mark.parametrize("neuron", [sbc.IF(), sbc.LIF(2.0), sbc.LIF(1.7)], ids=repr)
    def test_linear(self, d: int, neuron: Neuron, native: bool) -> None:
        if native and (d <= 256 or not has_kernel("multiply_bytes")):
            pytest.skip("no CUDA kernel for it")
        T, N = 8, 30011
        spikes = (torch.rand(T, N, 1, d, device=DEVICE) < 0.2).to(torch.int8)
        plan, part = plan_of(neuron, T, 0, 1), linear_regions()[0]
        sums = zeros([part], d)
        with recorded_kernels() as kernels:
            module.add_integers(
                spikes=spikes, first_channel=0, channels=d, plan=plan, sums=sums,
                multiply_bytes=multiply_bytes if native else None, **on_cpu([part]),
            )  # fmt: skip
        assert kernels == {"spike_gram": "cuda" if native else "triton"}
        F = torch.from_numpy(plan.filter).double().to(DEVICE)
        X = spikes[:, :, 0].double()
        Z = torch.tensordot(F, X, dims=1).reshape(-1, d)
        wanted = (Z if plan.squared else X.reshape(-1, d)).T @ Z  # exact: below 2^53
        assert float(wanted.max()) < 2.0**53
        assert torch.equal(sums[0][0].triu(), wanted.triu())

    def test_a_program_at_its_limit(self) -> None:
        spikes = torch.full((1, 1023 * 128 + 500, 1, 64), -128, dtype=torch.int8, device=DEVICE)
        part, plan = linear_regions()[0], plan_of(None, 1, -128, 127)
        sums = zeros([part], 64)
        module.add_integers(
            spikes=spikes, first_channel=0, channels=64, plan=plan, sums=sums,
            schedule=Schedule(depth=1023), **on_cpu([part]),
        )  # fmt: skip
        wanted = torch.full_like(sums[0][0], spikes.shape[1] * 2.0**14)
        assert torch.equal(sums[0][0].triu(), wanted.triu())

    @pytest.mark.parametrize("stride", [1, 2])
    @pytest.mark.parametrize("channels", [16, 96, 256, 320])
    def test_convolution(self, channels: int, stride: int) -> None:
        conv, size, T, N = sbc.Conv((3, 3), stride=stride, padding=1), (14, 14), 4, 64
        spikes = (torch.rand(T, N, channels, 196, device=DEVICE) < 0.2).to(torch.int8)
        parts, plan = regions(conv, size), plan_of(sbc.LIF(2.0), T, 0, 1)
        sums = zeros(parts, channels)
        module.add_integers(
            spikes=spikes.movedim(2, 3), first_channel=0, channels=channels, plan=plan, sums=sums,
            **on_cpu(parts),
        )  # fmt: skip
        M = torch.from_numpy(membrane_matrix(sbc.LIF(2.0), T)).to(DEVICE)
        maps = torch.tensordot(M, spikes.double(), dims=1).reshape(T * N, channels, *size)
        rows = torch.nn.functional.unfold(maps, 3, padding=1, stride=stride)
        wanted = torch.einsum("nap,nbp->ab", rows, rows)
        made = module.assemble_conv(
            sums, [part.blocks for part in parts], plan.factor, channels * 9, 9
        )
        assert torch.equal(made, wanted)

    @pytest.mark.parametrize(("dtype", "precision"), PRECISIONS, ids=str)
    @pytest.mark.parametrize("N", [9, 20011])
    def test_analog(self, dtype: torch.dtype, precision: torch.dtype, N: int) -> None:
        T, d = 4, 300
        values = torch.randn(T, N, d, dtype=dtype, device=DEVICE)
        M = torch.from_numpy(membrane_matrix(sbc.LIF(2.0), T)).to(DEVICE)
        total = torch.zeros(d, d, dtype=torch.float64, device=DEVICE)
        module.add_floats(values=values, membrane=M, total=total, precision=precision)
        Y = torch.tensordot(M, values.double(), dims=1).reshape(-1, d)
        bound = float_bound(precision, T, T * N) * (Y.abs().T @ Y.abs())
        wanted = (Y.T @ Y).cpu().numpy()
        made = module.mirror_upper(total, 1.0).cpu().numpy()
        assert_close(made, wanted, bound.cpu().numpy())
