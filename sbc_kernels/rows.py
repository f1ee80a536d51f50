"""What becomes of a layer's rows: pruned, quantized, or both, under one Hessian a group.

`layer.compress_layer` checks and assembles; the decisions are made here.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from array_api_compat import array_namespace, device

from .grid import Grid, run_fit_grid
from .linalg import inverse
from .obs_order import run_obs_order
from .obs_quantize import run_obs_quantize
from .obs_solve import run_obs_solve
from .pattern import Pattern, prune_least

Array = Any  # NumPy, or torch on a GPU

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
    hessian: Array  # [d, d], float64, undamped
    row_scale: Array  # [rows], float64, of the rows' outputs before they are integrated
    live: Array = field(init=False)  # [d], bool
    silent: int = field(init=False)  # number of inputs that never spiked
    xp: Any = field(init=False)  # the array library
    unit: float = 1.0  # of H, see share_unit
    result: Array = field(init=False)
    quota: int = 0  # of weights to prune by blocks
    mask: Array | None = None
    codes: Array | None = None  # uint8
    grid: Grid | None = None

    def __post_init__(self) -> None:
        self.xp = array_namespace(self.weight)
        self.live = self.hessian.diagonal() > 0
        self.silent = int(self.xp.sum(self.xp.astype(~self.live, self.xp.int64)))
        self.result = self.xp.asarray(self.weight, copy=True)

    @property
    def size(self) -> int:
        """Number of weights."""
        return int(self.weight.shape[0] * self.weight.shape[1])


def share_unit(parts: list[Rows]) -> None:
    """The power of two that brings the mean diagonal of all groups to 0.5 .. 1. One for the layer:
    its groups' losses are compared with each other."""
    xp = parts[0].xp
    live = xp.concat([part.hessian.diagonal()[part.live] for part in parts])
    mean = float(xp.mean(live)) if live.shape[0] else 1.0
    for part in parts:
        part.unit = float(np.ldexp(1.0, -int(np.frexp(mean)[1])))


def warn(log: list[str], message: str) -> None:
    log.append(message)
    warnings.warn(message, RuntimeWarning, stacklevel=4)


# ---- damping -----------------------------------------------------------------------------------


def _damped(part: Rows, damp_percent: float) -> Array:
    """H in its unit, with damping; the identity where no input is live."""
    xp, size = part.xp, len(part.hessian)
    where = device(part.hessian)
    if part.silent == size:
        return xp.eye(size, dtype=xp.float64, device=where)
    # Its scale decides nothing, and float32 is not wide enough for all.
    matrix = part.hessian * part.unit
    along = xp.arange(size, device=where)
    matrix[along, along] += damp_percent * xp.mean(matrix.diagonal()[part.live])
    return matrix


