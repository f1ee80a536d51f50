"""The order in which the weights that stay lower the loss of each row most."""

from __future__ import annotations

import numpy as np
from array_api_compat import array_namespace

from ..arrays import Array, loss_in_units, narrowed, row_exponents, times_power, weight_and_matrix
from ..backends.registry import backend_of
from ..errors import ParameterError
from ..scalars import as_integer

__all__ = ["obs_select"]


def obs_select(
    weight: Array,
    hessian: Array,
    num_kept: int,
    *,
    group: int | None = None,
    quota: int | None = None,
    backend: str | None = None,
) -> tuple[Array, Array]:
    """Forward selection on each row: the next weight to keep at each step, and what it gains.

    Of ``1/2 (w - w0) H (w - w0)'``, from ``w = 0``, with the kept weights at their optimum after every
    step. With ``g = H (w0 - w)`` and s the diagonal of H's Schur complement over the kept weights, the
    weight with the largest ``g_p^2 / s_p`` is added. That is a pivoted Cholesky factorisation of H,
    stopped after `num_kept` pivots (orthogonal least squares; Chen, Billings, Luo, "Orthogonal least
    squares methods and their application to non-linear system identification", 1989). It takes
    ``d_in num_kept^2 / 2`` multiply-adds a row and no inverse. `obs_solve` gives the weights of a mask.

    Parameters
    ----------
    weight : w0, float32 or float64 [d_out, d_in].
    hessian : H, of the same dtype or float64, [d_in, d_in], symmetric positive definite, such as
        `damped_hessian` gives. It is rounded to weight's dtype.
    num_kept : how many weights of each row to keep, 0..d_in.
    group : with `quota`, at most `quota` weights of every `group` consecutive ones are kept, as in N:M
        patterns with ``quota=N, group=M``; the last group of a row may be shorter. None is no bound.
    quota : see `group`; 0..group.
    backend : a name of `available_backends()`, or None for the fastest. Only the CPU's have a kernel.

    Returns
    -------
    order : int32 [d_out, num_kept], the weights that stay, first to last.
    gain : float32 [d_out, num_kept], how much each lowers the loss. One beyond float32's range is its
        largest number, one below it 0; the order is right all the same.

    Raises
    ------
    TypeError, ValueError : naming the parameter, what was given and what is accepted.
    NotImplementedError : the backend has no kernel for this op: those for GPUs.
    numpy.linalg.LinAlgError : a Schur complement of the Hessian has a diagonal entry far below 0.

    Notes
    -----
    Memory: ``itemsize * d_in * num_kept`` bytes a thread, and the product ``w0 H``. Equal scores: the
    lower index goes first. A weight whose entry of s is down to its rounding, 8 machine epsilons of
    H's entry, depends on those kept: it gains 0, comes after all that gain something, and changes
    nothing.
    """
    runner = backend_of(weight, "weight", backend)
    w, h, restore = weight_and_matrix(weight, hessian, "hessian", runner.device)
    h = narrowed(h, "hessian", w)
    d = w.shape[1]
    if wrong := int((h.diagonal() <= 0).sum()):
        raise ParameterError(
            "hessian",
            hessian,
            "a positive definite matrix",
            verb="has",
            shown=f"{wrong} diagonal entries that are not positive",
        )
    count = as_integer(num_kept)
    if count is None or not 0 <= count <= d:
        raise ParameterError("num_kept", num_kept, f"an integer in 0..{d}")
    columns, quotas = _groups(group, quota, d, count)
    exponent = row_exponents(w)  # squares leave float32's range long before the weights do
    order, gain = runner.obs_select(
        times_power(w, -exponent[:, None]), h, count, group=columns, quota=quotas
    )
    xp = array_namespace(gain)
    return restore(order), restore(loss_in_units(gain, exponent[:, None], xp.float32))


def _groups(
    group: int | None, quota: int | None, d: int, count: int
) -> tuple[Array, Array] | tuple[None, None]:
    """Returns the group of each column and the quota of each group, int32, or None twice."""
    if group is None and quota is None:
        return None, None
    members, most = as_integer(group), as_integer(quota)
    if members is None or members < 1:
        raise ParameterError("group", group, "a positive integer, together with quota")
    if most is None or not 0 <= most <= members:
        raise ParameterError("quota", quota, f"an integer in 0..{members}, together with group")
    columns = (np.arange(d) // members).astype(np.int32)
    admitted = int(np.minimum(np.bincount(columns), most).sum())
    if count > admitted:
        raise ParameterError(
            "num_kept", count, f"at most {admitted}, which {most} of every {members} admit"
        )
    return columns, np.full(-(-d // members), most, dtype=np.int32)
