"""The rows of a layer in units of their own, powers of two, and the results back in the caller's.

float32 has no room for the squares of all numbers that it has room for. In its unit a row's largest
weight is 0.5 to 1; rows are compared with each other in float64.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from array_api_compat import array_namespace, device

from ..arrays import Array, matrix_product, powers_of_two, row_exponents, times_power
from ..errors import ParameterError
from ..grid import Grid
from .damping import warn
from .rows import Rows, masked, num_weights

_WIDEST = 480  # rows further apart than 2^_WIDEST count as so far apart: float64 holds the squares


def parts_in_units(
    flat: Array, stack: Array, row_scale: Array, backend: str | None, log: list[str]
) -> tuple[Array, list[Rows]]:
    """Returns the exponents of the rows' units, [d_out], and the rows of each group in them.

    Parameters
    ----------
    flat : the weight [d_out, d], finite.
    stack : the Hessian of each group.
    row_scale : of the rows' outputs, [d_out].
    """
    xp = array_namespace(flat)
    exponent = row_exponents(flat)
    zero = flat == 0
    silent = xp.all(zero, axis=1)
    top = int(xp.max(xp.where(silent, xp.full_like(exponent, -2000), exponent)))
    exponent = xp.where(silent, xp.full_like(exponent, top), exponent)
    row_unit = powers_of_two(xp.clip(exponent - top, min=-_WIDEST))
    weight = times_power(flat, -exponent[:, None])
    count = int(xp.count_nonzero(zero))
    if count:
        log.append(f"{count} weights are zero from the start and stay zero")
    rows = len(flat) // len(stack)
    parts = []
    for group, matrix in enumerate(stack):
        own = slice(group * rows, (group + 1) * rows)
        part = Rows(
            weight[own],
            matrix,
            row_scale[own] * row_unit[own],
            backend,
            row_unit=row_unit[own],
            kept=~zero[own] if count else None,
        )
        parts.append(part)
    return exponent, parts


def in_callers_units(
    W: Array, flat: Array, exponent: Array, parts: list[Rows], log: list[str]
) -> Array:
    """Returns the result [d_out, d]; the parts' grids are in these units then, too.

    A weight that was not changed is as it was given, also if it is no normal number in its row's unit.

    Raises
    ------
    ParameterError : W needs a grid whose scale float32 cannot hold.
    """
    xp = array_namespace(flat)
    lost = 0
    for part, own in zip(parts, xp.reshape(exponent, (len(parts), -1)), strict=True):
        if part.grid is not None:
            lost += _rescale_grid(part, part.grid, own, W)
    if lost:
        warn(
            log,
            f"{lost} groups of weights are too small for the scale of a grid, a normal float32, and "
            "are rounded to 0",
        )
    result = xp.concat([part.result for part in parts])
    with np.errstate(over="ignore"):  # the caller refuses infinities
        scaled = times_power(result, exponent[:, None])
    if parts[0].grid is not None:
        return scaled
    weight = xp.concat([part.weight for part in parts])
    return xp.where(result == weight, flat, scaled)


def drop_small_masks(parts: list[Rows]) -> None:
    """Lets the codes say which weights are zero, where that takes less room in a file than a mask.

    A mask takes a bit a weight and saves the codes of zeros. One bit has no code of zero.
    """
    if parts[0].mask is None or parts[0].grid is None or parts[0].grid.bits == 1:
        return
    xp, bits = parts[0].xp, parts[0].grid.bits
    zeros = sum(int(xp.count_nonzero(~part.mask)) for part in parts if part.mask is not None)
    if zeros * bits >= num_weights(parts):
        return
    for part in parts:
        assert part.grid is not None
        zero_point = part.grid.zero_point[:, part.grid.group_of_column(part.weight.shape[1])]
        part.codes = xp.where(part.mask, part.codes, xp.astype(zero_point, xp.uint8))
        part.mask = None


def _rescale_grid(part: Rows, grid: Grid, exponent: Array, W: Array) -> int:
    """Takes a part's grid from the rows' units to the caller's. Returns how many groups are lost.

    These have a scale below float32's normal numbers: all their weights are 0 then.
    """
    xp = part.xp
    limits = xp.finfo(xp.float32)
    scale = times_power(xp.astype(grid.scale, xp.float64), exponent[:, None])
    if bool(xp.any(scale > float(limits.max))):
        raise ParameterError(
            "W",
            W,
            "a smaller scale",
            verb="has",
            shown=f"weights whose grid needs a scale of {float(xp.max(scale)):.4g}, which float32 "
            "cannot hold",
        )
    group = grid.group_of_column(part.weight.shape[1])
    small = scale < float(limits.smallest_normal)
    lost = small[:, group] & (part.weight != 0)
    if bool(xp.any(lost)):
        mask = xp.ones_like(lost) if part.mask is None else part.mask
        part.mask = mask & ~small[:, group]
        part.result = masked(part.mask, part.result)
    scale = xp.where(small, xp.ones_like(scale), scale)
    part.grid = replace(grid, scale=xp.astype(scale, xp.float32))
    return int(xp.count_nonzero(small & _any_of_group(lost, grid)))


def _any_of_group(flags: Array, grid: Grid) -> Array:
    """Returns whether any flag of a row's group is set, bool [rows, groups]."""
    xp = array_namespace(flags)
    group = grid.group_of_column(flags.shape[1])
    of_group = group[:, None] == xp.arange(grid.scale.shape[1], device=device(group))[None, :]
    counts = matrix_product(xp.astype(flags, xp.float32), xp.astype(of_group, xp.float32))
    return counts > 0
