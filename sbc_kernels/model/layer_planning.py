"""The plan's entry of one weight layer, made from the observations of a forward pass."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from ..errors import ParameterError, naming_layer
from ..frameworks import NeuronFacts
from ..neurons import Neuron, impulse_response
from .layout import Layout, layout_of
from .places import Place
from .planned_layer import PlannedLayer
from .provenance import Bend, LayerCall, Provenance, Reach


def planned_layer(
    place: Place,
    provenance: Provenance,
    fed: list[tuple[str, int, Reach]],
    read_out: list[Reach],
    rule: Mapping[str, Any],
    loop_steps: list[int],
) -> PlannedLayer:
    """Plans one weight layer.

    Parameters
    ----------
    place : of the layer's weight.
    provenance : of a forward pass.
    fed : the neuron calls that the layer reaches, by name and number, and how it reaches them.
    read_out : how it reaches the model's output.
    rule : the user's options for this layer.
    loop_steps : how often each neuron of one step a call is called.
    """
    name = place.name
    calls = provenance.layer_calls.get(name, [])
    layer = PlannedLayer(
        name,
        place.form.kind,
        "never called",
        shape=place.shape,
        calls=len(calls),
        also=place.also,
        options={k: v for k, v in rule.items() if k not in ("skip", "neuron", "hessian")},
        weight_entry=place.weight_entry,
        transposed=place.form.transposed,
        functional=place.functional,
    )
    if rule.get("skip"):
        return replace(layer, role="skipped")
    if not calls and place.readers:
        readers = ", ".join(place.readers)
        why = f"its weight is used by {readers}, never whole and unchanged in a product"
        return replace(layer, role="unsupported", notes=(f"{why}; it stays as it is",))
    if not calls:
        return replace(layer, notes=("not called in the forward pass; its weight stays as it is",))
    inputs = provenance.kinds[name]
    layer = replace(
        layer,
        conv=place.form.conv,
        input_kind=inputs.name,
        input_unit=inputs.unit if inputs.name == "integer" and inputs.unit else 1.0,
        input_rate=inputs.rate,
        input_shape=calls[0].input_shape,
        output_shape=calls[0].output_shape,
    )
    why = place.refusal or _differing(place, provenance)
    if not why and rule.get("skip") is not False:
        why = place.caution
    if why:
        return replace(layer, role="unsupported", notes=(why,))
    layer = _consumed(layer, calls, provenance, fed, read_out, loop_steps)
    if layer.norms:
        norm = layer.norms[0]
        direct = provenance.norm_inputs[norm] == {name} and provenance.plain_norms.get(norm, False)
        direct = direct and provenance.norm_channels[norm] == layer.shape[0]
        layer = replace(layer, direct=direct)
    return _overridden(layer, calls, rule)


def _consumed(
    layer: PlannedLayer,
    calls: list[LayerCall],
    provenance: Provenance,
    fed: list[tuple[str, int, Reach]],
    read_out: list[Reach],
    loop_steps: list[int],
) -> PlannedLayer:
    """Returns the layer with its role, consumers, impulse responses, norms and layout."""
    inner = [call.inside for call in calls if call.inside is not None]
    pairs = [(name, index) for name, index, _ in fed] + inner
    reaches = [reach for _, _, reach in fed] + read_out
    norms = _norm_paths(layer.name, reaches, provenance)
    notes: list[str] = []
    step_norms = _one_a_step(norms)
    common = _common_start(norms)
    if len(norms) > 1 and not step_norms:
        others = [norm for path in norms for norm in path[len(common) :]]
        notes.append(
            f"only some of its ways lead through {', '.join(dict.fromkeys(others))}: "
            "rows are compared without"
        )
    layer = replace(layer, norms=common, step_norms=step_norms)
    for end, ways in (("its neuron", [way for _, _, way in fed]), ("the output", read_out)):
        following = dict.fromkeys(way.via[0] for way in ways if way.via)
        if following:
            notes.append(
                f"reaches {end} through {_layers_named(following)}: rows taken as independent"
            )
    if not pairs:
        if read_out:
            notes += [_bent_note(r, "the output") for r in read_out if _has_function(r.bent_by)]
            return replace(layer, role="head", notes=tuple(dict.fromkeys(notes)))
        notes.append("could not be traced to a neuron or the output: current Hessian")
        return replace(layer, role="unresolved", notes=tuple(notes))
    if read_out:
        notes.append("also reaches the output without a neuron")
        layer = replace(layer, read_out=True)
    layer = replace(
        layer, role="spiking", consumers=tuple(dict.fromkeys(name for name, _ in pairs))
    )

    neuron_calls = [provenance.neuron_calls[name][index] for name, index in pairs]
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
    with naming_layer(layer.name):
        try:
            distinct = _distinct([fact.neuron for fact in facts], steps)
        except ParameterError:
            if len({fact.steps for fact in facts}) == 1:
                raise
            distinct = (None,)
            notes.append("its consumers have different numbers of time steps")
    uses = _last_step(calls) + 1
    if bent:
        notes.append(_bent_note(bent[0], "its neuron") + ": current Hessian")
    elif uses > steps:
        notes.append(
            f"called {uses} times in {steps} time steps by the same neuron, in an order that is not "
            "known: current Hessian"
        )
        layout = None
    elif layout is None and all(call.constant for call in calls):
        notes.remove(note)
        notes.append(
            "computed once for all time steps: its current is constant, for which the current Hessian "
            "is exact up to a factor"
        )
    elif layout is None:
        notes.append(f"{note}: current Hessian")
        notes.remove(note)
    elif None in distinct:
        notes.append("a consumer has no impulse response: current Hessian")
    if bent or layout is None or None in distinct:
        distinct, layout = (None,), Layout(1)
    elif inner and not fed:
        layout = replace(layout, delay=facts[0].recurrent_delay)
    elif layout.step_of_call and _most_in_a_step(layout.step_of_call) > len(layer.consumers):
        notes.append("it is called several times in a time step: each call is taken as independent")
    elif len(distinct) > 1:
        notes.append(f"{len(distinct)} consumers with different responses: their Hessians' mean")
    thresholds = _distinct_thresholds([fact.threshold for fact in facts])
    if len(thresholds) > 1:
        notes.append(f"consumers with thresholds {thresholds}: their harmonic mean")
    return replace(
        layer,
        neurons=distinct,
        layout=layout,
        threshold=len(thresholds) / sum(1 / t for t in thresholds),
        notes=tuple(dict.fromkeys(notes)),
    )


def _distinct_thresholds(thresholds: list[float]) -> list[float]:
    """Returns the different thresholds in rising order; rounding makes no difference."""
    groups: list[list[float]] = []
    for value in sorted(thresholds):
        if groups and math.isclose(value, groups[-1][0], rel_tol=1e-5):
            groups[-1].append(value)
        else:
            groups.append([value])
    return [group[len(group) // 2] for group in groups]


def _differing(place: Place, provenance: Provenance) -> str:
    """Returns why the uses of one weight under several names do not agree; "" where they do."""
    if place.also and place.functional:
        names = ", ".join(map(repr, place.also))
        return f"{names} has the same weight, which is also used outside; it stays as it is"
    first = provenance.layer_calls.get(place.name, [])
    for name in place.also:
        other = provenance.layer_calls.get(name, [])
        if name in provenance.unusual:
            return (
                f"{name} has the same weight and does more than multiply by it; it stays as it is"
            )
        if not _called_alike(first, other):
            return f"{name} has the same weight and is called differently; it stays as it is"
    return ""


def _called_alike(first: list[LayerCall], other: list[LayerCall]) -> bool:
    """Whether two modules' calls hold samples and time steps in the same order."""
    pairs = zip(first, other, strict=False)
    return len(first) == len(other) and all(
        a.lead == b.lead and np.array_equal(a.step_of, b.step_of) for a, b in pairs
    )


