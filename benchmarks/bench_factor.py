"""The factorisations of a Hessian and the dense products against LAPACK and BLAS, all in float64.

The rivals are SciPy's OpenBLAS where SciPy is installed, else torch's. OpenBLAS takes all processors
unless OPENBLAS_NUM_THREADS says otherwise, ours takes as many threads as torch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from sbc_kernels.arrays import matrix_product
from sbc_kernels.backends.registry import fastest_backend

try:
    from scipy.linalg import lapack
except ImportError:
    lapack = None

Matrix = NDArray[np.float64]

SIZES = [512, 1152, 2304, 4608]
RIVAL = "torch" if lapack is None else "OpenBLAS (SciPy)"


def hessian(d: int) -> Matrix:
    X = np.random.default_rng(d).standard_normal((d, d // 2 + 8))
    return np.asarray(X @ X.T / d + 0.1 * np.eye(d))


def rival_factor(matrix: Matrix) -> Callable[[], Any]:
    if lapack is None:
        tensor = torch.from_numpy(matrix)
        return lambda: torch.linalg.cholesky(tensor)
    columns = np.asfortranarray(matrix)
    return lambda: lapack.dpotrf(columns, lower=False, clean=False)


def rival_inverse(matrix: Matrix) -> Callable[[], Any]:
    """One triangle of the inverse, as LAPACK leaves it; ours writes both."""
    if lapack is None:
        tensor = torch.from_numpy(matrix)
        return lambda: torch.cholesky_inverse(torch.linalg.cholesky(tensor))
    columns = np.asfortranarray(matrix)

    def run() -> Any:
        factor, _ = lapack.dpotrf(columns, lower=False, clean=False)
        return lapack.dpotri(factor, lower=False, overwrite_c=True)

    return run


def rival_solution(matrix: Matrix, rhs: Matrix) -> Callable[[], Any]:
    if lapack is None:
        tensor, right = torch.from_numpy(matrix), torch.from_numpy(rhs)
        return lambda: torch.cholesky_solve(right, torch.linalg.cholesky(tensor))
    columns, right_columns = np.asfortranarray(matrix), np.asfortranarray(rhs)

    def run() -> Any:
        factor, _ = lapack.dpotrf(columns, lower=False, clean=False)
        return lapack.dpotrs(factor, right_columns)

    return run


def rounds(d: int) -> int:
    return 15 if d < 2000 else 5


@pytest.mark.parametrize("d", SIZES)
def test_upper_factor(versus: Any, d: int) -> None:
    matrix, perm, backend = hessian(d), np.arange(d, dtype=np.int32), fastest_backend("cpu")
    versus(
        f"upper_factor d={d}",
        lambda: backend.upper_factor(matrix, perm),
        rival_factor(matrix),
        rival_name=f"{RIVAL} dpotrf",
        work=d**3 / 3,
        unit="FLOP/s",
        target=1,
        rounds=rounds(d),
    )


@pytest.mark.parametrize("d", SIZES)
def test_inverse(versus: Any, d: int) -> None:
    matrix, backend = hessian(d), fastest_backend("cpu")
    versus(
        f"inverse d={d}",
        lambda: backend.inverse(matrix),
        rival_inverse(matrix),
        rival_name=f"{RIVAL} dpotrf, dpotri",
        work=float(d) ** 3,
        unit="FLOP/s",
        target=1,
        rounds=rounds(d),
    )


@pytest.mark.parametrize("d", SIZES)
def test_solve_positive(versus: Any, d: int) -> None:
    matrix, backend = hessian(d), fastest_backend("cpu")
    rhs = np.random.default_rng(0).standard_normal((d // 4, d)).T
    versus(
        f"solve_positive d={d}, {d // 4} right-hand sides",
        lambda: backend.solve_positive(matrix, rhs),
        rival_solution(matrix, rhs),
        rival_name=f"{RIVAL} dpotrf, dpotrs",
        work=d**3 / 3 + 2 * d**2 * (d // 4),
        unit="FLOP/s",
        target=1,
        rounds=rounds(d),
    )


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("d", SIZES)
def test_product(versus: Any, d: int, dtype: Any) -> None:
    matrix = hessian(d).astype(dtype)
    rows = np.random.default_rng(0).standard_normal((d // 4, d)).astype(dtype)
    versus(
        f"product {d // 4}x{d}x{d} in {np.dtype(dtype).name}",
        lambda: matrix_product(rows, matrix),
        lambda: rows @ matrix,
        rival_name="NumPy's BLAS",
        work=2 * (d // 4) * float(d) ** 2,
        unit="FLOP/s",
        target=1,
        rounds=rounds(d),
    )
