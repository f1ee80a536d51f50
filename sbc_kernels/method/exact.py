"""Exact OBS: orders of removal, a shared quota, a masked solve."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from array_api_compat import device

from ..backends.registry import backend_for
from ..sparsity import Pattern
from .damping import with_damping
from .options import Options
from .rows import Array, Rows, among_live, flattened, masked, num_silent, num_weights, unflatten

CURVE_SPARSITIES = (
    *(k / 20 for k in range(18)),
    *(k / 100 for k in range(90, 99, 2)),
    *(0.99, 0.995, 1.0),
)


Curve = tuple[tuple[float, float], ...]  # (sparsity, relative error)


class RowOrder(NamedTuple):
    """In which order one group's rows lose their weights, whatever the sparsity."""

    order: Array  # [rows, steps], int32, over the live inputs
    loss: Array  # [rows, steps]
    inverse: Array  # of the damped Hessian over the live inputs, float64
    damp_percent: float  # after retries


def order_rows(parts: list[Rows], options: Options, log: list[str]) -> list[RowOrder]:
    """The exact OBS order of every row."""
    pattern = options.pattern
    assert pattern is not None
    orders = []
    for part in parts:

        def invert(matrix: Array, part: Rows = part) -> Any:
            return backend_for(matrix, options.backend).inverse(among_live(matrix, part))

        G, percent = with_damping(part, options.damp_percent, log, invert)
        orders.append(RowOrder(*_order(part, G, pattern, options.backend), G, percent))
    return orders


def prune_exact(
    parts: list[Rows], orders: list[RowOrder], options: Options, log: list[str]
) -> tuple[float, Curve]:
    """Shares out the quota along the orders, solves for the survivors."""
    pattern = options.pattern
    assert pattern is not None
    curve: Curve = ()
    if pattern.of_m:
        masks = [
            _mask_of_steps(part, found.order, None)
            for part, found in zip(parts, orders, strict=True)
        ]
        for part, mask in zip(parts, masks, strict=True):
            _prune_silent_in_groups(part, mask, pattern)
    else:
        weighed = [
            found.loss * (part.row_scale**2)[:, None]
            for part, found in zip(parts, orders, strict=True)
        ]
        ranked = parts[0].xp.argsort(flattened(weighed), stable=True)
        counts = _share_quota(parts, weighed, ranked, pattern)
        curve = _loss_curve(parts, flattened([found.loss for found in orders])[ranked])
        masks = [
            _mask_of_steps(part, found.order, count)
            for part, found, count in zip(parts, orders, counts, strict=True)
        ]
        _prune_silent(parts, masks, pattern)
    percent = max(
        max(found.damp_percent, _solve(part, mask, found.damp_percent, found.inverse, options, log))
        for part, found, mask in zip(parts, orders, masks, strict=True)
    )
    return percent, curve


def _solve(
    part: Rows,
    mask: Array,
    percent: float,
    G: Array,
    options: Options,
    log: list[str],
) -> float:
    """The survivors' weights. In float32 the Cholesky of a submatrix may fail where that of the whole
    in float64 did not."""
    xp = part.xp
    part.mask = mask
    part.result = masked(mask, part.weight)
    if part.silent == len(part.live):
        return percent
    (live,) = xp.nonzero(part.live)
    known: Array | None = G  # of the first attempt's damping

    def solve(matrix: Array) -> Any:
        nonlocal known
        G, known = known, None
        return backend_for(matrix, options.backend).obs_solve(
            xp.take(part.weight, live, axis=1),
            among_live(matrix, part),
            xp.take(mask, live, axis=1),
            inverse_hessian=G,
        )

    part.result[:, live], percent = with_damping(part, percent, log, solve)
    return percent


def _order(part: Rows, G: Array, pattern: Pattern, backend: str | None) -> tuple[Array, Array]:
    """Order and loss over the live inputs. With N:M, dead inputs fill their groups' quotas first."""
    xp, m = part.xp, pattern.of_m
    (live,) = xp.nonzero(part.live)
    weight = xp.take(part.weight, live, axis=1)
    G = xp.astype(G, weight.dtype)
    if not m:
        return backend_for(weight, backend).obs_order(weight, G, live.shape[0])
    dead = xp.sum(xp.astype(xp.reshape(~part.live, (-1, m)), xp.int32), axis=1)
    quota = xp.astype(xp.clip(m - pattern.keep_n - dead, min=0), xp.int32)
    group = xp.astype(live // m, xp.int32)
    return backend_for(weight, backend).obs_order(
        weight, G, int(xp.sum(quota)), group=group, quota=quota
    )


def _share_quota(
    parts: list[Rows], losses: list[Array], ranked: Array, pattern: Pattern
) -> list[Array]:
    """How many live weights each row gives up: the layer's quota goes to the least losses, which come
    first in `ranked`."""
    xp = parts[0].xp
    quota = max(pattern.num_pruned(num_weights(parts)) - num_silent(parts), 0)
    chosen = xp.zeros(ranked.shape[0], dtype=xp.int64, device=device(ranked))
    chosen[ranked[:quota]] = 1
    return [xp.sum(mine, axis=1) for mine in unflatten(chosen, losses)]


def _loss_curve(parts: list[Rows], losses: Array) -> Curve:
    """(sparsity, relative error) from nothing pruned to everything, of losses in the order they fall
    due. The root of the pruned weights' losses over all: by the damped Hessian, before quantization."""
    xp, size, silent = parts[0].xp, num_weights(parts), num_silent(parts)
    at = [max(round(sparsity * size) - silent, 0) for sparsity in CURVE_SPARSITIES]
    # Part by part: a running sum on a GPU is not the same in every run.
    sums = [xp.sum(losses[a:b], dtype=xp.float64) for a, b in pairwise([0, *at])]
    total = np.cumsum(xp.stack(sums).tolist())
    if not 0 < total[-1] < np.inf:
        return ()
    errors = np.sqrt(np.maximum(total, 0) / total[-1])
    rounded = (float(f"{error:.4g}") for error in errors)  # for people, and kept in every file
    return tuple(zip(CURVE_SPARSITIES, rounded, strict=True))


def _mask_of_steps(part: Rows, order: Array, counts: Array | None) -> Array:
    """Mask of the first ``counts`` removals of each row (None: all). Dead inputs are still kept."""
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
    for mask, mine in zip(masks, unflatten(kept, masks), strict=True):
        mask[...] = mine


def _size_of_silent(part: Rows) -> Array:
    """Of a weight on an input that never spiked; infinite on others."""
    size = part.xp.abs(part.weight)
    return part.xp.where(part.live[None, :], part.xp.full_like(size, part.xp.inf), size)


def _prune_silent_in_groups(part: Rows, mask: Array, pattern: Pattern) -> None:
    """The same for an N:M pattern: dead inputs fill what `_order` left them of each group's quota."""
    xp, shape = part.xp, (len(mask), -1, pattern.of_m)
    size, keep = xp.reshape(_size_of_silent(part), shape), xp.reshape(mask, shape)
    rank = xp.argsort(xp.argsort(size, axis=2, stable=True), axis=2, stable=True)
    gone = xp.sum(xp.astype(~keep, xp.int64), axis=2, keepdims=True)
    also = (rank < pattern.of_m - pattern.keep_n - gone) & xp.isfinite(size)
    mask[...] = xp.reshape(keep & ~also, mask.shape)
