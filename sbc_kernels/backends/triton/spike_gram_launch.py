"""The launches of `spike_gram`, chunk by chunk within a bound on memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from ..kernels import note_kernel
from .device import device_class, kept_alive, room
from .factor import launching
from .spike_gram_kernels import add_partials, filter_rows, multiply_rows, sum_pairs
from .spike_gram_planes import PARTIAL, ROW_BYTES, Planes
from .spike_gram_schedule import Geometry, Job, Tile
from .spike_gram_tiles import ENTRIES, FILTER_WARPS, PAIRS, TILES, TYPES, inner_of

__all__ = ["MultiplyBytes", "Schedule", "add", "uploaded"]

# A kernel for products of bytes: planes, units, pairs, partial sums, slots of a step, channels.
MultiplyBytes = Callable[[Tensor, Tensor, Tensor, Tensor, int, int], None]

_PLANE_BYTES = 2 << 30  # of one chunk: more gains nothing
_PARTIAL_BYTES = 512 << 20
_MOST_ROWS = (1 << 31) - 1  # of planes, and samples of a chunk: counted in 32 bits


class Schedule(NamedTuple):
    """How a sum is cut, for tests and benchmarks; with 0 or None `add` chooses.

    Attributes
    ----------
    samples : of a chunk.
    depth : steps of a unit, ROW_BYTES each.
    units : whose partial sums are kept at a time.
    tile : of a product.
    """

    samples: int = 0
    depth: int = 0
    units: int = 0
    tile: Tile | None = None


def add(
    values: Tensor,
    planes: Planes,
    geometry: Geometry,
    sums: Sequence[Tensor],
    groups: int,
    max_memory: int | None,
    schedule: Schedule,
    multiply_bytes: MultiplyBytes | None = None,
) -> None:
    """values [T, N, P, groups * channels]. sums: of every group and region, contiguous."""
    if schedule.tile is not None and schedule.tile.native and multiply_bytes is None:
        raise ValueError("schedule has a native tile; accepted with it is a multiply_bytes")
    T, N, P, C = values.shape
    whole = -(-T * N // planes.width) * _step_bytes(planes, P * C)
    memory = room(values, 2 * whole, max_memory)
    samples = schedule.samples or _chunk_samples(planes, (T, N, P, C), memory)
    longest = -(-T * samples // planes.width) * int(geometry.counts.max()) * planes.fold
    partial_bytes = min(_PARTIAL_BYTES, memory // 4)
    tile = schedule.tile or _tile_for(
        values, planes, C // groups, longest, partial_bytes, multiply_bytes is not None
    )
    base = sums[0].data_ptr()
    job = Job(
        channels=C // groups,
        groups=groups,
        fold=planes.fold,
        right_plane=planes.right_plane,
        digits=planes.right_digits,
        steps=0,
        tile=tile,
        depth=schedule.depth,
        most_steps=planes.most_steps,
        programs=tile.programs(_multiprocessors(values.device)),
        most_units=schedule.units or partial_bytes // _tile_bytes(tile, planes),
        # Memory is one space, and float64 lies apart by whole elements: one launch reaches all sums.
        offsets=tuple((part.data_ptr() - base) // 8 for part in sums),
    )
    with launching(values):
        for first in range(0, N, samples):
            chunk = values[:, first : first + samples]
            job = job._replace(steps=-(-T * chunk.shape[1] // planes.width))
            _add_chunk(chunk, planes, geometry, job, sums[0], multiply_bytes)


def _add_chunk(
    values: Tensor,
    planes: Planes,
    geometry: Geometry,
    job: Job,
    sums: Tensor,
    multiply_bytes: MultiplyBytes | None,
) -> None:
    T, samples, P, C = values.shape
    device = values.device
    work, pairs = geometry.work_on(device, job), geometry.pairs_on(device, planes.fold)
    plane_rows, position_sums = _filter(values, planes, job.steps)
    left = right = biases = work.tiles  # read where there are biases only
    if planes.biased:
        left, right = _sum_pairs(position_sums, geometry, pairs)
        on_left, on_right = planes.biases
        numbers = (on_right, on_left, on_left * on_right * T * samples)
        biases = uploaded(numbers, device)
    tile, dtype = job.tile, PARTIAL[planes.dtype]
    most = max(units for _, units, _, _ in work.batches)
    partials = torch.empty((most, tile.rows, tile.columns), dtype=dtype, device=device)
    sides: dict[str, Any] = {"ROWS": tile.rows, "COLUMNS": tile.columns}
    for first_unit, num_units, first_tile, num_tiles in work.batches:
        units = work.units[first_unit : first_unit + num_units]
        if tile.native:
            assert multiply_bytes is not None
            note_kernel("spike_gram", "cuda")
            multiply_bytes(plane_rows, units, pairs, partials, planes.planes * P, C)
        else:
            note_kernel("spike_gram", "triton")
            _multiply_rows(plane_rows, units, pairs, partials, planes.planes * P, C, tile)
        add_partials[(num_tiles, tile.rows * tile.columns // ENTRIES["ENTRIES"])](
            partials,
            work.tiles[first_tile:],
            sums,
            left,
            right,
            biases,
            job.channels,
            job.digits,
            **sides,
            **ENTRIES,
            SUM=tl.int64 if planes.dtype == torch.int8 else tl.float64,
            BIASED=planes.biased > 0,
            num_warps=4,
        )


def _multiply_rows(
    plane_rows: Tensor,
    units: Tensor,
    pairs: Tensor,
    partials: Tensor,
    slots: int,
    channels: int,
    tile: Tile,
) -> None:
    operands: tuple[Any, Any] = (plane_rows, plane_rows)
    if tile.tma:
        operands = (
            TensorDescriptor.from_tensor(plane_rows, [tile.rows, plane_rows.shape[1]]),
            TensorDescriptor.from_tensor(plane_rows, [tile.columns, plane_rows.shape[1]]),
        )
    multiply_rows[(len(units),)](
        *operands,
        units,
        pairs,
        partials,
        len(plane_rows),
        slots,
        channels,
        ROWS=tile.rows,
        COLUMNS=tile.columns,
        WIDTH=plane_rows.shape[1],
        SUM=TYPES[partials.dtype],
        TMA=tile.tma,
        num_warps=tile.warps,
        num_stages=tile.stages,
    )


def _filter(values: Tensor, planes: Planes, steps: int) -> tuple[Tensor, Tensor]:
    """Returns the planes [rows, width] and, if biased, sums of plane 0, int32 [steps, P * C]."""
    T, samples, P, C = values.shape
    rows = (steps * planes.planes * P * C, planes.width)
    plane_rows = torch.empty(rows, dtype=planes.dtype, device=values.device)
    position_sums = plane_rows
    if planes.biased:
        position_sums = torch.empty((steps, P * C), dtype=torch.int32, device=values.device)
    # The inner axis is the one that lies contiguous.
    by_position = P > 1 and (C == 1 or values.stride(2) < values.stride(3))
    outer, inner = (3, 2) if by_position else (2, 3)
    rows_of = {2: C, 3: 1}
    blocks = -(-values.shape[inner] // inner_of(planes.sum))
    filter_rows[(-(-steps // T) * T * values.shape[outer] * blocks,)](
        values,
        planes.weights,
        plane_rows,
        position_sums,
        T,
        samples,
        steps,
        values.stride(0),
        values.stride(1),
        values.stride(outer),
        values.stride(inner),
        values.shape[outer],
        values.shape[inner],
        rows_of[outer],
        rows_of[inner],
        P * C,
        planes.planes * P * C,
        WIDTH=planes.width,
        INNER=inner_of(planes.sum),
        SUM=TYPES[planes.sum],
        KEEP=planes.keep,
        DIGITS=planes.digits,
        BIASED=planes.biased,
        CAUSAL=planes.causal,
        num_warps=FILTER_WARPS,
    )
    return plane_rows, position_sums


def _sum_pairs(position_sums: Tensor, geometry: Geometry, pairs: Tensor) -> tuple[Tensor, Tensor]:
    """Bytes of plane 0 summed over the pairs of an item: int64 [items, C], left and right."""
    whole = position_sums.sum(dim=0)
    C = len(whole) // geometry.positions
    items = geometry.items_on(whole.device)
    left = torch.empty((len(items), C), dtype=torch.int64, device=whole.device)
    right = torch.empty_like(left)
    grid = (len(items), -(-C // PAIRS["CHANNELS"]))
    sum_pairs[grid](whole, items, pairs, left, right, C, **PAIRS, num_warps=4)
    return left, right


# ---- sizes -------------------------------------------------------------------------------------


def _chunk_samples(planes: Planes, shape: tuple[int, int, int, int], memory: int) -> int:
    """Chunks of one size, whose planes fit. A quarter of the memory is for partial sums."""
    T, N, P, C = shape
    step_rows, step_bytes = planes.planes * P * C, _step_bytes(planes, P * C)
    one = -(-T // planes.width) * step_bytes
    available = memory - memory // 4
    if one > available:
        raise MemoryError(
            f"one sample of {T} time steps, {P} positions and {C} channels takes {one} bytes of "
            f"planes; there are {available}"
        )
    steps = min(
        max(one, min(available, _PLANE_BYTES)) // step_bytes,
        _MOST_ROWS // max(step_rows, planes.width),
    )
    most = max(1, steps * planes.width // T)
    return -(-N // -(-N // most))


def _step_bytes(planes: Planes, rows: int) -> int:
    """Returns the bytes of all planes for one step, with the position sums."""
    return rows * (planes.planes * ROW_BYTES + (4 if planes.biased else 0))


def _tile_bytes(tile: Tile, planes: Planes) -> int:
    return tile.rows * tile.columns * int(PARTIAL[planes.dtype].itemsize)


def _tile_for(
    values: Tensor,
    planes: Planes,
    channels: int,
    longest: int,
    available: int,
    with_native: bool,
) -> Tile:
    """Returns the tile for `channels`, or a smaller one whose partial sums over `longest` steps fit."""
    tiles = [
        tile for tile in TILES[device_class(values)][planes.dtype] if with_native or not tile.native
    ]
    fitting = next((k for k, tile in enumerate(tiles) if tile.columns >= channels), len(tiles) - 1)
    units = -(-longest // planes.most_steps) * planes.right_digits
    for tile in reversed(tiles[: fitting + 1]):
        if units * _tile_bytes(tile, planes) <= available:
            return tile
    raise MemoryError(
        f"partial sums take {units * _tile_bytes(tiles[0], planes)} bytes; there are {available}"
    )


@lru_cache
def _multiprocessors(device: torch.device) -> int:
    if device.type != "cuda":
        return 2
    return int(torch.cuda.get_device_properties(device).multi_processor_count)


def uploaded(numbers: tuple[int, ...], device: torch.device) -> Tensor:
    """Returns the numbers as int64 on the device, modulo 2^64 as the kernels count."""
    return kept_alive(_uploaded(numbers, device))


@lru_cache(maxsize=64)
def _uploaded(numbers: tuple[int, ...], device: torch.device) -> Tensor:
    wrapped = [(number + (1 << 63)) % (1 << 64) - (1 << 63) for number in numbers]
    return torch.tensor(wrapped, dtype=torch.int64).to(device)
