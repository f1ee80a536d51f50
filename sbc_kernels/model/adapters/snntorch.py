"""snnTorch's neurons: one time step a call, but for the parallel ones, which take [T, N, ...]."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...neurons import Alpha, CubaLIF, Lapicque, Leaky, Neuron
from . import NeuronFacts, class_names, distance, mean_of, redefined, steps_first

_RNN = {"LeakyParallel", "LeakyKernel"}  # torch.nn.RNN underneath: no SpikingNeuron, and no state
_CONVOLUTION = {"StateLeaky"}  # LinearLeaky is one
_WHOLE_SEQUENCE = _RNN | _CONVOLUTION | {"AssociativeLeaky"}


def _names(module: Any) -> set[str]:
    return class_names(module, "snntorch")


def is_neuron(module: Any) -> bool:
    """Whether this derives from SpikingNeuron, or is one of the parallel neurons that do not."""
    return bool(_names(module) & {"SpikingNeuron", *_RNN})


def _decay(module: Any, name: str) -> tuple[float, tuple[str, ...]]:
    """A decay as snnTorch applies it, clamped to 0..1."""
    return mean_of(name, getattr(module, name).detach().clamp(0, 1))


def _response(module: Any, names: set[str]) -> tuple[Neuron | None, tuple[str, ...]]:
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


def describe(module: Any, shape: Sequence[int]) -> NeuronFacts:
    """Facts for one step [N, ...] or, for the parallel neurons, for [T, N, ...]."""
    names = _names(module)
    steps = steps_first(module, shape) if names & _WHOLE_SEQUENCE else 1
    neuron, notes = _response(module, names)
    threshold, more = distance(module.threshold)
    notes += more + redefined(module, "snntorch")
    if getattr(module, "state_quant", False):
        notes += ("the quantization of its state is not in the response",)
    return NeuronFacts(neuron, 1, steps, threshold, notes)


def reset(module: Any) -> None:
    """`reset_mem`. The parallel neurons have no state, but keep the last call's graph."""
    if callable(getattr(module, "reset_mem", None)):
        module.reset_mem()
    else:
        for left in ("spk", "mem"):
            module.__dict__.pop(left, None)
