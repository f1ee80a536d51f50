"""Exact OBS: orders of removal, a shared quota, a masked solve."""

from __future__ import annotations

from collections.abc import Hashable
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from array_api_compat import array_namespace, device

from ..arrays import Array
from ..backends.registry import backend_for
from ..sparsity import Pattern
from ..threads import thread_count
from .damping import Damping, with_damping
from .options import Curve, LayerOptions, Method, Outcome
from .rows import (
    Rows,
    among_live,
    flattened,
    masked,
    may_stay,
    num_silent,
    num_weights,
    unflatten,
)
from .sweep import round_rows

CURVE_SPARSITIES = (
    *(k / 20 for k in range(18)),
    *(k / 100 for k in range(90, 99, 2)),
    *(0.99, 0.995, 1.0),
)

_OFF = 1 / 256  # of a row's length: so far may rounding move the survivors of a row


class RowOrder(NamedTuple):
    """The order in which one group's rows lose their weights, at any sparsity."""

    order: Array  # [rows, steps], int32, over the live inputs
    loss: Array  # [rows, steps]
    inverse: Array  # of the damped Hessian over the live inputs, float64
    damping: Damping


class Exact(Method):
    """Greedy ExactOBS in each row; the layer's quota goes to the least losses of all rows."""

    doc = "exact Optimal Brain Surgeon, row by row"

    def order_key(self, options: LayerOptions) -> Hashable:
        pattern = options.pattern
        if pattern is None:
            return None
        return (pattern.keep_n, pattern.of_m, options.damp_percent)

    def order(
        self, parts: list[Rows], options: LayerOptions, log: list[str]
    ) -> list[RowOrder] | None:
        return None if options.pattern is None else order_rows(parts, options, log)

    def compress(
        self,
        parts: list[Rows],
        order: list[RowOrder] | None,
        options: LayerOptions,
        log: list[str],
    ) -> Outcome:
        outcome = Outcome(Damping(options.damp_percent))
        if options.pattern is not None:
            assert order is not None
            outcome = prune_exact(parts, order, options.pattern, log)
            log.append(f"pruned {options.pattern} by exact OBS")
        else:
            for part in parts:
                part.mask = part.kept
        if options.bits is not None:
            damping = round_rows(parts, options, log)
            outcome = outcome._replace(damping=outcome.damping.joined(damping))
        return outcome

    def cost(self, d_out: int, d_in: int) -> float:
        """A pivoted Cholesky factorisation of the inverse Hessian for each row."""
        return float(d_in) ** 3 / 6 * d_out

    def work_bytes(self, d_out: int, d_in: int) -> int:
        """The damped Hessian, its inverse in two precisions, a triangle for each thread; orders."""
        return (22 + 2 * thread_count()) * d_in**2 + 58 * d_out * d_in


def order_rows(parts: list[Rows], options: LayerOptions, log: list[str]) -> list[RowOrder]:
    """Returns the exact OBS order of every row."""
    pattern = options.pattern
    assert pattern is not None
    orders = []
    for part in parts:

        def invert(matrix: Array, part: Rows = part) -> Any:
            return backend_for(matrix, part.backend).inverse(among_live(matrix, part))

        G, damping = with_damping(part, options.damp_percent, log, invert)
        orders.append(RowOrder(*_order(part, G, pattern), G, damping))
    return orders


def prune_exact(
    parts: list[Rows], orders: list[RowOrder], pattern: Pattern, log: list[str]
) -> Outcome:
    """Shares out the quota along the orders, solves for the survivors."""
    curve: Curve = ()
    if pattern.of_m:
        masks = [
            _mask_of_steps(part, row_order.order, None)
            for part, row_order in zip(parts, orders, strict=True)
        ]
        for part, mask in zip(parts, masks, strict=True):
            _prune_silent_in_groups(part, mask, pattern)
    else:
        weighed = [
            row_order.loss * (part.row_scale**2)[:, None]
            for part, row_order in zip(parts, orders, strict=True)
        ]
        ranked = parts[0].xp.argsort(flattened(weighed), stable=True)
        counts = _share_quota(parts, weighed, ranked, pattern)
        losses = [
            row_order.loss
            if part.row_unit is None
            else row_order.loss * part.row_unit[:, None] ** 2
            for part, row_order in zip(parts, orders, strict=True)
        ]
        curve = _loss_curve(parts, flattened(losses)[ranked])
        masks = [
            _mask_of_steps(part, row_order.order, count)
            for part, row_order, count in zip(parts, orders, counts, strict=True)
        ]
        _prune_silent(parts, masks, pattern)
    dampings = []
    for part, row_order, mask in zip(parts, orders, masks, strict=True):
        damping = row_order.damping
        solved = _solve(part, may_stay(mask, part), damping.percent, row_order.inverse, log)
        dampings += [damping, solved]
    return Outcome(dampings[0].joined(*dampings[1:]), curve)


