"""From a user's spiking network to a plan of its weight layers."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from torch import Tensor, nn

from ..conv import Conv
from ..frameworks import Adapter, NeuronFacts
from ..network.copies import (
    Forward,
    copy_of,
    neurons_of,
    require_model,
    reset_states,
    run_forward,
    undisturbed,
)
from ..network.tensors import WEIGHT_LAYERS
from ..neurons import Neuron, impulse_response
from .layout import Layout, layout_of
from .overrides import Overrides, layer_rules
from .plan import Plan, PlannedLayer, entry
from .provenance import LayerCall, Provenance, Reach, record

__all__ = ["trace"]


def trace(
    model: nn.Module,
    example: Any,
    *,
    forward: Forward | None = None,
    overrides: Overrides | None = None,
    ignore: Sequence[str] = (),
) -> Plan:
    """Finds the weight layers of a spiking network, and for each the neurons that integrate its output.

    One forward pass of a copy of the model is watched, by autograd (see `provenance`). The model stays
    as it is: mode, states, hooks, gradients.

    Parameters
    ----------
    model : of SpikingJelly, snnTorch, Norse or sinabs, or any torch model whose neuron classes were
        made known with `register_neuron`.
    example : a batch as the model takes it; of a tuple or list the first item (the rest are labels).
        Two samples or more tell a batch axis from a time axis beyond doubt.
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
    TypeError, ValueError : naming the parameter, what came and what is accepted.
    """
    require_model(model)
    work = copy_of(model)
    return trace_copy(work, example, forward=forward, overrides=overrides, ignore=ignore)


def trace_copy(
    work: nn.Module,
    example: Any,
    *,
    forward: Forward | None,
    overrides: Overrides | None,
    ignore: Sequence[str],
) -> Plan:
    """`trace` on a copy that may be changed: its parameters all require gradients afterwards."""
    neurons = neurons_of(work)
    work.eval()
    with undisturbed():
        reset_states(work)
        found = record(work, neurons, lambda: run_forward(work, example, forward))
        reset_states(work)
    return _plan(work, found, neurons, layer_rules(work, overrides, ignore))


# ---- the model ---------------------------------------------------------------------------------


# ---- from what was seen to the plan ------------------------------------------------------------


def _plan(
    model: nn.Module,
    found: Provenance,
    neurons: dict[str, tuple[nn.Module, Adapter]],
    rules: dict[str, dict[str, Any]],
) -> Plan:
    modules = dict(model.named_modules())
    fed: dict[str, list[tuple[str, int, Reach]]] = defaultdict(list)
    for name, calls in found.neuron_calls.items():
        for index, call in enumerate(calls):
            for reach in call.reached:
                fed[reach.layer].append((name, index, reach))
    read_out: dict[str, list[Reach]] = defaultdict(list)
    for reach in found.heads:
        read_out[reach.layer].append(reach)

    order = {name: at for at, name in enumerate(found.layer_calls)}
    names = [name for name, module in modules.items() if isinstance(module, WEIGHT_LAYERS)]
    names.sort(key=lambda name: order.get(name, len(order)))
    owner: dict[int, str] = {}
    layers: dict[str, PlannedLayer] = {}
    loop_steps = _loop_steps(found)
    tied: dict[int, list[str]] = defaultdict(list)
    for name in names:
        tied[id(modules[name].weight)].append(name)
    for name in names:
        first = owner.setdefault(id(modules[name].weight), name)
        if first != name:  # tied weights: one layer, seen at each of its places
            layers[first] = replace(layers[first], also=(*layers[first].also, name))
            if not _called_alike(found.layer_calls.get(first, []), found.layer_calls.get(name, [])):
                why = f"{name} has the same weight and is called differently; it stays as it is"
                layers[first] = replace(layers[first], role="unsupported", notes=(why,))
            continue
        rule = rules.get(name, {})
        places = tied[id(modules[name].weight)]
        layers[name] = _planned(
            name,
            modules[name],
            found,
            [reach for place in places for reach in fed[place]],
            [reach for place in places for reach in read_out[place]],
            rule,
            loop_steps,
        )
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
    known = {entry(layer.name, "weight") for layer in [*layers.values(), *unsupported]}
    known |= {entry(other, "weight") for layer in layers.values() for other in layer.also}
    left = [
        n for n, p in model.named_parameters() if p.ndim >= 2 and p.numel() > 1 and n not in known
    ]
    inside = tuple(f"{name}." for name in neurons)
    size = sum(t.numel() * t.element_size() for t in [*model.parameters(), *model.buffers()])
    return Plan(
        (*layers.values(), *unsupported),
        tuple(n for n in left if not n.startswith(inside) or n.rpartition(".")[0] not in modules),
        size,
        {
            name: calls[0].facts.steps
            for name, calls in found.neuron_calls.items()
            if calls and len({call.facts.steps for call in calls}) == 1
        },
        dict(found.plain_norms),
    )


def _called_alike(first: list[LayerCall], other: list[LayerCall]) -> bool:
    """Whether two modules' calls hold samples and time steps in the same order."""
    pairs = zip(first, other, strict=False)
    return len(first) == len(other) and all(
        a.lead == b.lead and np.array_equal(a.step_of, b.step_of) for a, b in pairs
    )


