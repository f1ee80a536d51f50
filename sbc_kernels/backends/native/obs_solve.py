"""The optimal remaining weights of each row, given a mask: csrc/obs_solve."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ... import _native
from ...arrays import NumpyArray, matrix_product
from ...threads import thread_count
from ..cholesky import require_rows_solved, solve_sides
from ..kernels import note_kernel
from .factor import inverse


def obs_solve(
    weight: NumpyArray,
    hessian: NumpyArray,
    mask: NDArray[np.bool_],
    inverse_hessian: NumpyArray | None,
    isa: str,
) -> NumpyArray:
    note_kernel("obs_solve", isa)
    d, dtype = weight.shape[1], weight.dtype
    solution = weight.copy()
    num_kept = mask.sum(axis=1)
    pruned_side, kept_side = solve_sides(num_kept, d, inverse_hessian is not None)
    if pruned_side.any():
        G = inverse(hessian, isa) if inverse_hessian is None else inverse_hessian
        G = G.astype(dtype, copy=False)
        change = _solve_subsets(G, weight[pruned_side], ~mask[pruned_side], pruned_side, isa)
        solution[pruned_side] -= matrix_product(change, G, isa)
    if kept_side.any():
        H = hessian.astype(dtype, copy=False)
        # Of W H only the kept entries are needed: where those are few, the kernel takes them one by
        # one; a product is several times faster an entry.
        few = float(num_kept[kept_side].mean()) < d / 8
        rhs = weight[kept_side] if few else matrix_product(weight[kept_side], H, isa)
        solution[kept_side] = _solve_subsets(H, rhs, mask[kept_side], kept_side, isa, few)
    solution[~mask] = 0
    return solution


def _solve_subsets(
    matrix: NumpyArray,
    rhs: NumpyArray,
    select: NDArray[np.bool_],
    of_rows: NDArray[np.bool_],
    isa: str,
    multiply: bool = False,
) -> NumpyArray:
    """Returns each row's ``matrix[S, S]^-1 b[S]``, zero outside S.

    b is rhs or, with `multiply`, ``matrix rhs``. `of_rows` marks these rows among the caller's.
    """
    solution = np.empty_like(rhs)
    failed = np.zeros(len(rhs), dtype=np.int32)
    _native.obs_solve(
        matrix=np.ascontiguousarray(matrix),
        rhs=np.ascontiguousarray(rhs),
        select=np.ascontiguousarray(select).view(np.uint8),
        multiply=multiply,
        solution=solution,
        failed=failed,
        isa=isa,
        threads=thread_count(),
    )
    if failed.any():
        require_rows_solved(np.flatnonzero(of_rows), failed)
    return solution