def _norm_paths(name: str, reaches: list[Reach], provenance: Provenance) -> list[tuple[str, ...]]:
    """Returns the BatchNorms on each way from a layer to a neuron or the output, nearest first."""
    ways = [*reaches, *provenance.inner_reaches.get(name, [])]
    if not ways:  # the neuron that calls the layer cuts the graph: what is fed the layer is known
        return [(norm,) for norm, fed in provenance.norm_inputs.items() if fed == {name}] or [()]
    return list(dict.fromkeys(way.norms for way in ways))


def _common_start(paths: list[tuple[str, ...]]) -> tuple[str, ...]:
    """Returns the BatchNorms that all ways begin with."""
    common: list[str] = []
    for norms in zip(*paths, strict=False):
        if len(set(norms)) > 1:
            break
        common.append(norms[0])
    return tuple(common)


def _layers_named(names: Iterable[str]) -> str:
    """Returns names of layers as notes show them, apart from words such as a head."""
    quoted = [f"'{name}'" for name in names]
    return f"{'layer' if len(quoted) == 1 else 'layers'} {', '.join(quoted)}"


def _steps_of(facts: list[NeuronFacts], calls: list[LayerCall], loop_steps: list[int]) -> int:
    """Returns T: the steps of one call of the consumers, or how often this output reaches them."""
    most = max(fact.steps for fact in facts)
    if most > 1:
        return most
    uses = _last_step(calls) + 1
    return min((count for count in loop_steps if count > 1 and uses % count == 0), default=uses)


