"""The plan of a whole network, made from the observations of a forward pass."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from typing import Any

from torch import nn

from ..frameworks import Adapter
from ..network.state import entry
from .layer_planning import planned_layer
from .places import Place, own_bias, uncompressed_modules
from .plan import Plan
from .planned_layer import PlannedLayer
from .provenance import Provenance, Reach


def plan_of(
    model: nn.Module,
    provenance: Provenance,
    neurons: dict[str, tuple[nn.Module, Adapter]],
    rules: dict[str, dict[str, Any]],
    places: list[Place],
) -> Plan:
    """Plans every weight layer of a model.

    Parameters
    ----------
    model : that was run.
    provenance : of its forward pass.
    neurons : of the model, by name.
    rules : the user's options for single layers, by name.
    places : of its weights.
    """
    modules = dict(model.named_modules())
    fed: dict[str, list[tuple[str, int, Reach]]] = defaultdict(list)
    for name, calls in provenance.neuron_calls.items():
        for index, call in enumerate(calls):
            for reach in call.reached:
                fed[reach.layer].append((name, index, reach))
    read_out: dict[str, list[Reach]] = defaultdict(list)
    for reach in provenance.heads:
        read_out[reach.layer].append(reach)

    layers: dict[str, PlannedLayer] = {}
    loop_steps = _loop_steps(provenance)
    for place in places:
        names = [place.name, *place.also]
        layers[place.name] = planned_layer(
            place,
            provenance,
            [reach for name in names for reach in fed[name]],
            [reach for name in names for reach in read_out[name]],
            rules.get(place.name, {}),
            loop_steps,
        )
    biases = {place.name: own_bias(place, places, modules) for place in places}
    unbiased = {place.name for place in places if set(place.biases) <= {None}}
    layers = {
        name: replace(
            layer,
            plain_norms=tuple(norm for norm in layer.norms if provenance.plain_norms.get(norm)),
            bias_entry=biases[name] or _mean_entry(layer, name in unbiased),
        )
        for name, layer in layers.items()
    }
    unsupported = [
        PlannedLayer(
            name,
            type(module).__name__,
            "unsupported",
            shape=shape,
            notes=(f"{type(module).__name__} is not compressed; its weight stays as it is",),
        )
        for name, (module, shape) in uncompressed_modules(model).items()
    ]
    planned = {layer.weight_entry for layer in [*layers.values(), *unsupported]}
    planned |= {entry(other, "weight") for layer in layers.values() for other in layer.also}
    inside = tuple(f"{name}." for name in neurons)
    others = [
        name
        for name, parameter in model.named_parameters()
        if parameter.ndim >= 2
        and parameter.numel() > 1
        and name not in planned
        and not (name.startswith(inside) and _is_vector(parameter))
    ]
    size = sum(t.numel() * t.element_size() for t in [*model.parameters(), *model.buffers()])
    return Plan(
        (*layers.values(), *unsupported),
        tuple(others),
        size,
        {
            name: calls[0].facts.steps
            for name, calls in provenance.neuron_calls.items()
            if name in modules and calls and len({call.facts.steps for call in calls}) == 1
        },
        dict(provenance.plain_norms),
        norm_inputs={n: tuple(sorted(fed, key=str)) for n, fed in provenance.norm_inputs.items()},
    )


def _mean_entry(layer: PlannedLayer, unbiased: bool) -> str | None:
    """The mean of a BatchNorm that takes a change of the bias of a layer without one."""
    if layer.also or not unbiased or not layer.norms or not layer.direct:
        return None
    return entry(layer.norms[0], "running_mean")


def _is_vector(parameter: nn.Parameter) -> bool:
    """Whether at most one axis has more than one element, as a time constant of each channel has."""
    return len([extent for extent in parameter.shape if extent > 1]) <= 1


def _loop_steps(provenance: Provenance) -> list[int]:
    """Returns how often each neuron of one step a call is called.

    That is T, or a multiple where several layers share a neuron, or less where it skips steps.
    """
    return [
        len(calls)
        for calls in provenance.neuron_calls.values()
        if all(call.facts.steps == 1 for call in calls)
    ]
