"""The column sweep, which prunes by blocks, rounds, or both; method "blocked" is made of it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ..arrays import Array, powers_of_two
from ..backends.registry import backend_for
from ..errors import ParameterError
from ..grid import Grid, run_fit_grid
from ..sparsity import Pattern, prune_least
from .damping import Damping, with_damping
from .options import LayerOptions, Method, Outcome
from .rows import Rows, masked, may_stay

# Rows whose units lie further apart than 2^_WIDE compete in float64, where squares have room for twice
# _WIDEST; beyond that they count as so far apart.
_WIDE = 40
_WIDEST = 480


class Blocked(Method):
    """Prunes in the sweep that rounds, block by block of columns, with one order for all rows."""

    doc = "SparseGPT's order, shared by all rows, far cheaper"

    def adapted(self, options: LayerOptions) -> LayerOptions:
        """Returns options that suit an N:M pattern: natural order, and whole groups in a block."""
        pattern = options.pattern
        if pattern is None or not pattern.of_m:
            return options
        if options.act_order:
            raise ParameterError(
                "act_order",
                True,
                "accepted is False",
                shown="True with method 'blocked' and an N:M pattern",
            )
        block_size = -(-options.block_size // pattern.of_m) * pattern.of_m
        return replace(options, act_order=False, block_size=block_size)

    def compress(
        self, parts: list[Rows], order: Any, options: LayerOptions, log: list[str]
    ) -> Outcome:
        pattern = options.pattern
        if pattern is not None:
            _share_evenly(parts, pattern)
            log.append(f"pruned {pattern} by blocks of {options.block_size} columns")
        damping = Damping(options.damp_percent)
        for part in parts:
            grid = None if options.bits is None else fit_part(part, options)
            damping = damping.joined(_prune_in_sweep(part, options, grid, log))
        if options.bits is not None:
            log.append(quantized_line(options))
        return Outcome(damping)

    def cost(self, d_out: int, d_in: int) -> float:
        """Returns the cost of a factorisation and of a rank-one update to the right of each column."""
        return float(d_in) ** 3 + d_out * float(d_in) ** 2

    def work_bytes(self, d_out: int, d_in: int) -> int:
        """The damped Hessian and its factor, in two precisions and packed."""
        return 24 * d_in**2 + 36 * d_out * d_in


def round_rows(parts: list[Rows], options: LayerOptions, log: list[str]) -> Damping:
    """Rounds the kept weights of every part; later inputs compensate for each error."""
    damping = Damping(options.damp_percent)
    for part in parts:
        damping = damping.joined(sweep(part, options, fit_part(part, options), None, log))
    log.append(quantized_line(options))
    return damping


def fit_part(part: Rows, options: LayerOptions, weighted: bool = True) -> Grid:
    """Returns a grid for a part's kept weights, `weighted` by the Hessian's diagonal."""
    assert options.bits is not None
    return run_fit_grid(
        part.result,
        options.bits,
        kind=options.grid,
        sym=options.sym,
        group_size=options.group_size,
        importance=part.hessian.diagonal() * part.unit if weighted else None,
        mask=part.mask,
    )


def quantized_line(options: LayerOptions) -> str:
    """Returns the log's line about a quantization."""
    return (
        f"quantized to {options.bits} bits, {options.grid} grid, "
        f"{'symmetric' if options.sym else 'asymmetric'}, group_size {options.group_size}"
    )


def _share_evenly(parts: list[Rows], pattern: Pattern) -> None:
    """Each group's part of the layer's quota, rounded so that the sum is the layer's."""
    size = shared = 0
    for part in parts:
        size += part.size
        part.quota = pattern.num_pruned(size) - shared
        shared += part.quota


def _prune_in_sweep(
    part: Rows, options: LayerOptions, grid: Grid | None, log: list[str]
) -> Damping:
    """Runs one sweep, which prunes if there is a pattern and rounds if there is a grid."""
    pattern, xp, weight, dead = options.pattern, part.xp, part.result, ~part.live
    if pattern is None:
        part.mask = part.kept
        return sweep(part, options, grid, None, log)
    if part.silent == len(dead):  # nothing to weigh: by magnitude
        share = replace(pattern, sparsity=part.quota / max(part.size, 1))
        part.mask = may_stay(prune_least(part.sizes(), share), part)
        part.result = masked(part.mask, weight)
        if grid is None:
            return Damping(options.damp_percent)
        return sweep(part, options, grid, None, log)
    part.result = masked(~dead[None, :], weight)  # weights that cost nothing are the first to go
    damping = sweep(part, options, grid, pattern, log)
    if part.mask is not None:  # those that stay keep their value
        kept = part.mask & dead[None, :]
        codes, nearest = (None, weight) if grid is None else grid.round(weight)
        part.result = xp.where(kept, nearest, part.result)
        if codes is not None and part.codes is not None:
            part.codes = xp.where(kept, codes, part.codes)
    return damping


def sweep(
    part: Rows,
    options: LayerOptions,
    grid: Grid | None,
    pattern: Pattern | None,
    log: list[str],
) -> Damping:
    """Runs obs_quantize on the part, which rounds to `grid` and prunes to `pattern` unless None."""
    weight, unit = part.result, None
    if pattern is not None and not pattern.of_m:
        # Rows compete: each in the unit its output is integrated in, to a power of two, so that the
        # way back is exact.
        xp = part.xp
        exponent = xp.astype(xp.frexp(part.row_scale)[1], xp.int64)
        exponent = exponent - xp.max(exponent)
        silent = part.row_scale == 0  # such rows give up their weights first
        least = xp.min(xp.where(silent, xp.zeros_like(exponent), exponent))
        exponent = xp.where(silent, least - 16, exponent)
        unit = powers_of_two(xp.clip(exponent, min=-_WIDEST))[:, None]
        if int(least) < -_WIDE:
            weight = xp.astype(weight, xp.float64)
        unit = xp.astype(unit, weight.dtype)
        weight = weight * unit
    scaled = grid
    if grid is not None and unit is not None:
        scaled = replace(grid, scale=part.xp.astype(grid.scale, weight.dtype) * unit)

    def attempt(matrix: Array) -> Any:
        return backend_for(weight, part.backend).obs_quantize(
            weight,
            matrix,
            scaled,
            block_size=options.block_size,
            act_order=options.act_order,
            mask=part.mask if pattern is None else part.kept,
            pattern=pattern,
            num_pruned=part.quota,
        )

    rows, damping = with_damping(part, options.damp_percent, log, attempt)
    result = rows.weight if unit is None else rows.weight / unit
    part.result = part.xp.astype(result, part.weight.dtype, copy=False)
    part.codes, part.grid = rows.codes, grid
    if rows.mask is not None:
        part.mask = rows.mask
    return damping
