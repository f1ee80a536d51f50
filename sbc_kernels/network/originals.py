"""Parts of a network that its copies share with it: noticed, and refused by name.

A deep copy is of no use where a function holds the network itself (a lambda over `self`, a part that
was compiled): the copy would run the user's own weights.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.overrides import TorchFunctionMode

from ..errors import ParameterError, ParameterTypeError
from .kept import KeptStates, shown_state
from .tensors import tensors_in

_WRAPPERS = (nn.DataParallel, nn.parallel.DistributedDataParallel)


def require_uncompiled(model: nn.Module) -> None:
    """Checks that no part of a model is compiled by torch.compile, which its copies would share.

    Raises
    ------
    ParameterError : a ValueError; one is. It is named.
    """
    for name, module in model.named_modules():
        own = hasattr(module, "_orig_mod")
        if own or getattr(module, "_compiled_call_impl", None) is not None:
            if not name:
                accepted = "model._orig_mod" if own else "the model as it was before compile()"
                raise ParameterTypeError(
                    "model", model, accepted, shown="compiled by torch.compile"
                )
            raise ParameterError(
                "model",
                model,
                "a model of parts that are not compiled: compile them after the compression",
                verb="has",
                shown=f"a part {name!r} that is compiled by torch.compile",
            )
        for key, value in vars(module).items():
            compiled = getattr(value, "_torchdynamo_orig_callable", None)
            if callable(compiled) and any(_held(compiled, set(model.modules()))):
                raise ParameterError(
                    "model",
                    model,
                    "a model of parts that are not compiled: compile them after the compression",
                    verb="has",
                    shown=f"a function compiled by torch.compile in {_place(name, key)!r}",
                )


def require_plain_parts(model: nn.Module) -> None:
    """Checks that no part of a model is scripted, or spread over devices by a wrapper.

    Raises
    ------
    ParameterError : a ValueError; one is. It is named, and the message says what to do.
    """
    for name, module in model.named_modules():
        which = f"a part {name!r} that is" if name else ""
        verb = "has" if name else "is"
        if isinstance(module, torch.jit.ScriptModule):
            raise ParameterError(
                "model",
                model,
                "the module itself: script the compressed model",
                verb=verb,
                shown=f"{which} scripted by torch.jit".strip(),
            )
        kind = type(module).__name__
        if isinstance(module, _WRAPPERS) or kind == "FullyShardedDataParallel":
            part = f"model.{name}.module" if name else "model.module"
            raise ParameterError(
                "model",
                model,
                f"the network inside, {part}",
                verb=verb,
                shown=f"{which} wrapped in {kind}".strip(),
            )


def require_writable(model: nn.Module) -> None:
    """Checks that no tensor of a model was made in inference mode, where it is to be changed in place.

    Raises
    ------
    ParameterError : a ValueError; one was. It is named.
    """
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if tensor.is_inference():
            shown = f"True, but {name!r} was made under torch.inference_mode and cannot be changed"
            raise ParameterError("inplace", True, "False", shown=shown)


@contextmanager
def only_the_copy(model: nn.Module, forward: Callable[..., Any] | None) -> Iterator[None]:
    """Checks inside that a copy of a model runs none of the model's own modules and tensors.

    Parameters
    ----------
    model : the user's.
    forward : the user's function that runs a copy, if there is one; it may hold the model too.

    Raises
    ------
    ParameterError : a ValueError; it does. The message names the part, and what holds it.
    """
    thread = threading.get_ident()
    found: list[ParameterError] = []  # also those that the model's own code catches
    modules = {id(module): name for name, module in model.named_modules()}

    def hook(module: nn.Module, args: Any) -> None:
        if id(module) in modules and threading.get_ident() == thread:
            name = modules[id(module)]
            what = f"its {name!r}" if name else "the model itself"
            found.append(_shared(model, forward, what, "run"))
            raise found[0]

    states = KeptStates(model)
    handle = register_module_forward_pre_hook(hook)
    try:
        with _Tensors(model, forward, found):
            yield
    finally:
        handle.remove()
    if found:
        raise found[0]
    changed = states.changed()
    if changed:
        states.put_back(changed)
        raise _shared(model, forward, f"its state {shown_state(changed[0])!r}", "changed")


class _Tensors(TorchFunctionMode):  # type: ignore[misc]
    """Refuses operations on a model's own parameters and buffers."""

    def __init__(
        self,
        model: nn.Module,
        forward: Callable[..., Any] | None,
        found: list[ParameterError],
    ) -> None:
        super().__init__()
        self.found = found
        self.model = model
        self.forward = forward
        self.names: dict[int, str] = {}
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            address = _address(tensor)
            if address:
                self.names.setdefault(address, name)

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        for tensor in tensors_in((args, kwargs)):
            name = self.names.get(_address(tensor))
            if name is not None:
                self.found.append(_shared(self.model, self.forward, f"its {name!r}", "used"))
                raise self.found[0]
        return function(*args, **kwargs)


