"""Spike-train Hessians on a GPU.

Three launches a chunk of samples: `filter_rows` writes planes of bytes, every channel's samples side by
side; `multiply_rows`, or on Hopper the backend `cuda`'s kernel, sums products of planes on the matrix
units; `add_partials` adds what came out to the sums. A linear layer is a map of one position. A
convolution is never unfolded: its sums are over pairs of positions, a region and a shift at a time (see
conv.py), all in one launch.

Integers are exact. A plane holds signed bytes: ``Z = M X`` itself where it fits (``Z' Z`` is the sum),
else X and the digits of ``Z = M'M X`` to base 256. Where a byte does not fit between -128 and 127, an
unsigned one or a digit below the highest, the byte less 128 is kept, and its products fall short by 128
times the sum of the other side's bytes, which is added in the end. A program sums at most 1023 * 128
products of 2^14 at most: below 2^31. Beyond that sums are of 64 bits and wrap around, so that the last
one is right while it is below 2^63, and exact in float64 while it is below 2^53.

Analog input is filtered and multiplied in float64, where the card is fast at it or it comes so.
Elsewhere it is filtered in float32 and lies in two parts of 11 bits each, of which three products are
taken, summed in float32 over 1024 samples at most and in float64 beyond. Errors are then about 1e-6 of
the diagonal (seen on an H200): a Hessian out of which bias correction takes a mean that is large beside
what varies then needs more damping.

Where a shift leads every position to itself (a linear layer, the shift by nothing of a convolution) the
sum is its own mirror image, and only its upper triangle is added to.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from ...errors import ParameterTypeError
from ..gram_plan import BytesPlan
from .device import has_fast_float64, kept_alive
from .factor import launching
from .spike_gram_kernels import assemble, mirror
from .spike_gram_launch import MultiplyBytes, Schedule, add, uploaded
from .spike_gram_planes import planes_of_floats, planes_of_integers
from .spike_gram_schedule import Geometry, geometry_of
from .spike_gram_tiles import SIDE, builds

__all__ = [
    "Schedule",
    "add_floats",
    "add_floats_conv",
    "add_integers",
    "assemble_conv",
    "builds",
    "float_precision",
    "mirror_upper",
]


def add_integers(
    *,
    spikes: Tensor,
    first_channel: int,
    channels: int,
    plan: BytesPlan,
    positions: Sequence[Tensor],
    neighbours: Sequence[Tensor],
    sums: Sequence[Tensor],
    groups: int = 1,
    max_memory: int | None = None,
    schedule: Schedule | None = None,
    multiply_bytes: MultiplyBytes | None = None,
) -> None:
    """Adds ``sum_tnp X[t, n, p + s, c] (K X)[t, n, p, z]``, p a region's positions, to its sums. Exact.

    Parameters
    ----------
    spikes : int8 [T, N, P, C], or uint8 or bool with values up to 127; P is 1 for a linear layer. Any
        strides; fast where channels or positions are contiguous: a convolution's [T, N, C, P] comes as
        ``spikes.movedim(2, 3)``, without a copy.
    first_channel, channels : the slice of C.
    plan : of `gram_plan.plan_gram` for the algorithm "bytes". A convolution may be `squared` as well
        (``shifted=False``), which is faster.
    positions, neighbours : int32 [P_r] and [num_shifts_r, P] for each region, best on the CPU. What
        follows from them is kept while these very tensors live.
    sums : float64 [num_shifts_r, channels, channels] for each region, contiguous, on the spikes'
        device. Exact while below 2^53. Of a shift that leads every position to itself only the upper
        triangle is added to.
    groups : number of slices of C, one after another; `sums` are then by group and region.
    max_memory : bytes that may be taken beside the arguments. None: 80 % of what is free.
    schedule : how the sum is cut; None: chosen.
    multiply_bytes : runs the tiles that are `native`; None: all are Triton's.

    Raises
    ------
    TypeError, ValueError : naming what was given and what is accepted.
    MemoryError : not even one sample fits.
    """
    if spikes.dtype not in (torch.int8, torch.uint8, torch.bool):
        raise TypeError(f"spikes is {spikes.dtype}; accepted are int8, uint8 and bool")
    if not isinstance(plan, BytesPlan):
        raise ParameterTypeError("plan", plan, "a BytesPlan", shown=f"a {type(plan).__name__}")
    last = first_channel + groups * channels
    if spikes.ndim != 4 or last > spikes.shape[3] or len(plan.filter) != spikes.shape[0]:
        raise ValueError(
            f"spikes has shape {list(spikes.shape)}; accepted is [T, N, P, C] with T = "
            f"{len(plan.filter)} and at least {last} channels"
        )
    values = spikes.view(torch.int8)[..., first_channel:last]
    geometry = geometry_of(positions, neighbours)
    _check_sums(geometry, sums, groups, channels, values)
    if values.numel() > 0:
        planes = planes_of_integers(plan, values.device)
        cut = schedule or Schedule()
        add(values, planes, geometry, sums, groups, max_memory, cut, multiply_bytes)


def add_floats(
    *,
    values: Tensor,
    membrane: Tensor,
    total: Tensor,
    precision: torch.dtype | None = None,
    max_memory: int | None = None,
    schedule: Schedule | None = None,
) -> None:
    """Adds ``sum_n Y_n' Y_n`` with ``Y_n = M X_n`` to the upper triangle of the total.

    Parameters
    ----------
    values : float32 or float64 [T, N, C]. Any strides.
    membrane : float64 [T, T], lower-triangular: M.
    total : float64 [C, C], contiguous. `mirror_upper` finishes it.
    precision : float32 or float64, what Y is computed in; None: that of the values, or float64 where
        the card is fast at it.
    max_memory, schedule : as for `add_integers`.
    """
    position, neighbour = _one_position()
    add_floats_conv(
        values=values.unsqueeze(2),
        membrane=membrane,
        positions=[position],
        neighbours=[neighbour],
        sums=[total.unsqueeze(0)],
        precision=precision,
        max_memory=max_memory,
        schedule=schedule,
    )


def add_floats_conv(
    *,
    values: Tensor,
    membrane: Tensor,
    positions: Sequence[Tensor],
    neighbours: Sequence[Tensor],
    sums: Sequence[Tensor],
    groups: int = 1,
    precision: torch.dtype | None = None,
    max_memory: int | None = None,
    schedule: Schedule | None = None,
) -> None:
    """Adds ``sum_tnp Y[t, n, p + s, c] Y[t, n, p, z]``, p a region's positions, to its sums.

    Parameters
    ----------
    values : float32 or float64 [T, N, P, C]; strides as for `add_integers`.
    membrane : float64 [T, T], lower-triangular: M.
    precision : as for `add_floats`.
    positions, neighbours, sums, groups, max_memory, schedule : as for `add_integers`, with channels =
        C / groups.
    """
    if values.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"values is {values.dtype}; accepted are float32 and float64")
    if values.ndim != 4 or membrane.shape != (values.shape[0],) * 2 or values.shape[3] % groups:
        raise ValueError(
            f"values has shape {list(values.shape)}; accepted is [T, N, P, C] with T = "
            f"{len(membrane)} and C a multiple of {groups}"
        )
    geometry = geometry_of(positions, neighbours)
    _check_sums(geometry, sums, groups, values.shape[3] // groups, values)
    if values.numel() > 0:
        planes = planes_of_floats(membrane, values.device, precision or float_precision(values))
        add(values, planes, geometry, sums, groups, max_memory, schedule or Schedule())


def float_precision(values: Tensor) -> torch.dtype:
    """Returns the dtype that `add_floats` computes in by default."""
    return torch.float64 if has_fast_float64(values) else values.dtype


def mirror_upper(matrix: Tensor, factor: float) -> Tensor:
    """Writes `factor` times the upper triangle of float64 [..., d, d] to both triangles, in place."""
    d = matrix.shape[-1]
    if matrix.dtype != torch.float64 or matrix.ndim < 2 or matrix.shape[-2] != d:
        raise ValueError(
            f"matrix is {matrix.dtype} {list(matrix.shape)}; accepted is float64 [..., d, d]"
        )
    if not matrix.is_contiguous():
        raise ValueError("matrix is not contiguous; accepted is a contiguous one")
    if matrix.numel() > 0:
        blocks = -(-d // SIDE)
        with launching(matrix):
            grid = (blocks, blocks, matrix.numel() // (d * d))
            mirror[grid](matrix, _number(factor, matrix.device), d, SIDE=SIDE, num_warps=4)
    return matrix


def assemble_conv(
    sums: Sequence[Tensor],
    blocks: Sequence[tuple[tuple[int, int, int], ...]],
    factor: float,
    d: int,
    taps: int,
) -> Tensor:
    """Returns the Hessian of a convolution, float64 [d, d], from the sums of its regions.

    Parameters
    ----------
    sums : float64 [num_shifts_r, C, C] for each region, as `add_integers` leaves them.
    blocks : (shift, tap a, tap b) of each region, of conv.Region.
    factor : multiplies all entries.
    d, taps : ``C * taps``, and the taps of the kernel.
    """
    channels, device = d // taps, sums[0].device
    pairs, entries = map(kept_alive, _tap_pairs(tuple(blocks), taps, device))
    base = sums[0].data_ptr()
    offsets = uploaded(tuple((part.data_ptr() - base) // 8 for part in sums), device)
    matrix = torch.empty((d, d), dtype=torch.float64, device=device)
    tiles = -(-channels // SIDE)
    grid = ((len(pairs) - 1) * tiles**2,)  # of one axis: the others end at 65535
    with launching(matrix):
        assemble[grid](
            sums[0], offsets, pairs, entries, matrix, _number(factor, device), channels, taps, tiles,
            SIDE=SIDE, num_warps=4,
        )  # fmt: skip
    return matrix


@lru_cache(maxsize=64)
def _tap_pairs(
    blocks: tuple[tuple[tuple[int, int, int], ...], ...], taps: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Returns `pairs` and `entries` of the kernel `assemble`."""
    listed: dict[tuple[int, int], list[tuple[int, int]]] = {
        (a, b): [] for a in range(taps) for b in range(a, taps)
    }
    for region, of_region in enumerate(blocks):
        for shift, a, b in of_region:
            listed[a, b].append((region, shift))
    pairs: list[tuple[int, int, int]] = []
    entries: list[tuple[int, int]] = []
    for (a, b), tap_entries in listed.items():
        pairs.append((a, b, len(entries)))
        entries += tap_entries
    pairs.append((0, 0, len(entries)))
    return (
        torch.tensor(pairs, dtype=torch.int32).to(device),
        torch.tensor(entries, dtype=torch.int32).reshape(-1, 2).to(device),
    )


