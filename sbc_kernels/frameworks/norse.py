"""Norse's neurons: cells take one time step a call, the modules without "Cell" take [T, N, ...].

Their state is an argument and a result of forward; without one they start from the initial state.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from ..neurons import IF, Neuron, NorseLIF, NorseLIFBox, StateSpace
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

_SEQUENCE = {"SNN", "SNNRecurrent"}
_STEP = {"SNNCell", "SNNRecurrentCell", "LILinearCell", "CobaLIFCell", "LIFCorrelation"}

_REFRACTORY = {"LIFRefracCell", "LIFRefracRecurrentCell", "LIFRefracRecurrent"}
_LIF = {"LIFCell", "LIFRecurrentCell", "LIF", "LIFRecurrent", *_REFRACTORY}
_LI = {
    "LICell",
    "LI",
    "LILinearCell",
}  # integrators for the output layer: they return their potential
_LSNN = {"LSNNCell", "LSNNRecurrentCell", "LSNN", "LSNNRecurrent"}
_BOX = {"LIFBoxCell", "LIBoxCell"}
_IAF = {"IAFCell", "IAF"}


def _names(module: nn.Module) -> set[str]:
    return class_names(module, "norse.torch.module")


def is_neuron(module: nn.Module) -> bool:
    """Returns whether the class derives from a neuron base of Norse, or is one of those without."""
    return bool(_names(module) & (_SEQUENCE | _STEP))


def _response(module: nn.Module, names: set[str], p: Any) -> tuple[Neuron | None, Notes]:
    if names & _IAF:
        return IF(), ()
    if not names & (_LIF | _LI | _LSNN | _BOX):
        return None, (f"{type(module).__name__} has no linear subthreshold response",)
    dt = float(module.dt)
    membrane, notes = mean_of("tau_mem_inv", p.tau_mem_inv)
    if names & _BOX:
        return NorseLIFBox(membrane, dt), notes
    synapse, more = mean_of("tau_syn_inv", p.tau_syn_inv)
    notes += more
    if names & _LSNN:  # the potential moves before the input joins the current: k[0] = 0
        a_m, a_s = dt * membrane, dt * synapse
        return StateSpace(((1 - a_m, a_m), (0.0, 1 - a_s)), (0.0, 1.0), (1.0, 0.0)), notes
    return NorseLIF(synapse, membrane, dt), notes


def describe(module: nn.Module, shape: Sequence[int]) -> NeuronFacts:
    """Returns the facts for one step [N, ...] of a cell, or for [T, N, ...]."""
    names = _names(module)
    steps = steps_first(module, shape) if names & _SEQUENCE else 1
    p = module.p.lif if names & _REFRACTORY else module.p
    neuron, notes = _response(module, names, p)
    if neuron is None:
        return NeuronFacts(None, 1, steps, notes=notes)
    rest = p.v_reset if names & _IAF else p.v_leak
    if names & (_LI | {"LIBoxCell"}):
        threshold = 1.0
    else:
        threshold, more = distance(p.v_th, rest)
        notes += more
    notes += redefined(module, "norse")
    return NeuronFacts(neuron, 1, steps, threshold, notes)


def reset(module: nn.Module) -> None:
    """Does nothing: the caller holds the state."""


def update(module: nn.Module) -> Update | str:
    """Returns the equations of a LIF, LIFBox or IAF, or of an integrator LI or LIBox."""
    name = own_class(module, "norse.torch.module")
    if name not in ("LIFCell", "LIF", "LICell", "LI", *_BOX, *_IAF):
        return "it is neither a LIF, LIFBox, IAF, LI nor LIBox"
    p = module.p
    if name in _IAF:
        return Update(1.0, 1.0, threshold=p.v_th, reset=p.v_reset, start=p.v_reset)
    rate = module.dt * torch.as_tensor(p.tau_mem_inv).detach().double()
    synapse = None
    if name not in _BOX:
        synapse = 1.0 - module.dt * torch.as_tensor(p.tau_syn_inv).detach().double()
    method = getattr(getattr(p, "reset_method", None), "__name__", "reset_value")
    if method not in ("reset_value", "reset_subtract"):
        return f"its reset_method is {method}, neither reset_value nor reset_subtract"
    spiking = name not in (*_LI, "LIBoxCell")
    return Update(
        1.0 - rate,
        rate,
        leak=p.v_leak,
        threshold=p.v_th if spiking else None,
        reset=p.v_reset if spiking and method == "reset_value" else None,
        subtract=p.v_th if spiking else None,
        synapse=synapse,
        start=p.v_leak,
    )
