"""Shared by all backends' factorisations: the side that a row is solved through, and the errors."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_INVERSE_COST = 8.0  # of d^3 multiply-adds in LAPACK's float64, in those of a row's own Cholesky


def solve_sides(
    num_kept: NDArray[np.integer], d: int, has_inverse: bool
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Returns which rows are solved through their pruned inputs, and which through their kept ones.

    Either costs (size of the side)^3 / 3 a row. The pruned side needs ``H^-1``, of d^3 once for all
    rows at an eighth of the speed: without `has_inverse` it is taken only where that is repaid. Rows
    that keep everything are in neither.

    Parameters
    ----------
    num_kept : number of weights that each row keeps, on the host.
    d : number of weights of a row.
    """
    touched = num_kept < d
    pruned_side = touched & (2 * num_kept > d)
    if not has_inverse:
        sizes = num_kept[pruned_side].astype(np.float64)
        saved = float((sizes**3 - (d - sizes) ** 3).sum()) / 3
        if saved < _INVERSE_COST * d**3:
            pruned_side[:] = False
    return pruned_side, touched & ~pruned_side


def require_rows_solved(rows: NDArray[np.integer], failed: NDArray[np.integer]) -> None:
    """Raises numpy.linalg.LinAlgError if a row's factorisation failed.

    `failed` is 1 + the place of the first bad pivot of each of those `rows`, or 0.
    """
    bad = np.flatnonzero(failed)
    if bad.size:
        first = bad[int(np.argmin(rows[bad]))]
        raise np.linalg.LinAlgError(
            f"hessian is not positive definite: {bad.size} rows failed, the first is row "
            f"{int(rows[first])} at pivot {int(failed[first]) - 1}; accepted is a (more strongly) "
            "damped Hessian"
        )


def require_positive(minor: int) -> None:
    """Raises numpy.linalg.LinAlgError if LAPACK's `info`, the order of a bad minor, is not 0."""
    if minor != 0:
        raise np.linalg.LinAlgError(
            f"the Hessian is not positive definite: its leading minor of order {abs(minor)} is not"
        )
