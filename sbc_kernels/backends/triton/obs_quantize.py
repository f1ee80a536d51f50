"""GPTQ-style column sweep: round, prune by block, or both.

With H = R R', R upper triangular in the order of the sweep, step j rounds
``w_j + sum_{l<j} (w_l - q_l) R_lj / R_jj``. This form, not the one with U = R^-1: both cost rows d^2
multiply-adds, but the inverse would be d^3 / 3 more in float64 and several launches, and a sum of the
errors made rounds less than weights updated d times over.

A panel of columns is one launch: its weights and what they have gained lie in registers, and a program
walks the columns of its rows in order. Then one product carries the panel's errors to all columns after
it. A step compiles to 300 instructions, a chain of perhaps 400 cycles.
"""
# mypy: disable-error-code="no-untyped-def, untyped-decorator"

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from ...grid import Grid
from ...sparsity import Pattern
from ..kernels import note_kernel
from ..protocol import QuantizedRows
from . import factor as linalg
from .device import Build, device_class
from .factor import TYPES, add_product, launching, upper_factor

__all__ = ["builds", "obs_quantize"]


class Tile(NamedTuple):
    """The tile of a sweep: rows of a program and columns of a panel."""

    rows: int
    columns: int
    warps: int


# A warp holds whole rows, so that a column is picked out by shuffles, without a barrier. 4096 rows are
# 256 programs, two on each multiprocessor of an H100: one computes while the other waits. float64 takes
# half the rows, for the registers.
TILES = {
    "sm_80": Tile(16, 128, warps=4),
    "sm_90": Tile(16, 128, warps=4),
    "sm_100": Tile(16, 128, warps=4),
    "other": Tile(16, 128, warps=4),
}


