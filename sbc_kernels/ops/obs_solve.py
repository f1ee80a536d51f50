"""The optimal remaining weights of each row, given a mask."""

from __future__ import annotations

from ..arrays import Array, kept_mask, require_range, require_same_device, weight_and_matrix
from ..backends.registry import backend_of

__all__ = ["obs_solve"]


def obs_solve(weight: Array, hessian: Array, mask: Array, *, backend: str | None = None) -> Array:
    """``argmin_v (v - w) H (v - w)'`` over rows v that are zero where the mask is False.

    With R the kept and P the pruned inputs of a row, ``v_R = w_R + H_RR^-1 H_RP w_P``: the update of
    Optimal Brain Surgeon for all of P at once. One Cholesky factorisation a row, of H_RR or, through
    ``G = H^-1`` as ``v_R = w_R - G_RP G_PP^-1 w_P``, of the pruned side, whichever is smaller.

    Parameters
    ----------
    weight : float32 or float64 [d_out, d_in].
    hessian : of the same dtype or float64, [d_in, d_in], symmetric positive definite, such as
        `damped_hessian` gives. The rows' factorisations are in weight's dtype, the inverse that the
        pruned side needs is computed in float64.
    mask : bool [d_out, d_in], True = kept.
    backend : a name of `available_backends()`, or None for the fastest.

    Returns
    -------
    weight's kind, dtype and shape; exactly zero where the mask is False.

    Raises
    ------
    TypeError, ValueError : naming the parameter, what was given and what is accepted.
    numpy.linalg.LinAlgError : a submatrix of the Hessian is not positive definite.
    """
    runner = backend_of(weight, "weight", backend)
    w, h, restore = weight_and_matrix(weight, hessian, "hessian", runner.device)
    require_range(h, "hessian", w)
    keep = kept_mask(mask, w.shape, runner.device)
    require_same_device(keep, "mask", w, "weight")
    return restore(runner.obs_solve(w, h, keep))