def _loop_steps(found: Provenance) -> list[int]:
    """How often each neuron of one step a call is called: T, or a multiple where several layers share
    it, or less where it does not listen at every step."""
    return [
        len(calls)
        for calls in found.neuron_calls.values()
        if all(call.facts.steps == 1 for call in calls)
    ]


def _planned(
    name: str,
    module: Any,
    found: Provenance,
    fed: list[tuple[str, int, Reach]],
    read_out: list[Reach],
    rule: Mapping[str, Any],
    loop_steps: list[int],
) -> PlannedLayer:
    calls = found.layer_calls.get(name, [])
    kind = next(c.__name__ for c in WEIGHT_LAYERS if isinstance(module, c))
    layer = PlannedLayer(
        name,
        kind,
        "never called",
        shape=tuple(module.weight.shape),
        calls=len(calls),
        options={k: v for k, v in rule.items() if k not in ("skip", "neuron", "hessian")},
    )
    if rule.get("skip"):
        return replace(layer, role="skipped")
    if not calls:
        return replace(layer, notes=("not called in the forward pass; its weight stays as it is",))
    layer = replace(
        layer,
        input_kind=found.kinds[name].name,
        input_rate=found.kinds[name].rate,
        input_shape=calls[0].input_shape,
        output_shape=calls[0].output_shape,
    )
    if "weight" not in module._parameters:
        why = "its weight is made from other parameters; remove the parametrization first"
        return replace(layer, role="unsupported", notes=(why,))
    if name in found.unusual:
        why = "its forward does more than multiply by its weight; its weight stays as it is"
        return replace(layer, role="unsupported", notes=(why,))
    if kind != "Linear":
        if module.padding_mode != "zeros":
            why = f"padding_mode {module.padding_mode!r} is not supported; accepted is 'zeros'"
            return replace(layer, role="unsupported", notes=(why,))
        layer = replace(
            layer,
            conv=Conv(
                tuple(module.kernel_size),
                tuple(module.stride),
                module.padding if isinstance(module.padding, str) else tuple(module.padding),
                tuple(module.dilation),
                module.groups,
            ),
        )
    layer = _consumed(layer, calls, found, fed, read_out, loop_steps)
    if layer.norms:
        norm = layer.norms[0]
        direct = found.norm_inputs[norm] == {name} and found.plain_norms.get(norm, False)
        direct = direct and found.norm_channels[norm] == layer.shape[0]
        layer = replace(layer, direct=direct)
    return _overridden(layer, calls, rule)


