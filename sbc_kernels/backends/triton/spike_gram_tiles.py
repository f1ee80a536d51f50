"""The tiles of `spike_gram`'s products by device class, and every way its kernels are compiled."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import triton.language as tl

from .device import Build
from .spike_gram_kernels import (
    add_partials,
    assemble,
    filter_rows,
    mirror,
    multiply_rows,
    sum_pairs,
)
from .spike_gram_planes import PARTIAL, ROW_BYTES
from .spike_gram_schedule import Tile

__all__ = [
    "ENTRIES",
    "FILTER_WARPS",
    "INNER",
    "PAIRS",
    "SIDE",
    "TILES",
    "TYPES",
    "builds",
    "inner_of",
]

# By type of the planes. A tile is for up to as many channels as it has columns, the last for all more.
# 128 x 256 reads 48 bytes of the second-level cache in every cycle of an H100's matrix unit, 128 x 128
# would read 64. TMA where there is some, but not for float64, whose tiles are read by registers anyway.
_SMALL = (Tile(32, 32, 4, 4), Tile(64, 64, 4, 4))
_HOPPER = (
    Tile(32, 32, 4, 4),
    Tile(64, 64, 4, 4, tma=True),
    Tile(128, 128, 8, 3, tma=True),
    Tile(128, 256, 8, 4, tma=True),
)
_BLACKWELL = (*_SMALL, Tile(128, 128, 8, 4, tma=True))
_FEW_STAGES = (Tile(32, 32, 4, 2), Tile(64, 64, 4, 2))
TILES: dict[str, dict[torch.dtype, tuple[Tile, ...]]] = {
    "sm_80": {
        torch.int8: (*_SMALL, Tile(128, 128, 8, 3)),
        torch.float32: (*_SMALL, Tile(128, 128, 8, 3)),
        torch.float64: _SMALL,
    },
    "sm_90": {
        torch.int8: (*_HOPPER, Tile(256, 256, 8, 4, tma=True, native=True)),
        torch.float32: _HOPPER,
        torch.float64: _SMALL,
    },
    "sm_100": {
        torch.int8: _BLACKWELL,
        torch.float32: (*_BLACKWELL, Tile(128, 256, 8, 4, tma=True)),
        torch.float64: _SMALL[:1],
    },
    "other": {
        torch.int8: _FEW_STAGES,
        torch.float32: _FEW_STAGES,
        torch.float64: _FEW_STAGES[:1],
    },
}

INNER = 64  # channels or positions of one program of filter_rows
FILTER_WARPS = 8  # half of them would need 96 registers a thread in place of 62, and hide less
ENTRIES = {"ENTRIES": 256, "CHUNKS": 16}  # of one program of add_partials, and read at once
PAIRS = {"BLOCK": 32, "CHANNELS": 64}  # of sum_pairs
SIDE = 32  # of a tile of mirror
TYPES = {
    torch.int8: tl.int8,
    torch.int32: tl.int32,
    torch.int64: tl.int64,
    torch.float32: tl.float32,
    torch.float64: tl.float64,
}
_NAMES = {
    torch.int8: "i8",
    torch.int32: "i32",
    torch.int64: "i64",
    torch.float32: "fp32",
    torch.float64: "fp64",
}
# Digits, how many are biased, whether in 64 bits: what planes_of_integers makes of M'M.
_DIGITS = (
    *((digits, biased, digits > 4) for digits in range(1, 8) for biased in (digits - 1, digits)),
    (4, 4, True),
)


def inner_of(sum_: torch.dtype) -> int:
    """Returns a program's columns: half as many for 64-bit sums, which take twice the registers."""
    return INNER // 2 if sum_ == torch.int64 else INNER