def _with_damping(
    part: Rows,
    damp_percent: float,
    log: list[str],
    attempt: Callable[[Array], Any],
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

    order: Array  # [rows, steps], int32, over the live inputs
    loss: Array  # [rows, steps]
    inverse: Array  # of the damped Hessian over the live inputs, float64
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
        masks = _shared_masks(parts, pattern)
        for part, mask in zip(parts, masks, strict=True):
            part.mask, part.result = mask, _where(mask, part.weight)
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

        def invert(matrix: Array, part: Rows = part) -> Any:
            return inverse(_among(matrix, part))

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
        ranked = parts[0].xp.argsort(_flat(weighed), stable=True)
        counts = _share_quota(parts, weighed, ranked, pattern)
        curve = _loss_curve(parts, _flat([found.loss for found in orders])[ranked])
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
    xp, dtype = part.xp, part.weight.dtype
    part.mask = mask
    part.result = _where(mask, part.weight)
    if part.silent == len(part.live):
        return percent
    (live,) = xp.nonzero(part.live)
    known: Array | None = G  # of the first attempt's damping

    def solve(matrix: Array) -> Any:
        nonlocal known
        G, known = known, None
        return run_obs_solve(
            xp.take(part.weight, live, axis=1),
            xp.astype(_among(matrix, part), dtype),
            xp.take(mask, live, axis=1),
            inverse_hessian=G,
            backend=options.backend,
        )

    part.result[:, live], percent = _with_damping(part, percent, log, solve)
    return percent


def _order(part: Rows, G: Array, pattern: Pattern, backend: str | None) -> tuple[Array, Array]:
    """Order and loss over the live inputs. With N:M, dead inputs fill their groups' quotas first."""
    xp, m = part.xp, pattern.of_m
    (live,) = xp.nonzero(part.live)
    weight = xp.take(part.weight, live, axis=1)
    G = xp.astype(G, weight.dtype)
    if not m:
        return run_obs_order(weight, G, live.shape[0], backend=backend)
    dead = xp.sum(xp.astype(xp.reshape(~part.live, (-1, m)), xp.int32), axis=1)
    quota = xp.astype(xp.clip(m - pattern.keep_n - dead, min=0), xp.int32)
    return run_obs_order(
        weight,
        G,
        int(xp.sum(quota)),
        group=xp.astype(live // m, xp.int32),
        quota=quota,
        backend=backend,
    )


def _share_quota(
    parts: list[Rows], losses: list[Array], ranked: Array, pattern: Pattern
) -> list[Array]:
    """How many live weights each row gives up: the layer's quota goes to the least losses, which come
    first in `ranked`."""
    xp = parts[0].xp
    quota = max(pattern.num_pruned(_size(parts)) - _silent(parts), 0)
    chosen = xp.zeros(ranked.shape[0], dtype=xp.int64, device=device(ranked))
    chosen[ranked[:quota]] = 1
    return [xp.sum(mine, axis=1) for mine in _split(chosen, losses)]


def _loss_curve(parts: list[Rows], losses: Array) -> Curve:
    """(sparsity, relative error) from nothing pruned to everything, of losses in the order they fall
    due. The root of the pruned weights' losses over all: by the damped Hessian, before quantization."""
    xp, size, silent = parts[0].xp, _size(parts), _silent(parts)
    at = [max(round(sparsity * size) - silent, 0) for sparsity in CURVE_SPARSITIES]
    # Part by part: a running sum on a GPU is not the same in every run.
    sums = [xp.sum(losses[a:b], dtype=xp.float64) for a, b in pairwise([0, *at])]
    total = np.cumsum(xp.stack(sums).tolist())
    if not 0 < total[-1] < np.inf:
        return ()
    errors = np.sqrt(np.maximum(total, 0) / total[-1])
    rounded = (float(f"{error:.4g}") for error in errors)  # for people, and kept in every file
    return tuple(zip(CURVE_SPARSITIES, rounded, strict=True))


def _silent(parts: list[Rows]) -> int:
    """Weights on inputs that never spiked."""
    return sum(len(part.weight) * part.silent for part in parts)


def _size(parts: list[Rows]) -> int:
    return sum(part.size for part in parts)


def _flat(arrays: list[Array]) -> Array:
    xp = array_namespace(arrays[0])
    return xp.concat([xp.reshape(array, (-1,)) for array in arrays])


def _split(flat: Array, like: list[Array]) -> list[Array]:
    """The inverse of `_flat`."""
    xp, parts, at = array_namespace(flat), [], 0
    for array in like:
        size = array.shape[0] * array.shape[1]
        parts.append(xp.reshape(flat[at : at + size], array.shape))
        at += size
    return parts


def _where(mask: Array, values: Array) -> Array:
    """The values, zero where the mask is False."""
    xp = array_namespace(values)
    return xp.where(mask, values, xp.zeros_like(values))


def _among(matrix: Array, part: Rows) -> Array:
    """The rows and columns of live inputs."""
    if not part.silent:
        return matrix
    xp = part.xp
    (live,) = xp.nonzero(part.live)
    return xp.take(xp.take(matrix, live, axis=0), live, axis=1)


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
    xp, kept = parts[0].xp, _flat(masks)
    missing = pattern.num_pruned(_size(parts)) - int(xp.sum(xp.astype(~kept, xp.int64)))
    least = xp.argsort(_flat([_size_of_silent(part) for part in parts]), stable=True)
    kept[least[: max(missing, 0)]] = False
    for mask, mine in zip(masks, _split(kept, masks), strict=True):
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


def _share_evenly(parts: list[Rows], pattern: Pattern) -> None:
    """Each group's part of the layer's quota, rounded so that the sum is the layer's."""
    size = given = 0
    for part in parts:
        size += part.size
        part.quota = pattern.num_pruned(size) - given
        given += part.quota


def _shared_masks(parts: list[Rows], pattern: Pattern) -> list[Array]:
    """By magnitude, one quota for all groups of a layer."""
    xp = parts[0].xp
    mask = prune_least(xp.abs(xp.concat([part.weight for part in parts])), pattern)
    return _split(xp.reshape(mask, (-1,)), [part.weight for part in parts])


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
                part.result = _where(part.mask, part.result)
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
    return run_fit_grid(
        part.result,
        options.bits,
        kind=options.grid,
        sym=options.sym,
        group_size=options.group_size,
        importance=None
        if options.method in ("rtn", "magnitude")
        else part.hessian.diagonal() * part.unit,
        mask=part.mask,
    )


def _sweep(part: Rows, options: Options, grid: Grid | None, log: list[str]) -> float:
    """One obs_quantize over the part: rounds if there is a grid, prunes if the method is "blocked"."""
    pattern = options.pattern if options.method == "blocked" else None
    xp, weight, dead = part.xp, part.result, ~part.live
    if pattern is not None and part.silent == len(dead):  # nothing to weigh: by magnitude
        share = replace(pattern, sparsity=part.quota / max(part.size, 1))
        part.mask = prune_least(xp.abs(weight), share)
        part.result = _where(part.mask, weight)
        return options.damp_percent if grid is None else _sweep_once(part, options, grid, None, log)
    if pattern is not None:  # free, and so the first to go
        part.result = _where(~dead[None, :], weight)
    percent = _sweep_once(part, options, grid, pattern, log)
    if pattern is not None and part.mask is not None:  # those that stay keep their value
        kept = part.mask & dead[None, :]
        codes, nearest = (None, weight) if grid is None else grid.round(weight)
        part.result = xp.where(kept, nearest, part.result)
        if codes is not None and part.codes is not None:
            part.codes = xp.where(kept, codes, part.codes)
    return percent


def _sweep_once(
    part: Rows, options: Options, grid: Grid | None, pattern: Pattern | None, log: list[str]
) -> float:
    weight, unit = part.result, None
    if pattern is not None and not pattern.of_m:
        # Rows compete: each in the unit its output is integrated in, to a power of two, so that the
        # way back is exact.
        xp = part.xp
        exponent = xp.astype(xp.frexp(part.row_scale)[1], xp.int32)
        silent = part.row_scale == 0  # such rows give up their weights first
        least = xp.min(xp.where(silent, xp.zeros_like(exponent), exponent))
        exponent = xp.where(silent, least - 16, exponent)
        unit = xp.astype(xp.ldexp(xp.ones_like(part.row_scale), exponent), weight.dtype)[:, None]
        weight = weight * unit
    scaled = grid
    if grid is not None and unit is not None:
        scaled = replace(grid, scale=grid.scale * part.xp.astype(unit, part.xp.float32))

    def attempt(matrix: Array) -> Any:
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


def row_losses(parts: list[Rows], weight: Array, changed: Array) -> Array:
    """``1/2 dw H dw'`` of each row, in float64."""
    xp = parts[0].xp
    change = xp.astype(changed, xp.float64) - xp.astype(weight, xp.float64)
    losses, at = [], 0
    for part in parts:
        mine = change[at : at + len(part.weight)]
        quadratic = xp.einsum("ri,ri->r", mine @ part.hessian, mine)
        losses.append(0.5 * xp.clip(quadratic, min=0.0))  # rounding can leave less
        at += len(part.weight)
    return xp.concat(losses)
