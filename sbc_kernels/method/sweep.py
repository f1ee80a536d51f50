"""The column sweep: prune by blocks, round, or both."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ..backends.registry import backend_for
from ..grid import Grid, run_fit_grid
from ..sparsity import Pattern, prune_least
from .damping import with_damping
from .options import Options
from .rows import Array, Rows, masked


def share_evenly(parts: list[Rows], pattern: Pattern) -> None:
    """Each group's part of the layer's quota, rounded so that the sum is the layer's."""
    size = given = 0
    for part in parts:
        size += part.size
        part.quota = pattern.num_pruned(size) - given
        given += part.quota


def fit_part(part: Rows, options: Options) -> Grid:
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


def sweep(part: Rows, options: Options, grid: Grid | None, log: list[str]) -> float:
    """One obs_quantize over the part: rounds if there is a grid, prunes if the method is "blocked"."""
    pattern = options.pattern if options.method == "blocked" else None
    xp, weight, dead = part.xp, part.result, ~part.live
    if pattern is not None and part.silent == len(dead):  # nothing to weigh: by magnitude
        share = replace(pattern, sparsity=part.quota / max(part.size, 1))
        part.mask = prune_least(xp.abs(weight), share)
        part.result = masked(part.mask, weight)
        return options.damp_percent if grid is None else _sweep_once(part, options, grid, None, log)
    if pattern is not None:  # free, and so the first to go
        part.result = masked(~dead[None, :], weight)
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
        return backend_for(weight, options.backend).obs_quantize(
            weight,
            matrix,
            scaled,
            block_size=options.block_size,
            act_order=options.act_order,
            mask=part.mask,
            pattern=pattern,
            num_pruned=part.quota,
        )

    answer, percent = with_damping(part, options.damp_percent, log, attempt)
    part.result = answer.weight if unit is None else answer.weight / unit
    part.codes, part.grid = answer.codes, grid
    if answer.mask is not None:
        part.mask = answer.mask
    return percent
