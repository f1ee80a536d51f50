"""Prune and quantize rows that share one Hessian."""

from __future__ import annotations

from ..sparsity import Pattern, prune_least
from .exact import Curve, RowOrder, prune_exact
from .options import Options
from .rows import Array, Rows, masked, unflatten
from .sweep import fit_part, share_evenly, sweep


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
            part.mask, part.result = mask, masked(mask, part.weight)
        log.append(f"pruned {pattern} by magnitude, weights not updated")
    elif options.method == "blocked":
        share_evenly(parts, pattern)
        # With bits, the same sweep rounds what it keeps: see quantize_rows.
        if options.bits is None:
            for part in parts:
                percent = max(percent, sweep(part, options, None, log))
        log.append(f"pruned {pattern} by blocks of {options.block_size} columns")
    else:
        assert orders is not None
        percent, curve = prune_exact(parts, orders, options, log)
        log.append(f"pruned {pattern} by exact OBS")
    return percent, curve


def _shared_masks(parts: list[Rows], pattern: Pattern) -> list[Array]:
    """By magnitude, one quota for all groups of a layer."""
    xp = parts[0].xp
    mask = prune_least(xp.abs(xp.concat([part.weight for part in parts])), pattern)
    return unflatten(xp.reshape(mask, (-1,)), [part.weight for part in parts])


def quantize_rows(parts: list[Rows], options: Options, log: list[str]) -> float:
    percent = options.damp_percent
    assert options.bits is not None
    for part in parts:
        grid = fit_part(part, options)
        if options.method in ("rtn", "magnitude"):
            part.grid = grid
            part.codes, part.result = grid.round(part.result)
            if part.mask is not None:
                part.result = masked(part.mask, part.result)
        else:
            percent = max(percent, sweep(part, options, grid, log))
    log.append(
        f"quantized to {options.bits} bits, {options.grid} grid, "
        f"{'symmetric' if options.sym else 'asymmetric'}, group_size {options.group_size}"
        + (", rounded to nearest" if options.method in ("rtn", "magnitude") else "")
    )
    return percent


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
