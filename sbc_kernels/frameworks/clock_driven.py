"""SpikingJelly's neurons up to 0.0.0.0.12: `spikingjelly.clock_driven`, or a repository's own copy.

There a class takes either one step a call ([N, ...], `LIFNode`) or all of them ([T, N, ...],
`MultiStepLIFNode`). Many published models came with a copy of the package, so its classes are
recognized by what they are: a `BaseNode` with a potential, a threshold and a surrogate function.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import nn

from ..neurons import IF, LIF, PLIF, Neuron
from . import spikingjelly
from .adapter import NeuronFacts, Update, distance, mean_of, redefined, steps_first

_ATTRIBUTES = ("v", "v_threshold", "v_reset", "surrogate_function")

_RESPONSES: dict[str, Callable[[nn.Module], Neuron]] = {
    "IFNode": lambda module: IF(),
    "ParametricLIFNode": lambda module: PLIF(mean_of("w", module.w)[0], _decays_input(module)),
    "LIFNode": lambda module: LIF(module.tau, _decays_input(module)),
}


def _decays_input(module: nn.Module) -> bool:
    """Whether the input is scaled by 1 / tau, which versions before 0.0.0.0.8 always did."""
    return bool(getattr(module, "decay_input", True))


def _package(module: nn.Module) -> str:
    """Returns the Python module that defines the neuron's `BaseNode`, or "" where it is another's."""
    for base in type(module).__mro__:
        if base.__name__ == "BaseNode" and "activation_based" not in base.__module__.split("."):
            return base.__module__
    return ""


def _names(module: nn.Module) -> list[str]:
    """Returns the names of the classes that the package defines, the most derived first."""
    package = _package(module)
    return [base.__name__ for base in type(module).__mro__ if base.__module__ == package]


def is_neuron(module: nn.Module) -> bool:
    """Returns whether the class derives from a `BaseNode` as `clock_driven.neuron` has it."""
    return bool(_package(module)) and all(hasattr(module, name) for name in _ATTRIBUTES)


def keeps_state(module: nn.Module) -> bool:
    """Returns whether the module is a `MemoryModule`, a neuron or not, which ``reset()`` resets."""
    names = {base.__name__ for base in type(module).__mro__}
    return "MemoryModule" in names and hasattr(module, "_memories_rv")


def describe(module: nn.Module, shape: Sequence[int]) -> NeuronFacts:
    """Returns the facts for one step [N, ...], or for [T, N, ...] of a MultiStep neuron."""
    names = _names(module)
    mode = getattr(module, "step_mode", "s")
    all_steps = mode == "m" or any(name.startswith("MultiStep") for name in names)
    steps = steps_first(module, shape) if all_steps else 1
    respond = next((_RESPONSES[name] for name in names if name in _RESPONSES), None)
    if respond is None:
        note = f"{type(module).__name__} has no linear, time-invariant subthreshold response"
        return NeuronFacts(None, 1, steps, notes=(note,))
    reset = module.v_reset
    threshold, notes = distance(module.v_threshold, 0.0 if reset is None else reset)
    notes += redefined(module, _package(module))
    return NeuronFacts(respond(module), 1, steps, threshold, notes)


def reset(module: nn.Module) -> None:
    """Resets the neuron's state, by its own method."""
    module.reset()


def update(module: nn.Module) -> Update | str:
    """Returns the equations of an IF, LIF or parametric LIF neuron."""
    names = [name.removeprefix("MultiStep") for name in _names(module)]
    return spikingjelly.equations(names[0], module)
