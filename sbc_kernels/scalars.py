"""Numbers, integers and truth values of any library, as Python's own."""

from __future__ import annotations

import numbers
import operator
from decimal import Decimal
from typing import Any

import numpy as np

__all__ = ["as_flag", "as_integer", "as_number"]


def as_number(value: Any) -> int | float | None:
    """Returns a real number as an int or a float, or None if it is not one.

    Python's numbers, also Fraction and Decimal, NumPy's scalars and arrays without an axis of any
    library are numbers; truth values and text are not.
    """
    value = _without_axes(value)
    if isinstance(value, (bool, np.bool_)):
        return None
    if isinstance(value, numbers.Integral):
        return operator.index(value)
    if isinstance(value, (numbers.Real, Decimal)):
        try:
            return float(value)
        except (OverflowError, ValueError):  # beyond float64's range, or a signalling NaN
            return None
    return None


def as_integer(value: Any) -> int | None:
    """Returns an integer as an int, or None if it is not one, as 4.0 is not."""
    value = _without_axes(value)
    is_integer = isinstance(value, numbers.Integral) and not isinstance(value, (bool, np.bool_))
    return operator.index(value) if is_integer else None


def as_flag(value: Any) -> bool | None:
    """Returns a truth value as a bool, or None if it is not one, as 0 and 1 are not."""
    value = _without_axes(value)
    return bool(value) if isinstance(value, (bool, np.bool_)) else None


def _without_axes(value: Any) -> Any:
    """Returns the one element of an array without an axis; anything else as it is."""
    if getattr(value, "shape", None) == () and callable(getattr(value, "item", None)):
        return value.item()
    return value
