"""The order in which Optimal Brain Surgeon removes the weights of each row.

Removing weights one at a time is a pivoted Cholesky factorisation of G = H^-1 whose pivot rule is the
least w_p^2 / G_pp, so it is blocked as LAPACK blocks pivoted Cholesky (xPSTRF), many rows at once:

  panel     B pivots of each row, one program a row. A row's pivots wait for one another, and each
            reads a column of the trailing matrix and the panel's earlier columns, L. In float32 without
            groups it is csrc/obs_order/cuda_panel.cu where that is there.
  compact   closes the gaps in the vectors.
  factor    L of the survivors, laid out for the next.
  update    one rank-B update of the upper triangle, out of place, which drops the removed rows and
            columns on the way. A row's first panel reads the shared G, the others its own triangles.

The panels read ``d^2 B / 4`` elements of L a row, the updates read and write ``d^3 / (3 B)``. With both
in memory the sum is least at ``B = sqrt(4 d / 3)``, with L in an L2 cache of twice the rate at
``sqrt(8 d / 3)``: 78 to 111 for d = 4608, 32 to 46 for d = 784. By estimate 64 and 96 are within 7 % at
4608. A panel is four launches, so it has 64 pivots at least, and the last 128 weights are one panel.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from ..kernels import note_kernel
from .device import CLASSES, Build, device_class, room
from .factor import TYPES, launching
from .obs_order_kernels import BARRED, GONE, OPEN, compact, factor, panel, update

__all__ = ["TILES", "Panel", "PanelStep", "Scratch", "Tiles", "builds", "obs_order"]


class Sweep(NamedTuple):
    """How `panel` goes over a row's places."""

    block: int  # places in registers
    warps: int
    lines: int  # of L a step
    stages: int  # steps in shared memory at once, and one


@dataclass(frozen=True)
class Tiles:
    """How the kernels are cut.

    Attributes
    ----------
    panels : (m, B), m ascending: from m weights left on, B pivots are a panel, a multiple of `depth`.
    sweeps : block ascending: the first that takes all places at once is used, or the last.
    tile, part : an update's tile has `tile` columns, and a program does `part` of its `tile` lines.
    depth : lines of L a step of the update.
    warps, stages : of the update.
    split : whether it takes three products of TF32 parts for one of float32; else products are IEEE.
    early : whether it asks for the entries before the products.
    """

    panels: tuple[tuple[int, int], ...] = ((1, 128), (129, 64), (6144, 96))
    sweeps: tuple[Sweep, ...] = ()
    tile: int = 128
    part: int = 64
    depth: int = 16
    warps: int = 8
    stages: int = 3
    split: bool = True
    early: bool = False


# The widest sweep has 64 KiB of L on their way to a multiprocessor. At 0.7 us those are 90 GB/s for
# each of the 132 of sm_90, twice what its L2 cache gives.
_SWEEPS = (Sweep(256, 4, 8, 4), Sweep(1024, 8, 4, 4), Sweep(2048, 8, 2, 4), Sweep(4096, 16, 2, 4))
# float64, and half of that where shared memory has 64 KiB.
_WIDE_SWEEPS = (Sweep(256, 4, 4, 4), Sweep(1024, 8, 2, 4), Sweep(2048, 16, 2, 4))
# Three products in TF32 have 2.5 times the peak of float32 on sm_90. In a model of tensor cores that
# cut off every sum of 8 products the order was that of float32 at d = 500, and the error up to 8 times
# as large, a 25th of what the tests allow. "other" may have no TF32.
_SINGLE = Tiles(sweeps=_SWEEPS)
# On an H200 the updates of 128 rows of 4608 took 118 ms, with tiles of 128 154 ms, and 180 in one part.
_HOPPER = Tiles(sweeps=_SWEEPS, tile=64, warps=4, early=True)
_DOUBLE = Tiles(sweeps=_WIDE_SWEEPS, tile=64, stages=1, split=False)
_OTHER = Tiles(sweeps=_SWEEPS[:-1], tile=64, warps=4, stages=1, split=False)
TILES = {
    ("sm_80", torch.float32): _SINGLE,
    ("sm_90", torch.float32): _HOPPER,
    ("sm_100", torch.float32): _SINGLE,
    ("other", torch.float32): _OTHER,
    **{(name, torch.float64): _DOUBLE for name in CLASSES},
    ("other", torch.float64): replace(_DOUBLE, sweeps=_WIDE_SWEEPS[:-1]),
}
_COMPACT_BLOCK = 1024
_GRID = 65535  # programs along the grid's second axis, at most


