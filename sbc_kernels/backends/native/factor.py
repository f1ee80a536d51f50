"""Factorisations of the shared Hessian, one a layer."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ... import _native
from ...threads import thread_count
from ..cholesky import require_positive
from ..kernels import note_kernel

Matrix = NDArray[Any]


def inverse(matrix: Matrix) -> NDArray[np.float64]:
    note_kernel("inverse", "lapack")
    from scipy.linalg import lapack  # here, as SciPy is a third of the package's import

    if matrix.size == 0:  # LAPACK wants at least one row
        return np.zeros(matrix.shape)
    factor, info = lapack.dpotrf(np.asarray(matrix, dtype=np.float64), lower=False)
    if info == 0:
        factor, info = lapack.dpotri(factor, lower=False, overwrite_c=True)
    require_positive(info)
    upper: NDArray[np.float64] = np.triu(factor)
    upper += np.triu(upper, 1).T
    return upper


def solve_positive(matrix: Matrix, rhs: Matrix) -> Matrix:
    note_kernel("solve_positive", "lapack")
    from scipy.linalg import solve

    solution: Matrix = solve(matrix, rhs, assume_a="pos")
    return solution


def upper_factor(matrix: Matrix, perm: NDArray[np.int32], isa: str) -> Matrix:
    """See `protocol.Backend.upper_factor`. LAPACK needs the matrix gathered, reversed and
    transposed first, which takes longer than factoring it."""
    note_kernel("upper_factor", isa)
    factor = np.empty_like(matrix)
    info = _native.upper_factor(
        matrix=matrix, perm=perm, factor=factor, isa=isa, threads=thread_count()
    )
    require_positive(info)
    return factor
