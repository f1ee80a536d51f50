"""Copies of a network, runs from fresh states, and random numbers that are put back."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn

from ..errors import ParameterError, ParameterTypeError
from ..frameworks import Adapter, adapter_of, keeps_state
from .tensors import tensors_in

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
    if hasattr(model, "_orig_mod"):
        shown = "compiled by torch.compile"
        raise ParameterTypeError("model", model, "model._orig_mod", shown=shown)
    first: torch.device | None = None
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
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

    States that are part of an autograd graph are detached in the copy. Modules with a `__deepcopy__` of
    their own are copied attribute by attribute: those of sinabs build a new module and lose hooks and
    options.
    """
    memo: dict[int, Any] = {}
    plain = []
    for module in model.modules():
        for value in _states(module):
            for tensor in tensors_in(value):
                if not tensor.is_leaf:
                    memo[id(tensor)] = tensor.detach().clone()
        if not isinstance(module, (torch.jit.ScriptModule, torch.fx.GraphModule)):
            memo[id(module)] = object.__new__(type(module))
            plain.append(module)
    for module in plain:
        memo[id(module)].__dict__.update(copy.deepcopy(vars(module), memo))
    copied: nn.Module = copy.deepcopy(model, memo)
    return copied


def _states(module: nn.Module) -> Iterator[Any]:
    """Yields what a module holds beside parameters and modules, such as SpikingJelly's memories."""
    for key, value in vars(module).items():
        if key not in ("_modules", "_parameters"):
            yield value


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

    Call it inside ``undisturbed(index)``, so that a random encoding draws the same each time.

    Parameters
    ----------
    model : with fresh states.
    batch : of a tuple or list the first item is the input.
    forward : ``forward(model, batch)``; None for ``model(batch)``.
    """
    if isinstance(batch, (tuple, list)):
        if not batch:
            accepted = "a tensor, or a tuple that starts with one"
            raise ParameterError("a batch", batch, accepted, shown="empty")
        batch = batch[0]
    return model(batch) if forward is None else forward(model, batch)


@contextmanager
def undisturbed(seed: int = 0) -> Iterator[None]:
    """Draws random numbers from the seed inside, and restores all generators afterwards."""
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
