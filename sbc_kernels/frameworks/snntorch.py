"""snnTorch's neurons: one time step a call, except for the parallel ones, which take [T, N, ...]."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from ..neurons import Alpha, CubaLIF, Lapicque, Leaky, Neuron
from .adapter import (
    NeuronFacts,
    Notes,
    Update,
    Value,
    class_names,
    distance,
    mean_of,
    own_class,
    redefined,
    steps_first,
)

_RNN = {"LeakyParallel", "LeakyKernel"}  # torch.nn.RNN underneath: no SpikingNeuron, and no state
_CONVOLUTION = {"StateLeaky"}  # LinearLeaky is one
_WHOLE_SEQUENCE = _RNN | _CONVOLUTION | {"AssociativeLeaky"}


def _names(module: nn.Module) -> set[str]:
    return class_names(module, "snntorch")


def is_neuron(module: nn.Module) -> bool:
    """Returns whether the class derives from SpikingNeuron, or is a parallel neuron without a base."""
    return bool(_names(module) & {"SpikingNeuron", *_RNN})


def _decay(module: nn.Module, name: str) -> tuple[float, Notes]:
    """Returns a decay clamped to 0..1, as snnTorch applies it, and notes."""
    return mean_of(name, getattr(module, name).detach().clamp(0, 1))


def _response(module: nn.Module, names: set[str]) -> tuple[Neuron | None, Notes]:
    if names & _RNN:
        recurrent = module.rnn.weight_hh_l0.detach()
        beta, notes = mean_of("beta", recurrent.diagonal())
        notes += ("its RNN has the weights of its input, and cuts negative potentials to 0",)
        if (recurrent - recurrent.diagonal().diag()).any():
            notes += ("the recurrent weights off the diagonal are not in the response",)
        return Leaky(beta), notes
    if names & _CONVOLUTION:
        beta, notes = mean_of("beta", (-1.0 / module.tau.detach().double()).exp())
        if module.kernel_truncation_steps is not None:
            notes += (
                f"the cut after {module.kernel_truncation_steps} steps is not in the response",
            )
        return Leaky(beta), notes
    if "Lapicque" in names:
        R, notes = mean_of("R", module.R)
        C, more = mean_of("C", module.C)
        return Lapicque(R=R, C=C, time_step=mean_of("time_step", module.time_step)[0]), notes + more
    if names & {"Leaky", "RLeaky"} and "DeltaLeaky" not in names:
        beta, notes = _decay(module, "beta")
        return Leaky(beta), notes
    if names & {"Synaptic", "RSynaptic", "Alpha"}:
        alpha, notes = _decay(module, "alpha")
        beta, more = _decay(module, "beta")
        if "Alpha" not in names:
            return CubaLIF(alpha, beta), notes + more
        if 0.0 < beta < alpha < 1.0:
            return Alpha(alpha, beta), notes + more
    return None, (f"{type(module).__name__} has no linear subthreshold response that fires it",)


def describe(module: nn.Module, shape: Sequence[int]) -> NeuronFacts:
    """Returns the facts for one step [N, ...] or, for the parallel neurons, for [T, N, ...]."""
    names = _names(module)
    steps = steps_first(module, shape) if names & _WHOLE_SEQUENCE else 1
    neuron, notes = _response(module, names)
    threshold, more = distance(module.threshold)
    notes += more + redefined(module, "snntorch")
    if getattr(module, "state_quant", False):
        notes += ("the quantization of its state is not in the response",)
    return NeuronFacts(neuron, 1, steps, threshold, notes)


def reset(module: nn.Module) -> None:
    """Calls `reset_mem`, or drops the outputs that parallel neurons keep.

    These outputs are no state, but they hold the autograd graph of the last call.
    """
    if callable(getattr(module, "reset_mem", None)):
        module.reset_mem()
    else:
        for output in ("spk", "mem"):
            module.__dict__.pop(output, None)


def update(module: nn.Module) -> Update | str:
    """Returns the equations of a Leaky, Synaptic or Lapicque.

    With ``reset_delay``, snnTorch's default and the only way of Lapicque, a neuron is reset in the step
    after its spike. `Update` resets at once, so that

    - Leaky's delayed reset to zero is the same as one at once,
    - a delayed subtraction, which comes after the decay, subtracts threshold / decay at once,
    - a delayed reset to zero of the others cannot be expressed: it also erases the next input.
    """
    name = own_class(module, "snntorch")
    if name not in ("Leaky", "Synaptic", "Lapicque"):
        return "it is neither a Leaky, a Synaptic nor a Lapicque"
    if module.inhibition or module.state_quant:
        return "it has inhibition or a quantized state"
    mechanism = ("subtract", "zero", "none")[int(module.reset_mechanism_val)]
    delayed = name == "Lapicque" or module.reset_delay
    if mechanism == "none":
        return "it is never reset (reset_mechanism='none')"
    if mechanism == "zero" and delayed and name != "Leaky":
        return "its reset takes the next step's input along (reset_delay=False would not)"
    threshold = module.threshold.detach()
    gain: Value = 1.0
    if name == "Lapicque":
        R, C, dt = (getattr(module, key).detach().double() for key in ("R", "C", "time_step"))
        decay, gain = 1.0 - dt / (R * C), dt / C
    else:
        decay = module.beta.detach().clamp(0, 1).double()
    subtract = threshold.double()
    if mechanism == "subtract" and delayed:
        if bool((decay == 0).any()):
            return "it subtracts its threshold after a decay to 0 (reset_delay)"
        subtract = subtract / decay
    return Update(
        decay,
        gain,
        threshold=threshold,
        at_threshold=bool(module.spike_grad(torch.zeros(1)) > 0),
        reset=0.0 if mechanism == "zero" else None,
        subtract=subtract,
        synapse=module.alpha.detach().clamp(0, 1).double() if name == "Synaptic" else None,
    )
