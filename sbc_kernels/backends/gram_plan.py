"""How a batch of spikes becomes a Gram matrix: exact integers where they fit, floats where not.

``sum_n Y_n' Y_n`` with ``Y_n = M X_n`` is ``sum_n X_n' (M'M) X_n``. Where X and M'M are integers (IF;
any LIF whose decay is dyadic, scaled), so is the sum, and the kernels compute it without an error.
Where M'M is not, it is rounded to integers of 31 or 38 bits first.

Each algorithm has one stem, which runs through every layer: a plan type here (`TablesPlan`), an entry
of the native module (``_native.gram_tables``), its params struct and kernel
(``csrc/spike_gram/tables*``). To add one, write a plan type with a ``plan`` and a ``cost``, and name it
in `ALGORITHMS` and in the algorithms of the backends that run it: on a CPU ``registry.BACKENDS``, on a
GPU ``triton.gram.GpuGram``. One with a kernel for a single instruction set is also named in
``native.isas``. `PairTablesPlan` shares the files of `TablesPlan`.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from enum import Enum
from functools import cached_property, lru_cache
from math import gcd
from typing import Any, ClassVar, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ..neurons import Neuron, impulse_response

TimePairs: TypeAlias = NDArray[np.int64]  # [T, T]

PASS_SAMPLES = 36  # of csrc/spike_gram/tables.h: sums of 36 terms must fit in a lane
EXACT_BITS = 48  # of a row sum of M'M that is summed as it is
FIXED_POINT_BITS = 38  # of a row sum of M'M that has to be rounded, to be looked up in lanes
BYTES_FIXED_POINT_BITS = (
    31  # likewise for products of bytes: four digits of a byte, the highest with a sign
)
_DOUBLE_INTEGERS = 1 << 53  # float64 holds every integer up to here
_LANE_BITS = (8, 15, 31, 63)  # of values in lanes of 1 (unsigned), 2, 4, 8 bytes


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


class Arithmetic(Enum):
    """The arithmetic of a sum."""

    INTEGERS = "exact integers"
    FIXED_POINT = "fixed point"
    WEIGHTED_COUNTS = "counts weighted in float64"
    FLOAT64 = "float64 matrix products"
    SPLIT_FLOAT32 = "float32 products in two parts, summed in float64"


@dataclass(frozen=True)
class GramPath:
    """How a batch was summed. `text` words the record for users.

    Attributes
    ----------
    arithmetic : of the sum.
    algorithm : the plan type's stem; None where floats are multiplied.
    size : bits of a lane, or bytes of a number, that the algorithm's kernel is for.
    bits : of a row sum of M'M where that is rounded to integers, else 0.
    reason : why floats are multiplied, else None.
    """

    arithmetic: Arithmetic
    algorithm: str | None = None
    size: int = 0
    bits: int = 0
    reason: str | None = None

    def text(self, *, beyond_53_bits: bool = False) -> str:
        """Returns one line. `beyond_53_bits`: float64 no longer holds every integer of the sum."""
        numbers = self.arithmetic.value
        if self.arithmetic is Arithmetic.INTEGERS and beyond_53_bits:
            numbers = "integers of over 53 bits"
        if self.arithmetic is Arithmetic.FIXED_POINT:
            numbers += f" ({self.bits} bits of M'M)"
        way = "" if self.algorithm is None else ALGORITHMS[self.algorithm].wording
        reason = "" if self.reason is None else f" (spikes are not {self.reason})"
        return numbers + way.format(size=self.size) + reason


class SpikeRange(NamedTuple):
    """The spikes that a plan is for: integers from `minimum` <= 0 to `maximum` >= 0.

    `shifted`: whether the products are of different positions, as a convolution's are.
    """

    minimum: int
    maximum: int
    shifted: bool

    @property
    def is_binary(self) -> bool:
        return self.minimum >= 0 and self.maximum <= 1

    @property
    def largest(self) -> int:
        return max(-self.minimum, self.maximum, 1)


def one_byte_type(minimum: int, maximum: int) -> str:
    """Returns the narrowest dtype for a range within [-128, 127]; a bool need not be read again."""
    if minimum < 0:
        return "int8"
    return "bool" if maximum <= 1 else "uint8"


@dataclass(frozen=True, eq=False, kw_only=True)
class GramPlan:
    """How one algorithm sums spikes of one range, filtered by one neuron. Plans are cached.

    The fields of each plan type are the arguments of the native entry called after its stem, beside
    those here.

    Attributes
    ----------
    factor : one unit of the sums.
    sum_bound : bound on what one row of X adds to an entry, in that unit.
    exact : whether nothing is rounded.
    path : how the sum is described to users.
    """

    stem: ClassVar[str]
    wording: ClassVar[str]
    """The algorithm in `GramPath.text`, formatted with the path's size."""
    can_finish: ClassVar[bool] = False
    """Whether the native kernel can write a Linear layer's whole matrix, scaled, in one go."""

    factor: float
    sum_bound: float
    exact: bool
    path: GramPath

    @classmethod
    def plan(cls, filter_: MatchedFilter, spikes: SpikeRange) -> GramPlan | None:
        """Returns the plan for such spikes, or None if the algorithm cannot sum them."""
        raise NotImplementedError

    def cost(self, channels: int) -> float:
        """Returns the time a sample of `channels` takes, in units of one looked-up pair of times."""
        raise NotImplementedError

    def arguments(self) -> dict[str, Any]:
        """Returns the arguments that only this algorithm takes."""
        common = {field.name for field in fields(GramPlan)}
        return {
            field.name: getattr(self, field.name)
            for field in fields(self)
            if field.name not in common
        }


