"""Quantization grids: the levels that a group of weights may take."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .arrays import Array, kept_mask, require_finite, require_shape, to_numpy

__all__ = ["Grid", "fit_grid"]

# Shrink factors tried by the MSE grid: 25 coarse ones, then 8 about the best.
_COARSE = np.linspace(1.0, 0.28, 25)
_FINE = np.linspace(-1.0, 1.0, 9)[[0, 1, 2, 3, 5, 6, 7, 8]] * (_COARSE[0] - _COARSE[1])


@dataclass(frozen=True)
class Grid:
    """``w = (code - zero_point) * scale`` with codes 0 .. 2^bits - 1.

    Attributes
    ----------
    bits : 1..8.
    scale : float32 [d_out, groups], positive.
    zero_point : float32 [d_out, groups]; an integer for 2 bits and more. 1 bit has its two levels at
        the ends of its range: +-scale/2 (zero point 0.5) if symmetric.
    group_size : consecutive inputs that share a scale; -1 is the whole row.
    """

    bits: int
    scale: NDArray[np.float32]
    zero_point: NDArray[np.float32]
    group_size: int

    def group_of_column(self, d_in: int) -> NDArray[np.int32]:
        size = d_in if self.group_size == -1 else self.group_size
        return (np.arange(d_in) // max(size, 1)).astype(np.int32)

    def require_fits(self, shape: tuple[int, ...]) -> None:
        d_out, d_in = shape
        groups = 1 if self.group_size == -1 else max(-(-d_in // self.group_size), 1)
        for name in ("scale", "zero_point"):
            if getattr(self, name).shape != (d_out, groups):
                raise ValueError(
                    f"grid has {name} of shape {list(getattr(self, name).shape)}; accepted is "
                    f"{[d_out, groups]} for a weight of {list(shape)} in groups of {self.group_size}"
                )
        if not (np.isfinite(self.scale).all() and (self.scale > 0).all()):
            raise ValueError("grid has scales that are not positive; accepted are positive ones")

    def round(self, weight: Array) -> tuple[NDArray[np.uint8], Array]:
        """Nearest level of each weight [d_out, d_in], by itself: codes and values."""
        group = self.group_of_column(weight.shape[1])
        scale, zero = self.scale[:, group], self.zero_point[:, group]
        codes = _codes(weight, scale, zero, 2**self.bits - 1)
        return codes.astype(np.uint8), ((codes - zero) * scale).astype(weight.dtype)


def fit_grid(
    weight: Any,
    bits: int,
    *,
    kind: str = "mse",
    sym: bool = False,
    group_size: int = -1,
    importance: Any = None,
    mask: Any = None,
) -> Grid:
    """A grid for each row, or each group of ``group_size`` consecutive inputs of it.

    Parameters
    ----------
    weight : float [d_out, d_in].
    bits : 1..8.
    kind : "absmax" reaches from the least to the largest weight. "mse" shrinks that range to the
        least ``sum_j importance_j (w_j - q_j)^2``.
    sym : levels symmetric about 0 (one more below it for 2 bits and more).
    group_size : -1 or 1..d_in. The last group may be shorter.
    importance : float [d_in], not negative: the Hessian's diagonal. None weighs all alike.
    mask : bool, True = kept: only survivors count.

    Raises
    ------
    ValueError : naming the parameter, what came and what is accepted.
    """
    if isinstance(bits, bool) or not isinstance(bits, (int, np.integer)) or not 1 <= bits <= 8:
        raise ValueError(f"bits is {bits!r}; accepted is an integer in 1..8")
    if kind not in ("mse", "absmax"):
        raise ValueError(f"grid is {kind!r}; accepted are 'mse' and 'absmax'")
    weight, importance, mask = _checked(weight, importance, mask)
    d_out, d_in = weight.shape
    integral = isinstance(group_size, (int, np.integer)) and not isinstance(group_size, bool)
    if not integral or not (group_size == -1 or 1 <= group_size <= d_in):
        raise ValueError(f"group_size is {group_size!r}; accepted is -1 or an integer in 1..{d_in}")
    size = max(d_in, 1) if group_size == -1 else int(group_size)
    groups = max(-(-d_in // size), 1)

    def grouped(values: Array) -> Array:
        """[.., d_in] to [.., groups, size], the missing end as zeros."""
        padded = np.zeros((*values.shape[:-1], groups * size), dtype=values.dtype)
        padded[..., :d_in] = values
        return padded.reshape(*values.shape[:-1], groups, size)

    w = grouped(weight.astype(np.float32))
    counted = np.ones_like(weight, dtype=np.float32)
    if importance is not None:
        # By its largest: only ratios count, and float32 does not hold every Hessian's diagonal.
        counted *= (importance / max(float(importance.max(initial=0.0)), 5e-324)).astype(np.float32)
    if mask is not None:
        counted *= mask
        w = w * grouped(mask)
    h = grouped(counted)
    silent = h.sum(axis=2, keepdims=True) == 0  # nothing to weigh: weigh all alike
    h = np.where(silent, np.float32(1.0), h)
    low, high = np.minimum(w.min(axis=2), 0.0), np.maximum(w.max(axis=2), 0.0)

    def levels(shrink: Array) -> tuple[Array, Array]:
        return _levels(low * shrink, high * shrink, int(bits), sym)

    if kind == "absmax":
        scale, zero = levels(np.ones_like(low))
        return Grid(int(bits), scale, zero, int(group_size))
    best_shrink = np.ones((d_out, groups), dtype=np.float32)
    best_error = np.full((d_out, groups), np.inf, dtype=np.float32)

    def attempt(shrink: Array) -> None:
        nonlocal best_shrink, best_error
        scale, zero = levels(shrink)
        codes = _codes(w, scale[..., None], zero[..., None], 2**bits - 1)
        codes -= zero[..., None]
        codes *= scale[..., None]
        codes -= w
        codes *= codes
        error = np.einsum("rgs,rgs->rg", codes, h)
        better = error < best_error
        best_error = np.where(better, error, best_error)
        best_shrink = np.where(better, shrink, best_shrink).astype(np.float32)

    for shrink in _COARSE:
        attempt(np.full_like(best_shrink, shrink))
    centre = best_shrink
    for offset in _FINE:
        attempt((centre + np.float32(offset)).astype(np.float32))
    scale, zero = levels(best_shrink)
    return Grid(int(bits), scale, zero, int(group_size))


def _checked(weight: Any, importance: Any, mask: Any) -> tuple[Array, Array | None, Array | None]:
    w, _ = to_numpy(weight, "weight")
    if w.dtype.kind != "f":
        raise TypeError(f"weight has dtype {w.dtype}; accepted are real floats")
    require_shape(w, "weight", (None, None))
    require_finite(w, "weight")
    if importance is not None:
        importance, _ = to_numpy(importance, "importance")
        importance = importance.astype(np.float64)
        require_shape(importance, "importance", (w.shape[1],))
        require_finite(importance, "importance")
        if (importance < 0).any():
            raise ValueError(
                f"importance reaches {importance.min()}; accepted are numbers of at least 0"
            )
    if mask is not None:
        mask = kept_mask(mask, w.shape)
    return w, importance, mask


def _levels(low: Array, high: Array, bits: int, sym: bool) -> tuple[Array, Array]:
    """Scale and zero point of the range [low, high], which contains 0."""
    top = 2**bits - 1
    if sym:
        reach = np.maximum(-low, high)
        scale, zero = 2 * reach / top, np.full_like(reach, 0.5 if bits == 1 else 2 ** (bits - 1))
    else:
        scale = (high - low) / top
        with np.errstate(invalid="ignore", divide="ignore"):
            zero = np.where(scale > 0, -low / scale, 0.0)
        # One bit has its levels at both ends of the range; more bits have one at 0.
        zero = zero if bits == 1 else np.rint(zero)
    smallest = np.finfo(np.float32).tiny
    scale = np.where(scale > smallest, scale, 1.0)
    return scale.astype(np.float32), zero.astype(np.float32)


def _codes(weight: Array, scale: Array, zero: Array, top: int) -> Array:
    codes = weight / scale
    codes += zero
    np.clip(codes, 0, top, out=codes)
    return np.rint(codes, out=codes)
