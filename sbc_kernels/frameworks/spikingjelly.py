"""SpikingJelly's neurons, single-step ([N, ...] a call) and multi-step ([T, N, ...] a call).

A multi-step neuron takes [T, N, ...] even in a model whose weight layers take [T*N, ...]. Neurons that
exist in multi-step mode only (PSN, DSR*, ILC*, Noisy*, NonSpiking*) have no `step_mode`.
"""

from __future__ import annotations

import cmath
from collections.abc import Callable, Sequence

import torch
from torch import nn

from ..neurons import IF, LIF, PLIF, CubaLIF, Leaky, Neuron, SinabsLIF, StateSpace
from .adapter import (
    NeuronFacts,
    Notes,
    Update,
    class_names,
    distance,
    mean_of,
    own_class,
    redefined,
    steps_first,
)

_PACKAGE = "spikingjelly.activation_based"


def _plif(module: nn.Module) -> Neuron:
    return PLIF(mean_of("w", module.w)[0], module.decay_input)


def _klif(module: nn.Module) -> Neuron:
    """Returns the response of ``v <- relu(k v')``, where v' is the potential a LIF would have.

    With `scale_reset` the factor k is divided out of the state again.
    """
    k, lif = mean_of("k", module.k)[0], LIF(module.tau, module.decay_input)
    gain, decay = (lif.impulse_response(1)[0], 1.0 - 1.0 / module.tau)
    return StateSpace(((decay if module.scale_reset else k * decay,),), (k * gain,), (1.0,))


def _dsr_lif(module: nn.Module) -> Neuron:
    return SinabsLIF(module.tau / module.delta_t, norm_input=True)


def _sliding_psn(module: nn.Module) -> Neuron:
    """Returns the response of a weighted sum over the last k inputs: its state, newest first."""
    taps = module.weight.detach().double().flatten().flip(0).tolist()
    order = range(len(taps))
    shift = tuple(tuple(float(row == column + 1) for column in order) for row in order)
    return StateSpace(shift, tuple(float(row == 0) for row in order), tuple(taps))


def _resonate(module: nn.Module) -> Neuron:
    """Returns the response of a resonate-and-fire neuron.

    Its state (u, v) rotates by omega dt and shrinks by exp(b dt) a step. The input is added to u, and v
    is compared with the threshold.
    """
    step = cmath.exp((module.b + 1j * module.omega) * module.dt)
    return StateSpace(((step.real, -step.imag), (step.imag, step.real)), (1.0, 0.0), (0.0, 1.0))


_INTEGRATORS = {
    *("IFNode", "SimpleIFNode", "HalfThresholdIFNode", "TernaryIFNode", "ActivationAwareIFNode"),
    *("DSRIFNode", "ILCIFNode", "NonSpikingIFNode", "NoisyNonSpikingIFNode"),
}
_CURRENT_BASED = {"CUBALIFNode", "ILCCUBALIFNode", "NoisyCUBALIFNode", "NoisyILCCUBALIFNode"}

_RESPONSES: dict[str, Callable[[nn.Module], Neuron]] = {
    **dict.fromkeys(_INTEGRATORS, lambda module: IF()),
    **dict.fromkeys(_CURRENT_BASED, lambda module: CubaLIF(module.c_decay, module.v_decay)),
    **dict.fromkeys(
        ("LIFNode", "SimpleLIFNode", "TernaryLIFNode"),
        lambda module: LIF(module.tau, module.decay_input),
    ),
    "NonSpikingLIFNode": lambda module: LIF(module.tau),
    "ComplementaryLIFNode": lambda module: LIF(module.tau, decay_input=False),
    "ParametricLIFNode": _plif,
    "KLIFNode": _klif,
    "ILCLIFNode": lambda module: Leaky(module.v_decay),
    "DSRLIFNode": _dsr_lif,
    "SlidingPSN": _sliding_psn,
    "RAFNode": _resonate,
}


