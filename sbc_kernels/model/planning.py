"""The plan of a whole network, made from the observations of a forward pass."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from torch import Tensor, nn

from ..frameworks import Adapter
from ..network.state import entry
from ..network.tensors import WEIGHT_LAYERS
from .layer_planning import planned_layer
from .plan import Plan
from .planned_layer import PlannedLayer
from .provenance import LayerCall, Provenance, Reach


def plan_of(
    model: nn.Module,
    provenance: Provenance,
    neurons: dict[str, tuple[nn.Module, Adapter]],
    rules: dict[str, dict[str, Any]],
) -> Plan:
    """Plans every weight layer of a model.

    Parameters
    ----------
    model : that was run.
    provenance : of its forward pass.
    neurons : of the model, by name.
    rules : the user's options for single layers, by name.
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

    order = {name: at for at, name in enumerate(provenance.layer_calls)}
    names = [name for name, module in modules.items() if isinstance(module, WEIGHT_LAYERS)]
    names.sort(key=lambda name: order.get(name, len(order)))
    owner: dict[int, str] = {}
    layers: dict[str, PlannedLayer] = {}
    loop_steps = _loop_steps(provenance)
    tied: dict[int, list[str]] = defaultdict(list)
    for name in names:
        tied[id(modules[name].weight)].append(name)
    for name in names:
        first = owner.setdefault(id(modules[name].weight), name)
        if first != name:  # tied weights: one layer, which is called at several places
            layers[first] = replace(layers[first], also=(*layers[first].also, name))
            if not _called_alike(
                provenance.layer_calls.get(first, []), provenance.layer_calls.get(name, [])
            ):
                why = f"{name} has the same weight and is called differently; it stays as it is"
                layers[first] = replace(layers[first], role="unsupported", notes=(why,))
            continue
        rule = rules.get(name, {})
        places = tied[id(modules[name].weight)]
        layers[name] = planned_layer(
            name,
            modules[name],
            provenance,
            [reach for place in places for reach in fed[place]],
            [reach for place in places for reach in read_out[place]],
            rule,
            loop_steps,
        )
    layers = {
        name: replace(
            layer,
            plain_norms=tuple(norm for norm in layer.norms if provenance.plain_norms.get(norm)),
            bias_entry=_bias_entry(layer, modules),
        )
        for name, layer in layers.items()
    }
    unsupported = [
        PlannedLayer(
            name,
            type(module).__name__,
            "unsupported",
            shape=tuple(module.weight.shape),
            notes=(f"{type(module).__name__} is not compressed; its weight stays as it is",),
        )
        for name, module in modules.items()
        if isinstance(module, (nn.modules.conv._ConvNd, nn.Bilinear, nn.RNNBase, nn.Embedding))
        and not isinstance(module, WEIGHT_LAYERS)
        and isinstance(getattr(module, "weight", None), Tensor)
    ]
    planned = {entry(layer.name, "weight") for layer in [*layers.values(), *unsupported]}
    planned |= {entry(other, "weight") for layer in layers.values() for other in layer.also}
    others = [
        n for n, p in model.named_parameters() if p.ndim >= 2 and p.numel() > 1 and n not in planned
    ]
    inside = tuple(f"{name}." for name in neurons)
    size = sum(t.numel() * t.element_size() for t in [*model.parameters(), *model.buffers()])
    return Plan(
        (*layers.values(), *unsupported),
        tuple(n for n in others if not n.startswith(inside) or n.rpartition(".")[0] not in modules),
        size,
        {
            name: calls[0].facts.steps
            for name, calls in provenance.neuron_calls.items()
            if name in modules and calls and len({call.facts.steps for call in calls}) == 1
        },
        dict(provenance.plain_norms),
        norm_inputs={n: tuple(sorted(fed, key=str)) for n, fed in provenance.norm_inputs.items()},
    )


def _bias_entry(layer: PlannedLayer, modules: Mapping[str, Any]) -> str | None:
    """The entry of the state that a change of the layer's bias goes to; see `PlannedLayer`."""
    if layer.also:
        return None
    bias = modules[layer.name].bias
    if bias is not None:
        owners = sum(getattr(module, "bias", None) is bias for module in modules.values())
        return entry(layer.name, "bias") if owners == 1 else None
    return entry(layer.norms[0], "running_mean") if layer.norms and layer.direct else None


def _called_alike(first: list[LayerCall], other: list[LayerCall]) -> bool:
    """Whether two modules' calls hold samples and time steps in the same order."""
    pairs = zip(first, other, strict=False)
    return len(first) == len(other) and all(
        a.lead == b.lead and np.array_equal(a.step_of, b.step_of) for a, b in pairs
    )


def _loop_steps(provenance: Provenance) -> list[int]:
    """Returns how often each neuron of one step a call is called.

    That is T, or a multiple where several layers share a neuron, or less where it skips steps.
    """
    return [
        len(calls)
        for calls in provenance.neuron_calls.values()
        if all(call.facts.steps == 1 for call in calls)
    ]
