"""Entries of a model's state by name, and the modules that hold them."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn


def entry(module: str, field: str) -> str:
    """Returns a tensor's name in the model's state dict; the model itself is the module ""."""
    return f"{module}.{field}" if module else field


def owner_of(name: str) -> tuple[str, str]:
    """The inverse of `entry`: the module's name and the tensor's name in it."""
    module, _, field = name.rpartition(".")
    return module, field


def tensor_of(modules: Mapping[str, nn.Module], name: str) -> Tensor:
    """Returns the tensor of an entry, with the modules of `model.named_modules()` by name."""
    module, field = owner_of(name)
    return getattr(modules[module], field)


def replace_module(model: nn.Module, old: nn.Module, new: nn.Module) -> None:
    """Puts another module in a module's place, wherever the model has registered it."""
    for owner in model.modules():
        for key, child in owner._modules.items():
            if child is old:
                owner._modules[key] = new


def identity(name: str, tensor: Tensor) -> tuple[object, ...]:
    """Returns a key that two entries have in common where their tensors are one and the same.

    Empty tensors, which lie nowhere, are told apart by their names.
    """
    if tensor.numel() == 0:
        return (name,)
    return (tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype)