def _names(module: nn.Module) -> set[str]:
    cells = class_names(module, _PACKAGE + ".rnn") & {"SpikingRNNCellBase"}
    return class_names(module, _PACKAGE + ".neuron") | cells


def is_neuron(module: nn.Module) -> bool:
    """Returns whether the class derives from one of SpikingJelly's `neuron`, or a cell of `rnn`."""
    return bool(_names(module))


def _threshold(module: nn.Module, names: set[str]) -> tuple[float, Notes]:
    """Returns the potential from rest to the threshold, as each class computes it, and notes."""
    if names & {"DSRIFNode", "DSRLIFNode"}:
        lowest = module.v_threshold_lower_bound
        return distance(module.alpha * module.v_threshold.clamp(min=lowest))
    top = getattr(module, "v_threshold", 1.0)
    if "HalfThresholdIFNode" in names:
        return distance(top, top / 2)
    if "ActivationAwareIFNode" in names:
        top = top - module.v_offset
    if "ILIFNode" in names:
        top = top / 2  # it fires round(v / v_threshold) spikes
    if "SlidingPSN" in names:
        top = -module.bias
    if names & {"RAFNode", "ILCLIFNode", *_CURRENT_BASED}:
        return distance(top)  # these decay to 0, whatever v_reset is
    return distance(top, getattr(module, "v_reset", None) or 0.0)


def describe(module: nn.Module, shape: Sequence[int]) -> NeuronFacts:
    """Returns the facts for one step [N, ...] or, if `step_mode` is 'm', for [T, N, ...]."""
    names = _names(module)
    multi_step = "SpikingRNNCellBase" not in names and getattr(module, "step_mode", "m") == "m"
    steps = steps_first(module, shape) if multi_step else 1
    respond = next((_RESPONSES[name] for name in _RESPONSES if name in names), None)
    if respond is None:
        note = f"{type(module).__name__} has no linear, time-invariant subthreshold response"
        return NeuronFacts(None, 1, steps, notes=(note,))
    threshold, notes = _threshold(module, names)
    notes += redefined(module, _PACKAGE)
    if "KLIFNode" in names:
        notes += ("KLIFNode cuts negative potentials to 0: the response of positive ones is used",)
    return NeuronFacts(respond(module), 1, steps, threshold, notes)


def reset(module: nn.Module) -> None:
    """Calls the neuron's `reset`, or drops the potentials that neurons without a reset keep.

    Those start every call from rest, but hold the autograd graph of the last call.
    """
    if callable(getattr(module, "reset", None)):
        module.reset()
    else:
        for potential in ("v", "c"):
            module.__dict__.pop(potential, None)


def update(module: nn.Module) -> Update | str:
    """Returns the equations of an IF, LIF, parametric LIF or current-based LIF neuron."""
    return equations(own_class(module, _PACKAGE + ".neuron"), module)


def equations(name: str, module: nn.Module) -> Update | str:
    """Returns the equations of the neuron class of this name, as `update`."""
    rate, synapse = 0.0, None  # leak rate of the membrane, decay of the current
    scaled = False  # whether the input is scaled by the leak rate
    if name in ("LIFNode", "SimpleLIFNode"):
        rate, scaled = 1.0 / module.tau, module.decay_input
    elif name == "ParametricLIFNode":
        rate, scaled = float(module.w.detach().double().sigmoid()), module.decay_input
    elif name == "CUBALIFNode":
        rate, synapse = 1.0 - module.v_decay, module.c_decay
    elif name not in ("IFNode", "SimpleIFNode"):
        return "it is neither an IFNode, LIFNode, ParametricLIFNode nor CUBALIFNode"
    rest = 0.0 if module.v_reset is None else module.v_reset
    return Update(
        1.0 - rate,
        rate if scaled else 1.0,
        leak=0.0 if synapse is not None else rest,
        threshold=module.v_threshold,
        at_threshold=bool(module.surrogate_function(torch.zeros(1)) > 0),
        reset=module.v_reset,
        subtract=module.v_threshold,
        synapse=synapse,
        start=rest,
    )
