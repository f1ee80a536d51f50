"""The geometry of a convolution, as the Gram kernels need it.

The Hessian of a convolution is that of the Linear layer on its unfolded input. Block (a, b) of it,
for kernel taps a and b, is ``sum_o Z[o + a]' X[o + b]`` over output positions o. Seen from the input
position ``p = o + a`` that is ``Z[p]' X[p + (b - a)]``: it depends on the shift b - a and on whether
p is where tap a can be. Positions with the same set of possible taps form a *region* (a 3 x 3 kernel
with padding 1 has 9: corners, edges, inside). One product a region and shift then gives every block,
borders exact, nothing unfolded: for 3 x 3, stride 1, 13 shifts in place of 81 blocks.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from .errors import ParameterError

Pair = tuple[int, int]
Classes = dict[tuple[int, ...], list[int]]  # positions of one axis by the taps that can lie there


def _extents(value: object, name: str, dims: int, least: int) -> tuple[int, ...]:
    """Returns one integer a dimension, from an integer for all or a sequence of `dims` integers."""
    values: tuple[object, ...] = (value,) * dims
    if isinstance(value, Iterable) and not isinstance(value, str):
        values = tuple(value)
    extents = tuple(
        int(v)
        for v in values
        if isinstance(v, (int, np.integer)) and not isinstance(v, bool) and v >= least
    )
    if not len(extents) == len(values) == dims:
        raise ParameterError(name, value, f"an integer of at least {least}, or {dims} of them")
    return extents


@dataclass(frozen=True)
class Conv:
    """A Conv1d or Conv2d layer's geometry, in PyTorch's terms.

    Parameters
    ----------
    kernel_size : (kw,) for Conv1d or (kh, kw) for Conv2d.
    stride, dilation : an integer, or one a dimension.
    padding : an integer, one a dimension, "same" (stride 1 only) or "valid". Zero padding.
    groups : number of channel groups.

    Raises
    ------
    ParameterError : one of them has another form or is too small.
    """

    kernel_size: tuple[int, ...]
    stride: int | tuple[int, ...] = 1
    padding: int | tuple[int, ...] | str = 0
    dilation: int | tuple[int, ...] = 1
    groups: int = 1

    def __post_init__(self) -> None:
        size = self.kernel_size
        if not isinstance(size, (tuple, list)) or len(size) not in (1, 2):
            raise ParameterError("kernel_size", size, "a tuple of 1 or 2 integers")
        dims = len(size)
        set_ = object.__setattr__
        set_(self, "kernel_size", _extents(size, "kernel_size", dims, 1))
        set_(self, "stride", _extents(self.stride, "stride", dims, 1))
        set_(self, "dilation", _extents(self.dilation, "dilation", dims, 1))
        set_(self, "groups", _extents(self.groups, "groups", 1, 1)[0])
        if isinstance(self.padding, str):
            if self.padding not in ("same", "valid"):
                raise ParameterError(
                    "padding", self.padding, "an integer, one a dimension, 'same' or 'valid'"
                )
            if self.padding == "same" and any(s != 1 for s in self.strides):
                raise ParameterError(
                    "padding", "same", "stride 1", shown=f"'same' with stride {self.stride}"
                )
        else:
            set_(self, "padding", _extents(self.padding, "padding", dims, 0))

    @property
    def strides(self) -> tuple[int, ...]:
        return cast(tuple[int, ...], self.stride)

    @property
    def dilations(self) -> tuple[int, ...]:
        return cast(tuple[int, ...], self.dilation)

    @property
    def dims(self) -> int:
        return len(self.kernel_size)

    @property
    def taps(self) -> int:
        return int(np.prod(self.kernel_size))

    def pads(self) -> list[Pair]:
        """Returns the padding (before, after) of each dimension.

        An odd total of "same" puts the larger half after, as PyTorch does.
        """
        pads: list[Pair] = []
        for dim in range(self.dims):
            if self.padding == "same":
                total = self.dilations[dim] * (self.kernel_size[dim] - 1)
                pads.append((total // 2, total - total // 2))
            elif self.padding == "valid":
                pads.append((0, 0))
            else:
                before = cast(tuple[int, ...], self.padding)[dim]
                pads.append((before, before))
        return pads

    def axis_output(self, dim: int, extent: int) -> int:
        """Returns the output size along dimension `dim` of `extent` input positions.

        Raises ParameterError about `spikes` if the dilated kernel is larger than the padded input.
        """
        reach = self.dilations[dim] * (self.kernel_size[dim] - 1) + 1
        free = extent + sum(self.pads()[dim]) - reach
        if free < 0:
            raise ParameterError(
                "spikes",
                extent,
                f"at least {extent - free}, where the kernel {self.kernel_size} with dilation "
                f"{self.dilation} and padding {self.padding} fits",
                shown=f"a map of {extent} positions along dimension {dim}",
            )
        return free // self.strides[dim] + 1

    def output_size(self, input_size: tuple[int, ...]) -> tuple[int, ...]:
        """Returns the spatial output size. Raises ParameterError if the kernel does not fit."""
        return tuple(self.axis_output(dim, extent) for dim, extent in enumerate(input_size))


class Region(NamedTuple):
    """Input positions with one set of possible taps, and the shifts their products need."""

    positions: NDArray[np.int32]  # [num_positions]
    neighbours: NDArray[np.int32]  # [num_shifts, H * W]: where a shift leads, -1 off the map
    blocks: tuple[tuple[int, int, int], ...]  # (shift, tap a, tap b) with b - a the shift


def _tap_classes(conv: Conv, dim: int, extent: int) -> Classes:
    """Returns the positions along one axis, grouped by the kernel taps that can lie on them."""
    stride, dilation = conv.strides[dim], conv.dilations[dim]
    before = conv.pads()[dim][0]
    outputs = conv.axis_output(dim, extent)
    classes: Classes = {}
    for position in range(extent):
        taps = tuple(
            tap
            for tap in range(conv.kernel_size[dim])
            if (position + before - tap * dilation) % stride == 0
            and 0 <= (position + before - tap * dilation) // stride < outputs
        )
        classes.setdefault(taps, []).append(position)
    classes.pop((), None)
    return classes


@lru_cache(maxsize=64)
def regions(conv: Conv, input_size: tuple[int, ...]) -> tuple[Region, ...]:
    """Returns the partition of a map of `input_size` positions into regions.

    A block (a, b) with b >= a appears in exactly the regions where tap a can lie.
    """
    height, width = (1, *input_size)[-2:]
    columns = _tap_classes(conv, conv.dims - 1, width)
    rows: Classes = _tap_classes(conv, 0, height) if conv.dims == 2 else {(0,): [0]}
    reach_y, reach_x = (1, *conv.kernel_size)[-2:]
    dy, dx = (1, *conv.dilations)[-2:]
    y, x = np.divmod(np.arange(height * width, dtype=np.int32), width)
    partition: list[Region] = []
    for taps_y, ys in rows.items():
        for taps_x, xs in columns.items():
            positions = (np.asarray(ys)[:, None] * width + np.asarray(xs)[None, :]).ravel()
            blocks: dict[Pair, list[Pair]] = {}
            for ay in taps_y:
                for ax in taps_x:
                    for by in range(reach_y):
                        for bx in range(reach_x):
                            if (by, bx) >= (ay, ax):
                                pair = (ay * reach_x + ax, by * reach_x + bx)
                                blocks.setdefault((by - ay, bx - ax), []).append(pair)
            neighbours: list[NDArray[np.int32]] = []
            listed: list[tuple[int, int, int]] = []
            for (sy, sx), pairs in blocks.items():
                ny, nx = y + sy * dy, x + sx * dx
                inside = (ny >= 0) & (ny < height) & (nx >= 0) & (nx < width)
                if inside[positions].any():  # a shift off the map everywhere adds nothing
                    listed += [(len(neighbours), a, b) for a, b in pairs]
                    neighbours.append(np.where(inside, ny * width + nx, -1).astype(np.int32))
            partition.append(
                Region(positions.astype(np.int32), np.stack(neighbours), tuple(listed))
            )
    return tuple(partition)


@lru_cache
def linear_regions() -> tuple[Region, ...]:
    """Returns the one region of a Linear layer: a map of one position and a kernel of one tap."""
    zero = np.zeros(1, dtype=np.int32)
    return (Region(zero, zero[None, :], ((0, 0, 0),)),)


def unfolded(maps: NDArray[Any], conv: Conv, group: int) -> NDArray[Any]:
    """Unfolds one group of maps [S, C, *map] into rows [S * outputs, d_in]."""
    per_group = maps.shape[1] // conv.groups
    maps = maps[:, group * per_group : (group + 1) * per_group]
    maps = np.pad(maps, [(0, 0), (0, 0), *conv.pads()])
    reach = [d * (k - 1) + 1 for d, k in zip(conv.dilations, conv.kernel_size, strict=True)]
    axes = tuple(range(2, 2 + conv.dims))
    windows = np.lib.stride_tricks.sliding_window_view(maps, reach, axis=axes)
    steps = [slice(None, None, step) for step in (1, 1, *conv.strides, *conv.dilations)]
    windows = windows[tuple(steps)]
    order = (0, *axes, 1, *range(2 + conv.dims, 2 + 2 * conv.dims))
    return np.ascontiguousarray(windows.transpose(order)).reshape(-1, per_group * conv.taps)