def _address(tensor: Tensor) -> int:
    """Returns where a tensor's values lie; 0 where it has none, or no storage."""
    if tensor.layout != torch.strided or torch._C._functorch.is_functorch_wrapped_tensor(tensor):
        return 0
    return int(tensor.untyped_storage().data_ptr())


def _shared(
    model: nn.Module, forward: Callable[..., Any] | None, what: str, done: str
) -> ParameterError:
    """Returns the error about a part of the model that a copy of it shares with it."""
    holders = _holders(model)
    if forward is not None and any(_held(forward, set(model.modules()))):
        accepted = "a function that runs the model that it is given, forward(model, batch)"
        shown = f"a function that holds the model itself: {what} was {done} in place of the copy's"
        return ParameterError("forward", forward, accepted, shown=shown)
    where = f" through {' or '.join(map(repr, holders[:3]))}" if holders else ""
    return ParameterError(
        "model",
        model,
        "one whose parts are copied with it: make a function that holds the model (a lambda, a "
        "closure, or a hook) a method, or a module of its own",
        verb="has",
        shown=f"a part that its copies share with it: {what} was {done} by a copy's forward{where}",
    )


def _holders(model: nn.Module) -> list[str]:
    """Returns the names of attributes whose functions hold modules of the model by a closure."""
    modules = set(model.modules())
    return [
        _place(name, key)
        for name, module in model.named_modules()
        for key, value in vars(module).items()
        for function in (value.values() if isinstance(value, dict) else (value,))
        # A bound method, or a partial of one, is bound to the copy when it is copied.
        if isinstance(function, FunctionType) and any(_held(function, modules))
    ]


def _held(function: Any, modules: set[nn.Module], depth: int = 0) -> Iterator[bool]:
    """Yields True for each module, or parameter of one, that a function holds."""
    cells = getattr(function, "__closure__", None) or ()
    values = [cell.cell_contents for cell in cells if _is_filled(cell)]
    values += getattr(function, "__defaults__", None) or ()
    if isinstance(function, FunctionType):  # global variables
        names = [name for name in function.__code__.co_names if name in function.__globals__]
        values += [v for v in map(function.__globals__.get, names) if isinstance(v, nn.Module)]
    values.append(getattr(function, "__self__", None))
    if isinstance(function, functools.partial):
        values += [function.func, *function.args, *function.keywords.values()]
    for value in values:
        if isinstance(value, nn.Module):
            if value in modules:
                yield True
        elif isinstance(value, nn.Parameter):
            if any(value is p for module in modules for p in module._parameters.values()):
                yield True
        elif callable(value) and depth < 4:
            yield from _held(value, modules, depth + 1)


def _is_filled(cell: Any) -> bool:
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:
        return False
    return True


def _place(name: str, key: str) -> str:
    return f"{name}.{key}" if name else key
