"""How a batch of spikes becomes a Gram matrix: exact integers where they fit, floats where not.

``sum_n Y_n' Y_n`` with ``Y_n = M X_n`` is ``sum_n X_n' (M'M) X_n``. Where X and M'M are integers (IF;
any LIF whose decay is dyadic, scaled), so is the sum, and the kernels compute it without an error.
Where M'M is not, it is rounded to integers of 31 or 38 bits first.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import gcd
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..neurons import Neuron, impulse_response

PASS_SAMPLES = 36  # of csrc/spike_gram/cpu.h: sums of so many terms must fit in a lane
EXACT_BITS = 48  # of a row sum of M'M that is summed as it is
FIXED_POINT_BITS = 38  # of a row sum of M'M that has to be rounded, to be looked up in lanes
BYTES_FIXED_POINT_BITS = 31  # the same for products of bytes: four of them, with a sign
_DOUBLE_INTEGERS = 1 << 53  # float64 holds every integer up to here
_LANE_BITS = (8, 15, 31, 63)  # of values in lanes of 1 (unsigned), 2, 4, 8 bytes


@dataclass(frozen=True, eq=False)
class MatchedFilter:
    """``M'M = factor * integers``, exactly or rounded. The same response gives the same one again.

    Attributes
    ----------
    integers : int64 [T, T].
    factor : one unit of ``integers``.
    exact : whether nothing was rounded.
    bits : of the largest row sum, where something was.
    membrane : int64 [T, T], M with ``M'M = integers``; None where M'M was rounded.
    """

    integers: NDArray[np.int64]
    factor: float
    exact: bool
    bits: int
    membrane: NDArray[np.int64] | None

    @property
    def largest_row_sum(self) -> int:
        """Bound on ``|M'M x|`` for inputs of at most 1."""
        return _row_sum(self.integers)


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
    """``M'M`` of the neuron over T steps, the identity for ``neuron=None``; where it is no integer,
    rounded to row sums of `bits` bits."""
    if neuron is None:
        return _identity(T, bits)
    return _matched(impulse_response(neuron, T).tobytes(), bits)


@lru_cache(maxsize=64)
def _identity(T: int, bits: int) -> MatchedFilter:
    identity = np.eye(T, dtype=np.int64)
    return MatchedFilter(identity, 1.0, True, bits, identity)


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
            return MatchedFilter(exact.astype(np.int64), factor * factor, True, bits, membrane)
    values = _autocorrelation(k).astype(np.float64)
    largest = float(np.abs(values).sum(axis=1).max())
    if largest == 0.0:
        nothing = np.zeros((T, T), dtype=np.int64)
        return MatchedFilter(nothing, 1.0, True, bits, nothing)
    exponent = bits - int(np.ceil(np.log2(largest)))
    integers64 = np.rint(np.ldexp(values, exponent)).astype(np.int64)
    return MatchedFilter(integers64, float(np.ldexp(1.0, -exponent)), False, bits, None)


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


@dataclass(frozen=True, eq=False)
class GramPlan:
    """What the kernel is told, see csrc/spike_gram/params.h. By bytes, the same filter has the same.

    Attributes
    ----------
    pair_weights : float64 [T, T], to count by pairs; or None.
    integers : int64 [T, T], to filter; or None. M'M, or where squared M.
    digits : of base 256, by bytes; else 0.
    sum_bound : bound on what one row of X adds to an entry.
    path : the same in words.
    """

    pair_weights: NDArray[np.float64] | None
    integers: NDArray[np.int64] | None
    factor: float
    lane_bytes: int
    planes: int
    digits: int
    is_signed: bool
    squared: bool
    max_term: int
    sum_bound: float
    exact: bool
    path: str


# What a time step of a row costs, where counting one pair of times by look-up costs 1.
_LANE_COST = {1: 2.0, 2: 4.0, 4: 8.0, 8: 16.0}
_COUNT_COST = 0.5  # by population counts
_DIGIT_COST = 0.5  # by products of bytes


