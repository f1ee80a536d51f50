"""What a spiking neuron module tells about itself, one small file a framework.

An adapter knows a framework's neurons by the names of their classes and of the modules that define
them, so none of the frameworks has to be installed, or is imported. It answers three questions: is
this module a neuron, what is its `NeuronFacts` for an input of this shape, and how is its state reset.

A neuron class of one's own is made known with `register_neuron`.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from ..neurons import Neuron, Response

__all__ = [
    "Adapter",
    "NeuronFacts",
    "StateSpace",
    "Update",
    "adapter_of",
    "class_names",
    "distance",
    "keeps_state",
    "mean_of",
    "own_class",
    "redefined",
    "register_neuron",
    "steps_first",
]


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


@dataclass(frozen=True)
class StateSpace:
    """A membrane ``C s`` with ``s <- A s + B x``, so that ``k[t] = C A^t B``."""

    A: tuple[tuple[float, ...], ...]
    B: tuple[float, ...]
    C: tuple[float, ...]

    def impulse_response(self, T: int) -> Response:
        A, state, C = np.array(self.A), np.array(self.B), np.array(self.C)
        k = np.empty(T)
        for t in range(T):
            k[t] = C @ state
            state = A @ state
        return k


# ---- neurons of one's own ----------------------------------------------------------------------


@dataclass(frozen=True)
class _Registered:
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


_registered: list[_Registered] = []


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
    _registered[:] = [known for known in _registered if known.cls is not cls]
    _registered.insert(0, _Registered(cls, neuron, time_axis, threshold, reset))


def keeps_state(module: Any) -> bool:
    """Whether this is one of SpikingJelly's modules with a memory (``reset()``), neuron or not."""
    return "MemoryModule" in class_names(module, "spikingjelly.activation_based")


def adapter_of(module: Any) -> Adapter | None:
    """What knows this module as a spiking neuron; None where nothing does."""
    from . import norse, sinabs, snntorch, spikingjelly

    known: list[Adapter] = [*_registered, spikingjelly, snntorch, norse, sinabs]
    return next((adapter for adapter in known if adapter.is_neuron(module)), None)
