"""What an adapter of a framework is, what it says of a neuron, and what all adapters share."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from ..neurons import Neuron


@dataclass(frozen=True)
class NeuronFacts:
    """How a neuron module reads one call of its forward, and what it makes of its input.

    Attributes
    ----------
    neuron : its subthreshold impulse response; None where it has none, and `notes` says why.
    outer, steps : the input's leading axes, flattened, are (outer, steps, the rest): ``outer`` is 1
        where time comes first ([T, N, ...]), the batch size where it comes second ([N, T, ...], also
        flattened to [N*T, ...]). ``steps`` is 1 where a call is one time step.
    threshold : the membrane potential at which it fires (the mean where channels differ), positive.
    notes : what had to be approximated, for people.
    recurrent_delay : time steps between the call of a weight layer inside the neuron and the step
        that integrates its output: 0 where it is called on the spikes of the step before.
    """

    neuron: Neuron | None
    outer: int
    steps: int
    threshold: float = 1.0
    notes: tuple[str, ...] = ()
    recurrent_delay: int = 0


@dataclass(frozen=True)
class Update:
    """One time step of a neuron, for formats that take a neuron's equations and not its code.

    ``i <- synapse i + x`` (or ``i = x``), ``v <- decay v + gain i + (1 - decay) leak``, fire, reset.

    Attributes
    ----------
    decay, gain, leak : numbers or tensors that broadcast to one sample's neurons.
    threshold : as the framework compares it; None for an integrator, which answers its potential.
    at_threshold : whether it fires at the threshold; otherwise only above it.
    reset : the potential after a spike; None where `subtract` is taken off for each spike.
    subtract : the threshold in most frameworks.
    synapse : decay of the current; None where the input is the current.
    start : the potential before the first step.
    floor : the potential is cut off below; None for no bound.
    most : spikes a step at most; None for as many thresholds as the potential holds.
    """

    decay: Any
    gain: Any
    leak: Any = 0.0
    threshold: Any = None
    at_threshold: bool = False
    reset: Any = 0.0
    subtract: Any = None
    synapse: Any = None
    start: Any = 0.0
    floor: Any = None
    most: int | None = 1


class Adapter(Protocol):
    """A module of this package, or anything with these three functions.

    A fourth is optional, ``update(module) -> Update | str``: the neuron's equations, or why there are
    none.
    """

    def is_neuron(self, module: Any) -> bool:
        """Whether this is a spiking neuron of the framework (not a container of one)."""

    def describe(self, module: Any, shape: Sequence[int]) -> NeuronFacts:
        """Facts for an input of this shape. ValueError where the module and the shape disagree."""

    def reset(self, module: Any) -> None:
        """Puts the neuron's state back to what it is before the first time step."""


def class_names(module: Any, package: str) -> set[str]:
    """Names of the module's class and its bases, as far as `package` defines them."""
    return {
        base.__name__
        for base in type(module).__mro__
        if base.__module__ == package or base.__module__.startswith(package + ".")
    }


def own_class(module: Any, package: str) -> str:
    """The first of the module's class and its bases that `package` defines; "" where none is."""
    for base in type(module).__mro__:
        if (base.__module__ + ".").startswith(package + "."):
            return base.__name__
    return ""


def redefined(module: Any, package: str) -> tuple[str, ...]:
    """A note where a class outside `package` has an update of its own, which nobody looks into."""
    classes = itertools.takewhile(
        lambda base: not (base.__module__ + ".").startswith(package + "."), type(module).__mro__
    )
    update = re.compile("forward|charge|state_function")
    names = sorted({name for base in classes for name in vars(base) if update.search(name)})
    if not names:
        return ()
    return (f"{type(module).__name__} redefines {', '.join(names)}: its base's response is used",)


def steps_first(module: Any, shape: Sequence[int]) -> int:
    """T of an input [T, N, ...]. ValueError where there is no such axis."""
    if len(shape) < 2:
        raise ValueError(
            f"{type(module).__name__} got an input of shape {list(shape)}; accepted is [T, N, ...]"
        )
    return shape[0]


def mean_of(name: str, value: Any) -> tuple[float, tuple[str, ...]]:
    """A number or a tensor's mean in float64, and a note where its entries differ."""
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


def distance(threshold: Any, rest: Any = 0.0) -> tuple[float, tuple[str, ...]]:
    """Potential between rest and firing, positive, and notes. 1.0 where there is no such potential."""
    top, notes = mean_of("threshold", threshold)
    bottom, more = mean_of("resting potential", rest)
    notes += more
    if bottom != 0.0:
        notes += (f"the impulse response and the threshold are relative to rest at {bottom:g}",)
    if 0.0 < top - bottom < math.inf:
        return top - bottom, notes
    return 1.0, (*notes, f"threshold {top:g} is not above rest, or never reached: 1 is used")
