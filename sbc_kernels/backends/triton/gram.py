"""How `SpikeHessian` sums on a GPU: torch tensors and the Triton kernels.

Nothing leaves the device but three numbers a batch: whether spikes are integers, and their range. Bool
spikes spare that.
"""

from __future__ import annotations

from functools import lru_cache
from math import isfinite
from typing import Any

import torch
from torch import Tensor

from ...arrays import require_finite
from ...conv import Conv, Region, regions
from ..gram_plan import GramPlan
from ..protocol import Backend
from . import spike_gram
from .spike_gram_launch import MultiplyBytes
from .value_range import value_range


class GpuGram:
    """The sums of one stream, on one device."""

    squares_convolutions = True  # see gram_plan.plan_gram

    skills = frozenset({"bytes"})

    def __init__(
        self,
        backend: Backend,
        device: torch.device,
        multiply_bytes: MultiplyBytes | None = None,
    ) -> None:
        self.backend = backend
        self.device = device
        self.place = str(device)
        self.multiply_bytes = multiply_bytes

    def narrow(self, values: Tensor, conv: Conv | None) -> tuple[Tensor, int, int] | None:
        """int8 [T, N, P, C] with its range, or None where a value is no integer in [-128, 127].

        Raises ValueError where one is NaN or infinite.
        """
        if values.dtype in (torch.uint16, torch.uint32):  # which few kernels know
            values = values.to(torch.int64)
        elif values.dtype == torch.uint64:  # of which int64 does not hold all
            values = values.to(torch.float64)
        if conv is None:
            shaped = values.reshape(len(values), -1, 1, values.shape[-1])
        else:  # as the network has it: the kernels take any strides
            shaped = values.flatten(3).transpose(2, 3)
        if values.dtype == torch.bool:
            return shaped.view(torch.int8), 0, 1
        integral, minimum, maximum = value_range(values)
        if not (isfinite(minimum) and isfinite(maximum)):
            require_finite(values, "spikes")
        if not integral or minimum < -128 or maximum > 127:
            return None
        return shaped.to(torch.int8), min(int(minimum), 0), max(int(maximum), 0)

    def can_finish(self, plan: GramPlan) -> bool:
        return False

    def float_path(self, values: Tensor) -> str:
        """What `add_floats` does, in words."""
        if spike_gram.float_precision(values) == torch.float32:
            return "float32 products in two parts, summed in float64"
        return "float64 matrix products"

    def zeros(self, *shape: int) -> Tensor:
        return torch.zeros(shape, dtype=torch.float64, device=self.device)

    empty = zeros

    def add_integers(
        self,
        narrow: Tensor,
        plan: GramPlan,
        conv: Conv | None,
        groups: int,
        parts: tuple[Region, ...],
        sums: list[Tensor],
        *,
        finish: float,
    ) -> None:
        """Adds a batch to the sums, by group and region. `finish` is 0: `mirrored` finishes."""
        assert finish == 0.0
        positions, neighbours = _tables_of(parts)
        spike_gram.add_integers(
            spikes=narrow,
            first_channel=0,
            channels=narrow.shape[3] // groups,
            groups=groups,
            plan=plan,
            positions=positions,
            neighbours=neighbours,
            sums=sums,
            multiply_bytes=self.multiply_bytes,
        )

    def add_floats(self, values: Tensor, membrane: Any, conv: Conv | None, total: Tensor) -> None:
        """Filters over time and multiplies, nothing unfolded; ``total`` [groups, d, d]."""
        steps = 1 if membrane is None else len(values)  # without a neuron each step is a sample
        M = torch.eye(1, dtype=torch.float64) if membrane is None else torch.from_numpy(membrane)
        M = M.to(self.device)
        if not values.is_floating_point():
            values = values.double()
        if conv is None:
            rows = self.zeros(*total.shape[1:])
            flat = values.reshape(steps, -1, values.shape[-1])
            spike_gram.add_floats(values=flat, membrane=M, total=rows)
            total[0] += spike_gram.mirror_upper(rows, 1.0)
            return
        parts = regions(conv, tuple(values.shape[3:]))
        positions, neighbours = _tables_of(parts)
        groups, d, _ = total.shape
        channels = values.shape[2] // groups
        sums = [
            self.zeros(len(part.neighbours), channels, channels)
            for _ in range(groups)
            for part in parts
        ]
        maps = values.flatten(3).reshape(steps, -1, values.shape[2], values[0, 0, 0].numel())
        spike_gram.add_floats_conv(
            values=maps.transpose(2, 3),
            membrane=M,
            positions=positions,
            neighbours=neighbours,
            sums=sums,
            groups=groups,
        )
        for group in range(groups):
            mine = sums[group * len(parts) : (group + 1) * len(parts)]
            total[group] += self.assembled(parts, mine, 1.0, d, conv.taps)

    def stack(self, matrices: list[Tensor]) -> Tensor:
        return torch.stack(matrices)

    def mirrored(self, total: Tensor, factor: float, consume: bool) -> Tensor:
        """``factor`` times a symmetric matrix of which the upper triangle is there."""
        return spike_gram.mirror_upper(total if consume else total.clone(), factor)

    def assembled(
        self, parts: tuple[Region, ...], sums: list[Tensor], factor: float, d: int, taps: int
    ) -> Tensor:
        """[d, d], ``factor`` times the sums of the regions [num_shifts, C, C], which are X' Z."""
        return spike_gram.assemble_conv(sums, [part.blocks for part in parts], factor, d, taps)


def _tables_of(parts: tuple[Region, ...]) -> tuple[list[Tensor], list[Tensor]]:
    """Positions and neighbours as tensors: the same ones each time, see `spike_gram.add_integers`."""
    return _tables(_Same(parts))


class _Same:
    """A key for what `conv.regions` keeps: the tuple itself."""

    def __init__(self, parts: tuple[Region, ...]) -> None:
        self.parts = parts

    def __hash__(self) -> int:
        return id(self.parts)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self.parts is other.parts


@lru_cache(maxsize=256)
def _tables(same: _Same) -> tuple[list[Tensor], list[Tensor]]:
    positions = [torch.from_numpy(part.positions.copy()) for part in same.parts]
    return positions, [torch.from_numpy(part.neighbours.copy()) for part in same.parts]
