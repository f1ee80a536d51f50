"""The order in which Optimal Brain Surgeon removes the weights of each row."""

from __future__ import annotations

from array_api_compat import array_namespace

from ..arrays import Array, loss_in_units, narrowed, row_exponents, times_power, weight_and_matrix
from ..backends.registry import backend_of
from ..errors import ParameterError
from ..scalars import as_integer

__all__ = ["obs_order"]


def obs_order(
    weight: Array,
    inverse_hessian: Array,
    num_pruned: int | None = None,
    *,
    backend: str | None = None,
) -> tuple[Array, Array]:
    """Exact greedy OBS on each row: the next weight to remove at each step, and its loss.

    At each step the weight with the least ``w_p^2 / (2 G_pp)`` goes, and
    ``w <- w - (w_p / G_pp) G_:p``, ``G <- G - G_:p G_p: / G_pp`` (OBC, arXiv 2208.11580, eq. 3).
    That is a pivoted Cholesky factorisation of G, and is blocked like one.

    Parameters
    ----------
    weight : float32 or float64 [d_out, d_in].
    inverse_hessian : G, of the same dtype or float64, [d_in, d_in], symmetric positive definite, such
        as `damped_inverse` gives. It is rounded to weight's dtype.
    num_pruned : how many weights of each row to order, 0..d_in. None is all of them.
    backend : a name of `available_backends()`, or None for the fastest.

    Returns
    -------
    order : int32 [d_out, num_pruned], first to last.
    loss : float32 [d_out, num_pruned], each removal's own increase of ``1/2 dw H dw'``. One beyond
        float32's range is its largest number, one below it 0; the order is right all the same.

    Raises
    ------
    TypeError, ValueError : naming the parameter, what was given and what is accepted.

    Notes
    -----
    Memory: the results and one triangle, ``itemsize * d_in^2 / 2`` bytes, a thread. Where two scores
    tie within rounding either may go first. Rounding is kept from driving a diagonal entry of G below
    the machine epsilon times its first value.
    """
    runner = backend_of(weight, "weight", backend)
    w, g, restore = weight_and_matrix(weight, inverse_hessian, "inverse_hessian", runner.device)
    g = narrowed(g, "inverse_hessian", w)
    d = w.shape[1]
    if wrong := int((g.diagonal() <= 0).sum()):
        raise ParameterError(
            "inverse_hessian",
            inverse_hessian,
            "a positive definite matrix",
            verb="has",
            shown=f"{wrong} diagonal entries that are not positive",
        )
    count = d if num_pruned is None else as_integer(num_pruned)
    if count is None or not 0 <= count <= d:
        raise ParameterError("num_pruned", num_pruned, f"an integer in 0..{d}, or None")
    exponent = row_exponents(w)  # squares leave float32's range long before the weights do
    order, loss = runner.obs_order(times_power(w, -exponent[:, None]), g, count)
    xp = array_namespace(loss)
    return restore(order), restore(loss_in_units(loss, exponent[:, None], xp.float32))
