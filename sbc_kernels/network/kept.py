"""States that a forward leaves behind in a network's modules, found by comparing, and put back.

A framework's neurons have a reset that is known. Anything else that keeps something from one forward
to the next (a neuron of nobody's, a counter, a list of past inputs, a generator of random numbers) is
found here: whatever a forward changed is a state.
"""

from __future__ import annotations

import pickle
import random
import weakref
from collections import deque
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from types import FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import warn
from .tensors import tensors_in

_EVERY_MODULE = frozenset(
    vars(nn.Module())
) | {  # hooks, mode and the like, and views of parameters
    *("_memories_rv", "_flat_weights", "_flat_weight_refs"),
}
_GENERATORS = (torch.Generator, random.Random, np.random.Generator, np.random.RandomState)
_SEQUENCES = (list, tuple, deque)
_VALUES = (int, float, complex, str, bytes, frozenset, range, np.generic)  # told by their value
_PROXIES = weakref.ProxyTypes  # whose class is said to be that of what they stand for
_CLOSED = (type, ModuleType, FunctionType, MethodType, torch.dtype, torch.device, *_GENERATORS)


@dataclass
class _Place:
    """A key of a module's or an object's attributes, or of a dictionary among them.

    Attributes
    ----------
    mapping, key : where it is.
    value : what was there: the object itself.
    copy : its content at that time; see `_content`.
    """

    mapping: dict[Any, Any]
    key: Any
    value: Any
    copy: Any


class KeptStates:
    """What the modules of a network hold beside their parameters, at the moment this is made.

    Parameters
    ----------
    model : whose modules, plain attributes, buffers, and objects and containers among them are kept.
    names : of the states to keep, as `changed` returns them; None for all.
    but : modules whose own attributes are none of them.
    """

    def __init__(
        self,
        model: nn.Module,
        names: Collection[str] | None = None,
        but: Callable[[nn.Module], bool] | None = None,
    ) -> None:
        self.model = model
        self.but = but
        self.names = names
        self.places: dict[str, _Place] = {}
        if names is not None and not names:
            return
        for name, mapping, key in self._all():
            if names is None or name in names:
                value = mapping[key]
                self.places[name] = _Place(mapping, key, value, _content(value))

    def _all(self) -> Iterator[tuple[str, dict[Any, Any], Any]]:
        return _places(self.model, self.but or (lambda module: False))

    def changed(self) -> tuple[str, ...]:
        """Returns the names of those that are no longer what they were, of new and of missing ones."""
        now = {name: mapping[key] for name, mapping, key in self._all()}
        same = {
            name
            for name, place in self.places.items()
            if name in now and _is_same(now[name], place.value, place.copy)
        }
        names = [name for name in dict.fromkeys((*self.places, *now)) if name not in same]
        if self.names is not None:
            names = [name for name in names if name in self.names]
        # Of a new dictionary or object, the name of the whole will do.
        return tuple(n for n in names if not any(n.startswith(f"{o}.") for o in names))

    def warn_if_used(self, names: Collection[str]) -> None:
        """Warns of states that seem to be those of an earlier forward."""
        used = [shown_state(name) for name in names if self._is_used(name)]
        if used:
            warn(
                f"the model holds the state of an earlier forward in {', '.join(used)}, from which "
                "each batch starts: reset it first, if batches start from rest"
            )

    def _is_used(self, name: str) -> bool:
        """Whether a state was a tensor of unlike values, as neurons that have been running have it."""
        place = self.places.get(name)
        if place is None:
            return False
        tensors = [item for item in tensors_in((place.value,)) if item.is_floating_point()]
        return any(t.numel() > 1 and bool((t != t.flatten()[0]).any()) for t in tensors)

    def put_back(self, names: Collection[str] | None = None) -> None:
        """Gives these their values again; None for all that were asked for."""
        names = self.names if names is None else names
        if names is not None and not names:
            return
        if names is None or any(name not in self.places for name in names):
            for name, mapping, key in list(self._all()):
                if name not in self.places and (names is None or name in names):
                    mapping.pop(key, None)
        for name, place in self.places.items():
            if names is None or name in names:
                place.mapping[place.key] = _restored(place.value, place.copy)


def shown_state(name: str) -> str:
    """Returns a state's name for people, without the dictionary that SpikingJelly keeps it in."""
    return ".".join(part for part in name.split(".") if part != "_memories")


