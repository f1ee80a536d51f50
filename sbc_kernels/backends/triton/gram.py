"""How `SpikeHessian` sums on a GPU: torch tensors and the Triton kernels.

Nothing leaves the device but three numbers a batch: whether spikes are integers, and their range. Bool
spikes spare that. Floats that are no integers send a sample of 1024 values as well.
"""

from __future__ import annotations

from functools import lru_cache
from math import frexp, isfinite
from typing import Any

import torch
from torch import Tensor

from ...arrays import require_finite
from ...conv import Conv, Region, regions
from ..gram_plan import Arithmetic, BytesPlan, GramPlan, one_byte_type
from ..multiples import (
    MOST_ROUNDS,
    Analog,
    Multiples,
    common_unit,
    finer_unit,
    is_poor,
    range_exponent,
    sample_of,
    scaled,
    tolerance_of,
)
from ..protocol import Backend
from . import spike_gram
from .spike_gram_launch import MultiplyBytes
from .value_range import value_range

_SAFE_EXPONENT_OF_FLOAT32 = 20


class GpuGram:
    """The sums of one stream, on one device: a `protocol.GramEngine`."""

    squares_convolutions = True  # see gram_plan.SpikeRange
    algorithms = frozenset({"bytes"})

    def __init__(
        self,
        backend: Backend,
        device: torch.device,
        multiply_bytes: MultiplyBytes | None = None,
    ) -> None:
        self.backend = backend
        self.device = device
        self.device_name = str(device)
        self.multiply_bytes = multiply_bytes

    def narrow(self, values: Tensor, conv: Conv | None, unit: float) -> Multiples | Analog:
        """Returns the values as multiples of a common unit, or what the sums of floats need to know.

        `unit`, if it is not 1, is tried before another one. Raises ValueError if a value is NaN or
        infinite.
        """
        values = _supported(values)
        if values.dtype == torch.bool:
            return Multiples(_channels_last(values, conv).view(torch.int8), 0, 1)
        values_are = value_range(values)
        if not all(map(isfinite, values_are[1:])):
            require_finite(values, "spikes")
        low_high = _byte_range(*values_are)
        if low_high is not None:
            return Multiples(_channels_last(values, conv).to(torch.int8), *low_high)
        found = _multiples(values, unit) if values.is_floating_point() else None
        if found is None:
            return self._analog(values, max(-values_are[1], values_are[2]))
        return Multiples(_channels_last(found[0], conv), *found[1:])

    def analog(self, values: Tensor) -> Analog:
        """Returns what the sums of floats need to know."""
        _, least, greatest = value_range(_supported(values))
        return self._analog(values, max(-least, greatest))

    def _analog(self, values: Tensor, largest: float) -> Analog:
        """The same for values of at most this magnitude."""
        if not values.is_floating_point():
            return Analog(sure=True)
        if self.float_arithmetic(values) is Arithmetic.SPLIT_FLOAT32:
            # Sums of 2^20 squares of 2^30 are far from float32's largest number.
            exponent = int(frexp(largest)[1])
            return Analog(exponent if abs(exponent) > _SAFE_EXPONENT_OF_FLOAT32 else 0)
        if values.dtype == torch.float32:  # whose squares float64 holds
            return Analog(sure=True)
        return Analog(range_exponent(largest))

    def bytes_of(self, values: Tensor) -> Tensor | None:
        """Returns the values as bool if all are 0 or 1, else uint8 or int8.

        Returns None if they are no integers in [-128, 127].
        """
        if values.numel() == 0:
            return values.bool()
        low_high = _byte_range(*value_range(_supported(values)))
        if low_high is None:
            return None
        dtype: torch.dtype = getattr(torch, one_byte_type(*low_high))
        return values.to(dtype)

    def float_arithmetic(self, values: Tensor) -> Arithmetic:
        """Returns the arithmetic of `add_floats`."""
        if spike_gram.float_precision(values) == torch.float32:
            return Arithmetic.SPLIT_FLOAT32
        return Arithmetic.FLOAT64

    def zeros(self, *shape: int) -> Tensor:
        return torch.zeros(shape, dtype=torch.float64, device=self.device)

    def zero_sums(self, parts: tuple[Region, ...], groups: int, channels: int) -> list[Tensor]:
        """Returns zero sums by group and region, each [num_shifts, channels, channels]."""
        return [
            self.zeros(len(part.neighbours), channels, channels)
            for _ in range(groups)
            for part in parts
        ]

    def finished(
        self, narrow: Tensor, plan: GramPlan, parts: tuple[Region, ...], factor: float
    ) -> None:
        """No kernel writes a whole matrix in one go: `matrix` mirrors it."""

    def add_integers(
        self,
        narrow: Tensor,
        plan: GramPlan,
        conv: Conv | None,
        groups: int,
        parts: tuple[Region, ...],
        sums: list[Tensor],
    ) -> None:
        """Adds a batch to the sums."""
        assert isinstance(plan, BytesPlan)
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

    def add_floats(
        self, values: Tensor, membrane: Any, conv: Conv | None, total: Tensor, exponent: int = 0
    ) -> None:
        """Filters the values times 2^-exponent over time and multiplies, nothing unfolded; ``total``
        [groups, d, d]."""
        steps = 1 if membrane is None else len(values)  # without a neuron each step is a sample
        M = torch.eye(1, dtype=torch.float64) if membrane is None else torch.from_numpy(membrane)
        M = M.to(self.device)
        if not values.is_floating_point():
            values = values.double()
        values = scaled(values, -exponent)
        if conv is None:
            rows = self.zeros(*total.shape[1:])
            flat = values.reshape(steps, -1, values.shape[-1])
            spike_gram.add_floats(values=flat, membrane=M, total=rows)
            total[0] += spike_gram.mirror_upper(rows, 1.0)
            return
        parts = regions(conv, tuple(values.shape[3:]))
        positions, neighbours = _tables_of(parts)
        groups = len(total)
        channels = values.shape[2] // groups
        sums = self.zero_sums(parts, groups, channels)
        maps = values.flatten(3).reshape(steps, -1, values.shape[2], values[0, 0, 0].numel())
        spike_gram.add_floats_conv(
            values=maps.transpose(2, 3),
            membrane=M,
            positions=positions,
            neighbours=neighbours,
            sums=sums,
            groups=groups,
        )
        total += self.matrix(sums, parts, conv, channels, 1.0, True)

    def matrix(
        self,
        sums: list[Tensor],
        parts: tuple[Region, ...],
        conv: Conv | None,
        channels: int,
        factor: float,
        consume: bool,
    ) -> Tensor:
        """Returns ``factor`` times the sums of `add_integers`, [groups, d, d]; `channels` of one group.

        `consume` saves a copy and invalidates the sums.
        """
        if conv is None:
            return spike_gram.mirror_upper(sums[0] if consume else sums[0].clone(), factor)
        d, blocks = channels * conv.taps, [part.blocks for part in parts]
        if not parts:  # no output sees any input
            return self.zeros(conv.groups, d, d)
        stack = [
            spike_gram.assemble_conv(sums[first : first + len(parts)], blocks, factor, d, conv.taps)
            for first in range(0, len(sums), len(parts))
        ]
        return stack[0][None] if len(stack) == 1 else torch.stack(stack)


