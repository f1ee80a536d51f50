"""Neuron classes that users add with `register_neuron`."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import ParameterTypeError
from ..neurons import Neuron
from .adapter import NeuronFacts

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Registered:
    """The adapter of one class that `register_neuron` added, and of its subclasses."""

    cls: type
    neuron: Callable[[nn.Module], Neuron] | Neuron
    time_axis: int | None
    threshold: Callable[[nn.Module], float] | float
    reset_state: Callable[[nn.Module], None] | None

    def is_neuron(self, module: nn.Module) -> bool:
        return isinstance(module, self.cls)

    def describe(self, module: nn.Module, shape: Sequence[int]) -> NeuronFacts:
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

    def reset(self, module: nn.Module) -> None:
        if self.reset_state is not None:
            self.reset_state(module)
        elif callable(getattr(module, "reset", None)):
            module.reset()


registered: list[Registered] = []


def register_neuron(
    cls: type,
    neuron: Callable[[nn.Module], Neuron] | Neuron,
    *,
    time_axis: int | None = 0,
    threshold: Callable[[nn.Module], float] | float = 1.0,
    reset: Callable[[nn.Module], None] | None = None,
) -> None:
    """Makes `trace` and `compress_model` recognize a neuron class that no adapter knows.

    Parameters
    ----------
    cls : a torch.nn.Module class. Registering it again replaces the earlier registration.
    neuron : its subthreshold impulse response, or a function ``neuron(module)`` that returns it.
    time_axis : time axis of the input of one call of forward: 0 for [T, N, ...], 1 for [N, T, ...],
        None if one call is one time step.
    threshold : membrane potential at which it fires, or a function ``threshold(module)``.
    reset : ``reset(module)`` resets the module's state. Default: ``module.reset()`` if it has such a
        method, otherwise nothing.

    Raises
    ------
    ParameterTypeError : a parameter has another type.
    """
    if not isinstance(cls, type):
        raise ParameterTypeError("cls", cls, "a class of torch.nn.Module")
    if not isinstance(neuron, Neuron) and not callable(neuron):
        raise ParameterTypeError(
            "neuron",
            neuron,
            "a neuron such as sbc.LIF(2.0), or a function of the module that returns one",
            shown=f"a {type(neuron).__name__}",
        )
    if isinstance(neuron, type):
        raise ParameterTypeError(
            "neuron", neuron, "an object of it", shown=f"the class {neuron.__name__}"
        )
    if time_axis is not None and (not isinstance(time_axis, int) or time_axis < 0):
        raise ParameterTypeError("time_axis", time_axis, "an integer of at least 0, or None")
    registered[:] = [adapter for adapter in registered if adapter.cls is not cls]
    registered.insert(0, Registered(cls, neuron, time_axis, threshold, reset))
