"""Factorisations of the shared Hessian, one a layer."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ... import _native
from ...arrays import exportable
from ...threads import thread_count
from ..cholesky import require_positive
from ..kernels import note_kernel

Matrix = NDArray[Any]


def inverse(matrix: Matrix, isa: str) -> NDArray[np.float64]:
    note_kernel("inverse", isa)
    answer = np.empty(matrix.shape)
    info = _native.inverse(
        matrix=exportable(np.ascontiguousarray(matrix, dtype=np.float64)),
        inverse=answer,
        isa=isa,
        threads=thread_count(),
    )
    require_positive(info)
    return answer


def solve_positive(matrix: Matrix, rhs: Matrix, isa: str) -> Matrix:
    note_kernel("solve_positive", isa)
    rows = np.ascontiguousarray(rhs.T, dtype=np.float64)
    solution = np.empty_like(rows)
    info = _native.solve_positive(
        matrix=exportable(np.ascontiguousarray(matrix, dtype=np.float64)),
        rhs=exportable(rows),
        solution=solution,
        isa=isa,
        threads=thread_count(),
    )
    require_positive(info)
    return solution.T.astype(rhs.dtype, copy=False)


def upper_factor(matrix: Matrix, perm: NDArray[np.int32], isa: str) -> Matrix:
    """See `protocol.Backend.upper_factor`."""
    note_kernel("upper_factor", isa)
    factor = np.empty_like(matrix)
    info = _native.upper_factor(
        matrix=matrix, perm=perm, factor=factor, isa=isa, threads=thread_count()
    )
    require_positive(info)
    return factor
