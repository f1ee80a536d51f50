"""Copies of a network, runs from fresh states, and random numbers that are put back."""

from __future__ import annotations

import copy
import random
import sys
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from types import FunctionType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from ..errors import ParameterError, ParameterTypeError
from ..frameworks import Adapter, adapter_of, keeps_state
from .inputs import input_of, keywords_of, own_tensors
from .originals import require_uncompiled
from .weight_table import copies_in_shared_memory

Forward = Callable[[nn.Module, Any], Any]


def require_model(model: Any) -> None:
    """Checks that a model is an uncompiled torch module on the CPU or on one GPU.

    Raises
    ------
    ParameterError : a ValueError, or a TypeError where the type is wrong.
    """
    if not isinstance(model, nn.Module):
        kind = f"a {type(model).__name__}"
        raise ParameterTypeError("model", model, "a torch.nn.Module", shown=kind)
    require_uncompiled(model)
    first: torch.device | None = None
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if is_lazy(tensor):
            accepted = "one with weights: run a batch through it first"
            shown = f"a network whose {name!r} is not initialized"
            raise ParameterError("model", model, accepted, shown=shown)
        first = first or tensor.device
        if tensor.device != first or tensor.device.type not in ("cpu", "cuda"):
            raise ParameterError(
                "model",
                model,
                "one with all tensors in CPU memory, or all on one GPU",
                shown=f"a network with {name} on {tensor.device}",
            )


def copy_of(model: nn.Module) -> nn.Module:
    """Returns a deep copy.

    States that are part of an autograd graph are detached in the copy, and tensors made in inference
    mode become usual ones. Parameters and buffers that share memory do so in the copy. Modules with a
    `__deepcopy__` of their own are copied attribute by attribute: those of sinabs build a new module
    and lose hooks and options. What has no content of its own, such as a Python module or a lock among
    the attributes, is shared.

    Raises
    ------
    ParameterError : a ValueError; an attribute cannot be copied. The message names it and its owner.
    """
    memo: dict[int, Any] = copies_in_shared_memory(model)
    seen: set[int] = set()
    plain = {}
    for name, module in model.named_modules():
        for key, value in vars(module).items():
            if key != "_modules":
                _prepare(value, memo, seen)
        if not isinstance(module, (torch.jit.ScriptModule, torch.fx.GraphModule)):
            memo[id(module)] = object.__new__(type(module))
            plain[name] = module
    for name, module in plain.items():
        attributes = vars(memo[id(module)])
        for key, value in vars(module).items():
            try:
                attributes[key] = copy.deepcopy(value, memo)
            except ParameterError:
                raise
            except Exception as error:
                raise _uncopyable(model, name, module, key, value, error) from error
    copied: nn.Module = copy.deepcopy(model, memo)
    return copied


def _prepare(value: Any, memo: dict[int, Any], seen: set[int]) -> None:
    """Enters into `memo` what stands for parts of a value that `copy.deepcopy` would refuse."""
    if type(value) in weakref.ProxyTypes:  # its class is said to be that of what it stands for
        memo[id(value)] = value
        return
    if id(value) in seen or isinstance(value, (int, float, str, type(None), nn.Module, type)):
        return
    seen.add(id(value))
    if isinstance(value, Tensor):
        if value.is_inference():
            with torch.inference_mode(False):
                memo[id(value)] = _usual(value)
        elif not value.is_leaf:
            memo[id(value)] = value.detach().clone()
    elif isinstance(value, _SHARED):
        memo[id(value)] = value
    elif isinstance(value, dict):
        for item in list(value.values()):
            _prepare(item, memo, seen)
    elif isinstance(value, (list, tuple, deque)):
        for item in value:
            _prepare(item, memo, seen)
    elif hasattr(value, "__dict__") and not isinstance(value, FunctionType):
        _prepare(vars(value), memo, seen)


_SHARED = (ModuleType, type(threading.Lock()), type(threading.RLock()), torch.jit.ScriptFunction)


def _usual(tensor: Tensor) -> Tensor:
    """Returns a tensor that was made in inference mode as one that was not, a parameter as such."""
    clone = tensor.detach().clone()
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(clone, requires_grad=tensor.requires_grad)
    return clone


def _uncopyable(
    model: nn.Module, name: str, module: nn.Module, key: str, value: Any, error: Exception
) -> ParameterError:
    """Returns the error about an attribute that cannot be copied."""
    owner = f"{name!r}, a {type(module).__name__}" if name else f"a {type(module).__name__}"
    return ParameterTypeError(
        "model",
        model,
        "accepted are attributes that copy.deepcopy takes: set it to None meanwhile, or keep it "
        "outside of the model",
        verb="has",
        shown=f"an attribute {key!r} of {owner}, a {type(value).__name__}, that cannot be copied "
        f"({type(error).__name__}: {error})",
    )


def neurons_of(model: nn.Module) -> dict[str, tuple[nn.Module, Adapter]]:
    """Returns the spiking neurons of a model by name, each once, with what knows them."""
    return {
        name: (module, adapter)
        for name, module in model.named_modules()
        if (adapter := adapter_of(module)) is not None
    }


def reset_states(model: nn.Module) -> None:
    """Puts every state back to what it is before the first time step, also those outside neurons."""
    for module in model.modules():
        adapter = adapter_of(module)
        if adapter is not None:
            adapter.reset(module)
        elif keeps_state(module):
            module.reset()


def run_forward(model: nn.Module, batch: Any, forward: Forward | None) -> Any:
    """Runs one whole sequence and returns the model's output.

    The model gets tensors of its own, which it may change in place. Call this inside
    ``undisturbed(index)``, so that a random encoding draws the same each time.

    Parameters
    ----------
    model : with fresh states.
    batch : of a tuple or list the first item is the input. A dictionary is handed on by keyword where
        the model's forward has parameters of these names; see `keywords_of`.
    forward : ``forward(model, batch)``; None for ``model(batch)``.
    """
    inputs = own_tensors(input_of(batch))
    with _uncompiled():
        if forward is not None:
            return forward(model, inputs)
        if isinstance(inputs, Mapping):
            keywords = keywords_of(model, inputs)
            if keywords is not None:
                return model(**keywords)
        return model(inputs)


def _uncompiled() -> AbstractContextManager[Any]:
    """Runs functions that torch.compile made as they were written, so that hooks see all of it."""
    set_stance = getattr(torch.compiler, "set_stance", None)  # since torch 2.6
    if set_stance is None or "torch._dynamo" not in sys.modules:  # importing that takes seconds
        return nullcontext()
    stance: AbstractContextManager[Any] = set_stance("force_eager")
    return stance


_random = threading.RLock()  # the random generators are the process's, and threads may compress


@contextmanager
def undisturbed(seed: int = 0) -> Iterator[None]:
    """Draws random numbers from the seed inside, and restores all generators afterwards.

    One thread at a time: the generators of torch, NumPy and Python belong to the whole process.
    """
    with _random:
        numpy_state = np.random.get_state()  # noqa: NPY002 - the user's global state
        python_state = random.getstate()
        gpus = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else []
        with torch.random.fork_rng(devices=gpus):
            torch.manual_seed(seed)
            np.random.seed(seed)  # noqa: NPY002
            random.seed(seed)
            try:
                yield
            finally:
                np.random.set_state(numpy_state)  # noqa: NPY002
                random.setstate(python_state)