class PanelStep(NamedTuple):
    """One panel: `pivots` pivots among the m weights that remain in each row, after `done` others.

    Attributes
    ----------
    source : the trailing matrices, row by row `stride` elements apart (0: one for all rows).
    width : of a line of the matrix.
    tile : of a packed triangle; 0: the matrix is a square.
    """

    source: Tensor
    stride: int
    width: int
    tile: int
    m: int
    pivots: int
    done: int


class Panel(Protocol):
    """A kernel that may take the place of Triton's `panel`; `name` is how it is noted."""

    name: str

    def takes(self, weight: Tensor, step: PanelStep, grouped: bool) -> bool: ...
    def run(self, s: Scratch, step: PanelStep, order: Tensor, loss: Tensor) -> None: ...


def obs_order(
    weight: Tensor,
    inverse_hessian: Tensor,
    num_pruned: int,
    *,
    group: Tensor | None = None,
    quota: Tensor | None = None,
    max_memory: int | None = None,
    own_panel: Panel | None = None,
) -> tuple[Tensor, Tensor]:
    """Exact greedy OBS on each row: the next weight to remove at each step, and its loss.

    Parameters
    ----------
    weight : float32 or float64 [rows, d].
    inverse_hessian : G, of the same dtype and device, [d, d], symmetric positive definite.
    num_pruned : how many weights of each row to order, 0..d.
    group, quota : int32 [d] and [groups], on the same device: a group of weights stops giving up any
        once it has given up its quota.
    max_memory : bytes for the results and for the rows at work, ``4 d^2`` each in float32; None is four
        fifths of what is free. Rows that do not fit, or would wait for a multiprocessor, take turns.
    own_panel : runs the panels that it takes; None: all are Triton's.

    Returns
    -------
    order : int32 [rows, num_pruned], first to last. Of equal scores the lower column goes first.
    loss : of weight's dtype [rows, num_pruned], each removal's ``w_p^2 / (2 G_pp)`` at its turn.

    Raises
    ------
    ValueError : shapes, dtypes or devices that do not belong together; quotas that admit too little.
    MemoryError : not even one row fits.

    Notes
    -----
    Waits for the GPU only to check group and quota, before anything is launched. Rounding is kept from
    driving a diagonal entry of G below the machine epsilon times its first value.
    """
    _check(weight, inverse_hessian, num_pruned, group, quota)
    rows, d = weight.shape
    tiles = TILES[device_class(weight), weight.dtype]
    steps = _panels(d, num_pruned, tiles)
    num_groups = 0 if quota is None else len(quota)
    at_once = 0
    if rows and steps:
        at_once = _rows_at_once(weight, steps, num_groups, tiles, max_memory)
    order = torch.empty((rows, num_pruned), dtype=torch.int32, device=weight.device)
    loss = torch.empty((rows, num_pruned), dtype=weight.dtype, device=weight.device)
    if not at_once:
        return order, loss
    matrix = inverse_hessian.contiguous()
    with launching(weight), torch.no_grad():
        scratch = Scratch(weight, at_once, steps, num_groups, tiles)
        for first in range(0, rows, at_once):
            part = slice(first, min(first + at_once, rows))
            scratch.start(weight[part], matrix, group, quota)
            _run(
                scratch, matrix, order[part], loss[part], steps, group is not None, tiles, own_panel
            )
    return order, loss


