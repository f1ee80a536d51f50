"""Factorisations of the shared Hessian, and the product that the sweeps need.

The factorisations are cuSOLVER's, by way of torch, always in float64: in float32 the factor's error
grows with the condition of H and shows in the codes. At d = 4096 a Cholesky is 23 GFLOP: by estimate
5 ms where float64 runs at half speed, and still only 20 to 40 ms on a card that has a 64th of it.

The product is a kernel of its own because torch's obeys ``allow_tf32``, a global that is not ours.
"""
# mypy: disable-error-code="no-untyped-def, untyped-decorator"

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..cholesky import require_positive
from ..kernels import note_kernel
from .device import Build, device_class

__all__ = ["TYPES", "add_product", "inverse", "launching", "solve_positive", "upper_factor"]

TYPES = {torch.float32: "fp32", torch.float64: "fp64"}


class Tile(NamedTuple):
    """The tile of a product: rows, columns and terms that one program handles at a time."""

    rows: int
    columns: int
    terms: int
    warps: int
    stages: int


# 10 FFMA for each LDS.128, and five blocks of threads on a multiprocessor (96 registers; 152 and three
# where sizes are no multiples of 16). 128 x 128 would have 12 FFMA, but leaves a layer of 512 rows with
# 72 blocks for 132 multiprocessors.
TILES = {
    "sm_80": Tile(64, 64, 32, warps=4, stages=2),
    "sm_90": Tile(64, 64, 32, warps=4, stages=2),
    "sm_100": Tile(64, 64, 32, warps=4, stages=2),
    "other": Tile(64, 64, 32, warps=4, stages=2),
}


def launching(tensor: Tensor) -> AbstractContextManager[Any]:
    """Returns a context whose launches go to the tensor's device, on its current stream."""
    return torch.cuda.device(tensor.device) if tensor.device.type == "cuda" else nullcontext()


def inverse(matrix: Tensor) -> Tensor:
    """Returns the inverse of a symmetric positive definite matrix, float64 [d, d], exactly symmetric.

    Waits for the device once, to see whether the factorisation succeeded. Raises
    numpy.linalg.LinAlgError where it did not.
    """
    note_kernel("inverse", "torch.linalg")
    if matrix.numel() == 0:
        return torch.zeros_like(matrix, dtype=torch.float64)
    solved = torch.cholesky_inverse(_factor(matrix.to(torch.float64)))
    return (solved + solved.T) * 0.5


def solve_positive(matrix: Tensor, rhs: Tensor) -> Tensor:
    """Returns ``matrix^-1 rhs``, matrix positive definite. Waits and raises as `inverse` does."""
    note_kernel("solve_positive", "torch.linalg")
    return torch.cholesky_solve(rhs, _factor(matrix))


def upper_factor(matrix: Tensor, perm: Tensor) -> Tensor:
    """Returns R, upper triangular, with ``matrix[perm][:, perm] = R R'``, computed in float64.

    The lower factor of the matrix with its rows and columns in reverse, reversed: one Cholesky and no
    inverse. Waits and raises as `inverse` does.
    """
    note_kernel("upper_factor", "torch.linalg")
    if matrix.numel() == 0:
        return torch.zeros_like(matrix)
    backwards = perm.flip(0).long()
    flipped = matrix[backwards[:, None], backwards[None, :]].to(torch.float64)
    return _factor(flipped).to(matrix.dtype).flip(0, 1).contiguous()


def _factor(matrix: Tensor) -> Tensor:
    """Returns the lower Cholesky factor; waits for the device."""
    factor, info = torch.linalg.cholesky_ex(matrix)
    # Infinite pivots pass LAPACK, and not everyone who offers potrf promises to see a NaN.
    pivots = factor.diagonal()
    bad = ~(torch.isfinite(pivots) & (pivots > 0))
    past = len(pivots) + 1
    first_bad = torch.where(bad.any(), bad.int().argmax() + 1, past)
    order = torch.minimum(first_bad, torch.where(info > 0, info, past))
    minor = int(order)  # the wait
    require_positive(minor if minor < past else 0)
    return factor


def add_product(to: Tensor, left: Tensor, right: Tensor) -> None:
    """``to += left right`` in place, in IEEE float32 or float64.

    [m, n], [m, k] and [k, n], the stride of the last axis 1.
    """
    (m, n), k = to.shape, left.shape[1]
    if m == 0 or n == 0 or k == 0:
        return
    tile = TILES[device_class(to)]
    with launching(to):
        _add_product[triton.cdiv(m, tile.rows), triton.cdiv(n, tile.columns)](
            to,
            left,
            right,
            m,
            n,
            k,
            to.stride(0),
            left.stride(0),
            right.stride(0),
            ROWS=tile.rows,
            COLUMNS=tile.columns,
            TERMS=tile.terms,
            num_warps=tile.warps,
            num_stages=tile.stages,
        )


@triton.jit
def _add_product(
    to,  # [m, n]
    left,  # [m, k]
    right,  # [k, n]
    m,
    n,
    k,
    to_stride,
    left_stride,
    right_stride,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    TERMS: tl.constexpr,
):
    row = (tl.program_id(0) * ROWS + tl.arange(0, ROWS)).to(tl.int64)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    total = tl.zeros((ROWS, COLUMNS), to.dtype.element_ty)
    for start in range(0, k, TERMS):
        term = start + tl.arange(0, TERMS)
        a = tl.load(
            left + row[:, None] * left_stride + term[None, :],
            mask=(row < m)[:, None] & (term < k)[None, :],
            other=0.0,
        )
        b = tl.load(
            right + term[:, None].to(tl.int64) * right_stride + column[None, :],
            mask=(term < k)[:, None] & (column < n)[None, :],
            other=0.0,
        )
        total = tl.dot(a, b, total, input_precision="ieee", out_dtype=to.dtype.element_ty)
    at = to + row[:, None] * to_stride + column[None, :]
    live = (row < m)[:, None] & (column < n)[None, :]
    tl.store(at, tl.load(at, mask=live, other=0.0) + total, mask=live)


def builds(device: str) -> Iterator[Build]:
    """Yields the builds of `add_product`, for both types."""
    tile = TILES[device]
    sizes = ("m", "n", "k", "to_stride", "left_stride", "right_stride")
    for dtype in TYPES.values():
        yield Build(
            name=f"linalg/add_product {dtype}",
            kernel=_add_product,
            types=dict.fromkeys(("to", "left", "right"), f"*{dtype}") | dict.fromkeys(sizes, "i32"),
            constants={"ROWS": tile.rows, "COLUMNS": tile.columns, "TERMS": tile.terms},
            warps=tile.warps,
            stages=tile.stages,
            tensor_cores=dtype == "fp64" and device in ("sm_80", "sm_90"),  # DMMA
            aligned=sizes[1:],
        )
