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
from .multiples import range_exponent

TimePairs: TypeAlias = NDArray[np.int64]  # [T, T]

EXACT_BITS = 48  # of a row sum of M'M that is summed as it is
FIXED_POINT_BITS = 38  # of a row sum of M'M that has to be rounded, to be looked up in lanes
# Likewise for products of bytes: four digits of a byte, the highest with a sign.
BYTES_FIXED_POINT_BITS = 31


@dataclass(frozen=True, eq=False)
class MatchedFilter:
    """``M'M = 2^exponent * factor * integers``, exactly or rounded. One is kept for each response.

    Attributes
    ----------
    integers : int64 [T, T].
    factor : one unit of ``integers``, but for 2^exponent.
    exact : whether nothing was rounded.
    bits : of the largest row sum, where something was.
    membrane : int64 [T, T], M with ``M'M = integers``; None where M'M was rounded.
    response : float64 [T], the neuron's impulse response times 2^(-exponent / 2).
    exponent : even; 0 unless squares of the response would leave float64's range.
    """

    integers: TimePairs
    factor: float
    exact: bool
    bits: int
    membrane: TimePairs | None
    response: NDArray[np.float64]
    exponent: int = 0

    @cached_property
    def membrane_matrix(self) -> NDArray[np.float64]:
        """M, float64 [T, T], of `response`."""
        return _toeplitz(self.response)

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

    @cached_property
    def membrane_row_sum(self) -> int | None:
        """Bound on ``|M x|`` for inputs of at most 1; None where M'M was rounded."""
        return None if self.membrane is None else row_sum(self.membrane)

    @cached_property
    def has_negative(self) -> bool:
        """Whether an entry of `integers` is negative."""
        return bool((self.integers < 0).any())

    @cached_property
    def answers_at_once(self) -> bool:
        """Whether the neuron answers in the very step of a spike, so that each leaves a trace."""
        return abs(float(self.response[0])) > 2.0**-300

    def shows(self, minimum: int) -> bool:
        """Whether a sum of 0 says that no spike came, for integer spikes of at least `minimum`."""
        if self.exact:
            return self.answers_at_once
        return (
            minimum >= 0 and not self.has_negative and bool((np.diagonal(self.integers) > 0).all())
        )


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
    power = range_exponent(float(np.abs(k).max()))
    k = np.ldexp(k, -power)
    unit = _common_unit(k)
    if unit is not None:
        values, factor = unit
        # The first entry of M'M is the sum of squares, and no other is larger: below 2^48 neither they
        # nor the running sums that they are made of leave int64.
        if sum(value * value for value in values).bit_length() <= EXACT_BITS:
            integers = np.array(values, dtype=np.int64)
            exact = _autocorrelation(integers)
            if row_sum(exact).bit_length() <= EXACT_BITS:
                membrane = _toeplitz(integers)
                return MatchedFilter(exact, factor * factor, True, bits, membrane, k, 2 * power)
    weights = _autocorrelation(k)
    largest = float(np.abs(weights).sum(axis=1).max())
    if largest == 0.0:
        nothing = np.zeros((T, T), dtype=np.int64)
        return MatchedFilter(nothing, 1.0, True, bits, nothing, k)
    exponent = bits - int(np.ceil(np.log2(largest)))
    rounded = np.rint(np.ldexp(weights, exponent)).astype(np.int64)
    factor = float(np.ldexp(1.0, -exponent))
    return MatchedFilter(rounded, factor, False, bits, None, k, 2 * power)


def _autocorrelation(k: NDArray[Any]) -> NDArray[Any]:
    """``(M'M)[t, u] = sum_s k[s - t] k[s - u]``, in k's own arithmetic."""
    T = len(k)
    matrix = np.zeros((T, T), dtype=k.dtype)
    flat = matrix.reshape(-1)
    for lag in range(T):
        # Entries (t, t + lag) end their sums at s = T - 1: running sums from the last one backwards.
        sums = np.cumsum(k[lag:] * k[: T - lag])[::-1]
        flat[lag : (T - lag) * T : T + 1] = sums
        flat[lag * T :: T + 1] = sums
    return matrix


def _toeplitz(k: NDArray[Any]) -> NDArray[Any]:
    """Returns the lower-triangular Toeplitz matrix of the first column k."""
    T = len(k)
    padded = np.concatenate([np.zeros(T - 1, dtype=k.dtype), k])
    windows = np.lib.stride_tricks.sliding_window_view(padded, T)  # row t: k[t - T + 1 .. t]
    return np.ascontiguousarray(windows[:, ::-1])


def row_sum(matrix: TimePairs) -> int:
    """Returns the largest sum of a row's magnitudes. They are below 2^48, and T below 2^15."""
    return int(np.abs(matrix).sum(axis=1).max())