def _last_step(calls: list[LayerCall], unknown: int = 0) -> int:
    """Returns the last time step of any position, `unknown` where no position has one."""
    return max(int(call.step_of.max(initial=unknown)) for call in calls)


def _overridden(
    layer: PlannedLayer, calls: list[LayerCall], rule: Mapping[str, Any]
) -> PlannedLayer:
    """Returns the layer with the Hessian or the neuron that the user's rule demands."""
    if rule.get("hessian") == "current":
        return replace(layer, neurons=(None,), layout=Layout(1))
    neuron = rule.get("neuron")
    if neuron is None:
        return layer
    steps = layer.layout.steps
    if layer.role != "spiking" or layer.neurons == (None,):
        steps = _last_step(calls, unknown=-1) + 1
        layout, note = layout_of(
            [(call.lead, call.step_of) for call in calls], max(steps, 1), False, one_sample=False
        )
        if steps < 1 and len(calls) > 1:  # a loop over time whose outputs no neuron reads
            steps = len(calls)
            layout = Layout(steps, tuple(range(steps)))
            note = f"its {steps} calls are taken as its time steps, in order"
            layer = replace(layer, notes=(*layer.notes, note))
        if layout is None or steps < 1:
            raise ParameterError(
                "overrides",
                neuron,
                "hessian='current'",
                verb="gives",
                shown=f"{layer.name!r} the neuron {neuron!r}, but its time steps could not be "
                f"inferred: {note or 'no neuron consumes its output'}",
            )
        notes = tuple(note for note in layer.notes if not note.endswith("current Hessian"))
        layer, steps = replace(layer, layout=layout, notes=notes), layout.steps
    impulse_response(neuron, steps)
    return replace(layer, neurons=(neuron,))


def _one_a_step(norms: list[tuple[str, ...]]) -> tuple[str, ...]:
    """Returns the BatchNorms in the order of a list with one for each time step (BNTT); else ()."""
    if len(norms) < 2 or any(len(path) != 1 for path in norms):
        return ()
    split = [path[0].rpartition(".") for path in norms]
    if len({owner for owner, _, _ in split}) != 1 or not all(at.isdigit() for _, _, at in split):
        return ()
    places = sorted(int(at) for _, _, at in split)
    owner = split[0][0]
    whole = places == list(range(len(places)))
    return tuple(f"{owner}.{at}" if owner else str(at) for at in places) if whole else ()


def _most_in_a_step(step_of_call: tuple[int, ...]) -> int:
    """Returns the largest number of calls that belong to one time step."""
    return max(Counter(step for step in step_of_call if step >= 0).values(), default=0)


def _distinct(neurons: list[Neuron | None], steps: int) -> tuple[Neuron | None, ...]:
    """Returns the neurons that differ in their response over `steps`, in order."""
    distinct: dict[bytes, Neuron | None] = {}
    for neuron in neurons:
        key = b"" if neuron is None else impulse_response(neuron, steps).tobytes()
        distinct.setdefault(key, neuron)
    return tuple(distinct.values())


def _has_function(bends: tuple[Bend, ...]) -> bool:
    return any(bend.is_function for bend in bends)


def _bent_note(reach: Reach, end: str) -> str:
    """Says what is not linear between a layer and the neuron or output that it reaches."""
    bends = ", ".join(str(bend) for bend in reach.bent_by)
    hint = (
        " (if that is a spiking neuron, make it known with register_neuron)"
        if _has_function(reach.bent_by)
        else ""
    )
    return f"{bends} between it and {end}{hint}"
