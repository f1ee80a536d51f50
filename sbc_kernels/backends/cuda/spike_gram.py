"""Products of planes of bytes on Hopper's tensor cores: csrc/spike_gram/bytes_cuda.cu."""

from __future__ import annotations

import torch
from torch import Tensor

from ... import _native


def multiply_bytes(
    planes: Tensor, units: Tensor, pairs: Tensor, partials: Tensor, slots: int, channels: int
) -> None:
    """Partial sums of the units' products, as Triton's `multiply_rows` computes them."""
    _native.multiply_bytes(
        planes=planes.data_ptr(),
        rows=len(planes),
        units=units.data_ptr(),
        num_units=len(units),
        pairs=pairs.data_ptr(),
        partials=partials.data_ptr(),
        slots=slots,
        channels=channels,
        device=planes.device.index,
        stream=torch.cuda.current_stream(planes.device).cuda_stream,
    )