def _solve(
    part: Rows,
    mask: Array,
    percent: float,
    G: Array,
    log: list[str],
) -> Damping:
    """Sets the survivors' weights. Damping may have to rise once more: the Cholesky of a submatrix may
    fail where that of the whole did not. Where float32 fails or is too coarse, float64 solves."""
    xp = part.xp
    part.mask = mask
    part.result = masked(mask, part.weight)
    if part.silent == len(part.live):
        return Damping(percent)
    (live,) = xp.nonzero(part.live)
    unused: Array | None = G  # belongs to the first attempt's damping

    def solve(matrix: Array) -> Any:
        nonlocal unused
        G, unused = unused, None
        weight, keep = xp.take(part.weight, live, axis=1), xp.take(mask, live, axis=1)
        diagonal = part.hessian.diagonal()[live] * part.unit
        ridge = float(xp.mean(matrix.diagonal()[live] - diagonal))
        matrix = among_live(matrix, part)
        runner = backend_for(matrix, part.backend)
        try:
            solved = runner.obs_solve(weight, matrix, keep, inverse_hessian=G)
            off = _rows_off(weight, solved, matrix, keep, ridge, float(xp.mean(diagonal)))
        except np.linalg.LinAlgError:
            if weight.dtype == xp.float64:
                raise
            solved, off = xp.zeros_like(weight), xp.any(keep, axis=1)
        if off is None or not bool(xp.any(off)):
            return solved
        (rows,) = xp.nonzero(off)
        log.append(
            f"{len(rows)} of {len(weight)} rows solved in float64: with so little damping, errors of "
            "float32 would show in their weights"
        )
        wide = xp.astype(weight[rows], xp.float64)
        again = runner.obs_solve(wide, matrix, keep[rows], inverse_hessian=G)
        solved[rows] = xp.astype(again, weight.dtype)
        return solved

    part.result[:, live], damping = with_damping(part, percent, log, solve)
    return damping


def _rows_off(
    weight: Array, solved: Array, matrix: Array, keep: Array, ridge: float, mean: float
) -> Array | None:
    """Returns which rows' solutions rounding may have moved by more than `_OFF` of their length.

    The error of a solution is the inverse of H over the kept weights times the residual, and no
    eigenvalue of H is below its ridge. With a damping of 0.01 that is at most a fifth of `_OFF`, at
    1e-3 twice and at 1e-6 thousands of times `_OFF`. None where the condition number, at most
    d mean / ridge, allows no such error in weight's dtype.
    """
    xp = array_namespace(weight)
    unit = float(xp.finfo(weight.dtype).eps) / 2
    if unit * len(matrix) * mean <= _OFF * ridge:
        return None
    change = xp.astype(weight, xp.float64) - xp.astype(solved, xp.float64)
    residual = masked(keep, change @ matrix)
    length = xp.sqrt(xp.sum(xp.astype(solved, xp.float64) ** 2, axis=1))
    return xp.sqrt(xp.sum(residual**2, axis=1)) > _OFF * ridge * length