@dataclass(frozen=True, eq=False, kw_only=True)
class PairTablesPlan(GramPlan):
    """Counts of coincidences of each pair of times, looked up in tables, times M'M: binary spikes.

    Attributes
    ----------
    pair_weights : float64 [T, T], M'M.
    """

    stem: ClassVar[str] = "pair_tables"
    wording: ClassVar[str] = ", by pairs of times"

    pair_weights: NDArray[np.float64]

    @classmethod
    def plan(cls, filter_: MatchedFilter, spikes: SpikeRange) -> GramPlan | None:
        if not spikes.is_binary:
            return None
        weights, exact = filter_.pair_weights, filter_.exact
        return cls(
            pair_weights=weights,
            factor=filter_.pair_factor,
            sum_bound=float(np.abs(weights).sum()),
            exact=exact,
            path=GramPath(Arithmetic.INTEGERS if exact else Arithmetic.WEIGHTED_COUNTS, cls.stem),
        )

    def cost(self, channels: int) -> float:
        T = len(self.pair_weights)  # one step has one pair: nothing is as fast
        return 0.0 if T == 1 else float(T * _padded(channels, 128))  # a tile has 128 columns


@dataclass(frozen=True, eq=False, kw_only=True)
class CountsPlan(PairTablesPlan):
    """Counts of coincidences by population counts of whole vectors: Linear layers of binary spikes."""

    stem: ClassVar[str] = "counts"
    can_finish: ClassVar[bool] = True

    @classmethod
    def plan(cls, filter_: MatchedFilter, spikes: SpikeRange) -> GramPlan | None:
        return None if spikes.shifted else super().plan(filter_, spikes)

    def cost(self, channels: int) -> float:
        T = len(self.pair_weights)
        return 0.0 if T == 1 else 0.5 * T * channels


