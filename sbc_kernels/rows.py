"""What becomes of a layer's rows: pruned, quantized, or both, under one Hessian a group.

`layer.compress_layer` checks and assembles; the decisions are made here.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .arrays import Array
from .grid import Grid, fit_grid
from .linalg import inverse
from .obs_order import run_obs_order
from .obs_quantize import run_obs_quantize
from .obs_solve import run_obs_solve
from .pattern import Pattern, prune_least

MAX_RETRIES = 5
CURVE_SPARSITIES = (
    *(k / 20 for k in range(18)),
    *(k / 100 for k in range(90, 99, 2)),
    *(0.99, 0.995, 1.0),
)

Curve = tuple[tuple[float, float], ...]  # (sparsity, relative error)


@dataclass(frozen=True)
class Options:
    """What one group of rows is compressed with, checked."""

    pattern: Pattern | None
    bits: int | None
    method: str
    grid: str
    sym: bool
    group_size: int
    act_order: bool
    block_size: int
    damp_percent: float
    backend: str | None


@dataclass
class Rows:
    """One convolution group's rows (all rows of other layers) and what becomes of them."""

    weight: Array  # [rows, d], float32 or float64
    hessian: NDArray[np.float64]  # undamped
    row_scale: NDArray[np.float64]  # [rows], of the rows' outputs before they are integrated
    live: NDArray[np.bool_] = field(init=False)
    unit: float = 1.0  # of H, see share_unit
    result: Array = field(init=False)
    quota: int = 0  # of weights to prune by blocks
    mask: NDArray[np.bool_] | None = None
    codes: NDArray[np.uint8] | None = None
    grid: Grid | None = None

    def __post_init__(self) -> None:
        self.live = np.diagonal(self.hessian) > 0
        self.result = self.weight.copy()


def share_unit(parts: list[Rows]) -> None:
    """The power of two that brings the mean diagonal of all groups to 0.5 .. 1. One for the layer:
    its groups' losses are compared with each other."""
    live = np.concatenate([np.diagonal(part.hessian)[part.live] for part in parts])
    mean = float(live.mean()) if live.size else 1.0
    for part in parts:
        part.unit = float(np.ldexp(1.0, -int(np.frexp(mean)[1])))


def warn(log: list[str], message: str) -> None:
    log.append(message)
    warnings.warn(message, RuntimeWarning, stacklevel=4)


# ---- damping -----------------------------------------------------------------------------------


def _damped(part: Rows, damp_percent: float) -> NDArray[np.float64]:
    """H in its unit, with damping; the identity where no input is live."""
    size = len(part.hessian)
    if not part.live.any():
        return np.eye(size)
    matrix = (
        part.hessian * part.unit
    )  # its scale decides nothing, and float32 is not wide enough for all
    matrix[np.diag_indices(size)] += damp_percent * np.diagonal(matrix)[part.live].mean()
    return matrix


def _with_damping(
    part: Rows,
    damp_percent: float,
    log: list[str],
    attempt: Callable[[NDArray[np.float64]], Any],
) -> tuple[Any, float]:
    """``attempt(damped Hessian)``; where its Cholesky fails, again with ten times the damping."""
    percent = damp_percent
    for retry in range(MAX_RETRIES + 1):
        try:
            return attempt(_damped(part, percent)), percent
        except np.linalg.LinAlgError as error:
            if retry == MAX_RETRIES:
                raise np.linalg.LinAlgError(
                    f"{error}; {MAX_RETRIES} retries up to damp_percent {percent:g} did not help"
                ) from error
            larger = 10 * percent if percent > 0 else 1e-4
            warn(
                log,
                f"Cholesky failed at damp_percent {percent:g} ({error}); retry {retry + 1} with "
                f"{larger:g}",
            )
            percent = larger
    raise AssertionError("unreachable")


# ---- pruning -----------------------------------------------------------------------------------


class RowOrder(NamedTuple):
    """In which order one group's rows lose their weights, whatever the sparsity."""

    order: NDArray[np.int32]  # [rows, steps], over the live inputs
    loss: Array  # [rows, steps]
    inverse: NDArray[np.float64]  # of the damped Hessian over the live inputs
    damp_percent: float  # after retries


