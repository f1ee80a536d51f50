"""Data through a copy of a model, batch by batch, with watchers hooked to its modules."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

from ..frameworks import Adapter
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
from ..network.tensors import first_tensor


@runtime_checkable
class RunnableModel(Protocol):
    """A network together with the way to run it, as a `CompressedModel` is."""

    @property
    def model(self) -> nn.Module:
        """The network."""

    @property
    def forward(self) -> Forward | None:
        """``forward(model, batch)`` runs one whole sequence; None for ``model(batch)``."""


def module_of(model: object) -> object:
    """The network of a `RunnableModel`; anything else as it is. A torch module is never taken apart,
    although it may have an attribute `model` and always has a `forward`."""
    if isinstance(model, RunnableModel) and not isinstance(model, nn.Module):
        return model.model
    return model


class Watcher(Protocol):
    """Learns something of a model while batches run through it."""

    def watch(self, model: nn.Module) -> None:
        """Registers hooks; the model is a copy that nobody else has."""


class Pass:
    """A copy of a model, in eval mode, through which batches are run from fresh states.

    Parameters
    ----------
    model : a torch model, or a `CompressedModel`; stays as it is.
    forward : as in `trace`.
    watchers : are hooked to the copy.
    name : the parameter that the model is, for messages.

    Attributes
    ----------
    samples : of all batches that were counted so far.
    """

    def __init__(
        self, model: Any, forward: Forward | None, *watchers: Watcher, name: str = "model"
    ) -> None:
        if forward is not None and not callable(forward):
            raise TypeError(
                f"forward is {forward!r}; accepted is a function (model, batch), or None"
            )
        self.model = copy_of(_required_module(model, name)).eval()
        self.forward = forward_of(forward, model)
        self.samples = 0
        self._counts: set[int | None] = set()
        for watcher in watchers:
            watcher.watch(self.model)
        self._watch_samples()

    def run(self, index: int, batch: Any) -> Any:
        """What the model answers to the batch of that number."""
        self._counts.clear()
        reset_states(self.model)
        with torch.no_grad(), undisturbed(index):
            return run_forward(self.model, batch, self.forward)

    def run_counted(self, index: int, batch: Any) -> tuple[Any, int]:
        """The same, and how many samples it has, which is added to `samples`."""
        output, samples = self.run(index, batch), self._samples_of(batch)
        self.samples += samples
        return output, samples

    def _watch_samples(self) -> None:
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
                given = first_tensor(args, kwargs)
                if given is not None:
                    self._counts.add(_samples_in(module, adapter, tuple(given.shape)))

            module.register_forward_pre_hook(hook, with_kwargs=True)

    def _samples_of(self, batch: Any) -> int:
        """The labels' length. Without labels what the neurons see, if they agree, and if the input's
        first two axes can hold it."""
        counts = self._counts - {None}
        found = next(iter(counts)) if len(counts) == 1 else None
        given = batch[0] if isinstance(batch, (tuple, list)) else batch
        shape = tuple(given.shape) if isinstance(given, Tensor) else ()
        labels = labels_of(batch)
        if labels is not None:
            size = _length(labels)
            if found in shape[:2] and size not in shape[:2]:
                raise ValueError(
                    f"data has a batch with {size} labels, of which the neurons see {found} samples; "
                    "accepted is a label for each sample"
                )
            return size
        if found and shape:  # [N, ...], [T, N, ...], or flattened [T*N, ...]
            found = found if found in shape[:2] or shape[0] % found == 0 else None
        if not found:
            seen = ", ".join(str(c) for c in sorted(c for c in counts if c is not None)) or "none"
            raise ValueError(
                "data has a batch without labels whose number of samples cannot be told (its neurons' "
                f"inputs have: {seen}); accepted are batches (inputs, labels), and neurons that are "
                "made known with register_neuron"
            )
        return found


def _inside(name: str, other: str) -> bool:
    """Whether a module is somewhere below another."""
    return name != other and (not other or name.startswith(f"{other}."))


def _samples_in(module: Any, adapter: Adapter, shape: tuple[int, ...]) -> int | None:
    """How many samples a neuron's input of this shape holds; None where it does not tell.

    Asked about twice as long a first axis, an adapter tells whether that is time: T may be 1.
    """
    facts = adapter.describe(module, shape)
    if facts.outer > 1:
        return facts.outer
    try:
        twice = adapter.describe(module, (2 * shape[0], *shape[1:])) if shape else facts
    except ValueError:  # it knows both sizes
        return facts.outer
    if twice.outer > facts.outer:
        return facts.outer
    at = 1 if twice.steps > facts.steps else 0
    return shape[at] if len(shape) > at + 1 else None


def forward_of(forward: Forward | None, *models: Any) -> Forward | None:
    """What was given, or else how a `CompressedModel` among the models is run."""
    for model in models:
        runnable = isinstance(model, RunnableModel) and not isinstance(model, nn.Module)
        if forward is None and runnable:
            forward = model.forward
    return forward


# ---- data --------------------------------------------------------------------------------------


def each_batch(data: Any, do: Callable[[int, Any], Any]) -> None:
    """Calls ``do(index, batch)`` for all batches. ValueError where there are none."""
    batches = reiterable(data, "data")
    index = -1
    with undisturbed():
        for index, batch in enumerate(batches):
            do(index, batch)
    if index < 0:
        raise ValueError("data has no batch; accepted is at least one")


def labels_of(batch: Any) -> Any:
    """The second item of a batch that is a tuple or list; None where there is none."""
    return batch[1] if isinstance(batch, (tuple, list)) and len(batch) > 1 else None


def _length(labels: Any) -> int:
    if not isinstance(labels, (Tensor, np.ndarray, list, tuple)):
        raise TypeError(
            f"data has labels that are a {type(labels).__name__}; accepted is a tensor, an array or a "
            "list, as long as there are samples"
        )
    size = 0 if isinstance(labels, (Tensor, np.ndarray)) and labels.ndim == 0 else len(labels)
    if size == 0:
        raise ValueError("data has a batch with no labels in it; accepted is one for each sample")
    return size


def _required_module(model: Any, name: str) -> nn.Module:
    module = module_of(model)
    if not isinstance(module, nn.Module):
        raise TypeError(
            f"{name} is a {type(model).__name__}; accepted is a torch.nn.Module or a CompressedModel"
        )
    require_model(module)
    return module
