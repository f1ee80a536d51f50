"""Damping of a Hessian, raised until its Cholesky factorisation succeeds."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeVar

import numpy as np

from .. import errors
from ..arrays import Array
from ..ops.damping import add_damping
from .rows import Rows

MAX_RETRIES = 5

Result = TypeVar("Result")


class Damping(NamedTuple):
    """The damping that a factorisation took.

    Attributes
    ----------
    percent : `damp_percent` of the attempt that succeeded.
    retries : how many attempts failed before it.
    """

    percent: float
    retries: int = 0

    def joined(self, *others: Damping) -> Damping:
        """Returns the larger damping and the sum of the retries."""
        every = (self, *others)
        return Damping(max(d.percent for d in every), sum(d.retries for d in every))


def share_unit(parts: list[Rows]) -> None:
    """Gives all groups of a layer the power of two that brings the mean of their Hessians' diagonals to
    0.5 .. 1. It is one for the layer, because its groups' losses are compared with each other."""
    xp = parts[0].xp
    live = xp.concat([part.hessian.diagonal()[part.live] for part in parts])
    mean = float(xp.mean(live)) if live.shape[0] else 1.0
    for part in parts:
        part.unit = float(np.ldexp(1.0, -int(np.frexp(mean)[1])))


def warn(log: list[str], message: str) -> None:
    """Adds a line to the log, and gives a RuntimeWarning at the user's line, which names the layer."""
    log.append(message)
    errors.warn(message)


def damped(part: Rows, damp_percent: float) -> Array:
    """Returns H in its unit with damping, or the identity if no input is live."""
    # Its scale decides nothing, and float32 is not wide enough for all.
    matrix = part.hessian * part.unit
    add_damping(matrix, damp_percent)
    return matrix


def with_damping(
    part: Rows, damp_percent: float, log: list[str], attempt: Callable[[Array], Result]
) -> tuple[Result, Damping]:
    """Returns ``attempt(damped Hessian)`` and the damping, raised tenfold after each failed Cholesky.

    Raises
    ------
    numpy.linalg.LinAlgError : all retries failed.
    """
    percent = damp_percent
    for retries in range(MAX_RETRIES + 1):
        try:
            return attempt(damped(part, percent)), Damping(percent, retries)
        except np.linalg.LinAlgError as error:
            if retries == MAX_RETRIES:
                raise np.linalg.LinAlgError(
                    f"{error}; {MAX_RETRIES} retries up to damp_percent {percent:g} did not help"
                ) from error
            larger = 10 * percent if percent > 0 else 1e-4
            warn(
                log,
                f"Cholesky failed at damp_percent {percent:g} ({error}); retry {retries + 1} with "
                f"{larger:g}",
            )
            percent = larger
    raise AssertionError("unreachable")
