"""The protocol of an adapter, the facts that it gives about a neuron, and the adapters' helpers."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeAlias

from ..neurons import Neuron

if TYPE_CHECKING:
    from torch import Tensor, nn

Value: TypeAlias = "float | Tensor"  # a number, or a tensor that broadcasts to one sample's neurons
Notes = tuple[str, ...]  # approximations, in words for the user


@dataclass(frozen=True)
class NeuronFacts:
    """Facts about a neuron that the compression needs, for the shape of one call's input.

    Attributes
    ----------
    neuron : the subthreshold impulse response; None if there is none, and `notes` says why.
    outer, steps : the input, flattened, has the axes (outer, steps, rest). `outer` is 1 where time
        comes first ([T, N, ...]) and the batch size N where it comes second ([N, T, ...], also
        flattened to [N*T, ...]). `steps` is the number of time steps T of the call, 1 for a single
        step.
    threshold : membrane potential above rest at which the neuron fires, positive; the mean where
        channels differ.
    notes : the approximations that were made, in words for the user.
    recurrent_delay : time steps between the call of a weight layer inside the neuron and the step that
        integrates its output. It is 0 where the layer is called on the previous step's spikes.
    """

    neuron: Neuron | None
    outer: int
    steps: int
    threshold: float = 1.0
    notes: Notes = ()
    recurrent_delay: int = 0


@dataclass(frozen=True)
class Update:
    """The equations of one time step of a neuron, for formats that store equations instead of code.

    The current is ``i <- synapse i + x``, or ``i = x`` without a synapse, and the membrane
    ``v <- decay v + gain i + (1 - decay) leak``. Then the neuron fires and is reset.

    Attributes
    ----------
    decay, gain, leak : decay of the membrane a time step, factor of the current, resting potential.
    threshold : the potential that the framework compares with; None for an integrator, whose output
        is its potential.
    at_threshold : True if the neuron fires when the potential equals the threshold, False if the
        potential has to exceed it.
    reset : the potential after a spike; None if `subtract` is subtracted for each spike instead.
    subtract : in most frameworks the threshold.
    synapse : decay of the current a time step; None if the input is the current.
    start : the potential before the first step.
    floor : lower bound of the potential; None for no bound.
    most : upper bound of the spikes a step; None for one spike per threshold that the potential holds.
    """

    decay: Value
    gain: Value
    leak: Value = 0.0
    threshold: Value | None = None
    at_threshold: bool = False
    reset: Value | None = 0.0
    subtract: Value | None = None
    synapse: Value | None = None
    start: Value = 0.0
    floor: Value | None = None
    most: int | None = 1


class Adapter(Protocol):
    """How one framework's neurons are read: a module of this package, or an object with these methods.

    A fourth method is optional: ``update(module) -> Update | str`` returns the neuron's equations, or
    the reason why they cannot be given.
    """

    def is_neuron(self, module: nn.Module) -> bool:
        """Returns whether the module is a spiking neuron of the framework, not a container of one."""

    def describe(self, module: nn.Module, shape: Sequence[int]) -> NeuronFacts:
        """Returns the facts for an input of this shape.

        Raises ValueError if a neuron with these parameters cannot take an input of this shape.
        """

    def reset(self, module: nn.Module) -> None:
        """Resets the neuron's state to that before the first time step."""


def class_names(module: nn.Module, package: str) -> set[str]:
    """Returns the names of those of the module's class and base classes that `package` defines."""
    return {
        base.__name__
        for base in type(module).__mro__
        if base.__module__ == package or base.__module__.startswith(package + ".")
    }


def own_class(module: nn.Module, package: str) -> str:
    """Returns the name of the most derived class of the module that `package` defines, or ""."""
    for base in type(module).__mro__:
        if (base.__module__ + ".").startswith(package + "."):
            return base.__name__
    return ""


def redefined(module: nn.Module, package: str) -> Notes:
    """Returns a note if a class outside `package` overrides the neuron's update.

    The override is not analysed: the impulse response is that of the framework's class.
    """
    classes = itertools.takewhile(
        lambda base: not (base.__module__ + ".").startswith(package + "."), type(module).__mro__
    )
    update = re.compile("forward|charge|state_function")
    names = sorted({name for base in classes for name in vars(base) if update.search(name)})
    if not names:
        return ()
    return (f"{type(module).__name__} redefines {', '.join(names)}: its base's response is used",)


def steps_first(module: nn.Module, shape: Sequence[int]) -> int:
    """Returns T of an input [T, N, ...]. Raises ValueError for fewer than two axes."""
    if len(shape) < 2:
        raise ValueError(
            f"{type(module).__name__} got an input of shape {list(shape)}; accepted is [T, N, ...]"
        )
    return shape[0]


def mean_of(name: str, value: Value) -> tuple[float, Notes]:
    """Returns a number, or a tensor's mean in float64, and a note if the tensor's entries differ."""
    if not hasattr(value, "detach"):
        return float(value), ()
    entries = value.detach().double().flatten()
    low, high = float(entries.min()), float(entries.max())
    if low == high:
        return low, ()
    mean = float(entries.mean())
    return mean, (
        f"{name} differs between channels, {low:g} to {high:g}: its mean {mean:g} is used",
    )


def distance(threshold: Value, rest: Value = 0.0) -> tuple[float, Notes]:
    """Returns the potential from rest to the threshold, and notes.

    The potential is positive. It is 1.0, with a note, if the threshold is not above rest or infinite.
    """
    top, notes = mean_of("threshold", threshold)
    bottom, more = mean_of("resting potential", rest)
    notes += more
    if bottom != 0.0:
        notes += (f"the impulse response and the threshold are relative to rest at {bottom:g}",)
    if 0.0 < top - bottom < math.inf:
        return top - bottom, notes
    return 1.0, (*notes, f"threshold {top:g} is not above rest, or never reached: 1 is used")
