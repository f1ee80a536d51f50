"""What the batches of a stream add up to: sums of integers in one unit, and a float64 total.

Each is a number times a power of two, so that neither huge nor tiny spikes leave float64's range.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from array_api_compat import array_namespace
from numpy.typing import NDArray

from ..arrays import Array
from ..conv import Conv, Region, linear_regions, regions, unfolded
from ..errors import ParameterError
from .gram_plan import GramPlan
from .matched_filter import MatchedFilter
from .multiples import LARGEST, Analog, Multiples, ratio, scaled, squared
from .protocol import GramEngine

_SAFE_EXPONENT = 400  # of a factor: sums are below 2^200

MapSize = tuple[int, ...]


class ScaledHessian(NamedTuple):
    """The matrices ``2^exponent * stack``.

    Attributes
    ----------
    stack : float64 [groups, d, d].
    exponent : 0 unless entries of the product might leave float64's range.
    fired : bool [groups, d], NumPy: inputs that were not 0 at least once. Their diagonal can be 0
        nevertheless: where they are tiny beside others, or the neuron does not answer.
    """

    stack: Array
    exponent: int
    fired: NDArray[np.bool_]

    def plain(self) -> Array:
        """Returns the product. ParameterError: float64 cannot hold an entry."""
        if self.exponent <= 0:
            return scaled(self.stack, self.exponent)
        with np.errstate(over="ignore"):
            stack = scaled(self.stack, self.exponent)
        xp = array_namespace(stack)
        if not bool(xp.all(xp.isfinite(stack))):
            largest = float(xp.max(xp.abs(self.stack)))
            raise ParameterError(
                "spikes",
                stack,
                "a smaller scale",
                verb="have",
                shown="a Hessian that float64 cannot hold: it reaches "
                f"2^{int(np.frexp(largest)[1]) + self.exponent}",
            )
        return stack


class _Key(NamedTuple):
    """Batches that add to the same sums."""

    whole: bool  # spikes are integers; else they are multiples of the stream's unit
    T: int
    factor: float
    exponent: int
    map_size: MapSize


class GramSums:
    """The sums of one stream.

    Parameters
    ----------
    engine : adds to them.
    conv : geometry of a convolution, or None.
    channels : C of a convolution, d_in of a Linear layer.

    Attributes
    ----------
    unit : of the spikes that are multiples of another unit than 1; 1 before the first.
    """

    def __init__(self, engine: GramEngine, conv: Conv | None, channels: int) -> None:
        self.engine = engine
        self.conv = conv
        self.channels = channels
        self.groups = 1 if conv is None else conv.groups
        self.per_group = channels // self.groups
        self.in_features = self.per_group * (1 if conv is None else conv.taps)
        self.unit = 1.0
        self._bounds = {True: 0.0, False: 0.0}  # of entries, by `_Key.whole`
        self._tolerance = 0.0  # of the unit
        self._sums: dict[_Key, list[Array]] = {}
        self._total: Array | None = None  # float64 [groups, d, d]
        self._exponent = 0  # of the total
        self._fired = np.zeros((self.groups, self.in_features), dtype=bool)

    # ---- batches -------------------------------------------------------------------------------

    @property
    def bound(self) -> float:
        """Bound on any entry of the sums, in their units."""
        return self._bounds[True] + self._bounds[False]

    def in_own_unit(self, spikes: Multiples) -> Multiples:
        """Returns the spikes in the unit of these sums, which takes theirs where that is finer.

        Integers, and spikes in another unit, have sums of their own. Where of two other units neither
        is a multiple of the other, the earlier sums become part of the float64 total.
        """
        if spikes.unit == 1.0:
            return spikes
        if not self._has_fractions:
            self.unit, self._tolerance = spikes.unit, spikes.tolerance
            return spikes
        factor = self._refine(spikes.unit, spikes.tolerance)
        most = max(-spikes.minimum, spikes.maximum)
        if factor is None or factor * most > LARGEST:
            self._to_total()
            self.unit, self._tolerance = spikes.unit, spikes.tolerance
            return spikes
        if factor > 1:
            spikes = spikes._replace(
                integers=spikes.integers * factor,  # which stay int8
                minimum=spikes.minimum * factor,
                maximum=spikes.maximum * factor,
            )
        return spikes._replace(unit=self.unit)

    def finished(
        self,
        spikes: Multiples,
        filter_: MatchedFilter,
        plan: GramPlan,
        map_size: MapSize,
        scale: float,
    ) -> ScaledHessian | None:
        """Returns ``scale`` times the sum of one batch alone, where a kernel writes it in one go."""
        key = self._key(spikes, filter_, plan, map_size)
        factor, exponent = self._factor(key, scale)
        parts = self._regions(map_size)
        matrix = self.engine.finished(spikes.integers, plan, parts, factor)
        if matrix is None:
            return None
        return ScaledHessian(matrix, exponent, self._fired | _diagonal_shows(matrix))

    def add_integers(
        self, spikes: Multiples, filter_: MatchedFilter, plan: GramPlan, map_size: MapSize
    ) -> None:
        """Adds a batch in the unit of these sums."""
        T, N, P, _ = spikes.integers.shape
        parts = self._regions(map_size)
        key = self._key(spikes, filter_, plan, map_size)
        if key not in self._sums:
            self._sums[key] = self.engine.zero_sums(parts, self.groups, self.per_group)
        self.engine.add_integers(
            spikes.integers, plan, self.conv, self.groups, parts, self._sums[key]
        )
        self._bounds[key.whole] += plan.sum_bound * T * N * P

    def add_floats(self, values: Array, filter_: MatchedFilter | None, analog: Analog) -> None:
        """Adds a batch of other values, filtered by the neuron's response; None is the identity."""
        exponent = 2 * analog.exponent + (0 if filter_ is None else filter_.exponent)
        membrane = None if filter_ is None else filter_.membrane_matrix
        if self._total is not None and exponent == self._exponent:
            self.engine.add_floats(values, membrane, self.conv, self._total, analog.exponent)
            return
        batch = self.engine.zeros(self.groups, self.in_features, self.in_features)
        self.engine.add_floats(values, membrane, self.conv, batch, analog.exponent)
        self._add(batch, exponent)

    def note_fired(self, values: Array) -> None:
        """Looks through a batch, as its user has it, for inputs whose spikes its sums may not show."""
        ever = (values != 0).any(0).any(0)
        seen = np.asarray(ever if isinstance(ever, np.ndarray) else ever.cpu())
        if self.conv is None:
            self._fired |= seen.reshape(-1, self.channels).any(axis=0)
            return
        for group, fired in enumerate(self._fired):
            fired |= unfolded(seen[None], self.conv, group).any(axis=0)

    def merge(self, other: GramSums) -> None:
        """Adds another stream's sums, which stay as they are."""
        factor: int | None = 1
        if other._has_fractions:
            if self._has_fractions:
                factor = self._refine(other.unit, other._tolerance)
            if factor is None:
                self._to_total()
            if not self._has_fractions:
                self.unit, self._tolerance, factor = other.unit, other._tolerance, 1
        assert factor is not None
        for key, sums in other._sums.items():
            square = 1.0 if key.whole else float(factor * factor)
            own = self._sums.setdefault(key, [0.0 * part for part in sums])
            for to, part in zip(own, sums, strict=True):
                to += part if square == 1.0 else square * part
        for whole, bound in other._bounds.items():
            self._bounds[whole] += bound * (1.0 if whole else factor * factor)
        if other._total is not None:
            self._add(other._total, other._exponent, copy=True)
        self._fired |= other._fired

    # ---- results -------------------------------------------------------------------------------

    def result(self, scale: float, consume: bool = False) -> ScaledHessian:
        """Returns ``scale`` times everything. `consume` ends the stream, which saves a copy."""
        terms = [] if self._total is None else [(scale * self._total, self._exponent)]
        terms += [self._term(key, sums, scale, consume) for key, sums in self._sums.items()]
        if consume:
            self._sums.clear()
        fired = self._fired.copy()
        for matrix, _ in terms:
            fired |= _diagonal_shows(matrix)
        exponent = max(power for _, power in terms)
        stack, *others = (scaled(matrix, power - exponent) for matrix, power in terms)
        return ScaledHessian(sum(others, start=stack), exponent, fired)

    def _factor(self, key: _Key, scale: float) -> tuple[float, int]:
        """Returns (f, e): ``f 2^e`` times the sums of a key is `scale` times what they stand for.

        Its roundings are those of the unit's square and of three products.
        """
        square, exponent = squared(1.0 if key.whole else self.unit)
        factor, exponent = scale * key.factor * square, exponent + key.exponent
        if abs(exponent) > _SAFE_EXPONENT:
            return factor, exponent
        return float(np.ldexp(factor, exponent)), 0

    def _term(self, key: _Key, sums: list[Array], scale: float, consume: bool) -> tuple[Array, int]:
        parts = self._regions(key.map_size)
        factor, exponent = self._factor(key, scale)
        matrix = self.engine.matrix(sums, parts, self.conv, self.per_group, factor, consume)
        return matrix, exponent

    def _regions(self, map_size: MapSize) -> tuple[Region, ...]:
        return linear_regions() if self.conv is None else regions(self.conv, map_size)

    @property
    def _has_fractions(self) -> bool:
        return not all(key.whole for key in self._sums)

    def _key(
        self, spikes: Multiples, filter_: MatchedFilter, plan: GramPlan, map_size: MapSize
    ) -> _Key:
        whole = spikes.unit == 1.0
        return _Key(whole, len(spikes.integers), plan.factor, filter_.exponent, map_size)

    # ---- units ---------------------------------------------------------------------------------

    def _refine(self, unit: float, tolerance: float) -> int | None:
        """Makes the unit as fine as another one, if it is a multiple of that.

        Returns how many times its unit the other one is then, or None if neither is a multiple of the
        other.
        """
        tolerance = max(tolerance, self._tolerance)
        parts = ratio(self.unit, unit, tolerance)
        if parts is None:
            return ratio(unit, self.unit, tolerance)
        if parts > 1:
            for key, sums in self._sums.items():
                for part in [] if key.whole else sums:
                    part *= float(parts * parts)
            self._bounds[False] *= parts * parts
            self.unit, self._tolerance = unit, tolerance
        return 1

    def _to_total(self) -> None:
        """Moves the sums in the stream's unit to the float64 total."""
        for key in [key for key in self._sums if not key.whole]:
            self._add(*self._term(key, self._sums.pop(key), 1.0, True))

    def _add(self, matrix: Array, exponent: int, copy: bool = False) -> None:
        """Adds ``2^exponent`` times a matrix to the total, which becomes that matrix if it is first."""
        self._fired |= _diagonal_shows(matrix)
        if self._total is None:
            self._total = matrix + 0.0 if copy else matrix
            self._exponent = exponent
            return
        common = max(exponent, self._exponent)
        self._total = scaled(self._total, self._exponent - common)
        self._total = self._total + scaled(matrix, exponent - common)
        self._exponent = common


def _diagonal_shows(stack: Array) -> NDArray[np.bool_]:
    """Returns where the diagonals of [groups, d, d] are positive, as NumPy."""
    positive = array_namespace(stack).linalg.diagonal(stack) > 0
    return np.asarray(positive if isinstance(positive, np.ndarray) else positive.cpu())