def prune_rows(
    parts: list[Rows], orders: list[RowOrder] | None, options: Options, log: list[str]
) -> tuple[float, Curve]:
    """Prunes by the options' method; `orders` are `order_rows`' for method "exact".

    Returns the damping that was used, and the loss curve where the method knows one.
    """
    pattern = options.pattern
    assert pattern is not None
    percent: float = options.damp_percent
    curve: Curve = ()
    if options.method == "magnitude":
        masks = _shared_masks([np.abs(part.weight) for part in parts], pattern)
        for part, mask in zip(parts, masks, strict=True):
            part.mask, part.result = mask, np.where(mask, part.weight, 0).astype(part.weight.dtype)
        log.append(f"pruned {pattern} by magnitude, weights not updated")
    elif options.method == "blocked":
        _share_evenly(parts, pattern)
        # With bits, the same sweep rounds what it keeps: see quantize_rows.
        if options.bits is None:
            for part in parts:
                percent = max(percent, _sweep(part, options, None, log))
        log.append(f"pruned {pattern} by blocks of {options.block_size} columns")
    else:
        assert orders is not None
        percent, curve = _prune_exact(parts, orders, options, log)
        log.append(f"pruned {pattern} by exact OBS")
    return percent, curve


def order_rows(parts: list[Rows], options: Options, log: list[str]) -> list[RowOrder]:
    """The exact OBS order of every row."""
    pattern = options.pattern
    assert pattern is not None
    orders = []
    for part in parts:

        def invert(matrix: NDArray[np.float64], part: Rows = part) -> Any:
            return inverse(matrix[np.ix_(part.live, part.live)])

        G, percent = _with_damping(part, options.damp_percent, log, invert)
        orders.append(RowOrder(*_order(part, G, pattern, options.backend), G, percent))
    return orders


def _prune_exact(
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
        ranked = np.argsort(np.concatenate([w.ravel() for w in weighed]), kind="stable")
        counts = _share_quota(parts, weighed, ranked, pattern)
        curve = _loss_curve(parts, np.concatenate([f.loss.ravel() for f in orders])[ranked])
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
    mask: NDArray[np.bool_],
    percent: float,
    G: NDArray[np.float64],
    options: Options,
    log: list[str],
) -> float:
    """The survivors' weights. In float32 the Cholesky of a submatrix may fail where that of the whole
    in float64 did not."""
    live, dtype = part.live, part.weight.dtype
    part.mask = mask
    part.result = np.where(mask, part.weight, 0).astype(dtype)
    if not live.any():
        return percent
    known: NDArray[np.float64] | None = G  # of the first attempt's damping

    def solve(matrix: NDArray[np.float64]) -> Any:
        nonlocal known
        G, known = known, None
        return run_obs_solve(
            np.ascontiguousarray(part.weight[:, live]),
            matrix[np.ix_(live, live)].astype(dtype),
            mask[:, live],
            inverse_hessian=G,
            backend=options.backend,
        )

    part.result[:, live], percent = _with_damping(part, percent, log, solve)
    return percent


