"""How often neurons fire, and how far two networks' spike trains are from each other."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..frameworks import Adapter, NeuronFacts
from ..network.copies import Forward, neurons_of
from ..network.tensors import first_tensor, narrow, tensors_in
from ..neurons import Neuron, membrane_matrix
from .passes import Pass, each_batch

__all__ = ["spike_rates"]

OnSpikes = Callable[[str, NeuronFacts, Tensor], None]
CHUNK = 1 << 16  # trains that are filtered at a time


def spike_rates(model: Any, data: Any, *, forward: Forward | None = None) -> dict[str, float]:
    """By neuron module, the fraction of its outputs that are not 0: over units, steps and samples.

    Neurons that answer with their potential (leaky integrators) are listed too, close to 1 as a rule.
    Those that are never called are not.

    Parameters
    ----------
    model, data, forward : as in `synaptic_operations`. Labels and the number of samples play no part.

    Raises
    ------
    TypeError, ValueError : naming the parameter, what came and what is accepted.
    """
    activity = Activity()
    run = Pass(model, forward, activity)
    each_batch(data, run.run)
    return activity.rates()


class Activity:
    """Watches neurons; a `Watcher`. Hands each call's spikes on where somebody wants them."""

    def __init__(self, on_spikes: OnSpikes | None = None) -> None:
        self.on_spikes = on_spikes
        self.fired: dict[str, int] = defaultdict(int)
        self.outputs: dict[str, int] = defaultdict(int)

    def watch(self, model: nn.Module) -> None:
        for name, (module, adapter) in neurons_of(model).items():
            module.register_forward_hook(self._hook(name, adapter), with_kwargs=True)

    def rates(self) -> dict[str, float]:
        return {name: self.fired[name] / size for name, size in self.outputs.items() if size}

    def _hook(self, name: str, adapter: Adapter) -> Any:
        def hook(
            module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
        ) -> None:
            answered = tensors_in(output)  # (spikes, states...) of snnTorch and Norse
            if not answered:
                return
            spikes = answered[0].detach()
            self.fired[name] += int(torch.count_nonzero(spikes))
            self.outputs[name] += spikes.numel()
            given = first_tensor(args, kwargs)
            if self.on_spikes is not None and given is not None:
                self.on_spikes(name, adapter.describe(module, tuple(given.shape)), spikes)

        return hook


class VanRossum:
    """Distances of two models' spike trains, batch by batch: first `dense`, then `compressed`, then
    `end_batch`.

    The difference of two trains, filtered with the neuron's own impulse response k, and scaled so that
    one spike more at the first step is 1::

        D = sqrt( sum_t (k * (s - s'))_t^2 / sum_t k_t^2 )

    That is the distance of van Rossum (Neural Computation 13(4):751-763, 2001) in discrete time with k
    in place of the exponential, times sqrt(2): there one spike is D^2 = 1/2. Where a neuron has no
    k, or one that is 0 for all T steps, trains are compared as they are.
    """

    def __init__(self) -> None:
        self.calls: dict[str, list[tuple[NeuronFacts, Tensor]]] = defaultdict(list)
        self.met: dict[str, int] = defaultdict(int)  # calls of the compressed model
        self.sums: dict[str, float] = defaultdict(float)
        self.trains: dict[str, int] = defaultdict(int)

    def dense(self, name: str, facts: NeuronFacts, spikes: Tensor) -> None:
        self.calls[name].append((facts, narrow(spikes)))

    def compressed(self, name: str, facts: NeuronFacts, spikes: Tensor) -> None:
        """Leaves the difference in the place of the dense model's spikes."""
        at = self.met[name]
        self.met[name] += 1
        calls = self.calls.get(name, [])
        if at >= len(calls) or calls[at][1].shape != spikes.shape:
            raise _differ(name)
        facts, before = calls[at]
        small = before.element_size() == narrow(spikes).element_size() == 1
        wide = torch.int16 if small else torch.float64
        calls[at] = (facts, before.to(wide) - spikes.to(wide))

    def end_batch(self) -> None:
        for name, calls in self.calls.items():
            if self.met[name] != len(calls):
                raise _differ(name)
            for neuron, difference in _sequences(name, calls):
                self.sums[name] += _distance_sum(neuron, difference)
                self.trains[name] += difference.shape[1]
        self.calls.clear()
        self.met.clear()

    def result(self) -> dict[str, float]:
        """By neuron module, the mean of D over units and samples."""
        found = {name: self.sums[name] / count for name, count in self.trains.items() if count}
        for name, distance in found.items():
            if not math.isfinite(distance):
                raise ValueError(f"neuron {name!r} answers NaN or Inf; accepted are finite values")
        return found


def _differ(name: str) -> ValueError:
    return ValueError(
        f"compressed calls neuron {name!r} otherwise than dense does; accepted are two models of the "
        "same structure"
    )


def _sequences(
    name: str, calls: list[tuple[NeuronFacts, Tensor]]
) -> list[tuple[Neuron | None, Tensor]]:
    """Calls as [T, trains]: one that holds all steps is a sequence, those of one step are stacked."""
    found: list[tuple[Neuron | None, Tensor]] = []
    loops: dict[torch.Size, list[Tensor]] = defaultdict(list)
    for facts, values in calls:
        if facts.steps == 1:
            loops[values.shape].append(values)
            continue
        if values.numel() % (facts.outer * facts.steps):
            raise ValueError(
                f"neuron {name!r} answers {list(values.shape)} to {facts.steps} time steps; accepted "
                "is an output for each step"
            )
        timed = values.reshape(facts.outer, facts.steps, -1).transpose(0, 1)
        found.append((facts.neuron, timed.reshape(facts.steps, -1)))
    neuron = calls[0][0].neuron
    for steps in loops.values():
        whole = all(step.dtype == torch.int16 for step in steps)
        stacked = torch.stack(steps if whole else [step.double() for step in steps])
        found.append((neuron, stacked.flatten(1)))
    return found


def _distance_sum(neuron: Neuron | None, difference: Tensor) -> float:
    """The sum of D over trains [T, trains]."""
    T = len(difference)
    filters = membrane_matrix(neuron, T)
    size = float(np.sqrt(np.square(filters[:, 0]).sum()))
    scaled = torch.from_numpy(filters / size if size else np.eye(T)).to(difference.device)
    total = 0.0
    for part in difference.split(CHUNK, dim=1):
        total += float((scaled @ part.double()).square().sum(dim=0).sqrt().sum())
    return total