def builds(device_class: str) -> Iterator[Build]:
    """Yields every build of the kernels for a device class."""
    yield _filter_build(torch.int8, torch.int32, 0, 0, keep=True)
    for biased in (0, 1):
        yield _filter_build(torch.int8, torch.int32, 1, biased, keep=False)
    for digits, biased, wide in _DIGITS:
        sum_ = torch.int64 if wide else torch.int32
        yield _filter_build(torch.int8, sum_, digits, biased, keep=True)
    for dtype, sum_ in (
        (torch.float32, torch.float32),
        (torch.float32, torch.float64),
        (torch.float64, torch.float64),
    ):
        yield _filter_build(dtype, sum_, 1, 0, keep=False)
    for dtype, tiles in TILES[device_class].items():
        for tile in tiles:
            if not tile.native:
                yield _multiply_build(dtype, tile)
            for with_biases in (False, True) if dtype == torch.int8 else (False,):
                yield _partials_build(dtype, tile, with_biases)
    types = {"position_sums": "*i64", "items": "*i32", "pairs": "*i32", "left": "*i64"}
    types |= {"right": "*i64", "channels": "i32"}
    yield Build("spike_gram/sum_pairs", sum_pairs, types, PAIRS, 4)
    types = {"matrix": "*fp64", "factor": "*fp64", "d": "i32"}
    yield Build("spike_gram/mirror", mirror, types, {"SIDE": SIDE}, 4)
    types = {"sums": "*fp64", "matrix": "*fp64", "factor": "*fp64", "offsets": "*i64"}
    types |= {"pairs": "*i32", "entries": "*i32", "channels": "i32", "taps": "i32", "tiles": "i32"}
    yield Build("spike_gram/assemble", assemble, types, {"SIDE": SIDE}, 4)


def _filter_build(
    dtype: torch.dtype, sum_: torch.dtype, digits: int, biased: int, *, keep: bool
) -> Build:
    """Returns the build for a linear layer: channels contiguous, in multiples of 16."""
    strides = ("time_stride", "sample_stride", "outer_stride")
    plane = dtype if dtype == torch.int8 else sum_
    types = {"values": "*" + _NAMES[dtype], "planes": "*" + _NAMES[plane]}
    types |= {"weights": "*" + _NAMES[sum_], "position_sums": "*i32"}
    types |= dict.fromkeys(("T", "samples", "steps", "outer_size", "inner_size"), "i32")
    types |= dict.fromkeys((*strides, "plane_rows", "step_rows", "outer_rows"), "i32")
    constants: dict[str, Any] = {"inner_stride": 1, "inner_rows": 1}
    constants |= {"WIDTH": ROW_BYTES // plane.itemsize, "INNER": inner_of(sum_), "KEEP": keep}
    constants |= {"DIGITS": digits, "BIASED": biased, "CAUSAL": not keep, "SUM": TYPES[sum_]}
    name = f"spike_gram/filter_rows {_NAMES[dtype]}"
    if digits:
        name += f" {digits} digits, {biased} biased, {_NAMES[sum_]}"
    return Build(
        name + ("" if keep else ", squared"),
        filter_rows,
        types,
        constants,
        FILTER_WARPS,
        aligned=(*strides, "inner_size"),
    )


def _multiply_build(dtype: torch.dtype, tile: Tile) -> Build:
    width, name = ROW_BYTES // dtype.itemsize, _NAMES[dtype]
    types = {"left": f"*{name}", "right": f"*{name}"}
    if tile.tma:
        types["left"] = f"tensordesc<{name}[{tile.rows}, {width}]>"
        types["right"] = f"tensordesc<{name}[{tile.columns}, {width}]>"
    types |= {"units": "*i32", "pairs": "*i32", "partials": "*" + _NAMES[PARTIAL[dtype]]}
    types |= {"rows": "i32", "slots": "i32", "channels": "i32"}
    constants: dict[str, Any] = {"ROWS": tile.rows, "COLUMNS": tile.columns, "WIDTH": width}
    constants |= {"TMA": tile.tma, "SUM": TYPES[PARTIAL[dtype]]}
    how = f"{tile.warps} warps {tile.stages} stages{' by TMA' if tile.tma else ''}"
    return Build(
        f"spike_gram/multiply_rows {name} {tile.rows}x{tile.columns} {how}",
        multiply_rows,
        types,
        constants,
        tile.warps,
        tile.stages,
        tensor_cores=dtype != torch.float64,  # which has some on sm_80 and sm_90 only
    )


def _partials_build(dtype: torch.dtype, tile: Tile, biased: bool) -> Build:
    types = {"partials": "*" + _NAMES[PARTIAL[dtype]], "tiles": "*i64", "sums": "*fp64"}
    types |= {"left": "*i64", "right": "*i64", "biases": "*i64", "channels": "i32", "digits": "i32"}
    constants: dict[str, Any] = {"ROWS": tile.rows, "COLUMNS": tile.columns, "BIASED": biased}
    constants |= {"SUM": tl.int64 if dtype == torch.int8 else tl.float64, **ENTRIES}
    name = f"spike_gram/add_partials {_NAMES[dtype]} {tile.rows}x{tile.columns}"
    return Build(name + (", biased" if biased else ""), add_partials, types, constants, 4)
