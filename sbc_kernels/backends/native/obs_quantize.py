"""GPTQ-style column sweep: csrc/obs_quantize."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ... import _native
from ...arrays import NumpyArray
from ...grid import Grid
from ...sparsity import Pattern
from ...threads import thread_count
from ..kernels import note_kernel
from ..protocol import QuantizedRows
from .factor import upper_factor


def obs_quantize(
    weight: NumpyArray,
    hessian: NumpyArray,
    grid: Grid | None,
    block_size: int,
    act_order: bool,
    mask: NDArray[np.bool_] | None,
    pattern: Pattern | None,
    num_pruned: int | None,
    isa: str,
) -> QuantizedRows:
    rows, d = weight.shape
    dtype = weight.dtype
    unstructured = pattern is not None and not pattern.of_m
    if num_pruned is None and pattern is not None:
        num_pruned = pattern.num_pruned(rows * d)
    perm = np.arange(d, dtype=np.int32)
    if act_order:
        perm = np.argsort(-np.diagonal(hessian), kind="stable").astype(np.int32)
    factor = upper_factor(hessian, perm, isa).astype(dtype, copy=False)
    note_kernel("obs_quantize", isa)
    quantized = np.empty_like(weight)
    loss = np.zeros(rows, dtype=dtype)
    codes = None if grid is None else np.empty((rows, d), dtype=np.uint8)
    kept = None if pattern is None else np.ones((rows, d), dtype=np.uint8)
    _native.obs_quantize(
        weight=weight,
        factor=factor,
        perm=perm,
        block_size=min(block_size, max(d, 1)),
        bits=0 if grid is None else grid.bits,
        scale=None if grid is None else grid.scale.astype(dtype),
        zero_point=None if grid is None else grid.zero_point.astype(dtype),
        group=None if grid is None else grid.group_of_column(d),
        mask=None if mask is None else np.ascontiguousarray(mask).view(np.uint8),
        num_pruned=num_pruned if unstructured and num_pruned is not None else 0,
        keep_n=0 if pattern is None else pattern.keep_n,
        of_m=0 if pattern is None else pattern.of_m,
        quantized=quantized,
        codes=codes,
        kept=kept,
        loss=loss,
        isa=isa,
        threads=thread_count(),
    )
    keep = None if kept is None else kept.view(np.bool_)
    if keep is not None and mask is not None:
        keep &= mask  # a quota of 0 leaves all of them kept
    return QuantizedRows(codes, quantized, loss, keep)
