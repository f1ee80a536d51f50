"""sinabs' neurons: [N, T, ...] a call, or [N*T, ...] for those that derive from SqueezeMixin."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import nn

from ..neurons import IF, Neuron, SinabsLIF, StateSpace
from .adapter import (
    NeuronFacts,
    Notes,
    Update,
    class_names,
    distance,
    mean_of,
    own_class,
    redefined,
)


def _names(module: nn.Module) -> set[str]:
    return class_names(module, "sinabs.layers")


def is_neuron(module: nn.Module) -> bool:
    """Returns whether the class derives from sinabs' StatefulLayer."""
    return "StatefulLayer" in _names(module)


def _layout(module: nn.Module, names: set[str], shape: Sequence[int]) -> tuple[int, int]:
    """Returns (N, T) of the input; SqueezeMixin layers know at least one of them."""
    if "SqueezeMixin" not in names:
        if len(shape) < 2:
            raise ValueError(
                f"{type(module).__name__} got an input of shape {list(shape)}; accepted is [N, T, ...]"
            )
        return shape[0], shape[1]
    N, T = module.batch_size, module.num_timesteps  # one of them may be -1, unset
    rows = shape[0] if len(shape) else 0
    outer = N if N > 0 else rows // T
    steps = T if T > 0 else rows // N
    if rows == 0 or outer * steps != rows:
        raise ValueError(
            f"{type(module).__name__} with batch_size={N} and num_timesteps={T} got an input of shape "
            f"{list(shape)}; accepted is [batch_size * num_timesteps, ...]"
        )
    return outer, steps


def _response(module: nn.Module, names: set[str]) -> tuple[Neuron | None, Notes]:
    if not names & {"LIF", "ALIF"}:
        return None, (f"{type(module).__name__} has no known subthreshold response",)
    alpha, notes = mean_of("alpha_mem", module.alpha_mem_calculated)
    gain = 1.0 - alpha if module.norm_input else 1.0
    if module.alpha_syn_calculated is None:
        if alpha == gain == 1.0:
            return IF(), notes
        if 0.0 < alpha < 1.0:
            return SinabsLIF(-1.0 / math.log(alpha), norm_input=module.norm_input), notes
        return StateSpace(((alpha,),), (gain,), (1.0,)), notes
    synapse, more = mean_of("alpha_syn", module.alpha_syn_calculated)
    notes += more
    if "ALIF" in names:  # norm_input scales the synapse's state itself, at every step
        synapse, gain = gain * synapse, 1.0
    through = gain * synapse
    state = ((alpha, through), (0.0, synapse))  # membrane, synapse; the input joins the synapse
    return StateSpace(state, (through, synapse), (1.0, 0.0)), notes


def describe(module: nn.Module, shape: Sequence[int]) -> NeuronFacts:
    """Returns the facts for [N, T, ...], or for [N*T, ...] if the module knows N or T."""
    names = _names(module)
    outer, steps = _layout(module, names, shape)
    neuron, notes = _response(module, names)
    top = module.b0 if "ALIF" in names else getattr(module, "spike_threshold", None)
    threshold, more = (1.0, ()) if top is None else distance(top)  # ExpLeak never fires
    notes += more + redefined(module, "sinabs")
    if getattr(module, "min_v_mem", None) is not None:
        notes += ("min_v_mem, which cuts low potentials, is not in the response",)
    # `rec_connect` is called on the spikes of a step, and its output is integrated in the next one.
    return NeuronFacts(neuron, outer, steps, threshold, notes, recurrent_delay=1)


def reset(module: nn.Module) -> None:
    """Empties the state's buffers, which is how they are in a new module.

    sinabs' `reset_states` would leave zeros of the last batch's size, which a batch of another size
    resamples at random, and it would also zero the buffers of `rec_connect`.
    """
    for name, state in module.named_buffers(recurse=False):
        setattr(module, name, state.new_zeros(0))


def update(module: nn.Module) -> Update | str:
    """Returns the equations of a LIF, IAF or ExpLeak, with or without "Squeeze" in its name."""
    name = own_class(module, "sinabs.layers").removesuffix("Squeeze")
    if name not in ("LIF", "IAF", "ExpLeak"):
        return "it is neither a LIF, an IAF nor an ExpLeak"
    decay = module.alpha_mem_calculated.detach().double()
    gain = 1.0 - decay if module.norm_input else 1.0
    synapse = module.alpha_syn_calculated
    if synapse is not None:  # the input joins the current before its decay
        synapse = synapse.detach().double()
        gain = gain * synapse
    if name == "ExpLeak":
        return Update(decay, gain, synapse=synapse, floor=module.min_v_mem)
    fires = getattr(module.spike_fn, "__name__", type(module.spike_fn).__name__)
    resets = type(module.reset_fn).__name__
    if fires not in ("SingleSpike", "MultiSpike", "MaxSpike"):
        return f"its spike_fn is {fires}, none of SingleSpike, MultiSpike and MaxSpike"
    if resets not in ("MembraneReset", "MembraneSubtract"):
        return f"its reset_fn is {resets}, neither MembraneReset nor MembraneSubtract"
    threshold = module.spike_threshold.detach()
    most = getattr(module.spike_fn, "max_num_spikes_per_bin", None)
    subtract, reset = threshold, None
    if resets == "MembraneReset":
        reset = module.reset_fn.reset_value
        if reset != 0:
            return "its MembraneReset adds reset_value at every step, spike or not"
    elif module.reset_fn.subtract_value is not None:
        subtract = module.reset_fn.subtract_value
    return Update(
        decay,
        gain,
        threshold=threshold,
        at_threshold=True,
        reset=reset,
        subtract=subtract,
        synapse=synapse,
        floor=module.min_v_mem,
        most=1 if fires == "SingleSpike" else most,
    )
