"""Entries of a model's state by name, and the modules that hold them."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

# Packages whose objects hold no module of a model.
_OTHERS = ("builtins", "torch", "numpy", "functools", "types", "abc", "typing")


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
    """Puts another module in a module's place, wherever the model holds it.

    That is as a child, and in attributes, lists, tuples, sets and dictionaries of the model's modules
    and of the plain objects that these hold.
    """
    seen: set[int] = set()

    def replaced(value: Any) -> Any:
        if value is old:
            return new
        if isinstance(value, tuple):
            items = [replaced(item) for item in value]
            if all(a is b for a, b in zip(items, value, strict=True)):
                return value
            return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
        if isinstance(value, Tensor) or id(value) in seen:
            return value
        seen.add(id(value))
        if isinstance(value, dict):
            pairs: Any = list(value.items())
        elif isinstance(value, (list, deque)):
            pairs = list(enumerate(value))
        elif isinstance(value, set):
            if old in value:
                value.remove(old)
                value.add(new)
            return value
        elif (
            isinstance(value, nn.Module) or type(value).__module__.partition(".")[0] not in _OTHERS
        ):
            replaced(getattr(value, "__dict__", None))
            return value
        else:
            return value
        for key, item in pairs:
            now = replaced(item)
            if now is not item:
                value[key] = now
        return value

    replaced(model)


def identity(name: str, tensor: Tensor) -> tuple[object, ...]:
    """Returns a key that two entries have in common where their tensors are one and the same.

    Empty tensors, which lie nowhere, are told apart by their names.
    """
    if tensor.numel() == 0:
        return (name,)
    return (tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype)
