"""Factorisations of the shared Hessian, one a layer."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import lapack
from scipy.linalg import solve as scipy_solve

from ..backends.registry import resolve

Matrix = NDArray[Any]


def inverse(matrix: Any) -> Any:
    """Inverse of a symmetric positive definite matrix, in float64; NumPy, or torch on a GPU.

    Raises numpy.linalg.LinAlgError where it is not positive definite.
    """
    if not isinstance(matrix, np.ndarray):
        from ..backends.triton.factor import inverse as inverse_there

        return inverse_there(matrix.double())
    if matrix.size == 0:  # LAPACK wants at least one row
        return np.zeros(matrix.shape)
    factor, info = lapack.dpotrf(np.asarray(matrix, dtype=np.float64), lower=False)
    if info == 0:
        factor, info = lapack.dpotri(factor, lower=False, overwrite_c=True)
    _require_positive(info)
    upper: NDArray[np.float64] = np.triu(factor)
    upper += np.triu(upper, 1).T
    return upper


def solve_positive(matrix: Any, rhs: Any) -> Any:
    """``matrix^-1 rhs`` of a symmetric positive definite matrix; NumPy, or torch on a GPU."""
    if isinstance(matrix, np.ndarray):
        return scipy_solve(matrix, rhs, assume_a="pos")
    import torch

    factor, info = torch.linalg.cholesky_ex(matrix)
    _require_positive(int(info))
    return torch.cholesky_solve(rhs, factor)


def upper_factor(matrix: Matrix, perm: NDArray[np.int32], backend: str | None = None) -> Matrix:
    """R, upper triangular, with ``matrix[perm, perm] = R R'``: found in float64, in matrix's dtype.

    GPTQ's U, with ``matrix[perm, perm]^-1 = U' U``, is its inverse. LAPACK would want the matrix
    gathered, reversed and transposed first, which takes longer than factoring it.
    """
    factor = np.empty_like(matrix)
    _require_positive(resolve("upper_factor", backend)(matrix=matrix, perm=perm, factor=factor))
    return factor


def _require_positive(info: int) -> None:
    if info != 0:
        raise np.linalg.LinAlgError(
            f"the Hessian is not positive definite: its leading minor of order {abs(int(info))} is not"
        )