def _tile(device: str, dtype: torch.dtype) -> Tile:
    tile = TILES[device]
    return tile if dtype == torch.float32 else tile._replace(rows=tile.rows // 2)


def obs_quantize(
    weight: Tensor,
    hessian: Tensor,
    grid: Grid | None,
    *,
    block_size: int,
    act_order: bool,
    mask: Tensor | None = None,
    pattern: Pattern | None = None,
    num_pruned: int | None = None,
) -> QuantizedRows:
    """Rounds column by column; later columns compensate for each column's error.

    Waits for the device once, to see whether the Cholesky factorisation succeeded.

    Parameters
    ----------
    weight : float32 or float64 [rows, d].
    hessian : float [d, d], symmetric positive definite.
    grid : with float32 tensors on weight's device; None: do not round.
    block_size : columns that choose their mask together, where this call prunes; a multiple of M.
        Otherwise it changes nothing.
    act_order : sweep in the order of falling diagonal of the Hessian.
    mask : bool [rows, d], True = kept; None: nothing is pruned beforehand. With a pattern, the others
        are the first that it prunes, also beyond its quota.
    pattern : prunes as well, each block its share.
    num_pruned : of rows * d, in place of what an unstructured pattern would prune.

    Returns
    -------
    QuantizedRows

    Raises
    ------
    numpy.linalg.LinAlgError : the Hessian is not positive definite.
    """
    rows, d = weight.shape
    perm = torch.arange(d, dtype=torch.int32, device=weight.device)
    if act_order:
        perm = torch.argsort(-hessian.diagonal(), stable=True).to(torch.int32)
    of_m, quota = 0 if pattern is None else pattern.of_m, 0
    if pattern is not None and not of_m:
        quota = pattern.num_pruned(rows * d) if num_pruned is None else num_pruned
    prunes = quota > 0 or of_m > 0
    order = perm.long()
    factor = upper_factor(hessian, perm).to(weight.dtype)
    note_kernel("obs_quantize", "triton")
    in_order = weight[:, order].contiguous()
    allowed = None if mask is None else mask[:, order].contiguous()
    keep = torch.ones_like(in_order, dtype=torch.bool) if prunes else None
    sweep = _Sweep(
        weight=in_order,
        factor=factor,
        bits=0 if grid is None else grid.bits,
        scale=None if grid is None else grid.scale.to(weight.dtype).contiguous(),
        zero_point=None if grid is None else grid.zero_point.to(weight.dtype).contiguous(),
        group=None if grid is None else grid.group_of_column(d)[order].to(torch.int32),
        mask=allowed if keep is None else keep,
    )
    carried = torch.zeros_like(in_order)
    block = min(block_size, max(d, 1)) if prunes else max(d, 1)
    for first in range(0, d, block):
        last = min(first + block, d)
        if keep is not None:
            scores = sweep.scores(carried[:, first:last], first)
            if allowed is not None:
                scores = torch.where(allowed[:, first:last], scores, -1.0)
            if pattern is not None and of_m > 0:
                block_keep = _keep_pattern(scores, pattern.keep_n, of_m)
            else:
                # Each block carries its share of the quota, so that the last one ends exactly on it.
                due, before = ((2 * quota * at + d) // (2 * d) for at in (last, first))
                block_keep = _keep_all_but(scores, due - before)
            if allowed is not None:
                block_keep &= allowed[:, first:last]
            keep[:, first:last] = block_keep
        sweep.round(carried, first, last)
    back = order.argsort()
    if keep is not None:
        keep = keep[:, back]
    elif pattern is not None:  # it prunes nothing
        keep = torch.ones(weight.shape, dtype=torch.bool, device=weight.device)
        if mask is not None:
            keep &= mask
    return QuantizedRows(
        None if sweep.codes is None else sweep.codes[:, back],
        sweep.quantized[:, back],
        sweep.loss,
        keep,
    )


class _Sweep:
    """One sweep's tensors, columns in the order of its steps; the methods walk blocks of steps."""

    def __init__(
        self,
        weight: Tensor,
        factor: Tensor,
        bits: int,
        scale: Tensor | None,
        zero_point: Tensor | None,
        group: Tensor | None,
        mask: Tensor | None,
    ) -> None:
        self.weight, self.factor, self.mask = weight, factor, mask
        self.scale, self.zero_point, self.group = scale, zero_point, group
        self.tile = _tile(device_class(weight), weight.dtype)
        self.top = float(2**bits - 1)
        self.codes = None if scale is None else torch.empty_like(weight, dtype=torch.uint8)
        self.quantized = torch.empty_like(weight)
        self.loss = weight.new_zeros(len(weight))
        self.errors = weight.new_empty(len(weight), self.tile.columns)

    def scores(self, carried: Tensor, first: int) -> Tensor:
        """Returns twice the loss of pruning each weight of a block, [rows, width].

        ``target^2 R_jj^2``; the columns of the block before it are left free and take their targets.
        `carried` [rows, width] is not modified.
        """
        scores = torch.empty_like(carried, memory_format=torch.contiguous_format)
        self._walk(carried.clone(), first, first, first + carried.shape[1], scores)
        return scores

    def round(self, carried: Tensor, first: int, last: int) -> None:
        """Steps first to last; their errors are added to what the columns after them have gained."""
        self._walk(carried, 0, first, last, None)

    def _walk(
        self, carried: Tensor, origin: int, first: int, last: int, scores: Tensor | None
    ) -> None:
        """The first column of `carried`, and of `scores`, is step `origin`."""
        (rows, d), columns = self.weight.shape, self.tile.columns
        for at in range(first, last, columns):
            after = min(at + columns, last)
            own_carried = carried[:, at - origin :]
            with launching(carried):
                _sweep[triton.cdiv(rows, self.tile.rows),](
                    self.weight[:, at:],
                    own_carried,
                    self.factor[at:, at:],
                    self.scale,
                    self.zero_point,
                    None if self.group is None else self.group[at:],
                    None if self.mask is None else self.mask[:, at:],
                    self.quantized[:, at:] if scores is None else scores[:, at - origin :],
                    None if self.codes is None or scores is not None else self.codes[:, at:],
                    self.errors,
                    None if scores is not None else self.loss,
                    rows,
                    d,
                    carried.stride(0),
                    d if scores is None else scores.stride(0),
                    1 if self.scale is None else self.scale.shape[1],
                    after - at,
                    self.top,
                    ROWS=self.tile.rows,
                    COLUMNS=columns,
                    num_warps=self.tile.warps,
                )
            add_product(
                own_carried[:, after - at :],
                self.errors[:, : after - at],
                self.factor[at:after, after : origin + carried.shape[1]],
            )


@triton.jit(do_not_specialize=["rows", "groups", "width", "top"])
def _sweep(
    weight,  # [rows, width], rows d apart
    carried,  # [rows, width], rows `stride` apart: sum over earlier steps l of (w_l - q_l) R_lj
    factor,  # [width, width] of R, rows d apart
    scale,  # [rows, groups], as zero_point; None: do not round
    zero_point,
    group,  # [width]: of each step
    mask,  # [rows, width], rows d apart; None: nothing is pruned
    answer,  # [rows, width], rows `answer_stride` apart: q, or the scores
    codes,  # [rows, width], rows d apart
    errors,  # [rows, COLUMNS]: w - q, zeros to the right of width
    loss,  # [rows]: added to; None: score, every q its target
    rows,
    d,
    stride,
    answer_stride,
    groups,
    width,
    top,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    number: tl.constexpr = weight.dtype.element_ty
    # Half to even, for 0 <= x <= 255: adding 1.5 * 2^(digits - 1) leaves no room for a fraction.
    magic: tl.constexpr = 12582912.0 if number == tl.float32 else 6755399441055744.0
    row = (tl.program_id(0) * ROWS + tl.arange(0, ROWS)).to(tl.int64)
    column = tl.arange(0, COLUMNS)
    live = row < rows
    inside = live[:, None] & (column < width)[None, :]
    at = row[:, None] * d + column[None, :]
    # Columns to come: their weights, and what they gain from errors made so far. Columns gone by: their
    # answers and errors.
    w = tl.load(weight + at, mask=inside, other=0.0)
    gained = tl.load(carried + row[:, None] * stride + column[None, :], mask=inside, other=0.0)
    coded = tl.zeros((ROWS, COLUMNS), number)
    row_loss = tl.zeros((ROWS,), number)
    ahead = tl.load(factor + column, mask=column < width, other=0.0)
    for m in range(width):
        here = (column == m)[None, :]
        factors = ahead  # loaded a step early, so that it has arrived
        ahead = tl.load(
            factor + (m + 1) * d + column, mask=(column < width) & (m + 1 < width), other=0.0
        )
        pivot = tl.load(factor + m * d + m)
        original = tl.sum(tl.where(here, w, 0.0), axis=1)
        target = original + _divide(tl.sum(tl.where(here, gained, 0.0), axis=1), pivot)
        q = target
        if loss is None:
            cost = target * pivot
            w = tl.where(here, (cost * cost)[:, None], w)
        else:
            if scale is not None:
                of = row * groups + tl.load(group + m)
                step = tl.load(scale + of, mask=live, other=1.0)
                zero = tl.load(zero_point + of, mask=live, other=0.0)
                level = _divide(target, step) + zero
                level = tl.where(level > 0.0, level, 0.0)
                level = tl.where(level < top, level, top)
                code = (level + magic) - magic
                # No compiler may fuse this product with the subtraction from w: q is rounded.
                q = tl.fma(code - zero, step, 0.0)
                coded = tl.where(here, code[:, None], coded)
            if mask is not None:
                q = tl.where(tl.load(mask + row * d + m, mask=live, other=0) != 0, q, 0.0)
            w = tl.where(here, q[:, None], w)
            missed = (target - q) * pivot
            row_loss += 0.5 * missed * missed
        error = original - q
        gained = tl.where(here, error[:, None], tl.fma(error[:, None], factors[None, :], gained))
    tl.store(answer + row[:, None] * answer_stride + column[None, :], w, mask=inside)
    tl.store(errors + row[:, None] * COLUMNS + column[None, :], gained, mask=live[:, None])
    if loss is not None:
        tl.store(loss + row, tl.load(loss + row, mask=live, other=0.0) + row_loss, mask=live)
    if codes is not None:
        tl.store(codes + at, coded.to(tl.uint8), mask=inside)


@triton.jit
def _divide(a, b):
    """IEEE division; Triton's `/` is that in float64, in float32 only `div_rn` is."""
    return a / b if a.dtype == tl.float64 else tl.div_rn(a, b)


def _keep_all_but(scores: Tensor, count: int) -> Tensor:
    """Returns a mask [rows, width] without the `count` least scores; ties drop the earlier one."""
    least = _ordered(scores).ravel().argsort(stable=True)[:count]
    keep = torch.ones(scores.numel(), dtype=torch.bool, device=scores.device)
    keep[least] = False
    return keep.view_as(scores)


def _keep_pattern(scores: Tensor, keep_n: int, of_m: int) -> Tensor:
    """Returns a mask [rows, width] of the keep_n greatest of every of_m; ties keep the earlier one."""
    grouped = _ordered(scores).unflatten(1, (-1, of_m))
    greatest = grouped.argsort(dim=2, descending=True, stable=True)[..., :keep_n]
    return torch.zeros_like(grouped, dtype=torch.bool).scatter_(2, greatest, True).flatten(1)


def _ordered(scores: Tensor) -> Tensor:
    """Returns the scores with NaN, which an overflow leaves, as the largest."""
    return scores.nan_to_num(nan=math.inf, posinf=math.inf)


def builds(device: str) -> Iterator[Build]:
    """Yields scoring, rounding with and without a grid and a mask, for both types, and the product."""
    variants = {
        "score": {"scale", "zero_point", "group", "mask", "codes", "loss"},
        "round": {"mask"},
        "round masked": set(),
        "masked": {"scale", "zero_point", "group", "codes"},
        "free": {"scale", "zero_point", "group", "codes", "mask"},
    }
    for number, dtype in TYPES.items():
        tile = _tile(device, number)
        numbers = ("weight", "carried", "factor", "scale", "zero_point", "answer", "errors", "loss")
        types = {
            **dict.fromkeys(numbers, f"*{dtype}"),
            **dict.fromkeys(("rows", "d", "stride", "answer_stride", "groups", "width"), "i32"),
            "group": "*i32",
            "mask": "*i1",
            "codes": "*u8",
            "top": "fp32",
        }
        for variant, absent in variants.items():
            yield Build(
                name=f"obs_quantize/{variant} {dtype}",
                kernel=_sweep,
                types={name: kind for name, kind in types.items() if name not in absent},
                constants={"ROWS": tile.rows, "COLUMNS": tile.columns, **dict.fromkeys(absent)},
                warps=tile.warps,
                aligned=("d", "stride", "answer_stride"),
            )
    yield from linalg.builds(device)
