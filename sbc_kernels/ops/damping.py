"""Damping and inversion of a Gram matrix for the OBS ops."""

from __future__ import annotations

import math
from typing import Any

from array_api_compat import array_namespace, device

from ..arrays import Array, Restore, dtype_name, require_finite, require_symmetric, to_array
from ..backends.registry import backend_of
from ..errors import ParameterError, ParameterTypeError
from ..scalars import as_number

__all__ = ["damped_hessian", "damped_inverse"]


def damped_hessian(hessian: Array, damp_percent: float = 0.01) -> Array:
    """Returns ``H + damp_percent * mean(H_jj over live inputs) * I``.

    `obs_solve` and `obs_quantize` take this matrix.

    An input j is live if ``H_jj > 0``. A dead one never fired in calibration: its row and column are
    zero, so that after damping it is an input of its own, which influences no other. Where no input is
    live there is nothing to weigh, and the result is the identity.

    Parameters
    ----------
    hessian : float32 or float64 [d_in, d_in], symmetric, as `spike_gram` returns it; or
        [groups, d_in, d_in]. Each group has a mean of its own. Never modified.
    damp_percent : a number of at least 0, as a fraction: 0.01 is one hundredth of the mean.

    Returns
    -------
    float64, of hessian's shape and kind.

    Raises
    ------
    TypeError, ValueError : naming the parameter, what was given and what is accepted.
    """
    values, restore = _checked(hessian, None)
    return restore(_damped(values, _checked_percent(damp_percent)))


def damped_inverse(
    hessian: Array, damp_percent: float = 0.01, *, backend: str | None = None
) -> Array:
    """Returns the inverse of `damped_hessian`, which `obs_order` takes.

    Parameters
    ----------
    hessian, damp_percent : as in `damped_hessian`.
    backend : a name of `available_backends()`, or None for the fastest.

    Returns
    -------
    float64, of hessian's shape and kind, exactly symmetric.

    Raises
    ------
    TypeError, ValueError : naming the parameter, what was given and what is accepted.
    numpy.linalg.LinAlgError : the damped Hessian is not positive definite, as with a dead input and
        ``damp_percent=0``.
    """
    runner = backend_of(hessian, "hessian", backend)
    values, restore = _checked(hessian, runner.device)
    damped = _damped(values, _checked_percent(damp_percent))
    if damped.ndim == 2:
        return restore(runner.inverse(damped))
    xp = array_namespace(damped)
    inverses = [runner.inverse(matrix) for matrix in damped]
    return restore(xp.stack(inverses) if inverses else damped)


def add_damping(matrix: Array, damp_percent: float) -> None:
    """Damps a checked float64 matrix [d, d] in place; without a live input it becomes the identity."""
    xp, where = array_namespace(matrix), device(matrix)
    along = xp.arange(len(matrix), device=where)
    diagonal = matrix.diagonal()
    live = diagonal > 0
    if not bool(xp.any(live)):
        matrix[...] = xp.eye(len(matrix), dtype=xp.float64, device=where)
    else:
        matrix[along, along] += damp_percent * xp.mean(diagonal[live])


def _damped(values: Array, damp_percent: float) -> Array:
    """`damped_hessian` of a checked array."""
    xp = array_namespace(values)
    damped = xp.astype(values, xp.float64, copy=True)
    for matrix in damped[None] if damped.ndim == 2 else damped:
        add_damping(matrix, damp_percent)
    return damped


def _checked(hessian: Array, on: str | None) -> tuple[Array, Restore]:
    values, restore = to_array(hessian, "hessian", on)
    if dtype_name(values) not in ("float32", "float64"):
        raise ParameterTypeError(
            "hessian",
            hessian,
            "accepted are float32 and float64",
            verb="has",
            shown=f"dtype {dtype_name(values)}",
        )
    if values.ndim not in (2, 3) or values.shape[-1] != values.shape[-2]:
        raise ParameterError(
            "hessian",
            hessian,
            "[d_in, d_in] or [groups, d_in, d_in]",
            verb="has",
            shown=f"shape {list(values.shape)}",
        )
    require_finite(values, "hessian")
    for matrix in values[None] if values.ndim == 2 else values:
        require_symmetric(matrix, "hessian")
        if negative := int((matrix.diagonal() < 0).sum()):
            raise ParameterError(
                "hessian",
                hessian,
                "a positive semidefinite matrix",
                verb="has",
                shown=f"{negative} negative diagonal entries",
            )
    return values, restore


def _checked_percent(damp_percent: Any) -> float:
    number = as_number(damp_percent)
    if number is None or not 0.0 <= number < math.inf:
        raise ParameterError("damp_percent", damp_percent, "a number of at least 0")
    return float(number)