def _places(
    model: nn.Module, but: Callable[[nn.Module], bool]
) -> Iterator[tuple[str, dict[Any, Any], Any]]:
    """Yields (name, mapping, key) of everything but parameters that modules hold."""
    seen: set[int] = set()

    def module_places(path: str, module: nn.Module) -> Iterator[tuple[str, dict[Any, Any], Any]]:
        if id(module) in seen or isinstance(module, torch.jit.ScriptModule):
            return
        seen.add(id(module))
        if not but(module):
            yield from mapping_places(path, module._buffers, buffers=True)
            made = {  # by the older weight_norm and spectral_norm, from these parameters
                name.removesuffix(suffix)
                for name in module._parameters
                for suffix in ("_orig", "_g")
                if name.endswith(suffix)
            }
            yield from mapping_places(path, vars(module), left_out=_EVERY_MODULE | made)
        for key, child in module._modules.items():
            if child is not None:
                yield from module_places(_join(path, key), child)

    def mapping_places(
        path: str,
        mapping: dict[Any, Any],
        left_out: Collection[Any] = frozenset(),
        buffers: bool = False,
    ) -> Iterator[tuple[str, dict[Any, Any], Any]]:
        if id(mapping) in seen:
            return
        seen.add(id(mapping))
        for key in list(mapping):
            if key in left_out:
                continue
            value = mapping[key]
            if not isinstance(value, nn.Parameter):
                yield _join(path, key), mapping, key
            if not buffers:
                yield from inner_places(_join(path, key), value)

    def inner_places(path: str, value: Any) -> Iterator[tuple[str, dict[Any, Any], Any]]:
        if type(value) in _PROXIES:
            return
        if isinstance(value, nn.Module):
            yield from module_places(path, value)
        elif isinstance(value, dict):
            yield from mapping_places(path, value)
        elif isinstance(value, (list, tuple, deque)):
            if id(value) not in seen:
                seen.add(id(value))
                for index, item in enumerate(value):
                    if isinstance(item, (nn.Module, dict, *_SEQUENCES)) or _has_attributes(item):
                        yield from inner_places(_join(path, index), item)
        elif _has_attributes(value):
            yield from mapping_places(path, vars(value))

    yield from module_places("", model)


def _join(path: str, key: Any) -> str:
    return f"{path}.{key}" if path else str(key)


def _has_attributes(value: Any) -> bool:
    """Whether this is an object of the user's, whose attributes may be states."""
    return hasattr(value, "__dict__") and not isinstance(value, (Tensor, *_CLOSED))


def _content(value: Any) -> Any:
    """Returns what `_is_same` and `_restored` need of a value that may change in place."""
    if isinstance(value, nn.Parameter):
        return None
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, np.ndarray):
        return value.copy()
    if isinstance(value, _SEQUENCES):
        return [(item, _content(item)) for item in value]
    if isinstance(value, set):
        return set(value)
    return _generator_state(value)


def _generator_state(value: Any) -> Any:
    if isinstance(value, torch.Generator):
        return bytes(value.get_state().tolist())
    if isinstance(value, random.Random):
        return value.getstate()
    if isinstance(value, np.random.Generator):
        return pickle.dumps(value.bit_generator.state)
    return pickle.dumps(value.get_state()) if isinstance(value, np.random.RandomState) else None


def _is_same(now: Any, value: Any, copy: Any) -> bool:
    """Whether what is there now says the same as `value` did when `copy` was made of it."""
    if isinstance(value, nn.Parameter):
        return now is value
    if isinstance(value, Tensor):
        return isinstance(now, Tensor) and _equal(now.detach(), copy)
    if isinstance(value, np.ndarray):
        return isinstance(now, np.ndarray) and _equal_arrays(now, copy)
    if isinstance(value, _SEQUENCES):
        return (
            type(now) is type(value)
            and len(now) == len(copy)
            and all(_is_same(item, *then) for item, then in zip(now, copy, strict=True))
        )
    if isinstance(value, set):
        return type(now) is type(value) and bool(now == copy)
    if isinstance(value, _GENERATORS):
        return now is value and bool(_generator_state(now) == copy)
    if now is value:
        return True
    if type(now) is not type(value) or not isinstance(value, _VALUES):
        return False
    return bool(now == value or (now != now and value != value))  # NaN is itself


def _equal(a: Tensor, b: Tensor) -> bool:
    if a.shape != b.shape or a.dtype != b.dtype or a.device != b.device or a.layout != b.layout:
        return False
    if a.layout != torch.strided:
        return _equal(a.to_dense(), b.to_dense())
    return bool(((a == b) | ((a != a) & (b != b))).all())


def _equal_arrays(a: np.ndarray[Any, Any], b: np.ndarray[Any, Any]) -> bool:
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    return bool(np.all((a == b) | ((a != a) & (b != b))))


def _restored(value: Any, copy: Any) -> Any:
    """Returns the value with its content of before: the same object, where it can be changed."""
    if isinstance(value, nn.Parameter):
        return value
    if isinstance(value, Tensor):
        whole = value.layout == torch.strided and 0 not in value.stride()
        if whole and value.shape == copy.shape and value.is_leaf and not value.is_inference():
            with torch.no_grad():
                value.copy_(copy)
            return value
        return copy.clone()
    if isinstance(value, np.ndarray):
        return copy.copy()
    if isinstance(value, _SEQUENCES):
        items = [_restored(*item) for item in copy]
        if isinstance(value, tuple):
            return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
        value.clear()
        value.extend(items)
        return value
    if isinstance(value, set):
        value.clear()
        value.update(copy)
    elif isinstance(value, torch.Generator):
        value.set_state(torch.tensor(list(copy), dtype=torch.uint8))
    elif isinstance(value, random.Random):
        value.setstate(copy)
    elif isinstance(value, np.random.Generator):
        value.bit_generator.state = pickle.loads(copy)
    elif isinstance(value, np.random.RandomState):
        value.set_state(pickle.loads(copy))
    return value
