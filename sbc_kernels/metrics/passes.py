"""Running data through a copy of a model, batch by batch, with watchers hooked to its modules."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack
from typing import Any, Protocol, TypeAlias, TypeGuard, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import ParameterError, ParameterTypeError
from ..frameworks import Adapter, has_known_reset
from ..network.batches import reiterable
from ..network.copies import (
    Forward,
    copy_of,
    neurons_of,
    require_model,
    reset_states,
    run_forward,
    undisturbed,
)
from ..network.inputs import LABELS, input_of
from ..network.kept import KeptStates
from ..network.originals import only_the_copy
from ..network.tensors import first_tensor, tensors_in


@runtime_checkable
class RunnableModel(Protocol):
    """A network together with the function that runs it, such as a `CompressedModel`."""

    @property
    def model(self) -> nn.Module:
        """The network."""

    @property
    def forward(self) -> Forward | None:
        """``forward(model, batch)`` runs one whole sequence; None stands for ``model(batch)``."""


Model: TypeAlias = nn.Module | RunnableModel
Hook: TypeAlias = Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], None]  # before a forward


def is_runnable(model: object) -> TypeGuard[RunnableModel]:
    """Returns whether `model` is a `RunnableModel`.

    A torch module is none, although it may have an attribute `model` and always has a `forward`.
    """
    return isinstance(model, RunnableModel) and not isinstance(model, nn.Module)


def module_of(model: object) -> object:
    """Returns the network of a `RunnableModel`, and anything else unchanged."""
    return model.model if is_runnable(model) else model


class Watcher(Protocol):
    """Collects measurements of a model while batches run through it."""

    def watch(self, model: nn.Module) -> None:
        """Registers hooks on the model, which is a private copy of the user's."""

    def running(self) -> AbstractContextManager[object]:
        """Returns the context that each forward runs in."""


class Pass:
    """A copy of a model in eval mode, whose states are reset before each batch.

    Parameters
    ----------
    model : a torch model or a `CompressedModel`. It is left unchanged.
    forward : ``forward(model, batch)`` runs one whole sequence. Default: that of the `CompressedModel`,
        otherwise ``model(batch)``.
    watchers : are hooked to the copy.
    name : name of the parameter `model` in error messages.

    Attributes
    ----------
    samples : number of samples in the batches that were counted so far.

    Raises
    ------
    ParameterTypeError : `model` is neither, or `forward` is not callable.
    """

    def __init__(
        self, model: Model, forward: Forward | None, *watchers: Watcher, name: str = "model"
    ) -> None:
        if forward is not None and not callable(forward):
            raise ParameterTypeError("forward", forward, "a function (model, batch), or None")
        self._original = _required_module(model, name)
        self.model = copy_of(self._original).eval()
        self.forward = forward_of(forward, model)
        self.samples = 0
        self._fresh: KeptStates | None = None  # what is put back before each batch
        self._states: tuple[str, ...] = ()
        self._counts: set[int | None] = set()
        self._watchers = watchers
        for watcher in watchers:
            watcher.watch(self.model)
        self._watch_samples()

    def run(self, index: int, batch: object) -> object:
        """Returns the model's output for a batch; `index` is the seed of its random numbers."""
        self._counts.clear()
        reset_states(self.model)
        with torch.no_grad(), undisturbed(index), ExitStack() as stack:
            for watcher in self._watchers:
                stack.enter_context(watcher.running())
            if self._fresh is None:  # what the first batch changes is a state
                fresh = self._fresh = KeptStates(self.model, but=has_known_reset)
                with only_the_copy(self._original, self.forward):
                    output = run_forward(self.model, batch, self.forward)
                self._states = fresh.changed()
                fresh.warn_if_used(self._states)
                return output
            self._fresh.put_back(self._states)
            return run_forward(self.model, batch, self.forward)

    def run_counted(self, index: int, batch: object) -> tuple[object, int]:
        """Returns the model's output and the batch's number of samples, and adds it to `samples`."""
        output, samples = self.run(index, batch), self._samples_of(batch)
        self.samples += samples
        return output, samples

    def _watch_samples(self) -> None:
        """Hooks the outermost neurons, whose inputs tell how many samples a batch has."""
        neurons = neurons_of(self.model)
        for name, (module, adapter) in neurons.items():
            if any(_inside(name, other) for other in neurons):
                continue

            def hook(
                module: nn.Module,
                args: tuple[Any, ...],
                kwargs: dict[str, Any],
                adapter: Adapter = adapter,
            ) -> None:
                inputs = first_tensor(args, kwargs)
                if inputs is not None:
                    self._counts.add(_samples_in(module, adapter, tuple(inputs.shape)))

            module.register_forward_pre_hook(hook, with_kwargs=True)

    def _samples_of(self, batch: object) -> int:
        """Returns the batch's number of samples.

        That is the number of labels. Without labels it is the number of samples in the neurons' inputs,
        if it is the same for all of them and agrees with the first two axes of the batch's input.
        """
        counts = self._counts - {None}
        count = next(iter(counts)) if len(counts) == 1 else None
        tensors = tensors_in(input_of(batch))
        shape = tuple(tensors[0].shape) if tensors else ()
        labels = labels_of(batch)
        if labels is not None:
            size = _length(labels)
            if count in shape[:2] and size not in shape[:2]:
                raise ParameterError(
                    "data",
                    batch,
                    "one label for each sample",
                    shown=f"a batch with {size} labels and {count} samples in its neurons' inputs",
                )
            return size
        if count and shape:  # [N, ...], [T, N, ...], or flattened [T*N, ...]
            count = count if count in shape[:2] or shape[0] % count == 0 else None
        if not count:
            listed = ", ".join(str(c) for c in sorted(c for c in counts if c is not None)) or "none"
            raise ParameterError(
                "data",
                batch,
                "batches (inputs, labels), or neurons that were added with register_neuron",
                shown="a batch without labels and of unknown size (number of samples in its neurons' "
                f"inputs: {listed})",
            )
        return count


