"""Copies of somebody's network: run, reset, left undisturbed."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn

from ..frameworks import Adapter, adapter_of, keeps_state
from .tensors import tensors_in

Forward = Callable[[nn.Module, Any], Any]


def require_model(model: Any) -> None:
    if not isinstance(model, nn.Module):
        raise TypeError(f"model is a {type(model).__name__}; accepted is a torch.nn.Module")
    if hasattr(model, "_orig_mod"):
        raise TypeError("model is compiled by torch.compile; accepted is model._orig_mod")
    first: torch.device | None = None
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        first = first or tensor.device
        if tensor.device != first or tensor.device.type not in ("cpu", "cuda"):
            raise ValueError(
                f"model has {name} on {tensor.device}; accepted is CPU memory or one GPU for all"
            )


def copy_of(model: nn.Module) -> nn.Module:
    """A deep copy. States that hang on an autograd graph come along detached, and modules that copy
    themselves by building a new one (sinabs' do, and lose hooks and options) are copied as they are.
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
    """Everything a module holds, also in SpikingJelly's dictionary of memories."""
    for key, value in vars(module).items():
        if key not in ("_modules", "_parameters"):
            yield value


def neurons_of(model: nn.Module) -> dict[str, tuple[nn.Module, Adapter]]:
    """The spiking neurons of a model by name, each once."""
    return {
        name: (module, adapter)
        for name, module in model.named_modules()
        if (adapter := adapter_of(module)) is not None
    }


def reset_states(model: nn.Module) -> None:
    """Every state of the model as before its first time step, also those that no neuron holds."""
    for module in model.modules():
        adapter = adapter_of(module)
        if adapter is not None:
            adapter.reset(module)
        elif keeps_state(module):
            module.reset()


def run_forward(model: nn.Module, batch: Any, forward: Forward | None) -> Any:
    """One sequence. The batch's first item is the input where it has several.

    A random encoding inside draws the same each time: `undisturbed` with the batch's number is around.
    """
    if isinstance(batch, (tuple, list)):
        if not batch:
            raise ValueError(
                "a batch is empty; accepted is a tensor, or a tuple that starts with one"
            )
        batch = batch[0]
    return model(batch) if forward is None else forward(model, batch)


@contextmanager
def undisturbed(seed: int = 0) -> Iterator[None]:
    """Inside, random numbers are those of the seed; outside, nobody notices."""
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