def _number(value: float, device: torch.device) -> Tensor:
    """Returns a float64 tensor of one number; Triton would pass a plain number as float32."""
    return torch.full((1,), value, dtype=torch.float64, device=device)


@lru_cache(maxsize=1)
def _one_position() -> tuple[Tensor, Tensor]:
    """Returns the tables of a linear layer, always the same tensors, see `geometry_of`."""
    return torch.zeros(1, dtype=torch.int32), torch.zeros((1, 1), dtype=torch.int32)


def _check_sums(
    geometry: Geometry, sums: Sequence[Tensor], groups: int, channels: int, values: Tensor
) -> None:
    count, positions = groups * geometry.regions, values.shape[2]
    if geometry.positions != positions or len(sums) != count:
        raise ValueError(
            f"{positions} positions and {len(sums)} sums came; accepted are {geometry.positions} and "
            f"{count}, as there are regions and groups"
        )
    for part in sums:
        if part.dtype != torch.float64 or part.ndim != 3 or part.shape[1:] != (channels, channels):
            raise ValueError(
                f"sums has a {part.dtype} of shape {list(part.shape)}; accepted are float64 "
                f"[num_shifts, {channels}, {channels}]"
            )
        if not part.is_contiguous() or part.device != values.device:
            raise ValueError(
                f"sums has one on {part.device} with strides {list(part.stride())}; accepted are "
                f"contiguous ones on {values.device}"
            )