def _inside(name: str, other: str) -> bool:
    """Returns whether the module `name` lies below the module `other`."""
    return name != other and (not other or name.startswith(f"{other}."))


def _samples_in(module: nn.Module, adapter: Adapter, shape: tuple[int, ...]) -> int | None:
    """Returns the number of samples in a neuron's input of this shape; None if it is unknown.

    T may be 1, so `steps` does not say which axis is time. What an adapter says about an input with a
    first axis twice as long does.
    """
    facts = adapter.describe(module, shape)
    if facts.outer > 1:
        return facts.outer
    try:
        twice = adapter.describe(module, (2 * shape[0], *shape[1:])) if shape else facts
    except ValueError:  # the neuron knows both sizes
        return facts.outer
    if twice.outer > facts.outer:
        return facts.outer
    axis = 1 if twice.steps > facts.steps else 0
    return shape[axis] if len(shape) > axis + 1 else None


def forward_of(forward: Forward | None, *models: Model) -> Forward | None:
    """Returns `forward`, or if it is None that of the first `RunnableModel` which has one."""
    for model in models:
        if forward is None and is_runnable(model):
            forward = model.forward
    return forward


# ---- data --------------------------------------------------------------------------------------


def each_batch(data: object, do: Callable[[int, Any], object]) -> None:
    """Calls ``do(index, batch)`` for every batch of `data`. ParameterError if there is none."""
    batches = reiterable(data, "data")
    index = -1
    with undisturbed():
        for index, batch in enumerate(batches):
            do(index, batch)
    if index < 0:
        raise ParameterError("data", data, "at least one batch", shown="empty")


def labels_of(batch: object) -> object:
    """Returns the second item of a tuple or list, or the labels of a dictionary; None without."""
    if isinstance(batch, Mapping):
        return next((batch[name] for name in LABELS if name in batch), None)
    return batch[1] if isinstance(batch, (tuple, list)) and len(batch) > 1 else None


def _length(labels: object) -> int:
    """Returns the number of labels. ParameterError if there are none."""
    if not isinstance(labels, (Tensor, np.ndarray, list, tuple)):
        raise ParameterTypeError(
            "data",
            labels,
            "labels as a tensor, an array or a list",
            shown=f"a batch whose labels are a {type(labels).__name__}",
        )
    size = 0 if isinstance(labels, (Tensor, np.ndarray)) and labels.ndim == 0 else len(labels)
    if size == 0:
        raise ParameterError(
            "data", labels, "one label for each sample", shown="a batch whose labels are empty"
        )
    return size


def _required_module(model: object, name: str) -> nn.Module:
    """Returns the network of a model. ParameterTypeError if it is none; `name` is the parameter's."""
    module = module_of(model)
    if not isinstance(module, nn.Module):
        raise ParameterTypeError(
            name,
            model,
            "a torch.nn.Module or a CompressedModel",
            shown=f"a {type(model).__name__}",
        )
    require_model(module)
    return module
