"""Rows that share one Hessian: the input of a method, and the place of its results."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from array_api_compat import array_namespace

from ..arrays import Array
from ..grid import Grid


@dataclass
class Rows:
    """One convolution group's rows (all rows of other layers), and their results.

    A method reads the fields up to `unit` and sets those from `result` on. Each row is in a unit of its
    own, a power of two that brings its largest weight to 0.5 .. 1: float32 has no room for the squares
    of all numbers that it has room for. Rows are compared with each other by `row_scale` and `size`.
    """

    weight: Array  # [rows, d], float32 or float64, in the rows' units
    hessian: Array  # [d, d], float64, undamped
    row_scale: Array  # [rows], float64, of a row's outputs before they are integrated, and its unit
    backend: str | None = None  # for the ops
    row_unit: Array | None = None  # [rows], float64, up to one factor for all; None is all ones
    kept: Array | None = (
        None  # bool [rows, d], False = zero from the start, so it stays; None: none
    )
    live: Array = field(init=False)  # [d], bool
    silent: int = field(init=False)  # number of inputs that never spiked
    xp: Any = field(init=False)  # the array library
    unit: float = 1.0  # of H, see share_unit
    result: Array = field(init=False)
    quota: int = 0  # of weights to prune by blocks
    mask: Array | None = None
    codes: Array | None = None  # uint8
    grid: Grid | None = None

    def __post_init__(self) -> None:
        self.xp = array_namespace(self.weight)
        self.live = self.hessian.diagonal() > 0
        self.silent = int(self.xp.sum(self.xp.astype(~self.live, self.xp.int64)))
        self.result = self.xp.asarray(self.weight, copy=True)

    def sizes(self) -> Array:
        """Returns the absolute weights, comparable between rows: float64 [rows, d]."""
        size = self.xp.astype(self.xp.abs(self.weight), self.xp.float64)
        return size if self.row_unit is None else size * self.row_unit[:, None]

    @property
    def size(self) -> int:
        """Number of weights."""
        return int(self.weight.shape[0] * self.weight.shape[1])


def num_silent(parts: list[Rows]) -> int:
    """Weights on inputs that never spiked."""
    return sum(len(part.weight) * part.silent for part in parts)


def num_weights(parts: list[Rows]) -> int:
    """Weights of all groups."""
    return sum(part.size for part in parts)


def flattened(arrays: list[Array]) -> Array:
    """Returns the elements of all arrays in one axis."""
    xp = array_namespace(arrays[0])
    return xp.concat([xp.reshape(array, (-1,)) for array in arrays])


def unflatten(flat: Array, like: list[Array]) -> list[Array]:
    """Returns the inverse of `flattened`: arrays of the shapes of `like`."""
    xp, parts, start = array_namespace(flat), [], 0
    for array in like:
        size = array.shape[0] * array.shape[1]
        parts.append(xp.reshape(flat[start : start + size], array.shape))
        start += size
    return parts


def may_stay(mask: Array, part: Rows) -> Array:
    """Returns the mask without the weights that were zero from the start."""
    return mask if part.kept is None else mask & part.kept


def masked(mask: Array, values: Array) -> Array:
    """Returns the values, zero where the mask is False."""
    xp = array_namespace(values)
    return xp.where(mask, values, xp.zeros_like(values))


def among_live(matrix: Array, part: Rows) -> Array:
    """Returns the rows and columns of live inputs."""
    if not part.silent:
        return matrix
    xp = part.xp
    (live,) = xp.nonzero(part.live)
    return xp.take(xp.take(matrix, live, axis=0), live, axis=1)