def _check(
    weight: Tensor, matrix: Tensor, num_pruned: int, group: Tensor | None, quota: Tensor | None
) -> None:
    if weight.dtype not in (torch.float32, torch.float64) or weight.ndim != 2:
        raise ValueError(
            f"weight is {weight.dtype} {list(weight.shape)}; accepted is float32 or float64 [rows, d]"
        )
    d = weight.shape[1]
    if matrix.shape != (d, d) or matrix.dtype != weight.dtype or matrix.device != weight.device:
        raise ValueError(
            f"inverse_hessian is {matrix.dtype} {list(matrix.shape)} on {matrix.device}; accepted is "
            f"{weight.dtype} [{d}, {d}] on {weight.device}, as weight"
        )
    if not 0 <= num_pruned <= d:
        raise ValueError(f"num_pruned is {num_pruned}; accepted is 0..{d}")
    if (group is None) != (quota is None):
        raise ValueError("group and quota come together")
    if group is None or quota is None:
        return
    for name, tensor, shape in (("group", group, [d]), ("quota", quota, [len(quota)])):
        if (
            tensor.dtype != torch.int32
            or list(tensor.shape) != shape
            or tensor.device != weight.device
        ):
            raise ValueError(
                f"{name} is {tensor.dtype} {list(tensor.shape)} on {tensor.device}; accepted is int32 "
                f"{shape} on {weight.device}"
            )
    members, limit = group.cpu(), quota.cpu()  # out of range they would lead the kernel astray
    if d and not 0 <= int(members.min()) <= int(members.max()) < len(limit):
        raise ValueError(f"group has entries outside 0..{len(limit) - 1}")
    if (limit < 0).any():
        raise ValueError("quota has negative entries")
    admitted = int(torch.minimum(members.bincount(minlength=len(limit)), limit).sum())
    if admitted < num_pruned:
        raise ValueError(f"the quotas admit {admitted} removals a row; num_pruned is {num_pruned}")


def _panels(d: int, num_pruned: int, tiles: Tiles) -> list[tuple[int, int]]:
    """(weights left, pivots) of each panel."""
    steps = []
    done = 0
    while done < num_pruned:
        m = d - done
        count = min([B for least, B in tiles.panels if m >= least][-1], num_pruned - done)
        steps.append((m, count))
        done += count
    return steps


