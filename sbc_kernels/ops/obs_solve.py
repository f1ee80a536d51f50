"""The optimal remaining weights of each row, given a mask."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..arrays import kept_mask, weight_and_matrix
from ..backends.registry import resolve
from .factor import inverse

__all__ = ["obs_solve"]


def obs_solve(weight: Any, hessian: Any, mask: Any, *, backend: str | None = None) -> Any:
    """``argmin_v (v - w) H (v - w)'`` over rows v that are zero where the mask is False.

    With R the kept and P the pruned inputs of a row, ``v_R = w_R + H_RR^-1 H_RP w_P``: the update of
    Optimal Brain Surgeon for all of P at once. One Cholesky factorisation a row, of H_RR or, through
    ``G = H^-1`` as ``v_R = w_R - G_RP G_PP^-1 w_P``, of the pruned side, whichever is smaller.

    Parameters
    ----------
    weight : float32 or float64 [d_out, d_in].
    hessian : of the same dtype, [d_in, d_in], symmetric positive definite.
    mask : bool [d_out, d_in], True = kept.
    backend : a name of `available_backends()`, or None for the fastest.

    Returns
    -------
    weight's kind, dtype and shape; exactly zero where the mask is False.

    Raises
    ------
    TypeError, ValueError : naming the parameter, what came and what is accepted.
    numpy.linalg.LinAlgError : a submatrix of the Hessian is not positive definite.
    """
    w, h, restore = weight_and_matrix(weight, hessian, "hessian", backend)
    return restore(run_obs_solve(w, h, kept_mask(mask, w.shape, backend), backend=backend))


def run_obs_solve(
    weight: Any,
    hessian: Any,
    mask: Any,
    *,
    inverse_hessian: Any = None,
    backend: str | None = None,
) -> Any:
    """The op on checked arrays, NumPy or on a GPU; ``inverse_hessian`` spares computing G again."""
    if not isinstance(weight, np.ndarray):
        return resolve("obs_solve", backend, "cuda")(
            weight=weight, hessian=hessian, mask=mask, inverse_hessian=inverse_hessian
        )
    resolve(
        "obs_solve", backend
    )  # a backend that is not there raises even if there is nothing to do
    d = weight.shape[1]
    solution = weight.copy()
    kept = mask.sum(axis=1)
    touched = kept < d
    # Both sides cost (size)^3 / 3 a row; the pruned side shares one inverse of d^3, at an eighth of the
    # speed (LAPACK, float64), and is taken only where that is repaid.
    small = touched & (kept > d - kept)
    saved = float((kept[small] ** 3.0 - (d - kept[small]) ** 3.0).sum()) / 3
    if inverse_hessian is None and saved < 8.0 * d**3:
        small[:] = False
    if small.any():
        g = inverse(hessian) if inverse_hessian is None else inverse_hessian
        answer = _solve_subsets(
            g.astype(weight.dtype, copy=False), weight[small], ~mask[small], backend
        )
        solution[small] -= answer @ g.astype(weight.dtype, copy=False)
    large = touched & ~small
    if large.any():
        # Of W H only the kept entries are needed: where those are few, the kernel takes them one by
        # one; a GEMM is several times faster an entry.
        few = float(kept[large].mean()) < d / 8
        rhs = weight[large] if few else weight[large] @ hessian
        solution[large] = _solve_subsets(hessian, rhs, mask[large], backend, multiply=few)
    solution[~mask] = 0
    return solution


def _solve_subsets(
    matrix: NDArray[Any],
    rhs: NDArray[Any],
    select: NDArray[np.bool_],
    backend: str | None,
    multiply: bool = False,
) -> NDArray[Any]:
    """Each row's ``matrix[S, S]^-1 b[S]``, zero outside S; b is rhs, or ``matrix rhs``."""
    solution = np.empty_like(rhs)
    failed = np.zeros(len(rhs), dtype=np.int32)
    resolve("obs_solve", backend)(
        matrix=np.ascontiguousarray(matrix),
        rhs=np.ascontiguousarray(rhs),
        select=np.ascontiguousarray(select).view(np.uint8),
        multiply=multiply,
        solution=solution,
        failed=failed,
    )
    if failed.any():
        row = int(np.flatnonzero(failed)[0])
        raise np.linalg.LinAlgError(
            f"hessian is not positive definite: {int((failed != 0).sum())} rows failed, the first is "
            f"row {row} at pivot {int(failed[row]) - 1}; accepted is a (more strongly) damped Hessian"
        )
    return solution