def _padded(channels: int, columns: int) -> int:
    return -(-channels // columns) * columns


def plan_gram(
    neuron: Neuron | None,
    filter_: MatchedFilter,
    minimum: int,
    maximum: int,
    channels: int,
    *,
    shifted: bool = False,
    skills: frozenset[str] = frozenset(),
) -> GramPlan | None:
    """The cheapest way for spikes in [minimum, maximum]; None where no lane is wide enough.

    `shifted`: a convolution. `skills`: of the backend, see `protocol.GramEngine`.
    """
    T = len(filter_.integers)
    filtered: GramPlan | None
    if "bytes" in skills:
        filtered = _plan_bytes(filter_, minimum, maximum, shifted)
        by_filter = 0.0 if filtered is None else _DIGIT_COST * filtered.digits * channels
    else:
        filtered = _plan_lanes(filter_, minimum, maximum)
        by_filter = 0.0
        if filtered is not None:
            lanes = filtered.lane_bytes
            by_filter = _LANE_COST[lanes] * _padded(channels, 64 // lanes)
    if "bytes" in skills and "counts" not in skills:
        return filtered  # a GPU: nothing is looked up or counted there
    if "counts" in skills and not shifted:
        by_pairs = _COUNT_COST * T * channels
    else:
        by_pairs = float(T * _padded(channels, 128))  # a tile has 128 columns
    if minimum >= 0 and maximum <= 1 and (filtered is None or T == 1 or by_pairs <= by_filter):
        return _plan_pairs(neuron, filter_)
    return filtered


def _plan_pairs(neuron: Neuron | None, filter_: MatchedFilter) -> GramPlan:
    """Counts of coincidences times M'M, for binary spikes."""
    if filter_.exact:
        weights, factor = filter_.integers.astype(np.float64), filter_.factor
    else:
        assert neuron is not None
        k = impulse_response(neuron, len(filter_.integers))
        weights, factor = _autocorrelation(k), 1.0
    kind = "exact integers" if filter_.exact else "counts weighted in float64"
    return GramPlan(
        weights,
        None,
        factor,
        lane_bytes=1,
        planes=1,
        digits=0,
        is_signed=False,
        squared=False,
        max_term=1,
        sum_bound=float(np.abs(weights).sum()),
        exact=filter_.exact,
        path=f"{kind}, by pairs of times",
    )


def _plan_lanes(filter_: MatchedFilter, minimum: int, maximum: int) -> GramPlan | None:
    """The narrowest lanes that cannot overflow."""
    is_signed = minimum < 0
    largest = max(-minimum, maximum, 1)
    if is_signed:
        planes = max((-minimum - 1).bit_length(), maximum.bit_length()) + 1
    else:
        planes = max(maximum.bit_length(), 1)
    value = max(filter_.largest_row_sum, 1) * largest
    max_term = value << (planes - 1)
    negative = is_signed or bool((filter_.integers < 0).any())
    for lane_bytes, bits in zip((1, 2, 4, 8), _LANE_BITS, strict=True):
        if lane_bytes == 1 and negative:
            continue
        if PASS_SAMPLES * max_term < 1 << bits:
            kind = (
                "exact integers" if filter_.exact else f"fixed point ({filter_.bits} bits of M'M)"
            )
            return GramPlan(
                None,
                filter_.integers,
                filter_.factor,
                lane_bytes=lane_bytes,
                planes=planes,
                digits=0,
                is_signed=is_signed,
                squared=False,
                max_term=max_term,
                sum_bound=float(value * largest),
                exact=filter_.exact,
                path=f"{kind} in {8 * lane_bytes}-bit lanes",
            )
    return None


@lru_cache(maxsize=256)
def _plan_bytes(
    filter_: MatchedFilter, minimum: int, maximum: int, shifted: bool
) -> GramPlan | None:
    """As few digits of base 256 as hold M'M X, or M X where that is one; a convolution needs M'M."""
    largest = max(-minimum, maximum, 1)
    is_signed = minimum < 0
    matrix, squared = filter_.integers, False
    if filter_.membrane is not None and not shifted:
        value = _row_sum(filter_.membrane) * largest
        if value <= (127 if is_signed or (filter_.membrane < 0).any() else 255):
            matrix, squared = filter_.membrane, True
    is_signed = is_signed or bool((matrix < 0).any())
    value = max(_row_sum(matrix), 1) * largest
    if value > _DOUBLE_INTEGERS:
        return None
    as_it_is = matrix.size == 1 and int(matrix[0, 0]) == 1  # -128 fits as well
    digits = 1 if as_it_is else -(-(value.bit_length() + is_signed) // 8)
    # Digits below a signed one add up before it is whole: at most as much again as one of its units.
    term = value * value if squared else (value + (is_signed << 8 * (digits - 1))) * largest
    kind = "exact integers" if filter_.exact else f"fixed point ({filter_.bits} bits of M'M)"
    return GramPlan(
        None,
        matrix,
        filter_.factor,
        lane_bytes=1,
        planes=1,
        digits=digits,
        is_signed=is_signed,
        squared=squared,
        max_term=value,
        sum_bound=float(term),
        exact=filter_.exact,
        path=f"{kind}, products of {digits} byte(s)",
    )


def _row_sum(matrix: NDArray[np.int64]) -> int:
    return max(sum(abs(int(v)) for v in row) for row in matrix)
