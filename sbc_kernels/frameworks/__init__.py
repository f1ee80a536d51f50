"""What a spiking neuron module tells about itself, one small file a framework.

An adapter knows a framework's neurons by the names of their classes and of the modules that define
them, so none of the frameworks has to be installed, or is imported. It answers three questions: is
this module a neuron, what is its `NeuronFacts` for an input of this shape, and how is its state reset.

A neuron class of one's own is made known with `register_neuron`.
"""

from __future__ import annotations

from typing import Any

from . import norse, sinabs, snntorch, spikingjelly
from .adapter import Adapter, NeuronFacts, Update, class_names
from .registered import register_neuron, registered

__all__ = [
    "Adapter",
    "NeuronFacts",
    "Update",
    "adapter_of",
    "keeps_state",
    "register_neuron",
]

FRAMEWORKS: tuple[Adapter, ...] = (spikingjelly, snntorch, norse, sinabs)


def keeps_state(module: Any) -> bool:
    """Whether this is one of SpikingJelly's modules with a memory (``reset()``), neuron or not."""
    return "MemoryModule" in class_names(module, "spikingjelly.activation_based")


def adapter_of(module: Any) -> Adapter | None:
    """What knows this module as a spiking neuron; None where nothing does."""
    known: list[Adapter] = [*registered, *FRAMEWORKS]
    return next((adapter for adapter in known if adapter.is_neuron(module)), None)
