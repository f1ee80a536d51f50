"""Spikes that are multiples of one unit by small integers, and the powers of two that keep squares in
range.

I-LIF divides its integers by their maximum, QCFS multiplies them by a scale, an average pool divides
counts of spikes. Such values are summed as integers; a Gram matrix is then multiplied by the unit's
square.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from array_api_compat import array_namespace, device

from ..arrays import Array, NumpyArray, times_power

LARGEST = 127  # of the integers
SAMPLE = 1024  # of the values of a batch, from which a unit is guessed
MOST_ROUNDS = 8  # each makes the unit at least twice as fine, and integers end at 128
_MOST_DISTINCT = 4 * LARGEST  # magnitudes of a sample: each integer, rounded in a few ways
_FEW = 16  # non-zero values of a sample that are too few to guess from
_SAFE_EXPONENT = 200  # squares of 2^200, and sums of 2^60 such squares, are far from overflow


class Multiples(NamedTuple):
    """A batch of spikes ``unit * integers``.

    Attributes
    ----------
    integers : int8 [T, N, P, C].
    minimum, maximum : of the integers and 0.
    unit : 1.0 where the spikes themselves are integers.
    tolerance : how far the unit may be off, as a fraction of it: 4 roundings of the spikes' dtype, 0
        where the unit is 1.
    """

    integers: Array
    minimum: int
    maximum: int
    unit: float = 1.0
    tolerance: float = 0.0

    @property
    def is_silent(self) -> bool:
        """Whether all spikes are 0."""
        return self.minimum == self.maximum == 0


class Analog(NamedTuple):
    """A batch of other values.

    Attributes
    ----------
    exponent : the values times 2^-exponent have squares in range; 0 where they have so already.
    sure : whether a spike's square cannot vanish, whatever the other values are.
    """

    exponent: int = 0
    sure: bool = False


def tolerance_of(values: Array) -> float:
    """Returns 4 roundings of a float dtype, float32 or float64, NumPy's or torch's."""
    return 2.0**-21 if values.dtype.itemsize == 4 else 2.0**-50


def range_exponent(largest: float) -> int:
    """Returns 0 where squares of such a number are far from overflow and underflow; elsewhere its
    binary exponent e, with ``largest * 2^-e`` in 0.5 .. 1."""
    exponent = int(np.frexp(largest)[1])
    return exponent if largest > 0.0 and abs(exponent) > _SAFE_EXPONENT else 0


def scaled(values: Array, exponent: int) -> Array:
    """Returns float values times 2^exponent; the same array for 0."""
    if exponent == 0:
        return values
    xp = array_namespace(values)
    return times_power(values, xp.asarray(exponent, device=device(values)), factors=8)


# ---- the unit ---------------------------------------------------------------------------------------


def common_unit(sample: NumpyArray, tolerance: float) -> float | None:
    """Returns the largest u of which all values are multiples by integers in -127..127, or None.

    None also where no value differs from 0. A multiple may be off by the fraction `tolerance`.
    """
    sizes = np.abs(sample.astype(np.float64).ravel())
    sizes = np.unique(sizes[sizes != 0.0])  # NaN last
    if len(sizes) == 0 or len(sizes) > _MOST_DISTINCT or not np.isfinite(sizes[-1]):
        return None
    unit = float(sizes[0])
    for size in sizes[1:]:
        finer = finer_unit(unit, float(size), tolerance)
        if finer is None:
            return None
        unit = finer
    return unit


def finer_unit(unit: float, value: float, tolerance: float) -> float | None:
    """Returns the largest fraction of the unit, at least a 127th, of which a value is a multiple too.

    None if there is none with a multiple of at most 128.
    """
    size = abs(value)
    if not 0.0 < size < np.inf or unit == 0.0:
        return None
    quotient = size / unit
    if not 1.0 / (2 * LARGEST) < quotient < 2 * LARGEST:
        return None
    parts = np.arange(1, LARGEST + 1)
    multiples = quotient * parts
    whole = np.rint(multiples)
    good = (np.abs(multiples - whole) <= tolerance * multiples) & (whole >= 1) & (whole <= 128)
    if not good.any():
        return None
    return unit / int(parts[np.argmax(good)])


def sample_of(flat: Array) -> Array:
    """Returns about `SAMPLE` of the values of a flat array, spread over all of it.

    The step is odd, so that channels, of which there often are an even number, all take part.
    """
    return flat[:: max(1, len(flat) // SAMPLE) | 1]


def is_poor(sample: NumpyArray) -> bool:
    """Returns whether a sample has too few values other than 0 to guess a unit from."""
    return int(np.count_nonzero(sample)) < _FEW


def ratio(coarse: float, fine: float, tolerance: float) -> int | None:
    """Returns the positive integer that a unit is of a finer one, within the tolerance, or None."""
    quotient = coarse / fine if fine > 0.0 else np.inf
    if not 0.5 < quotient < 1 << 16:
        return None
    whole = round(quotient)
    return whole if abs(quotient - whole) <= tolerance * quotient else None


def squared(unit: float) -> tuple[float, int]:
    """Returns (m, e) with ``unit^2 = m 2^e``, m in 0.25 .. 1 and rounded once; (1.0, 0) for 1."""
    if unit == 1.0:
        return 1.0, 0
    mantissa, exponent = np.frexp(unit)
    return float(mantissa) ** 2, 2 * int(exponent)
