"""The range of values and whether all are integers, in one pass over them and one wait."""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"

from __future__ import annotations

from collections.abc import Iterator

import torch
import triton
import triton.language as tl
from torch import Tensor

from .device import Build
from .factor import launching

__all__ = ["builds", "value_range"]

_BLOCK = 4096
_WARPS = 8
_MOST_PROGRAMS = 2048  # a few a multiprocessor
_TYPES = {
    torch.int8: "i8",
    torch.uint8: "u8",
    torch.int16: "i16",
    torch.int32: "i32",
    torch.int64: "i64",
    torch.float32: "fp32",
    torch.float64: "fp64",
}


def value_range(values: Tensor) -> tuple[bool, float, float]:
    """Returns whether all are integers, the least and the greatest of a tensor that is not empty.

    The tensor may have any strides: dense ones are read in memory order, an expanded axis once. With a
    NaN, the first is False and the least NaN. Integers of 64 bits are rounded to float64.
    """
    if values.dtype not in _TYPES:
        raise TypeError(f"values is {values.dtype}; accepted are {', '.join(map(str, _TYPES))}")
    for axis, stride in enumerate(values.stride()):
        if stride == 0:
            values = values.narrow(axis, 0, 1)
    axes = sorted(range(values.ndim), key=lambda axis: -values.stride(axis))
    flat = values.permute(axes).reshape(-1)
    programs = min(-(-len(flat) // _BLOCK), _MOST_PROGRAMS)
    summary = torch.empty((3, programs), dtype=torch.float64, device=values.device)
    with launching(values):
        _look[(programs,)](flat, summary, len(flat), programs, BLOCK=_BLOCK, num_warps=_WARPS)
    least, minus_greatest, whole = summary.amin(dim=1).tolist()
    return whole == 1.0, least, -minus_greatest


@triton.jit(do_not_specialize=["programs"])
def _look(
    values,  # [count]
    summary,  # float64 [3, programs]: least, minus the greatest, 1 where all are integers
    count,
    programs,
    BLOCK: tl.constexpr,
):
    # A NaN among the values makes the least NaN.
    program = tl.program_id(0)
    start = program.to(tl.int64) * BLOCK
    first = tl.load(values + start).to(tl.float64)
    least, greatest = first, first
    whole = tl.full([], 1, tl.int32)
    nans = tl.full([], 0, tl.int32)
    while start < count:
        at = start + tl.arange(0, BLOCK)
        # Past the end stands a value that is there.
        x = tl.load(values + tl.minimum(at, count - 1))
        least = tl.minimum(least, tl.min(x, 0).to(tl.float64))
        greatest = tl.maximum(greatest, tl.max(x, 0).to(tl.float64))
        if x.dtype.is_floating():
            whole &= tl.min((x == tl.floor(x)).to(tl.int32), 0)
            nans |= tl.max((x != x).to(tl.int32), 0)
        start += programs.to(tl.int64) * BLOCK
    tl.store(summary + program, tl.where(nans == 0, least, float("nan")))
    tl.store(summary + programs + program, -greatest)
    tl.store(summary + 2 * programs + program, whole.to(tl.float64))


def builds(device: str) -> Iterator[Build]:
    """Yields a build for each type."""
    for dtype in _TYPES.values():
        yield Build(
            f"value_range/look {dtype}",
            _look,
            {"values": f"*{dtype}", "summary": "*fp64", "count": "i32", "programs": "i32"},
            {"BLOCK": _BLOCK},
            _WARPS,
            aligned=("count",),
        )
