"""The loss of each row of a layer when its weights change."""

from __future__ import annotations

from ..arrays import Array
from .rows import Rows


def row_losses(parts: list[Rows], weight: Array, changed: Array) -> Array:
    """Returns ``1/2 dw H dw'`` of each row with the undamped Hessian, in float64."""
    xp = parts[0].xp
    change = xp.astype(changed, xp.float64) - xp.astype(weight, xp.float64)
    losses, start = [], 0
    for part in parts:
        rows = change[start : start + len(part.weight)]
        quadratic = xp.einsum("ri,ri->r", rows @ part.hessian, rows)
        losses.append(0.5 * xp.clip(quadratic, min=0.0))  # rounding can leave less
        start += len(part.weight)
    return xp.concat(losses)
