"""A model's weights, found again by the memory that a tensor lies in."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from .state import owner_of
from .tensors import WEIGHT_LAYERS, is_transformed

Form = Literal["whole", "transposed", "other"]


class Found(NamedTuple):
    """A weight that a tensor lies in.

    Attributes
    ----------
    entry : of the model's state; the first of those that are one tensor.
    form : "whole" (the weight as it is), "transposed" (its two axes swapped) or "other": a part of it,
        or all of it in another shape.
    """

    entry: str
    form: Form


class WeightTable:
    """The parameters of a model that have two axes or more, by their memory.

    Parameters
    ----------
    model : its parameters must stay where they are while the table is in use.

    Attributes
    ----------
    weights : by entry of the state, every name of a tied one.
    """

    def __init__(self, model: nn.Module) -> None:
        self.weights: dict[str, Tensor] = {
            name: parameter.detach()
            for name, parameter in model.named_parameters(remove_duplicate=False)
            if parameter.ndim >= 2 and parameter.numel() > 1 and is_strided(parameter)
        }
        self._by_storage: dict[int, list[str]] = defaultdict(list)
        for name, weight in self.weights.items():
            self._by_storage[storage_of(weight)].append(name)

    def find(self, tensor: Tensor) -> Found | None:
        """Returns the weight whose memory a tensor shares; None where it shares none."""
        if not is_strided(tensor) or tensor.numel() == 0 or is_transformed(tensor):
            return None
        names = self._by_storage.get(storage_of(tensor))
        if names is None:
            return None
        if tensor.ndim >= 2:
            own = _geometry(tensor)
            for name in names:
                if own == _geometry(self.weights[name]):
                    return Found(name, "whole")
        if tensor.ndim == 2:
            own = _geometry(tensor.mT)
            for name in names:
                if own == _geometry(self.weights[name]):
                    return Found(name, "transposed")
        for name in names:
            if overlap(tensor, self.weights[name]):
                return Found(name, "other")
        return None

    def same(self, entry: str) -> list[str]:
        """Returns the entries that are one tensor with this one, itself among them, in order."""
        weight = self.weights[entry]
        own = _geometry(weight)
        names = self._by_storage[storage_of(weight)]
        return [name for name in names if _geometry(self.weights[name]) == own]

    def entangled(self, entry: str) -> list[str]:
        """Returns the entries that share memory with this one in another form, in order."""
        weight = self.weights[entry]
        same = self.same(entry)
        return [
            name
            for name in self._by_storage[storage_of(weight)]
            if name not in same and overlap(weight, self.weights[name])
        ]


def copies_in_shared_memory(model: nn.Module) -> dict[int, Tensor]:
    """Returns copies of the parameters and buffers that share memory with others, which share it, too.

    By id of the tensor, as `copy.deepcopy` takes them. It would give each a memory of its own.
    """
    groups: dict[int, dict[int, Tensor]] = defaultdict(dict)
    for tensor in (*model.parameters(), *model.buffers()):
        usual = type(tensor) in (Tensor, nn.Parameter) and tensor.is_leaf
        if usual and is_strided(tensor) and tensor.numel() and not tensor.is_inference():
            groups[storage_of(tensor)][id(tensor)] = tensor
    copies: dict[int, Tensor] = {}
    for tensors in groups.values():
        if len(tensors) < 2:
            continue
        memory = next(iter(tensors.values())).detach().untyped_storage().clone()
        for key, tensor in tensors.items():
            where = (memory, tensor.storage_offset(), tensor.shape, tensor.stride())
            view = torch.empty(0, dtype=tensor.dtype, device=tensor.device).set_(*where)
            if isinstance(tensor, nn.Parameter):
                copies[key] = nn.Parameter(view, tensor.requires_grad)
            else:
                copies[key] = view.requires_grad_(tensor.requires_grad)
    return copies


def is_strided(tensor: Tensor) -> bool:
    """Whether a tensor has memory of its own kind: dense, and not on the meta device."""
    return tensor.layout is torch.strided and tensor.device.type != "meta"


def storage_of(tensor: Tensor) -> int:
    """Returns the address of the memory that a tensor and all views of it share."""
    return int(tensor.untyped_storage().data_ptr())


def overlap(first: Tensor, second: Tensor) -> bool:
    """Whether two tensors in the same memory have an element in common."""
    low, high = (max(_span(first)[0], _span(second)[0]), min(_span(first)[1], _span(second)[1]))
    if low >= high:
        return False
    taken = torch.zeros(max(_span(first)[1], _span(second)[1]), dtype=torch.bool)
    for tensor in (first, second):
        marks = taken.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())
        if tensor is first:
            marks.fill_(True)
    return bool(marks.any())


def _span(tensor: Tensor) -> tuple[int, int]:
    """Returns where a tensor's elements begin in its memory, and where they end."""
    start = tensor.storage_offset()
    steps = zip(tensor.shape, tensor.stride(), strict=True)
    return start, start + sum((extent - 1) * stride for extent, stride in steps) + 1


def _geometry(tensor: Tensor) -> tuple[object, ...]:
    """Returns where a tensor's elements lie in its memory. The stride of an axis of 1 says nothing."""
    steps = zip(tensor.shape, tensor.stride(), strict=True)
    strides = tuple(stride if extent > 1 else 0 for extent, stride in steps)
    return tensor.storage_offset(), tuple(tensor.shape), strides, tensor.dtype


def layer_name(entry: str, modules: Mapping[str, nn.Module]) -> str:
    """Returns the name of the layer whose weight an entry of the state is.

    That is the module's where it is the weight of a Linear or a convolution, otherwise the entry.
    """
    owner, field = owner_of(entry)
    plain = field == "weight" and isinstance(modules.get(owner), WEIGHT_LAYERS)
    return owner if plain else entry
