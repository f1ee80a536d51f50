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

Pair = tuple[int, int]
Classes = dict[tuple[int, ...], list[int]]  # positions of one axis by the taps that can lie there


def _pair(value: Any, name: str, dims: int, least: int) -> tuple[int, ...]:
    values = tuple(value) if isinstance(value, Iterable) and not isinstance(value, str) else None
    values = (value,) * dims if values is None else values
    good = len(values) == dims and all(
        isinstance(v, (int, np.integer)) and not isinstance(v, bool) and v >= least for v in values
    )
    if not good:
        raise ValueError(
            f"{name} is {value!r}; accepted is an integer of at least {least}, or {dims} of them"
        )
    return tuple(int(v) for v in values)


@dataclass(frozen=True)
class Conv:
    """A Conv1d or Conv2d layer's geometry, in PyTorch's terms.

    Parameters
    ----------
    kernel_size : (kw,) or (kh, kw); its length tells 1-D from 2-D.
    stride, dilation : an integer or one a dimension.
    padding : an integer, one a dimension, "same" (stride 1 only) or "valid". Zero padding.
    groups : number of channel groups.

    Raises
    ------
    ValueError : naming the parameter, what came and what is accepted.
    """

    kernel_size: tuple[int, ...]
    stride: int | tuple[int, ...] = 1
    padding: int | tuple[int, ...] | str = 0
    dilation: int | tuple[int, ...] = 1
    groups: int = 1

    def __post_init__(self) -> None:
        size = self.kernel_size
        if not isinstance(size, (tuple, list)) or len(size) not in (1, 2):
            raise ValueError(f"kernel_size is {size!r}; accepted is a tuple of 1 or 2 integers")
        dims = len(size)
        set_ = object.__setattr__
        set_(self, "kernel_size", _pair(size, "kernel_size", dims, 1))
        set_(self, "stride", _pair(self.stride, "stride", dims, 1))
        set_(self, "dilation", _pair(self.dilation, "dilation", dims, 1))
        set_(self, "groups", _pair(self.groups, "groups", 1, 1)[0])
        if isinstance(self.padding, str):
            if self.padding not in ("same", "valid"):
                raise ValueError(
                    f"padding is {self.padding!r}; accepted are integers, 'same' and 'valid'"
                )
            if self.padding == "same" and any(s != 1 for s in self.strides):
                raise ValueError(
                    f"padding is 'same' with stride {self.stride}; accepted is stride 1"
                )
        else:
            set_(self, "padding", _pair(self.padding, "padding", dims, 0))

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
        """(before, after) of each dimension. "same" puts the odd one after, as PyTorch does."""
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
        """Output size along one dimension. Raises ValueError where the kernel does not fit."""
        reach = self.dilations[dim] * (self.kernel_size[dim] - 1) + 1
        free = extent + sum(self.pads()[dim]) - reach
        if free < 0:
            raise ValueError(
                f"spikes has {extent} positions along dimension {dim}; with padding {self.padding} "
                f"the kernel {self.kernel_size} at dilation {self.dilation} does not fit"
            )
        return free // self.strides[dim] + 1

    def output_size(self, input_size: tuple[int, ...]) -> tuple[int, ...]:
        """Spatial output size. Raises ValueError where the kernel does not fit."""
        return tuple(self.axis_output(dim, extent) for dim, extent in enumerate(input_size))


class Region(NamedTuple):
    """Input positions with one set of possible taps, and the shifts their products need."""

    positions: NDArray[np.int32]  # [num_positions]
    neighbours: NDArray[np.int32]  # [num_shifts, H * W]: where a shift leads, -1 off the map
    blocks: tuple[tuple[int, int, int], ...]  # (shift, tap a, tap b) with b - a the shift


def _axis(conv: Conv, dim: int, extent: int) -> Classes:
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
    """Partition of the map. Every block (a, b) with b >= a is in exactly the regions where a can be."""
    height, width = (1, *input_size)[-2:]
    columns = _axis(conv, conv.dims - 1, width)
    rows: Classes = _axis(conv, 0, height) if conv.dims == 2 else {(0,): [0]}
    reach_y, reach_x = (1, *conv.kernel_size)[-2:]
    dy, dx = (1, *conv.dilations)[-2:]
    y, x = np.divmod(np.arange(height * width, dtype=np.int32), width)
    found = []
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
            found.append(Region(positions.astype(np.int32), np.stack(neighbours), tuple(listed)))
    return tuple(found)


@lru_cache
def linear_regions() -> tuple[Region, ...]:
    """The one region of a Linear layer: a map of one position, a kernel of one tap."""
    zero = np.zeros(1, dtype=np.int32)
    return (Region(zero, zero[None, :], ((0, 0, 0),)),)
