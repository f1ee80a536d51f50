"""GPTQ-style column sweep: round, prune by block, or both, with every column's error carried on."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from array_api_compat import array_namespace

from ..arrays import kept_mask, weight_and_matrix
from ..backends.registry import resolve
from ..grid import Grid
from ..sparsity import Pattern
from .factor import upper_factor

__all__ = ["QuantizedRows", "obs_quantize"]


class QuantizedRows(NamedTuple):
    """What `obs_quantize` answers.

    Attributes
    ----------
    codes : uint8 [d_out, d_in], or None without a grid.
    weight : the dequantized weights, weight's dtype [d_out, d_in].
    loss : [d_out], each row's ``1/2 (w - q) H (w - q)'`` with the Hessian given.
    mask : bool [d_out, d_in], True = kept, where this call pruned; else None.
    """

    codes: Any
    weight: Any
    loss: Any
    mask: Any


def obs_quantize(
    weight: Any,
    hessian: Any,
    grid: Grid | None,
    *,
    block_size: int = 128,
    act_order: bool = True,
    mask: Any = None,
    pattern: Pattern | None = None,
    backend: str | None = None,
) -> QuantizedRows:
    """Quantizes column by column; each column's error is made up for by the columns after it.

    The answer is GPTQ's (arXiv 2210.17323), found with one Cholesky factorisation and no inverse:
    with ``H = R R'``, R upper triangular in the order of the sweep, step j rounds
    ``w_j + sum_{l<j} (w_l - q_l) R_lj / R_jj``.

    Parameters
    ----------
    weight : float32 or float64 [d_out, d_in].
    hessian : of the same dtype, [d_in, d_in], symmetric positive definite.
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
    TypeError, ValueError : naming the parameter, what came and what is accepted.
    numpy.linalg.LinAlgError : the Hessian is not positive definite.
    """
    w, h, restore = weight_and_matrix(weight, hessian, "hessian", backend)
    if grid is not None and not isinstance(grid, Grid):
        raise TypeError(f"grid is a {type(grid).__name__}; accepted is a Grid of fit_grid, or None")
    if grid is None and pattern is None:
        raise ValueError("grid and pattern are both None; accepted is at least one of them")
    if grid is not None:
        grid.require_fits(w.shape)
    if not isinstance(block_size, (int, np.integer)) or block_size < 1:
        raise ValueError(f"block_size is {block_size!r}; accepted is an integer of at least 1")
    keep = None
    if mask is not None:
        if pattern is not None:
            raise ValueError("mask and pattern are both given; accepted is one of them")
        keep = kept_mask(mask, w.shape, backend)
    if pattern is not None:
        if not isinstance(pattern, Pattern):
            raise TypeError(
                f"pattern is a {type(pattern).__name__}; accepted is a Pattern, or None"
            )
        pattern.require_fits(w.shape)
        if pattern.of_m and act_order:
            raise ValueError("act_order is True with an N:M pattern; accepted is False")
        if pattern.of_m and block_size % pattern.of_m:
            raise ValueError(
                f"block_size is {block_size}; accepted is a multiple of M = {pattern.of_m}"
            )
    answer = run_obs_quantize(
        w,
        h,
        grid,
        block_size=int(block_size),
        act_order=act_order,
        mask=keep,
        pattern=pattern,
        backend=backend,
    )
    return QuantizedRows(*(None if part is None else restore(part) for part in answer))


def run_obs_quantize(
    weight: Any,
    hessian: Any,
    grid: Grid | None,
    *,
    block_size: int,
    act_order: bool,
    mask: Any,
    pattern: Pattern | None,
    num_pruned: int | None = None,
    backend: str | None = None,
) -> QuantizedRows:
    """The op on checked arrays, NumPy or on a GPU; ``num_pruned`` in place of what an unstructured
    pattern would give."""
    rows, d = weight.shape
    dtype = weight.dtype
    if num_pruned is None and pattern is not None:
        num_pruned = pattern.num_pruned(rows * d)
    if not isinstance(weight, np.ndarray):
        return _on_device(
            weight, hessian, grid, block_size, act_order, mask, pattern, num_pruned, backend
        )
    perm = np.arange(d, dtype=np.int32)
    if act_order:
        perm = np.argsort(-np.diagonal(hessian), kind="stable").astype(np.int32)
    factor = upper_factor(hessian, perm, backend).astype(dtype, copy=False)
    quantized = np.empty_like(weight)
    loss = np.zeros(rows, dtype=dtype)
    codes = None if grid is None else np.empty((rows, d), dtype=np.uint8)
    kept = None if pattern is None else np.ones((rows, d), dtype=np.uint8)
    resolve("obs_quantize", backend)(
        weight=weight,
        factor=factor,
        perm=perm,
        block_size=min(block_size, max(d, 1)),
        bits=0 if grid is None else grid.bits,
        scale=None if grid is None else grid.scale.astype(dtype),
        zero_point=None if grid is None else grid.zero_point.astype(dtype),
        group=None if grid is None else grid.group_of_column(d),
        mask=None if mask is None else np.ascontiguousarray(mask).view(np.uint8),
        num_pruned=0 if pattern is None or pattern.of_m else num_pruned,
        keep_n=0 if pattern is None else pattern.keep_n,
        of_m=0 if pattern is None else pattern.of_m,
        quantized=quantized,
        codes=codes,
        kept=kept,
        loss=loss,
    )
    return QuantizedRows(codes, quantized, loss, None if kept is None else kept.view(np.bool_))


def _on_device(
    weight: Any,
    hessian: Any,
    grid: Grid | None,
    block_size: int,
    act_order: bool,
    mask: Any,
    pattern: Pattern | None,
    num_pruned: int | None,
    backend: str | None,
) -> QuantizedRows:
    xp, d = array_namespace(weight), weight.shape[1]
    perm = xp.arange(d, dtype=xp.int32, device=weight.device)
    if act_order:
        perm = xp.astype(xp.argsort(-hessian.diagonal(), stable=True), xp.int32)
    answer = resolve("obs_quantize", backend, "cuda")(
        weight=weight,
        hessian=hessian,
        perm=perm,
        block_size=min(block_size, max(d, 1)),
        bits=0 if grid is None else grid.bits,
        scale=None if grid is None else xp.astype(grid.scale, weight.dtype),
        zero_point=None if grid is None else xp.astype(grid.zero_point, weight.dtype),
        group=None if grid is None else grid.group_of_column(d),
        mask=mask,
        num_pruned=0 if pattern is None or pattern.of_m else num_pruned,
        keep_n=0 if pattern is None else pattern.keep_n,
        of_m=0 if pattern is None else pattern.of_m,
    )
    codes, quantized, loss, kept = answer
    if pattern is not None and kept is None:  # a pattern that prunes nothing
        kept = xp.ones(weight.shape, dtype=xp.bool, device=weight.device)
    return QuantizedRows(codes, quantized, loss, kept)
