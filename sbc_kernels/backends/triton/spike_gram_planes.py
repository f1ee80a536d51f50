"""The planes that `spike_gram` feeds the matrix units: bytes of integers, parts of floats."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from ..gram_plan import BytesPlan
from .device import kept_alive

__all__ = ["PARTIAL", "ROW_BYTES", "Planes", "planes_of_floats", "planes_of_integers"]

ROW_BYTES = 128  # what a tile takes of one channel at a time: a line of the caches
PARTIAL = {torch.int8: torch.int32, torch.float32: torch.float32, torch.float64: torch.float64}
# How many steps a program may sum. Bytes: 1023 * 128 * 2^14 < 2^31. float32: 1024 samples, three
# products each, so that the matrix units' rounding stays at a few hundred units in the last place.
_MOST_STEPS = {torch.int8: 1023, torch.float32: 3 * 32, torch.float64: 1 << 20}


@dataclass(frozen=True)
class Planes:
    """The planes that `filter_rows` writes, and which are multiplied: see its parameters and Job.

    Attributes
    ----------
    dtype : of a value on a plane.
    weights : [T, T] of `sum`, the type of a filtered value.
    keep : plane 0 is the values as they are.
    digits : of the filtered values. `biased` of them, the lowest, lie as byte - 128.
    planes : how many there are.
    biases : the amounts by which the values of the left and the right side are too small.
    """

    dtype: torch.dtype
    weights: Tensor
    sum: torch.dtype
    keep: bool
    digits: int
    biased: int
    causal: bool
    planes: int
    right_plane: int
    fold: int
    biases: tuple[int, int]

    @property
    def width(self) -> int:
        return ROW_BYTES // int(self.dtype.itemsize)

    @property
    def right_digits(self) -> int:
        return max(1, self.digits)

    @property
    def most_steps(self) -> int:
        return _MOST_STEPS[self.dtype]


def planes_of_integers(plan: BytesPlan, device: torch.device) -> Planes:
    """Returns planes of M X if it is squared, of X if M'M is 1, else of X and M'M X's digits."""
    planes = _planes_of_integers(plan, device)
    kept_alive(planes.weights)
    return planes


@lru_cache(maxsize=64)
def _planes_of_integers(plan: BytesPlan, device: torch.device) -> Planes:
    plain = plan.filter.shape == (1, 1) and int(plan.filter[0, 0]) == 1
    alone = plain or plan.squared
    digits = 0 if plain else plan.digits
    # The highest digit fits as it is where it is signed, or too small to need its highest bit.
    highest = plan.max_term >> 8 * max(0, digits - 1)
    biased = max(0, digits - 1 if plan.is_signed or highest <= 127 else digits)
    bias = sum(128 << 8 * digit for digit in range(biased))
    wide = plan.max_term >= 1 << 31
    weights = plan.filter.astype(np.int64 if wide else np.int32)
    return Planes(
        dtype=torch.int8,
        weights=torch.from_numpy(weights).to(device),
        sum=torch.int64 if wide else torch.int32,
        keep=plain or not plan.squared,
        digits=digits,
        biased=biased,
        causal=bool((np.triu(plan.filter, 1) == 0).all()),
        planes=1 if alone else 1 + digits,
        right_plane=0 if alone else 1,
        fold=1,
        biases=(bias if alone else 0, bias),
    )


def planes_of_floats(membrane: Tensor, device: torch.device, dtype: torch.dtype) -> Planes:
    """Returns planes of ``M X``: one in float64, or two in float32, high and low parts."""
    parts = 2 if dtype == torch.float32 else 1
    return Planes(
        dtype=dtype,
        weights=membrane.to(device=device, dtype=dtype).contiguous(),
        sum=dtype,
        keep=False,
        digits=1,
        biased=0,
        causal=True,
        planes=parts,
        right_plane=0,
        fold=2 * parts - 1,
        biases=(0, 0),
    )
