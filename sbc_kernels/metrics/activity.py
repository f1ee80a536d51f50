"""Firing rates of neurons, and distances between the spike trains of two networks."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import ParameterError
from ..frameworks import Adapter, NeuronFacts
from ..network.copies import Forward, neurons_of
from ..network.tensors import first_tensor, narrow, tensors_in
from ..neurons import Neuron, membrane_matrix
from .passes import Model, Pass, each_batch

__all__ = ["spike_rates"]

OnSpikes = Callable[[str, NeuronFacts, Tensor], None]
OutputHook = Callable[[nn.Module, tuple[Any, ...], dict[str, Any], Any], None]
CHUNK = 1 << 16  # spike trains that are filtered at a time


def spike_rates(model: Model, data: object, *, forward: Forward | None = None) -> dict[str, float]:
    """Measures how often each neuron module fires.

    Parameters
    ----------
    model, data, forward : as in `synaptic_operations`. Labels are ignored.

    Returns
    -------
    By neuron module, the fraction of its outputs that are not 0, over units, time steps and samples, in
    0..1. Leaky integrators, whose output is their potential, are included with a rate near 1. Neurons
    that are never called are left out.

    Raises
    ------
    ParameterTypeError, ParameterError : `model`, `data` or `forward` is not accepted.
    """
    activity = Activity()
    run = Pass(model, forward, activity)
    each_batch(data, run.run)
    return activity.rates()


class Activity:
    """A `Watcher` that counts spikes, and calls `on_spikes`, if any, with those of each call."""

    def __init__(self, on_spikes: OnSpikes | None = None) -> None:
        self.on_spikes = on_spikes
        self.fired: dict[str, int] = defaultdict(int)
        self.outputs: dict[str, int] = defaultdict(int)

    def watch(self, model: nn.Module) -> None:
        for name, (module, adapter) in neurons_of(model).items():
            module.register_forward_hook(self._hook(name, adapter), with_kwargs=True)

    def running(self) -> AbstractContextManager[object]:
        return nullcontext()

    def rates(self) -> dict[str, float]:
        """Returns the fraction of non-zero outputs by neuron module."""
        return {name: self.fired[name] / size for name, size in self.outputs.items() if size}

    def _hook(self, name: str, adapter: Adapter) -> OutputHook:
        def hook(
            module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
        ) -> None:
            outputs = tensors_in(output)  # snnTorch and Norse return (spikes, states...)
            if not outputs:
                return
            spikes = outputs[0].detach()
            self.fired[name] += int(torch.count_nonzero(spikes))
            self.outputs[name] += spikes.numel()
            inputs = first_tensor(args, kwargs)
            if self.on_spikes is not None and inputs is not None:
                self.on_spikes(name, adapter.describe(module, tuple(inputs.shape)), spikes)

        return hook


class VanRossum:
    """Distances between the spike trains of two models.

    For each batch, call `dense` for all calls of the dense model's neurons, then `compressed` for those
    of the compressed model's, then `end_batch`.

    The difference of two trains is filtered with the neuron's own impulse response k and scaled so that
    one additional spike in the first step has distance 1::

        D = sqrt( sum_t (k * (s - s'))_t^2 / sum_t k_t^2 )

    This is the distance of van Rossum (Neural Computation 13(4):751-763, 2001) in discrete time, with k
    in place of the exponential, times sqrt(2), as van Rossum's D^2 of one spike is 1/2. If a neuron has
    no k, or one that is 0 in all T steps, the trains are not filtered.
    """

    def __init__(self) -> None:
        self.calls: dict[str, list[tuple[NeuronFacts, Tensor]]] = defaultdict(list)
        self.count: dict[str, int] = defaultdict(int)  # calls of the compressed model so far
        self.sums: dict[str, float] = defaultdict(float)
        self.trains: dict[str, int] = defaultdict(int)

    def dense(self, name: str, facts: NeuronFacts, spikes: Tensor) -> None:
        """Stores the spikes of one call, in a byte each where they fit."""
        self.calls[name].append((facts, narrow(spikes)))

    def compressed(self, name: str, facts: NeuronFacts, spikes: Tensor) -> None:
        """Replaces the dense model's spikes of the same call by the difference of the two."""
        index = self.count[name]
        self.count[name] += 1
        calls = self.calls.get(name, [])
        if index >= len(calls) or calls[index][1].shape != spikes.shape:
            raise _structure_error(name)
        facts, before = calls[index]
        small = before.element_size() == narrow(spikes).element_size() == 1
        wide = torch.int16 if small else torch.float64
        calls[index] = (facts, before.to(wide) - spikes.to(wide))

    def end_batch(self) -> None:
        """Adds the batch's distances to the sums and forgets its spikes."""
        for name, calls in self.calls.items():
            if self.count[name] != len(calls):
                raise _structure_error(name)
            for neuron, difference in _sequences(name, calls):
                self.sums[name] += _distance_sum(neuron, difference)
                self.trains[name] += difference.shape[1]
        self.calls.clear()
        self.count.clear()

    def result(self) -> dict[str, float]:
        """Returns the mean of D over units and samples, by neuron module.

        Raises ValueError if a neuron's output holds NaN or Inf.
        """
        means = {name: self.sums[name] / count for name, count in self.trains.items() if count}
        for name, distance in means.items():
            if not math.isfinite(distance):
                raise ValueError(f"the output of neuron {name!r} holds NaN or Inf")
        return means


def _structure_error(name: str) -> ParameterError:
    return ParameterError(
        "compressed",
        name,
        "a model of the same structure as dense",
        shown=f"a model that calls neuron {name!r} with other shapes, or not as often, as dense does",
    )


def _sequences(
    name: str, calls: list[tuple[NeuronFacts, Tensor]]
) -> list[tuple[Neuron | None, Tensor]]:
    """Returns the calls of a neuron as sequences [T, trains], each with its impulse response.

    A call that holds all time steps is a sequence. Calls of a single step are stacked to one.
    """
    sequences: list[tuple[Neuron | None, Tensor]] = []
    loops: dict[torch.Size, list[Tensor]] = defaultdict(list)
    for facts, values in calls:
        if facts.steps == 1:
            loops[values.shape].append(values)
            continue
        if values.numel() % (facts.outer * facts.steps):
            raise ValueError(
                f"the output of neuron {name!r} has shape {list(values.shape)} for {facts.steps} time "
                "steps; accepted is an output for each step"
            )
        timed = values.reshape(facts.outer, facts.steps, -1).transpose(0, 1)
        sequences.append((facts.neuron, timed.reshape(facts.steps, -1)))
    neuron = calls[0][0].neuron
    for steps in loops.values():
        whole = all(step.dtype == torch.int16 for step in steps)
        stacked = torch.stack(steps if whole else [step.double() for step in steps])
        sequences.append((neuron, stacked.flatten(1)))
    return sequences


def _distance_sum(neuron: Neuron | None, difference: Tensor) -> float:
    """Returns the sum of D over the differences of trains, [T, trains]."""
    T = len(difference)
    filters = membrane_matrix(neuron, T)
    size = float(np.sqrt(np.square(filters[:, 0]).sum()))
    scaled = torch.from_numpy(filters / size if size else np.eye(T)).to(difference.device)
    total = 0.0
    for part in difference.split(CHUNK, dim=1):
        total += float((scaled @ part.double()).square().sum(dim=0).sqrt().sum())
    return total
