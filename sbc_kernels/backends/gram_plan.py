"""How a batch of spikes becomes a Gram matrix: exact integers where they fit, floats where not.

``sum_n Y_n' Y_n`` with ``Y_n = M X_n`` is ``sum_n X_n' (M'M) X_n``. Where X and M'M are integers, so is
the sum, and the kernels compute it without an error. Where M'M is not, `matched_filter` has rounded it.

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
from functools import lru_cache
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .matched_filter import MatchedFilter, TimePairs

PASS_SAMPLES = 36  # of csrc/spike_gram/tables.h: sums of 36 terms must fit in a lane
_DOUBLE_INTEGERS = 1 << 53  # float64 holds every integer up to here
_LANE_BITS = (8, 15, 31, 63)  # of values in lanes of 1 (unsigned), 2, 4, 8 bytes


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
    unit : what spikes are integers of.
    reason : why floats are multiplied, else None.
    """

    arithmetic: Arithmetic
    algorithm: str | None = None
    size: int = 0
    bits: int = 0
    unit: float = 1.0
    reason: str | None = None

    def text(self, *, beyond_53_bits: bool = False) -> str:
        """Returns one line. `beyond_53_bits`: float64 no longer holds every integer of the sum."""
        numbers = self.arithmetic.value
        if self.arithmetic is Arithmetic.INTEGERS and beyond_53_bits:
            numbers = "integers of over 53 bits"
        if self.arithmetic is Arithmetic.FIXED_POINT:
            numbers += f" ({self.bits} bits of M'M)"
        way = "" if self.algorithm is None else ALGORITHMS[self.algorithm].wording
        unit = "" if self.unit == 1.0 else f" (spikes are multiples of {self.unit:.6g})"
        reason = "" if self.reason is None else f" (spikes are not {self.reason})"
        return numbers + way.format(size=self.size) + unit + reason


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
            sum_bound=float(np.abs(weights).sum(axis=1).max()),
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
        negative = is_signed or filter_.has_negative
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
        matrix, squared, sums = filter_.integers, False, filter_.largest_row_sum
        if filter_.membrane is not None and not spikes.shifted:
            assert filter_.membrane_row_sum is not None
            value = filter_.membrane_row_sum * largest
            if value <= (127 if is_signed or (filter_.membrane < 0).any() else 255):
                matrix, squared, sums = filter_.membrane, True, filter_.membrane_row_sum
        is_signed = is_signed or bool((matrix < 0).any())
        value = max(sums, 1) * largest
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
