"""Neuron classes of one's own, made known with `register_neuron`."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ..neurons import Neuron
from .adapter import NeuronFacts


@dataclass(frozen=True)
class Registered:
    """One class made known by `register_neuron`; its subclasses come along."""

    cls: type
    neuron: Callable[[Any], Neuron] | Neuron
    time_axis: int | None
    threshold: Callable[[Any], float] | float
    reset_state: Callable[[Any], None] | None

    def is_neuron(self, module: Any) -> bool:
        return isinstance(module, self.cls)

    def describe(self, module: Any, shape: Sequence[int]) -> NeuronFacts:
        outer, steps = 1, 1
        if self.time_axis is not None:
            if len(shape) <= self.time_axis:
                raise ValueError(
                    f"{self.cls.__name__} got an input of shape {list(shape)}; accepted with "
                    f"time_axis={self.time_axis} are more axes"
                )
            outer, steps = math.prod(shape[: self.time_axis]), shape[self.time_axis]
        neuron = self.neuron if isinstance(self.neuron, Neuron) else self.neuron(module)
        threshold = self.threshold(module) if callable(self.threshold) else self.threshold
        return NeuronFacts(neuron, outer, steps, float(threshold))

    def reset(self, module: Any) -> None:
        if self.reset_state is not None:
            self.reset_state(module)
        elif callable(getattr(module, "reset", None)):
            module.reset()


registered: list[Registered] = []


def register_neuron(
    cls: type,
    neuron: Callable[[Any], Neuron] | Neuron,
    *,
    time_axis: int | None = 0,
    threshold: Callable[[Any], float] | float = 1.0,
    reset: Callable[[Any], None] | None = None,
) -> None:
    """Makes a neuron class of one's own known to `trace` and `compress_model`.

    Parameters
    ----------
    cls : a torch.nn.Module class. Registering it again replaces what was said before.
    neuron : its subthreshold impulse response, or a function of the module that gives it.
    time_axis : of the input of one call of forward; 0 for [T, N, ...], 1 for [N, T, ...], None where a
        call is one time step.
    threshold : at which it fires, or a function of the module that gives it.
    reset : puts the module's state back; default ``module.reset()`` where there is such a method.

    Raises
    ------
    TypeError : naming the parameter, what came and what is accepted.
    """
    if not isinstance(cls, type):
        raise TypeError(f"cls is {cls!r}; accepted is a class of torch.nn.Module")
    if not isinstance(neuron, Neuron) and not callable(neuron):
        raise TypeError(
            f"neuron is a {type(neuron).__name__}; accepted is a neuron such as sbc.LIF(2.0), or a "
            "function of the module that gives one"
        )
    if isinstance(neuron, type):
        raise TypeError(f"neuron is the class {neuron.__name__}; accepted is an object of it")
    if time_axis is not None and (not isinstance(time_axis, int) or time_axis < 0):
        raise TypeError(
            f"time_axis is {time_axis!r}; accepted is an integer of at least 0, or None"
        )
    registered[:] = [known for known in registered if known.cls is not cls]
    registered.insert(0, Registered(cls, neuron, time_axis, threshold, reset))