def _order(part: Rows, G: Array, pattern: Pattern) -> tuple[Array, Array]:
    """Returns order and loss of live inputs. With N:M, dead inputs fill their groups' quotas first."""
    xp, m = part.xp, pattern.of_m
    (live,) = xp.nonzero(part.live)
    weight = xp.take(part.weight, live, axis=1)
    G = xp.astype(G, weight.dtype)
    if not m:
        return backend_for(weight, part.backend).obs_order(weight, G, live.shape[0])
    dead = xp.sum(xp.astype(xp.reshape(~part.live, (-1, m)), xp.int32), axis=1)
    quota = xp.astype(xp.clip(m - pattern.keep_n - dead, min=0), xp.int32)
    group = xp.astype(live // m, xp.int32)
    return backend_for(weight, part.backend).obs_order(
        weight, G, int(xp.sum(quota)), group=group, quota=quota
    )


def _share_quota(
    parts: list[Rows], losses: list[Array], ranked: Array, pattern: Pattern
) -> list[Array]:
    """Returns how many live weights each row gives up.

    The layer's quota goes to the least losses, whose flat indices come first in `ranked`.
    """
    xp = parts[0].xp
    # Weights that were zero from the start are the first in each order, at no loss.
    zeros = sum(
        int(xp.count_nonzero(~part.kept & part.live[None, :]))
        for part in parts
        if part.kept is not None
    )
    quota = max(pattern.num_pruned(num_weights(parts)) - num_silent(parts), zeros)
    quota_flags = xp.zeros(ranked.shape[0], dtype=xp.int64, device=device(ranked))
    quota_flags[ranked[:quota]] = 1
    return [xp.sum(part, axis=1) for part in unflatten(quota_flags, losses)]


def _loss_curve(parts: list[Rows], losses: Array) -> Curve:
    """Pairs of sparsity and relative error, from nothing pruned to everything.

    `losses` are in the order of pruning. A relative error is the root of the sum of the pruned weights'
    losses over the sum of all, by the damped Hessian and before quantization.
    """
    xp, size, silent = parts[0].xp, num_weights(parts), num_silent(parts)
    ends = [max(round(sparsity * size) - silent, 0) for sparsity in CURVE_SPARSITIES]
    # Part by part: a running sum on a GPU is not the same in every run.
    sums = [xp.sum(losses[a:b], dtype=xp.float64) for a, b in pairwise([0, *ends])]
    total = np.cumsum(xp.stack(sums).tolist())
    if not 0 < total[-1] < np.inf:
        return ()
    errors = np.sqrt(np.maximum(total, 0) / total[-1])
    rounded = (float(f"{error:.4g}") for error in errors)  # for people, and kept in every file
    return tuple(zip(CURVE_SPARSITIES, rounded, strict=True))


def _mask_of_steps(part: Rows, order: Array, counts: Array | None) -> Array:
    """Returns the mask after ``counts`` removals a row (None: all). Dead inputs are still kept."""
    xp, where = part.xp, device(part.weight)
    mask = xp.ones(part.weight.shape, dtype=xp.bool, device=where)
    (live,) = xp.nonzero(part.live)
    steps = xp.arange(order.shape[1], device=where)[None, :]
    removed = steps >= 0 if counts is None else steps < counts[:, None]
    rows, at = xp.nonzero(xp.broadcast_to(removed, order.shape))
    mask[rows, live[xp.astype(order, xp.int64)[rows, at]]] = False
    return mask


def _prune_silent(parts: list[Rows], masks: list[Array], pattern: Pattern) -> None:
    """Dead inputs' weights cost nothing: they fill the quota, the smallest first."""
    if not any(part.silent for part in parts):
        return
    xp, kept = parts[0].xp, flattened(masks)
    missing = pattern.num_pruned(num_weights(parts)) - int(xp.sum(xp.astype(~kept, xp.int64)))
    least = xp.argsort(flattened([_size_of_silent(part) for part in parts]), stable=True)
    kept[least[: max(missing, 0)]] = False
    for mask, part_kept in zip(masks, unflatten(kept, masks), strict=True):
        mask[...] = part_kept


def _size_of_silent(part: Rows) -> Array:
    """Returns absolute weights on inputs that never spiked; infinity on all other inputs."""
    size = part.sizes()
    return part.xp.where(part.live[None, :], part.xp.full_like(size, part.xp.inf), size)


def _prune_silent_in_groups(part: Rows, mask: Array, pattern: Pattern) -> None:
    """With an N:M pattern, dead inputs' weights fill what `_order` left them of each group's quota."""
    xp, shape = part.xp, (len(mask), -1, pattern.of_m)
    size, keep = xp.reshape(_size_of_silent(part), shape), xp.reshape(mask, shape)
    rank = xp.argsort(xp.argsort(size, axis=2, stable=True), axis=2, stable=True)
    num_pruned = xp.sum(xp.astype(~keep, xp.int64), axis=2, keepdims=True)
    also = (rank < pattern.of_m - pattern.keep_n - num_pruned) & xp.isfinite(size)
    mask[...] = xp.reshape(keep & ~also, mask.shape)
