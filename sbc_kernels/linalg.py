"""Factorisations of the shared Hessian. One a layer, so LAPACK's (through SciPy) are the right ones."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import lapack

Matrix = NDArray[Any]


def inverse(matrix: Matrix) -> NDArray[np.float64]:
    """Inverse of a symmetric positive definite matrix, in float64.

    Raises numpy.linalg.LinAlgError where it is not positive definite.
    """
    if matrix.size == 0:  # LAPACK wants at least one row
        return np.zeros(matrix.shape)
    factor, info = lapack.dpotrf(np.asarray(matrix, dtype=np.float64), lower=False)
    if info == 0:
        factor, info = lapack.dpotri(factor, lower=False, overwrite_c=True)
    _require_positive(info)
    upper: NDArray[np.float64] = np.triu(factor)
    upper += np.triu(upper, 1).T
    return upper


def upper_factor(matrix: Matrix) -> NDArray[np.float64]:
    """R, upper triangular, with ``matrix = R R'``, in float64.

    The Cholesky factor of the matrix with rows and columns reversed, reversed back. GPTQ's U, with
    ``matrix^-1 = U' U``, is its inverse.
    """
    if matrix.size == 0:
        return np.zeros(matrix.shape)
    flipped = np.asarray(matrix, dtype=np.float64)[::-1, ::-1]
    factor, info = lapack.dpotrf(flipped, lower=True, clean=True)
    _require_positive(info)
    return np.ascontiguousarray(factor[::-1, ::-1])


def _require_positive(info: int) -> None:
    if info != 0:
        raise np.linalg.LinAlgError(
            f"the Hessian is not positive definite: its leading minor of order {abs(int(info))} is not"
        )