def _consumed(
    layer: PlannedLayer,
    calls: list[LayerCall],
    found: Provenance,
    fed: list[tuple[str, int, Reach]],
    read_out: list[Reach],
    loop_steps: list[int],
) -> PlannedLayer:
    """Role, consumers, impulse responses, norms and layout."""
    inner = [call.inside for call in calls if call.inside is not None]
    pairs = [(name, index) for name, index, _ in fed] + inner
    reaches = [reach for _, _, reach in fed] + read_out
    norms = list(dict.fromkeys(reach.norms for reach in reaches)) or [()]
    notes: list[str] = []
    step_norms = _one_a_step(norms)
    if len(norms) > 1 and not step_norms:
        notes.append(f"goes through different BatchNorms ({norms}); they are not folded")
    layer = replace(layer, norms=norms[0] if len(norms) == 1 else (), step_norms=step_norms)
    notes += [
        f"reaches its neuron through {', '.join(via)}: rows taken as independent"
        for via in dict.fromkeys(reach.via for reach in reaches if reach.via)
    ]
    if not pairs:
        if read_out:
            notes += [_bent_note(r, "the output") for r in read_out if _is_function(r.bent_by)]
            return replace(layer, role="head", notes=tuple(dict.fromkeys(notes)))
        notes.append("reaches neither a neuron nor the output: current Hessian")
        return replace(layer, role="unresolved", notes=tuple(notes))
    if read_out:
        notes.append("also reaches the output without a neuron")
        layer = replace(layer, read_out=True)
    layer = replace(
        layer, role="spiking", consumers=tuple(dict.fromkeys(name for name, _ in pairs))
    )

    neuron_calls = [found.neuron_calls[name][index] for name, index in pairs]
    facts = [call.facts for call in neuron_calls]
    bent = [reach for _, _, reach in fed if reach.bent_by]
    steps = _steps_of(facts, calls, loop_steps)
    batch_first = any(call.batch_first for call in neuron_calls)
    layout, note = layout_of(
        [(call.lead, call.step_of) for call in calls],
        steps,
        batch_first,
        one_sample=all(call.samples == 1 for call in neuron_calls),
    )
    notes += [note] if note else []
    for fact in facts:
        notes += fact.notes
    distinct = _distinct([fact.neuron for fact in facts], steps)
    seen = 1 + max(int(call.step_of.max(initial=0)) for call in calls)
    if bent:
        notes.append(_bent_note(bent[0], "its neuron") + ": current Hessian")
    elif seen > steps:
        notes.append(
            f"called {seen} times in {steps} time steps by the same neuron, in an order that is not "
            "known: current Hessian"
        )
        layout = None
    elif layout is None:
        notes.append(f"{note}: current Hessian")
        notes.remove(note)
    elif None in distinct:
        notes.append("a consumer has no impulse response: current Hessian")
    if bent or layout is None or None in distinct:
        distinct, layout = (None,), Layout(1)
    elif inner and not fed:
        layout = replace(layout, delay=facts[0].recurrent_delay)
    elif len(distinct) > 1:
        notes.append(f"{len(distinct)} consumers with different responses: their Hessians' mean")
    thresholds = {fact.threshold for fact in facts}
    if len(thresholds) > 1:
        notes.append(f"consumers with thresholds {sorted(thresholds)}: their harmonic mean")
    return replace(
        layer,
        neurons=distinct,
        layout=layout,
        threshold=len(thresholds) / sum(1 / t for t in thresholds),
        notes=tuple(dict.fromkeys(notes)),
    )


def _steps_of(facts: list[NeuronFacts], calls: list[LayerCall], loop_steps: list[int]) -> int:
    """T: what a call of the consumers holds, or how often they are called with this output."""
    most = max(fact.steps for fact in facts)
    if most > 1:
        return most
    seen = 1 + max(int(call.step_of.max(initial=0)) for call in calls)
    return min((count for count in loop_steps if count > 1 and seen % count == 0), default=seen)


def _overridden(
    layer: PlannedLayer, calls: list[LayerCall], rule: Mapping[str, Any]
) -> PlannedLayer:
    if rule.get("hessian") == "current":
        return replace(layer, neurons=(None,), layout=Layout(1))
    neuron = rule.get("neuron")
    if neuron is None:
        return layer
    steps = layer.layout.steps
    if layer.role != "spiking" or layer.neurons == (None,):
        seen = 1 + max(int(call.step_of.max(initial=-1)) for call in calls)
        layout, note = layout_of(
            [(call.lead, call.step_of) for call in calls], max(seen, 1), False, one_sample=False
        )
        if layout is None or seen < 1:
            raise ValueError(
                f"overrides gives {layer.name!r} the neuron {neuron!r}, but its time steps could not "
                f"be told: {note or 'no neuron consumes its output'}; accepted is hessian='current'"
            )
        layer, steps = replace(layer, layout=layout), layout.steps
    impulse_response(neuron, steps)
    return replace(layer, neurons=(neuron,))


def _one_a_step(norms: list[tuple[str, ...]]) -> tuple[str, ...]:
    """The BatchNorms of a list that has one for each time step (BNTT), in its order; () for others."""
    if len(norms) < 2 or any(len(path) != 1 for path in norms):
        return ()
    split = [path[0].rpartition(".") for path in norms]
    if len({owner for owner, _, _ in split}) != 1 or not all(at.isdigit() for _, _, at in split):
        return ()
    places = sorted(int(at) for _, _, at in split)
    owner = split[0][0]
    whole = places == list(range(len(places)))
    return tuple(f"{owner}.{at}" if owner else str(at) for at in places) if whole else ()


def _distinct(neurons: list[Neuron | None], steps: int) -> tuple[Neuron | None, ...]:
    """Those that differ in their response over `steps`, in order."""
    found: dict[bytes, Neuron | None] = {}
    for neuron in neurons:
        key = b"" if neuron is None else impulse_response(neuron, steps).tobytes()
        found.setdefault(key, neuron)
    return tuple(found.values())


def _is_function(bent_by: tuple[str, ...]) -> bool:
    return any(what.startswith("autograd function") for what in bent_by)


def _bent_note(reach: Reach, end: str) -> str:
    what = ", ".join(reach.bent_by)
    hint = (
        " (if that is a spiking neuron, make it known with register_neuron)"
        if _is_function(reach.bent_by)
        else ""
    )
    return f"{what} between it and {end}{hint}"