def _channels_last(values: Tensor, conv: Conv | None) -> Tensor:
    """Returns the values as [T, N, P, C]: a map as the network has it, the kernels take any strides."""
    if conv is None:
        return values.reshape(len(values), -1, 1, values.shape[-1])
    return values.flatten(3).transpose(2, 3)


def _multiples(values: Tensor, hint: float) -> tuple[Tensor, int, int, float, float] | None:
    """Returns float values as int8 of their shape, with range, unit and its tolerance, or None.

    The unit is the hint, if that is not 1 and fits, or else guessed from a sample.
    """
    tolerance = tolerance_of(values)
    unit: float | None = hint
    if hint == 1.0:
        axes = sorted(range(values.ndim), key=lambda axis: -values.stride(axis))
        flat = values.permute(axes).reshape(-1)
        sample = sample_of(flat).cpu().numpy()
        if is_poor(sample):
            sample = sample_of(flat[flat != 0]).cpu().numpy()
        unit = common_unit(sample, tolerance)
    for _ in range(MOST_ROUNDS):
        if unit is None or unit < torch.finfo(values.dtype).tiny:  # 1 / unit must be finite
            break
        integers = torch.round(values * (1.0 / unit))
        misfits = (values - integers * unit).abs() > tolerance * values.abs()
        misfits |= (integers < -128) | (integers > 127)
        if not bool(misfits.any()):
            low, high = integers.aminmax()
            minimum, maximum = min(int(low), 0), max(int(high), 0)
            most = max(-minimum, maximum)
            if most:  # the largest value has the smallest error beside its size
                unit = float(values.abs().max()) / most
            return integers.to(torch.int8), minimum, maximum, unit, tolerance
        unit = finer_unit(unit, float(values[misfits][0]), tolerance)
    return None if hint == 1.0 else _multiples(values, 1.0)


def _supported(values: Tensor) -> Tensor:
    """Returns the values in a type that the kernels support."""
    if values.dtype in (torch.uint16, torch.uint32):  # which few kernels support
        return values.to(torch.int64)
    if values.dtype == torch.uint64:  # of which int64 does not hold all
        return values.to(torch.float64)
    return values


def _byte_range(integral: bool, minimum: float, maximum: float) -> tuple[int, int] | None:
    """Returns the least and greatest of the values and 0; None if one is no integer in [-128, 127]."""
    if not (integral and minimum >= -128 and maximum <= 127):
        return None
    return min(int(minimum), 0), max(int(maximum), 0)


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
