"""Quantization grids: the levels that a group of weights may take."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from array_api_compat import array_namespace, device

from .arrays import (
    Array,
    dtype_name,
    is_float,
    kept_mask,
    require_finite,
    require_shape,
    row_exponents,
    times_power,
    to_array,
)
from .errors import ParameterError, ParameterTypeError
from .scalars import as_integer

__all__ = ["Grid", "fit_grid"]

# Shrink factors tried by the MSE grid: 25 coarse ones, then 8 about the best.
_COARSE = np.linspace(1.0, 0.28, 25)
_FINE = np.linspace(-1.0, 1.0, 9)[[0, 1, 2, 3, 5, 6, 7, 8]] * (_COARSE[0] - _COARSE[1])

# Up to so many bits both zero points next to the exact one are tried, in 1.6 times the time. With the
# nearer one alone there is 3 % more error at 2 bits (up to 1.7 times that in a row), 0.4 % more at 6
# bits, and no more at 8.
_BOTH_ZEROS = 6


@dataclass(frozen=True)
class Grid:
    """The levels ``(code - zero_point) * scale`` for codes 0 .. 2^bits - 1.

    Attributes
    ----------
    bits : 1..8.
    scale : float32 [d_out, groups], positive: the distance between two levels. NumPy, or torch where
        the weights lie on a GPU.
    zero_point : float32 [d_out, groups]: the code of zero, an integer for 2 bits and more. With 1 bit
        the two levels are the ends of the range: +-scale/2 (zero point 0.5) if symmetric.
    group_size : number of consecutive inputs that share a scale; -1 is the whole row.
    """

    bits: int
    scale: Array
    zero_point: Array
    group_size: int

    def group_of_column(self, d_in: int) -> Array:
        """Returns the group of each input, int32 [d_in], on the scales' device."""
        xp = array_namespace(self.scale)
        size = d_in if self.group_size == -1 else min(self.group_size, d_in)  # may exceed int32
        return xp.arange(d_in, dtype=xp.int32, device=device(self.scale)) // max(size, 1)

    def require_fits(self, shape: tuple[int, ...]) -> None:
        """Raises ParameterError, a ValueError, unless this grid is for a weight of [d_out, d_in]."""
        d_out, d_in = shape
        for name, accepted, good in (
            ("bits", "1..8", self.bits in range(1, 9)),
            ("group_size", "-1 or at least 1", self.group_size == -1 or self.group_size >= 1),
        ):
            if not good:
                value = getattr(self, name)
                raise ParameterError(
                    "grid", self, f"{name} {accepted}", shown=f"one whose {name} is {value!r}"
                )
        groups = 1 if self.group_size == -1 else max(-(-d_in // self.group_size), 1)
        for name in ("scale", "zero_point"):
            if tuple(getattr(self, name).shape) != (d_out, groups):
                raise ParameterError(
                    "grid",
                    self,
                    f"{[d_out, groups]} for a weight of {list(shape)} in groups of {self.group_size}",
                    shown=f"one whose {name} has shape {list(getattr(self, name).shape)}",
                )
        xp = array_namespace(self.scale)
        if not bool(xp.all(xp.isfinite(self.scale) & (self.scale > 0))):
            raise ParameterError(
                "grid", self, "positive scales", shown="one with scales that are not positive"
            )
        if not bool(xp.all(xp.isfinite(self.zero_point))):
            raise ParameterError(
                "grid", self, "finite zero points", shown="one with zero points that are not finite"
            )

    def round(self, weight: Array) -> tuple[Array, Array]:
        """Rounds each weight to the nearest level.

        Parameters
        ----------
        weight : float [d_out, d_in].

        Returns
        -------
        (codes, values) : uint8, and the weight's dtype; both [d_out, d_in].
        """
        group = self.group_of_column(weight.shape[1])
        scale, zero = self.scale[:, group], self.zero_point[:, group]
        codes = _codes(weight, scale, zero, 2**self.bits - 1)
        xp = array_namespace(weight)
        return xp.astype(codes, xp.uint8), xp.astype((codes - zero) * scale, weight.dtype)


def fit_grid(
    weight: Array,
    bits: int,
    *,
    kind: str = "mse",
    sym: bool = False,
    group_size: int = -1,
    importance: Array | None = None,
    mask: Array | None = None,
) -> Grid:
    """Fits a grid to each row, or to each group of ``group_size`` consecutive inputs of a row.

    Parameters
    ----------
    weight : float [d_out, d_in].
    bits : 1..8.
    kind : "absmax" spans the least to the largest weight. "mse" shrinks that range until
        ``sum_j importance_j (w_j - q_j)^2`` is least.
    sym : make the levels symmetric about 0 (with one more below it for 2 bits and more).
    group_size : -1, which is the whole row, or 1..d_in. The last group may be shorter.
    importance : float [d_in], not negative, such as the Hessian's diagonal. None is all ones.
    mask : bool [d_out, d_in], True = kept: the others do not count.

    Returns
    -------
    Grid

    Raises
    ------
    TypeError, ValueError : naming the parameter, what was given and what is accepted.
    """
    number = as_integer(bits)
    if number is None or not 1 <= number <= 8:
        raise ParameterError("bits", bits, "an integer in 1..8")
    if kind not in ("mse", "absmax"):
        raise ParameterError("kind", kind, "'mse' or 'absmax'")
    weight, importance, mask = _checked(weight, importance, mask)
    return run_fit_grid(
        weight,
        number,
        kind=kind,
        sym=sym,
        group_size=group_size,
        importance=importance,
        mask=mask,
    )


def run_fit_grid(
    weight: Array,
    bits: int,
    *,
    kind: str,
    sym: bool,
    group_size: int,
    importance: Array | None,
    mask: Array | None,
) -> Grid:
    """Fits a grid to checked arrays, NumPy or torch. See `fit_grid`."""
    d_out, d_in = weight.shape
    columns = as_integer(group_size)
    if columns is None or not (columns == -1 or 1 <= columns <= d_in):
        raise ParameterError("group_size", group_size, f"-1 or an integer in 1..{d_in}")
    group_size = columns
    xp, where = array_namespace(weight), device(weight)
    size = max(d_in, 1) if group_size == -1 else group_size
    groups = max(-(-d_in // size), 1)

    def grouped(values: Array) -> Array:
        """Reshapes [d_out, d_in] to [d_out, groups, size]; what is missing of the last group is 0."""
        padded = xp.zeros((d_out, groups * size), dtype=values.dtype, device=where)
        padded[:, :d_in] = values
        return xp.reshape(padded, (d_out, groups, size))

    if mask is not None:
        weight = weight * xp.astype(mask, weight.dtype)
    # In a power of two of each group's own, as float32 has no room for the squares of all its numbers.
    w = grouped(weight)
    flat = xp.reshape(w, (d_out * groups, size))
    exponent = xp.reshape(row_exponents(flat), (d_out, groups))
    w = xp.astype(times_power(w, -exponent[..., None]), xp.float32)
    influence = xp.ones((d_out, d_in), dtype=xp.float32, device=where)
    if importance is not None:
        # Divided by the largest: only ratios count, and a Hessian's diagonal may exceed float32.
        largest = max(float(xp.max(importance)) if d_in else 0.0, 5e-324)
        ratio = importance / xp.full_like(importance, largest)
        influence = influence * xp.astype(ratio, xp.float32)
    if mask is not None:
        influence = influence * xp.astype(mask, xp.float32)
    h = grouped(influence)
    silent = (
        xp.sum(h, axis=2, keepdims=True) == 0
    )  # no weight in the sum counts: let all count alike
    h = xp.where(silent, xp.ones_like(h), h)
    low, high = xp.clip(xp.min(w, axis=2), max=0.0), xp.clip(xp.max(w, axis=2), min=0.0)

    def grid(scale: Array, zero: Array) -> Grid:
        wide = times_power(xp.astype(scale, xp.float64), exponent)
        limits = xp.finfo(xp.float32)
        if bool(xp.any(wide > float(limits.max))):
            raise ParameterError(
                "weight",
                weight,
                "a smaller scale",
                verb="needs",
                shown=f"a grid's scale of {float(xp.max(wide)):.4g}, which float32 cannot hold",
            )
        small = (scale == 0) | (wide < float(limits.smallest_normal))
        zero = xp.where(small & (bits > 1) & (not sym), xp.zeros_like(zero), zero)
        scale = xp.astype(xp.where(small, xp.ones_like(wide), wide), xp.float32)
        return Grid(bits, scale, zero, group_size)

    scale, exact_zero = _range(low, high, bits, sym)
    nearest = exact_zero if sym or bits == 1 else xp.round(exact_zero)
    if kind == "absmax":
        return grid(scale, nearest)
    best_shrink = xp.ones_like(low)
    best_zero = nearest
    best_error = xp.full_like(low, xp.inf)

    def attempt(shrink: Array, zero: Array) -> None:
        """Keeps the shrink factor and zero point of each group where its error is the least so far."""
        nonlocal best_shrink, best_zero, best_error
        step = _positive(scale * shrink)
        codes = _codes(w, step[..., None], zero[..., None], 2**bits - 1)
        codes -= zero[..., None]
        codes *= step[..., None]
        codes -= w
        codes *= codes
        codes *= h
        error = xp.sum(codes, axis=2)  # no matrix product: a global setting may put it into TF32
        better = error < best_error
        best_error = xp.where(better, error, best_error)
        best_shrink = xp.where(better, shrink, best_shrink)
        best_zero = xp.where(better, zero, best_zero)

    zeros = [nearest]
    if not sym and 1 < bits <= _BOTH_ZEROS:
        other = xp.where(nearest > exact_zero, xp.floor(exact_zero), xp.ceil(exact_zero))
        zeros.append(other)
    for zero in zeros:
        for shrink in _COARSE:
            attempt(xp.full_like(low, float(shrink)), zero)
    centre, zero = best_shrink, best_zero
    for offset in _FINE:
        attempt(centre + float(offset), zero)
    return grid(_positive(scale * best_shrink), best_zero)


def _checked(
    weight: Array, importance: Array | None, mask: Array | None
) -> tuple[Array, Array | None, Array | None]:
    """Returns the arguments as NumPy, or torch on a GPU; importance as float64."""
    w, _ = to_array(weight, "weight")
    if not is_float(w):
        raise ParameterTypeError(
            "weight", weight, "an array of real floats", shown=f"an array of {dtype_name(w)}"
        )
    require_shape(w, "weight", (None, None))
    require_finite(w, "weight")
    if importance is not None:
        importance, _ = to_array(importance, "importance")
        xp = array_namespace(importance)
        importance = xp.astype(importance, xp.float64)
        require_shape(importance, "importance", (w.shape[1],))
        require_finite(importance, "importance")
        if bool(xp.any(importance < 0)):
            raise ParameterError(
                "importance",
                importance,
                "numbers of at least 0",
                shown=f"an array that reaches {float(xp.min(importance))}",
            )
    if mask is not None:
        mask = kept_mask(mask, w.shape)
    return w, importance, mask


def _range(low: Array, high: Array, bits: int, sym: bool) -> tuple[Array, Array]:
    """Returns the scale of the range [low, high], which contains 0, and the exact place of 0 on it.

    The scale is 0 where the range is empty. Except for 1 bit, whose levels are the ends of the range,
    and symmetric levels the place must be rounded, so that one level is 0.
    """
    xp = array_namespace(low)
    top = 2**bits - 1
    if sym:
        reach = xp.maximum(-low, high)
        scale = 2 * reach / xp.full_like(reach, top)  # CUDA would multiply by a number's reciprocal
        return scale, xp.full_like(reach, 0.5 if bits == 1 else 2 ** (bits - 1))
    scale = (high - low) / xp.full_like(high, top)
    return scale, xp.where(scale > 0, -low / _positive(scale), xp.zeros_like(scale))


def _positive(scale: Array) -> Array:
    """Returns the scales, and 1 for those that are 0."""
    xp = array_namespace(scale)
    return xp.where(scale > 0, scale, xp.ones_like(scale))


def _codes(weight: Array, scale: Array, zero: Array, top: int) -> Array:
    """Returns the code 0..top of the level nearest to each weight, as floats."""
    xp = array_namespace(weight)
    return xp.round(xp.clip(weight / scale + zero, 0, top))
