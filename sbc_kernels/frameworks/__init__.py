"""Adapters of the frameworks: how to read their spiking neurons, one small file a framework.

An adapter recognizes a framework's neurons by the names of their classes and of the modules that define
them, so no framework needs to be installed, and none is imported. It says whether a module is a
neuron, gives its `NeuronFacts` for an input of a given shape, and resets its state.

Users add neuron classes of their own with `register_neuron`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import clock_driven, norse, sinabs, snntorch, spikingjelly
from .adapter import Adapter, NeuronFacts, Update, class_names
from .registered import register_neuron, registered

if TYPE_CHECKING:
    from torch import nn

__all__ = [
    "Adapter",
    "NeuronFacts",
    "Update",
    "adapter_of",
    "has_known_reset",
    "keeps_state",
    "register_neuron",
]

FRAMEWORKS: tuple[Adapter, ...] = (spikingjelly, snntorch, norse, sinabs, clock_driven)


def keeps_state(module: nn.Module) -> bool:
    """Returns whether the module is a `MemoryModule` of SpikingJelly, which ``reset()`` resets.

    Neurons are among them, but also layers with a state of their own.
    """
    names = class_names(module, "spikingjelly.activation_based")
    return "MemoryModule" in names or clock_driven.keeps_state(module)


def has_known_reset(module: nn.Module) -> bool:
    """Returns whether the module's class is a framework's own, with a state that its adapter resets.

    A subclass of the user's may hold more than that.
    """
    package = type(module).__module__.partition(".")[0]
    known = keeps_state(module) or any(adapter.is_neuron(module) for adapter in FRAMEWORKS)
    return known and package in ("spikingjelly", "snntorch", "norse", "sinabs")


def adapter_of(module: nn.Module) -> Adapter | None:
    """Returns the adapter that recognizes the module as a spiking neuron; None if there is none.

    Registered classes come before the frameworks, so that a user can describe a subclass otherwise.
    """
    adapters: list[Adapter] = [*registered, *FRAMEWORKS]
    return next((adapter for adapter in adapters if adapter.is_neuron(module)), None)