def _order(
    part: Rows, G: NDArray[np.float64], pattern: Pattern, backend: str | None
) -> tuple[NDArray[np.int32], Array]:
    """Order and loss over the live inputs. With N:M, dead inputs fill their groups' quotas first."""
    live = np.flatnonzero(part.live)
    weight = np.ascontiguousarray(part.weight[:, live])
    G = G.astype(weight.dtype)
    if not pattern.of_m:
        return run_obs_order(weight, G, len(live), backend=backend)
    d = part.weight.shape[1]
    dead = np.bincount(np.flatnonzero(~part.live) // pattern.of_m, minlength=d // pattern.of_m)
    quota = np.maximum(pattern.of_m - pattern.keep_n - dead, 0).astype(np.int32)
    return run_obs_order(
        weight,
        G,
        int(quota.sum()),
        group=(live // pattern.of_m).astype(np.int32),
        quota=quota,
        backend=backend,
    )


def _share_quota(
    parts: list[Rows], losses: list[Array], ranked: NDArray[np.int64], pattern: Pattern
) -> list[NDArray[np.int64]]:
    """How many live weights each row gives up: the layer's quota goes to the least losses, which come
    first in `ranked`."""
    size = sum(part.weight.size for part in parts)
    quota = max(pattern.num_pruned(size) - _silent(parts), 0)
    chosen = np.zeros(ranked.size, dtype=bool)
    chosen[ranked[:quota]] = True
    counts, at = [], 0
    for loss in losses:
        counts.append(chosen[at : at + loss.size].reshape(loss.shape).sum(axis=1))
        at += loss.size
    return counts


def _loss_curve(parts: list[Rows], losses: Array) -> Curve:
    """(sparsity, relative error) from nothing pruned to everything, of losses in the order they fall
    due. The root of the pruned weights' losses over all: by the damped Hessian, before quantization."""
    size, silent = sum(part.weight.size for part in parts), _silent(parts)
    total = np.concatenate([np.zeros(1), np.cumsum(losses, dtype=np.float64)])
    if not 0 < total[-1] < np.inf:
        return ()
    at = [max(round(sparsity * size) - silent, 0) for sparsity in CURVE_SPARSITIES]
    errors = np.sqrt(np.maximum(total[at], 0) / total[-1])
    rounded = (float(f"{error:.4g}") for error in errors)  # for people, and kept in every file
    return tuple(zip(CURVE_SPARSITIES, rounded, strict=True))


def _silent(parts: list[Rows]) -> int:
    """Weights on inputs that never spiked."""
    return sum(len(part.weight) * int((~part.live).sum()) for part in parts)


def _mask_of_steps(
    part: Rows, order: NDArray[np.int32], counts: NDArray[np.int64] | None
) -> NDArray[np.bool_]:
    """Mask of the first ``counts`` removals of each row (None: all). Dead inputs are still kept."""
    mask = np.ones(part.weight.shape, dtype=np.bool_)
    live = np.flatnonzero(part.live)
    steps = np.arange(order.shape[1])[None, :]
    removed = np.full(order.shape, True) if counts is None else steps < counts[:, None]
    rows, at = np.nonzero(removed)
    mask[rows, live[order[rows, at]]] = False
    return mask


def _prune_silent(parts: list[Rows], masks: list[NDArray[np.bool_]], pattern: Pattern) -> None:
    """Dead inputs' weights cost nothing: they fill the quota, the smallest first."""
    size = sum(part.weight.size for part in parts)
    missing = pattern.num_pruned(size) - sum(int((~mask).sum()) for mask in masks)
    sizes = [np.where(part.live[None, :], np.inf, np.abs(part.weight)).ravel() for part in parts]
    least = np.argsort(np.concatenate(sizes), kind="stable")[: max(missing, 0)]
    at = 0
    for mask in masks:
        mine = least[(least >= at) & (least < at + mask.size)] - at
        mask.ravel()[mine] = False
        at += mask.size


def _prune_silent_in_groups(part: Rows, mask: NDArray[np.bool_], pattern: Pattern) -> None:
    """The same for an N:M pattern: dead inputs fill what `_order` left them of each group's quota."""
    size = np.where(part.live[None, :], np.inf, np.abs(part.weight))
    grouped, keep = (a.reshape(len(mask), -1, pattern.of_m) for a in (size, mask))
    rank = np.argsort(np.argsort(grouped, axis=2, kind="stable"), axis=2, kind="stable")
    missing = pattern.of_m - pattern.keep_n - (~keep).sum(axis=2, keepdims=True)
    keep &= ~((rank < missing) & np.isfinite(grouped))


def _share_evenly(parts: list[Rows], pattern: Pattern) -> None:
    """Each group's part of the layer's quota, rounded so that the sum is the layer's."""
    size = given = 0
    for part in parts:
        size += part.weight.size
        part.quota = pattern.num_pruned(size) - given
        given += part.quota


def _shared_masks(scores: list[Array], pattern: Pattern) -> list[NDArray[np.bool_]]:
    """One quota for all groups of a layer."""
    mask = prune_least(np.concatenate(scores), pattern)
    return np.split(mask, np.cumsum([len(score) for score in scores])[:-1])


# ---- quantization ------------------------------------------------------------------------------


def quantize_rows(parts: list[Rows], options: Options, log: list[str]) -> float:
    percent = options.damp_percent
    assert options.bits is not None
    for part in parts:
        grid = _fit(part, options)
        if options.method in ("rtn", "magnitude"):
            part.grid = grid
            part.codes, part.result = grid.round(part.result)
            if part.mask is not None:
                part.result = np.where(part.mask, part.result, 0).astype(part.weight.dtype)
        else:
            percent = max(percent, _sweep(part, options, grid, log))
    log.append(
        f"quantized to {options.bits} bits, {options.grid} grid, "
        f"{'symmetric' if options.sym else 'asymmetric'}, group_size {options.group_size}"
        + (", rounded to nearest" if options.method in ("rtn", "magnitude") else "")
    )
    return percent


def _fit(part: Rows, options: Options) -> Grid:
    assert options.bits is not None
    return fit_grid(
        part.result,
        options.bits,
        kind=options.grid,
        sym=options.sym,
        group_size=options.group_size,
        importance=None
        if options.method in ("rtn", "magnitude")
        else np.diagonal(part.hessian) * part.unit,
        mask=part.mask,
    )


def _sweep(part: Rows, options: Options, grid: Grid | None, log: list[str]) -> float:
    """One obs_quantize over the part: rounds if there is a grid, prunes if the method is "blocked"."""
    pattern = options.pattern if options.method == "blocked" else None
    weight, dead = part.result, ~part.live
    if pattern is not None and dead.all():  # nothing to weigh: by magnitude
        share = replace(pattern, sparsity=part.quota / max(weight.size, 1))
        part.mask = prune_least(np.abs(weight), share)
        part.result = np.where(part.mask, weight, 0).astype(weight.dtype)
        return options.damp_percent if grid is None else _sweep_once(part, options, grid, None, log)
    if pattern is not None:  # free, and so the first to go
        part.result = np.where(dead[None, :], 0, weight).astype(weight.dtype)
    percent = _sweep_once(part, options, grid, pattern, log)
    if pattern is not None and part.mask is not None:  # those that stay keep their value
        kept = part.mask & dead[None, :]
        codes, nearest = (None, weight) if grid is None else grid.round(weight)
        part.result = np.where(kept, nearest, part.result)
        if codes is not None and part.codes is not None:
            part.codes = np.where(kept, codes, part.codes)
    return percent


def _sweep_once(
    part: Rows, options: Options, grid: Grid | None, pattern: Pattern | None, log: list[str]
) -> float:
    weight, unit = part.result, None
    if pattern is not None and not pattern.of_m:
        # Rows compete: each in the unit its output is integrated in, to a power of two, so that the
        # way back is exact.
        exponent = np.frexp(part.row_scale)[1]
        silent = part.row_scale == 0  # such rows give up their weights first
        exponent[silent] = exponent[~silent].min(initial=0) - 16
        unit = np.ldexp(1.0, exponent)[:, None].astype(weight.dtype)
        weight = weight * unit
    scaled = grid
    if grid is not None and unit is not None:
        scaled = replace(grid, scale=grid.scale * unit.astype(np.float32))

    def attempt(matrix: NDArray[np.float64]) -> Any:
        return run_obs_quantize(
            weight,
            matrix,
            scaled,
            block_size=options.block_size,
            act_order=options.act_order,
            mask=part.mask,
            pattern=pattern,
            num_pruned=part.quota,
            backend=options.backend,
        )

    answer, percent = _with_damping(part, options.damp_percent, log, attempt)
    part.result = answer.weight if unit is None else answer.weight / unit
    part.codes, part.grid = answer.codes, grid
    if answer.mask is not None:
        part.mask = answer.mask
    return percent


# ---- loss --------------------------------------------------------------------------------------


def row_losses(parts: list[Rows], weight: Array, changed: Array) -> NDArray[np.float64]:
    change = changed.astype(np.float64) - weight.astype(np.float64)
    losses, at = [], 0
    for part in parts:
        mine = change[at : at + len(part.weight)]
        losses.append(0.5 * np.einsum("ri,ri->r", mine @ part.hessian, mine))
        at += len(part.weight)
    return np.concatenate(losses)
