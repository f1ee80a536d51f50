"""The matched filter M'M of a neuron: integers and their unit, exact or rounded.

Where the impulse response has a common unit (IF; any LIF whose decay is dyadic), M'M is integers times
a unit without an error. Elsewhere it is rounded to integers of 31 or 38 bits.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from math import gcd
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ..neurons import Neuron, impulse_response

TimePairs: TypeAlias = NDArray[np.int64]  # [T, T]

EXACT_BITS = 48  # of a row sum of M'M that is summed as it is
FIXED_POINT_BITS = 38  # of a row sum of M'M that has to be rounded, to be looked up in lanes
# Likewise for products of bytes: four digits of a byte, the highest with a sign.
BYTES_FIXED_POINT_BITS = 31


@dataclass(frozen=True, eq=False)
class MatchedFilter:
    """``M'M = factor * integers``, exactly or rounded. One object is kept for each response.

    Attributes
    ----------
    integers : int64 [T, T].
    factor : one unit of ``integers``.
    exact : whether nothing was rounded.
    bits : of the largest row sum, where something was.
    membrane : int64 [T, T], M with ``M'M = integers``; None where M'M was rounded.
    response : float64 [T], the neuron's impulse response.
    """

    integers: TimePairs
    factor: float
    exact: bool
    bits: int
    membrane: TimePairs | None
    response: NDArray[np.float64]

    @cached_property
    def pair_weights(self) -> NDArray[np.float64]:
        """M'M in units of `pair_factor`, float64 [T, T]: integers if exact, else rounded to float64."""
        if self.exact:
            return self.integers.astype(np.float64)
        return _autocorrelation(self.response)

    @property
    def pair_factor(self) -> float:
        return self.factor if self.exact else 1.0

    @cached_property
    def largest_row_sum(self) -> int:
        """Bound on ``|M'M x|`` for inputs of at most 1."""
        return row_sum(self.integers)


def _common_unit(k: NDArray[np.float64]) -> tuple[list[int], float] | None:
    """Integers ``i`` and a float ``u`` with ``k = i * u`` exactly, or None where i has > 53 bits."""
    ratios = [float(value).as_integer_ratio() for value in k]  # denominators are powers of two
    denominator = max(ratio[1] for ratio in ratios)
    integers = [num * (denominator // den) for num, den in ratios]
    divisor = gcd(*integers) or 1
    integers = [value // divisor for value in integers]
    if max(abs(value) for value in integers).bit_length() > 53:
        return None
    return integers, divisor / denominator


def matched_filter(neuron: Neuron | None, T: int, bits: int = FIXED_POINT_BITS) -> MatchedFilter:
    """Returns ``M'M`` of the neuron over T steps, the identity for ``neuron=None``.

    Entries that are no integers are rounded to row sums of `bits` bits.
    """
    if neuron is None:
        return _identity(T, bits)
    return _matched(impulse_response(neuron, T).tobytes(), bits)


@lru_cache(maxsize=64)
def _identity(T: int, bits: int) -> MatchedFilter:
    identity = np.eye(T, dtype=np.int64)
    return MatchedFilter(identity, 1.0, True, bits, identity, np.eye(T)[0])


@lru_cache(maxsize=64)
def _matched(response: bytes, bits: int) -> MatchedFilter:
    k = np.frombuffer(response, dtype=np.float64)
    T = len(k)
    unit = _common_unit(k)
    if unit is not None:
        integers, factor = unit
        exact = _autocorrelation(np.array(integers, dtype=object))
        bound = max(sum(abs(v) for v in row) for row in exact)
        if bound.bit_length() <= EXACT_BITS:
            from scipy.linalg import toeplitz  # SciPy is a third of the package's import

            membrane = toeplitz(np.array(integers, dtype=np.int64), np.zeros(T, dtype=np.int64))
            return MatchedFilter(exact.astype(np.int64), factor * factor, True, bits, membrane, k)
    values = _autocorrelation(k).astype(np.float64)
    largest = float(np.abs(values).sum(axis=1).max())
    if largest == 0.0:
        nothing = np.zeros((T, T), dtype=np.int64)
        return MatchedFilter(nothing, 1.0, True, bits, nothing, k)
    exponent = bits - int(np.ceil(np.log2(largest)))
    integers64 = np.rint(np.ldexp(values, exponent)).astype(np.int64)
    return MatchedFilter(integers64, float(np.ldexp(1.0, -exponent)), False, bits, None, k)


def _autocorrelation(k: NDArray[Any]) -> NDArray[Any]:
    """``(M'M)[t, u] = sum_s k[s - t] k[s - u]``, in k's own arithmetic."""
    T = len(k)
    matrix = np.zeros((T, T), dtype=k.dtype)
    for lag in range(T):
        # Entries (t, t + lag) end their sums at s = T - 1: running sums from the last one backwards.
        products = k[lag:] * k[: T - lag]
        sums = np.cumsum(products)[::-1]
        for t in range(T - lag):
            matrix[t, t + lag] = matrix[t + lag, t] = sums[t]
    return matrix


def row_sum(matrix: TimePairs) -> int:
    return max(sum(abs(int(v)) for v in row) for row in matrix)