@dataclass(frozen=True, eq=False, kw_only=True)
class TablesPlan(GramPlan):
    """Spikes filtered with M'M in the narrowest integer lanes that cannot overflow, subset sums looked
    up in tables.

    Attributes
    ----------
    matched_filter : int64 [T, T], M'M.
    lane_bytes : 1, 2, 4 or 8.
    planes : bits of a spike; the last one is the sign where `is_signed`.
    is_signed : whether spikes may be negative.
    max_term : bound on a filtered value times a plane's weight.
    """

    stem: ClassVar[str] = "tables"
    wording: ClassVar[str] = " in {size}-bit lanes"
    _LANE_COST: ClassVar[dict[int, float]] = {1: 2.0, 2: 4.0, 4: 8.0, 8: 16.0}

    matched_filter: TimePairs
    lane_bytes: int
    planes: int
    is_signed: bool
    max_term: int

    @classmethod
    def plan(cls, filter_: MatchedFilter, spikes: SpikeRange) -> GramPlan | None:
        is_signed = spikes.minimum < 0
        if is_signed:
            planes = max((-spikes.minimum - 1).bit_length(), spikes.maximum.bit_length()) + 1
        else:
            planes = max(spikes.maximum.bit_length(), 1)
        value = max(filter_.largest_row_sum, 1) * spikes.largest
        max_term = value << (planes - 1)
        negative = is_signed or bool((filter_.integers < 0).any())
        for lane_bytes, bits in zip((1, 2, 4, 8), _LANE_BITS, strict=True):
            if lane_bytes == 1 and negative:
                continue
            if PASS_SAMPLES * max_term < 1 << bits:
                return cls(
                    matched_filter=filter_.integers,
                    lane_bytes=lane_bytes,
                    planes=planes,
                    is_signed=is_signed,
                    max_term=max_term,
                    factor=filter_.factor,
                    sum_bound=float(value * spikes.largest),
                    exact=filter_.exact,
                    path=_filtered_path(filter_, cls.stem, 8 * lane_bytes),
                )
        return None

    def cost(self, channels: int) -> float:
        return self._LANE_COST[self.lane_bytes] * _padded(channels, 64 // self.lane_bytes)


@dataclass(frozen=True, eq=False, kw_only=True)
class BytesPlan(GramPlan):
    """Products of bytes: X times M'M X in the fewest digits of base 256 that hold it.

    If M X fits in one byte and no products of different positions are needed, M X is squared instead.

    Attributes
    ----------
    filter : int64 [T, T], M'M, or M if it is squared.
    digits : of base 256; the last one is signed where `is_signed`.
    is_signed, squared : whether a byte has a sign, and whether M X is squared.
    max_term : bound on a filtered value.
    """

    stem: ClassVar[str] = "bytes"
    wording: ClassVar[str] = ", products of {size} byte(s)"
    can_finish: ClassVar[bool] = True

    filter: TimePairs
    digits: int
    is_signed: bool
    squared: bool
    max_term: int

    @classmethod
    def plan(cls, filter_: MatchedFilter, spikes: SpikeRange) -> GramPlan | None:
        largest = spikes.largest
        is_signed = spikes.minimum < 0
        matrix, squared = filter_.integers, False
        if filter_.membrane is not None and not spikes.shifted:
            value = _row_sum(filter_.membrane) * largest
            if value <= (127 if is_signed or (filter_.membrane < 0).any() else 255):
                matrix, squared = filter_.membrane, True
        is_signed = is_signed or bool((matrix < 0).any())
        value = max(_row_sum(matrix), 1) * largest
        if value > _DOUBLE_INTEGERS:
            return None
        as_it_is = matrix.size == 1 and int(matrix[0, 0]) == 1  # -128 fits as well
        digits = 1 if as_it_is else -(-(value.bit_length() + is_signed) // 8)
        # Digits below a signed one add up before it is whole: at most as much again as one of its
        # units.
        term = value * value if squared else (value + (is_signed << 8 * (digits - 1))) * largest
        return cls(
            filter=matrix,
            digits=digits,
            is_signed=is_signed,
            squared=squared,
            max_term=value,
            factor=filter_.factor,
            sum_bound=float(term),
            exact=filter_.exact,
            path=_filtered_path(filter_, cls.stem, digits),
        )

    def cost(self, channels: int) -> float:
        return 0.5 * self.digits * channels


# Every algorithm; among equal costs the first one is taken.
ALGORITHMS: dict[str, type[GramPlan]] = {
    plan.stem: plan for plan in (CountsPlan, PairTablesPlan, TablesPlan, BytesPlan)
}
LOOK_UP = frozenset({"tables", "pair_tables"})  # fast on every processor


def plan_gram(
    filter_: MatchedFilter,
    minimum: int,
    maximum: int,
    channels: int,
    *,
    shifted: bool = False,
    algorithms: frozenset[str] = LOOK_UP,
) -> GramPlan | None:
    """Returns the cheapest plan for spikes in [minimum, maximum], or None if no lane is wide enough.

    `shifted`: the layer is a convolution. `algorithms`: those to choose from, see `GramEngine`.
    """
    plans = _plans(filter_, SpikeRange(minimum, maximum, shifted), algorithms)
    return min(plans, key=lambda plan: plan.cost(channels), default=None)


@lru_cache(maxsize=256)
def _plans(
    filter_: MatchedFilter, spikes: SpikeRange, algorithms: frozenset[str]
) -> tuple[GramPlan, ...]:
    plans = (kind.plan(filter_, spikes) for stem, kind in ALGORITHMS.items() if stem in algorithms)
    return tuple(plan for plan in plans if plan is not None)


def _filtered_path(filter_: MatchedFilter, stem: str, size: int) -> GramPath:
    if filter_.exact:
        return GramPath(Arithmetic.INTEGERS, stem, size)
    return GramPath(Arithmetic.FIXED_POINT, stem, size, filter_.bits)


def _padded(channels: int, columns: int) -> int:
    return -(-channels // columns) * columns


def _row_sum(matrix: TimePairs) -> int:
    return max(sum(abs(int(v)) for v in row) for row in matrix)