def _padded(n: int, unit: int) -> int:
    return -(-n // unit) * unit


def _triangle(n: int, tile: int) -> int:
    """Elements of a packed triangle."""
    width = _padded(n, tile)
    return width * (width + tile) // 2


def _skipped(side: int, tile: int, device: torch.device) -> Tensor:
    """Returns [side], the elements that lines 0..i of a packed triangle leave out: `_line_start`."""
    begin = torch.arange(side, device=device) // tile * tile
    return begin.cumsum(0).to(torch.int32 if side * side < 2**31 else torch.int64)


def _rows_at_once(
    weight: Tensor,
    steps: list[tuple[int, int]],
    num_groups: int,
    tiles: Tiles,
    max_memory: int | None,
) -> int:
    rows, d = int(weight.shape[0]), int(weight.shape[1])
    results = rows * sum(count for _, count in steps) * (4 + weight.itemsize)
    row = Scratch.row_bytes(d, steps, num_groups, tiles, weight.itemsize)
    budget = room(weight, results + rows * row, max_memory)
    fit = (budget - results) // row
    if fit < 1:
        raise MemoryError(
            f"the results and one row of {d} weights need {results + row} bytes; {budget} are available"
        )
    if weight.device.type == "cuda":
        # As many as run at once: more would take memory and save no time. No multiprocessor idles.
        processors = torch.cuda.get_device_properties(weight.device).multi_processor_count
        fit = min(fit, processors * (16 // _sweep(d, tiles).warps))
        if processors < fit < rows:
            fit -= fit % processors
    turns: int = -(-rows // min(fit, _GRID))
    return -(-rows // turns)


class Scratch:
    """Memory of the rows at work: vectors [rows, side], L and its survivors, two triangles in turn."""

    def __init__(
        self, like: Tensor, rows: int, steps: list[tuple[int, int]], num_groups: int, tiles: Tiles
    ) -> None:
        d = like.shape[1]
        self.side, self.depth = self.sides(d, steps, tiles)
        empty = like.new_empty
        self.weight, self.diagonal, self.floor = (empty((rows, self.side)) for _ in range(3))
        self.state, self.ids, self.group, self.index = (
            empty((rows, self.side), dtype=torch.int32) for _ in range(4)
        )
        self.allowance = empty((rows, max(num_groups, 1)), dtype=torch.int32)
        self.unit = empty(rows)
        self.lines = empty((rows, self.depth, self.side))
        parts = (1 + tiles.split) * (len(steps) > 1)
        self.factors = empty((rows, parts, self.side, self.depth))
        self.skipped = _skipped(self.side, tiles.tile, like.device)
        self.triangles = [empty((rows, _triangle(m, tiles.tile))) for m, _ in steps[1:3]]

    @staticmethod
    def sides(d: int, steps: list[tuple[int, int]], tiles: Tiles) -> tuple[int, int]:
        return _padded(d, tiles.tile), _padded(max(count for _, count in steps), tiles.depth)

    @classmethod
    def row_bytes(
        cls, d: int, steps: list[tuple[int, int]], num_groups: int, tiles: Tiles, itemsize: int
    ) -> int:
        side, depth = cls.sides(d, steps, tiles)
        floats = side * (3 + depth * (1 + (1 + tiles.split) * (len(steps) > 1))) + 1
        floats += sum(_triangle(m, tiles.tile) for m, _ in steps[1:3])
        return itemsize * floats + 4 * (4 * side + max(num_groups, 1))

    def start(
        self, weight: Tensor, matrix: Tensor, group: Tensor | None, quota: Tensor | None
    ) -> None:
        """The vectors of the first ``len(weight)`` rows before anything is removed."""
        rows, d = weight.shape
        # The largest weight becomes 1..2, so that no square of a weight worth comparing is lost to
        # underflow or overflow. A power of two: nothing is rounded.
        largest = weight.abs().amax(1)
        power = largest / (2 * torch.frexp(largest).mantissa)
        unit = torch.where(largest > 0, power, 1.0)
        self.unit[:rows] = unit
        for vector, values, rest in (
            (self.weight, weight / unit[:, None], 0.0),
            (self.diagonal, matrix.diagonal(), 1.0),
            (self.floor, matrix.diagonal() * torch.finfo(weight.dtype).eps, 1.0),
            (self.ids, torch.arange(d, device=weight.device), 0),
        ):
            vector[:rows, :d] = values
            vector[:rows, d:] = rest
        self.state[:rows, :d] = OPEN.value
        self.state[:rows, d:] = GONE.value
        if group is not None and quota is not None:
            self.allowance[:rows] = quota
            self.group[:rows, :d] = group
            self.group[:rows, d:] = -1
            self.state[:rows, :d] = torch.where(quota[group.long()] > 0, OPEN.value, BARRED.value)


def _run(
    s: Scratch,
    matrix: Tensor,
    order: Tensor,
    loss: Tensor,
    steps: list[tuple[int, int]],
    grouped: bool,
    tiles: Tiles,
    own_panel: Panel | None,
) -> None:
    """All panels of ``len(order)`` rows."""
    rows = len(order)
    source, source_stride, source_width, packed = matrix, 0, len(matrix), False
    done = 0
    for number, (m, count) in enumerate(steps):
        step = PanelStep(source, source_stride, source_width, tiles.tile * packed, m, count, done)
        if own_panel is not None and own_panel.takes(s.weight, step, grouped):
            note_kernel("obs_order", own_panel.name)
            own_panel.run(s, step, order, loss)
        else:
            note_kernel("obs_order", "triton")
            _run_panel(s, step, order, loss, grouped, tiles)
        done += count
        n = m - count
        if number + 1 == len(steps):
            break
        note_kernel("obs_order", "triton")
        compact[(rows,)](
            s.weight, s.diagonal, s.floor, s.state, s.ids, s.group, s.index, s.side, m,
            HAS_GROUPS=grouped, BLOCK=_COMPACT_BLOCK, num_warps=8, num_stages=1,
        )  # fmt: skip
        width = _padded(n, tiles.tile)
        factor[(width // tiles.part, rows)](
            s.lines, s.index, s.factors, s.lines.stride(0), s.factors.stride(0), s.side, s.depth, n,
            count, BLOCK=tiles.part, DEPTH=tiles.depth, SPLIT=tiles.split, num_warps=4, num_stages=1,
        )  # fmt: skip
        target, across = s.triangles[number % 2], width // tiles.tile
        update[(across * (across + 1) // 2, rows, tiles.tile // tiles.part)](
            source, target, s.factors, s.index, source_stride, target.stride(0), s.factors.stride(0),
            source_width, width, s.side, s.depth, n, count, PACKED=packed, TILE=tiles.tile,
            WIDE=tiles.part, DEPTH=tiles.depth, SPLIT=tiles.split, EARLY=tiles.early,
            num_warps=tiles.warps, num_stages=tiles.stages,
        )  # fmt: skip
        source, source_stride, source_width, packed = target, target.stride(0), width, True


def _run_panel(
    s: Scratch, step: PanelStep, order: Tensor, loss: Tensor, grouped: bool, tiles: Tiles
) -> None:
    sweep = _sweep(step.m, tiles)
    panel[(len(order),)](
        step.source, s.weight, s.diagonal, s.floor, s.state, s.ids, s.group, s.allowance, s.lines,
        s.unit, order, loss, s.skipped, step.stride, s.lines.stride(0), step.width, s.side,
        order.stride(0), s.allowance.stride(0), step.m, step.pivots, step.done, PACKED=step.tile > 0,
        HAS_GROUPS=grouped, BLOCK=sweep.block, DEPTH=sweep.lines, STAGES=sweep.stages,
        LARGEST=torch.finfo(loss.dtype).max, num_warps=sweep.warps, num_stages=1,
    )  # fmt: skip


def _sweep(m: int, tiles: Tiles) -> Sweep:
    return next((sweep for sweep in tiles.sweeps if sweep.block >= m), tiles.sweeps[-1])


def builds(device_class: str) -> Iterator[Build]:
    """Yields the builds of the kernels for a device class."""
    for dtype, name in TYPES.items():
        tiles = TILES[device_class, dtype]
        last = tiles.sweeps[-1]
        for sweep, packed, grouped in (
            *((sweep, True, False) for sweep in tiles.sweeps),
            (last, True, True),
            (last, False, False),
        ):
            yield _build(
                panel,
                f"panel {sweep.block}{' packed' * packed}{' grouped' * grouped}",
                device_class,
                name,
                warps=sweep.warps,
                PACKED=packed,
                HAS_GROUPS=grouped,
                BLOCK=sweep.block,
                DEPTH=sweep.lines,
                STAGES=sweep.stages,
                LARGEST=torch.finfo(dtype).max,
            )
        yield _build(
            compact, "compact", device_class, name, warps=8, HAS_GROUPS=True, BLOCK=_COMPACT_BLOCK
        )
        yield _build(
            factor,
            "factor",
            device_class,
            name,
            warps=4,
            BLOCK=tiles.part,
            DEPTH=tiles.depth,
            SPLIT=tiles.split,
        )
        for packed in (False, True):
            yield _build(
                update,
                f"update{' packed' if packed else ''}",
                device_class,
                name,
                warps=tiles.warps,
                stages=tiles.stages,
                tensor_cores=tiles.split,
                PACKED=packed,
                TILE=tiles.tile,
                WIDE=tiles.part,
                DEPTH=tiles.depth,
                SPLIT=tiles.split,
                EARLY=tiles.early,
            )


_INTEGERS = ("state", "ids", "group", "allowance", "index", "order", "skipped")
_SCALARS = ("side", "num_pruned", "num_groups", "depth", "m", "n", "count", "done")


def _build(
    kernel: Any,
    what: str,
    device_class: str,
    dtype: str,
    *,
    warps: int,
    stages: int = 1,
    tensor_cores: bool = False,
    **constants: Any,
) -> Build:
    """Strides and scalars are i32, pointers lead to i32 or to `dtype`, by the arguments' names."""
    types = {
        name: "i32"
        if name in _SCALARS or name.endswith(("_stride", "width"))
        else "*i32"
        if name in _INTEGERS
        else f"*{dtype}"
        for name in kernel.arg_names
        if name not in constants
    }
    aligned = [
        name for name in types if name.endswith(("_stride", "width")) or name in ("side", "depth")
    ]
    title = f"obs_order/{what} {dtype} ({device_class})"
    return Build(title, kernel, types, constants, warps, stages, tensor_cores, tuple(aligned))
