"""Tracing of a user's spiking network, which gives a plan of its weight layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import warn
from ..frameworks import has_known_reset
from ..network.batches import require_content
from ..network.copies import (
    Forward,
    copy_of,
    neurons_of,
    require_model,
    reset_states,
    run_forward,
    undisturbed,
)
from ..network.gradients import gradients_kept, in_usual_mode
from ..network.kept import KeptStates
from ..network.originals import only_the_copy, require_plain_parts
from ..network.tensors import tensors_in
from .adapter_check import check_neurons
from .overrides import Overrides, layer_rules
from .places import fixed_weights, names_of, places_of
from .plan import Plan
from .planning import plan_of
from .recording import record

__all__ = ["trace"]


@in_usual_mode
def trace(
    model: nn.Module,
    example: Any,
    *,
    forward: Forward | None = None,
    overrides: Overrides | None = None,
    ignore: Sequence[str] = (),
) -> Plan:
    """Finds the weight layers of a spiking network, and for each the neurons that integrate its output.

    Autograd records one forward pass of a copy of the model (see `provenance`). The model itself is
    left unchanged: mode, states, hooks and gradients.

    Parameters
    ----------
    model : of SpikingJelly, snnTorch, Norse or sinabs, or any torch model: responses of neurons that
        nobody knows are measured.
    example : a batch as the model takes it; of a tuple or list the first item (the rest are labels). A
        dictionary is passed by keyword where the model's forward has parameters of these names.
        With two samples or more, a batch axis cannot be mistaken for a time axis.
    forward : ``forward(model, batch)`` runs one whole sequence; default ``model(batch)``. For models
        that are called once a time step from outside.
    overrides : by a layer's name, or a regular expression that matches all of it: a dictionary with any
        of `skip`, `neuron`, `hessian` ("smp" or "current"), or the options of `compress_layer`.
    ignore : names or expressions of layers to leave alone: ``{"skip": True}`` for each.

    Returns
    -------
    Plan

    Raises
    ------
    TypeError, ValueError : a parameter is not accepted; the message names it and what is accepted.
    """
    require_model(model)
    require_plain_parts(model)
    require_content(example, "example")
    work = copy_of(model)
    return trace_copy(model, work, example, forward=forward, overrides=overrides, ignore=ignore)


def trace_copy(
    model: nn.Module,
    work: nn.Module,
    example: Any,
    *,
    forward: Forward | None,
    overrides: Overrides | None,
    ignore: Sequence[str],
) -> Plan:
    """`trace` on a copy that may be changed: its parameters all require gradients afterwards.

    Raises
    ------
    ParameterError : a ValueError; also where the copy runs modules or tensors of the model itself.
    """
    neurons = neurons_of(work)
    work.eval()
    fixed = fixed_weights(work)
    with undisturbed(), only_the_copy(model, forward):
        reset_states(work)
        kept = KeptStates(work, but=has_known_reset)
        outputs: list[Any] = []

        def run() -> Any:
            outputs.append(run_forward(work, example, forward))
            return outputs[-1]

        with gradients_kept():
            provenance = record(work, neurons, run)
        reset_states(work)
        states = kept.changed()
        kept.put_back(states)
    kept.warn_if_used(states)
    _warn_of_hidden_state(work, example, forward, outputs[0], kept, states)
    with undisturbed():
        for difference in check_neurons(neurons, provenance):
            warn(difference, UserWarning)
    places = places_of(work, provenance, fixed)
    rules = layer_rules(
        names_of(places, work), [(p.name, *p.also) for p in places], overrides, ignore
    )
    plan = plan_of(work, provenance, neurons, rules, places)
    return replace(plan, states=states)


def _warn_of_hidden_state(
    work: nn.Module,
    example: Any,
    forward: Forward | None,
    output: Any,
    kept: KeptStates,
    states: Sequence[str],
) -> None:
    """Warns where the same example, from the same states, does not give the same output again.

    Where it differs from that of the recorded run, whose kernels may have rounded otherwise, it is
    run twice more in the same way.
    """

    def run() -> list[Tensor]:
        with undisturbed(), torch.no_grad():
            tensors = [t.clone() for t in tensors_in(run_forward(work, example, forward))]
            reset_states(work)
            kept.put_back(states)
        return tensors

    if _close(tensors_in(output), run()) or _close(run(), run()):
        return
    warn(
        "the model gives another output when the same example is run again: a state outside of its "
        "modules (such as a global variable) passes from batch to batch, or a source of random numbers "
        "that no seed reaches",
        UserWarning,
    )


def _close(first: list[Tensor], second: list[Tensor]) -> bool:
    return len(first) == len(second) and all(
        a.shape == b.shape
        and torch.allclose(
            a.detach().double(), b.detach().double(), rtol=1e-3, atol=1e-6, equal_nan=True
        )
        for a, b in zip(first, second, strict=True)
    )
