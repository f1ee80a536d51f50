"""The loss of each row of a layer when its weights change."""

from __future__ import annotations

import numpy as np

from ..arrays import Array, matrix_product, times_power
from .damping import warn
from .rows import Rows


def row_losses(
    parts: list[Rows],
    weight: Array,
    changed: Array,
    exponent: Array,
    log: list[str],
    hessian_exponent: int = 0,
) -> Array:
    """Returns ``1/2 dw H dw'`` of each row with the undamped Hessian, in float64.

    `exponent` [d_out] are those of the rows' units; H is 2^hessian_exponent times the parts'. What
    float64 cannot hold is infinite or 0, which the log and a warning say.
    """
    xp = parts[0].xp
    after, before = xp.astype(changed, xp.float64), xp.astype(weight, xp.float64)
    halved = int(int(xp.max(exponent)) > 1000)  # their difference could overflow
    if halved:
        after, before = 0.5 * after, 0.5 * before
    change = times_power(after - before, halved - exponent[:, None])
    losses, start = [], 0
    for part in parts:
        rows = change[start : start + len(part.weight)]
        quadratic = xp.einsum("ri,ri->r", matrix_product(rows * part.unit, part.hessian), rows)
        losses.append(0.5 * xp.clip(quadratic, min=0.0))  # rounding can leave less
        start += len(part.weight)
    in_units = xp.concat(losses)
    back = 2 * exponent - int(np.frexp(parts[0].unit)[1]) + 1 + hessian_exponent
    with np.errstate(over="ignore", under="ignore"):
        loss = times_power(in_units, back, factors=8)
    wrong = ~xp.isfinite(loss) | ((loss == 0) & (in_units > 0))
    if bool(xp.any(wrong)):
        warn(
            log,
            f"the losses of {int(xp.count_nonzero(wrong))} rows are beyond float64's range and are "
            "reported as infinite or 0; the weights are as they would be at any other scale",
        )
    return loss
