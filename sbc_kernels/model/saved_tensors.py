"""What autograd keeps of a forward pass: shapes, and a sample of the values."""

from __future__ import annotations

from contextlib import AbstractContextManager
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

WHOLE = (
    4096  # tensors of up to so many elements are kept whole: factors of channels, small networks
)


@cache
def positions(size: int) -> Tensor:
    """Returns flat positions at which tensors of `size` elements are sampled, int64, ascending.

    They are dense at the start and ever sparser, and the same in a tensor of another size as far as
    that reaches, so that [C, H, W] and the first sample of [N, C, H, W] are sampled alike.
    """
    if size <= WHOLE:
        return torch.arange(size)
    dense = torch.arange(64)
    sparse = (1.05 ** torch.arange(400.0, dtype=torch.float64)).long()
    both = torch.cat([dense, sparse, torch.tensor([size - 1])])
    return torch.unique(both[both < size])


def sample(values: Tensor) -> Tensor:
    """Returns the values at `positions`, as a copy in one dimension."""
    flat = values.detach().reshape(-1)
    if flat.numel() <= WHOLE:
        return flat.clone()
    return flat[positions(flat.numel()).to(flat.device)]


class _Saved(NamedTuple):
    shape: torch.Size
    dtype: torch.dtype
    device: torch.device
    values: Tensor | None  # whole, a sample, or None


class SavedTensors:
    """Keeps no activations for autograd, whose memory would be that of training.

    A tensor that autograd saves comes back as ones of its shape: that leaves the pattern of the
    gradient, and lets it through BatchNorms whose scale was initialised to 0. With `values` set it
    comes back with its own values where it was sampled, so that the gradients of elementwise operations
    are right at these positions.

    Attributes
    ----------
    values : whether gradients shall have their values.
    sampling : whether values are kept of what is saved from now on.
    """

    def __init__(self) -> None:
        self.values = False
        self.sampling = True

    def hooks(self) -> AbstractContextManager[None]:
        """Inside, what autograd saves is packed."""
        hooks: AbstractContextManager[None] = saved_tensors_hooks(self._pack, self._unpack)
        return hooks

    def _pack(self, tensor: Tensor) -> _Saved:
        values = None
        if isinstance(tensor, nn.Parameter):
            values = tensor.detach()  # no copy
        elif self.sampling and (tensor.numel() <= WHOLE or tensor.is_contiguous()):
            values = sample(tensor)
        return _Saved(tensor.shape, tensor.dtype, tensor.device, values)

    def _unpack(self, saved: _Saved) -> Tensor:
        shape, dtype, device, values = saved
        if self.values and values is not None and values.numel() == shape.numel():
            return values.reshape(shape)
        likely = dtype.is_floating_point or dtype.is_complex or dtype == torch.bool
        # An index that is not known is 0, which always exists.
        make = torch.ones if likely else torch.zeros
        whole: Tensor = make(shape, dtype=dtype, device=device)
        if self.values and values is not None:
            whole.view(-1)[positions(whole.numel()).to(device)] = values
        return whole
