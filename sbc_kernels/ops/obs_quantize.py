"""GPTQ-style column sweep: round, prune by block, or both, with every column's error carried on."""

from __future__ import annotations

from dataclasses import replace

from ..arrays import (
    Array,
    kept_mask,
    loss_in_units,
    require_range,
    require_same_device,
    row_exponents,
    times_power,
    to_array,
    weight_and_matrix,
)
from ..backends.protocol import QuantizedRows
from ..backends.registry import backend_of
from ..errors import ParameterError, ParameterTypeError
from ..grid import Grid
from ..scalars import as_integer
from ..sparsity import Pattern

__all__ = ["QuantizedRows", "obs_quantize"]


def obs_quantize(
    weight: Array,
    hessian: Array,
    grid: Grid | None,
    *,
    block_size: int = 128,
    act_order: bool = True,
    mask: Array | None = None,
    pattern: Pattern | None = None,
    backend: str | None = None,
) -> QuantizedRows:
    """Quantizes column by column; later columns compensate for each column's error.

    The result is GPTQ's (arXiv 2210.17323), computed with one Cholesky factorisation and no inverse:
    with ``H = R R'``, R upper triangular in the order of the sweep, step j rounds
    ``w_j + sum_{l<j} (w_l - q_l) R_lj / R_jj``.

    Parameters
    ----------
    weight : float32 or float64 [d_out, d_in].
    hessian : of the same dtype or float64, [d_in, d_in], symmetric positive definite, such as
        `damped_hessian` gives. It is factored in float64.
    grid : the levels, see `fit_grid`; None does not round (then give `pattern`).
    block_size : columns that choose their mask together, with `pattern`; a multiple of M for N:M.
        Without `pattern` it changes nothing.
    act_order : sweep in the order of falling diagonal of H. Must be False for an N:M pattern.
    mask : bool [d_out, d_in], True = kept. Zeros stay zero and only survivors are quantized.
    pattern : prune as well, SparseGPT-style (arXiv 2301.00774): each block of columns gives up its
        least ``target^2 R_jj^2`` just before it is swept. Not together with `mask`.
    backend : a name of `available_backends()`, or None for the fastest.

    Returns
    -------
    QuantizedRows

    Raises
    ------
    TypeError, ValueError : naming the parameter, what was given and what is accepted.
    numpy.linalg.LinAlgError : the Hessian is not positive definite.
    """
    runner = backend_of(weight, "weight", backend)
    w, h, restore = weight_and_matrix(weight, hessian, "hessian", runner.device)
    require_range(h, "hessian", w)
    if grid is not None and not isinstance(grid, Grid):
        raise ParameterTypeError(
            "grid", grid, "a Grid of fit_grid, or None", shown=f"a {type(grid).__name__}"
        )
    if grid is None and pattern is None:
        raise ValueError("grid and pattern are both None; accepted is at least one of them")
    if grid is not None:
        scale, zero_point = (
            to_array(array, "grid", runner.device)[0] for array in (grid.scale, grid.zero_point)
        )
        require_same_device(scale, "grid", w, "weight")
        require_same_device(zero_point, "grid", w, "weight")
        grid = replace(grid, scale=scale, zero_point=zero_point)
        grid.require_fits(w.shape)
    columns = as_integer(block_size)
    if columns is None or columns < 1:
        raise ParameterError("block_size", block_size, "an integer of at least 1")
    keep = None
    if mask is not None:
        if pattern is not None:
            raise ValueError("mask and pattern are both given; accepted is one of them")
        keep = kept_mask(mask, w.shape, runner.device)
        require_same_device(keep, "mask", w, "weight")
    if pattern is not None:
        if not isinstance(pattern, Pattern):
            raise ParameterTypeError(
                "pattern", pattern, "a Pattern, or None", shown=f"a {type(pattern).__name__}"
            )
        pattern.require_fits(w.shape)
        if pattern.of_m and act_order:
            raise ParameterError(
                "act_order", act_order, "False", shown=f"{act_order} with an N:M pattern"
            )
        if pattern.of_m and columns % pattern.of_m:
            raise ParameterError("block_size", block_size, f"a multiple of M = {pattern.of_m}")
    exponent = row_exponents(w)  # the squares of a loss leave float32's range before the weights do
    if pattern is not None and not pattern.of_m:  # rows compete
        exponent = exponent * 0 + (max(exponent.tolist(), default=0))
    if grid is not None:
        grid = replace(grid, scale=times_power(grid.scale, -exponent[:, None]))
    rows = runner.obs_quantize(
        times_power(w, -exponent[:, None]),
        h,
        grid,
        block_size=columns,
        act_order=act_order,
        mask=keep,
        pattern=pattern,
    )
    rows = rows._replace(
        weight=times_power(rows.weight, exponent[:, None]),
        loss=loss_in_units(rows.loss, exponent, rows.loss.dtype),
    )
    return QuantizedRows(*(None if part is None else restore(part) for part in rows))
