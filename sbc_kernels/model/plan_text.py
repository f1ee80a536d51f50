"""A plan as people and other programs read it: a table, and JSON."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from ..network.kept import shown_state
from ..neurons import Neuron
from .grouped_names import grouped, pattern_of
from .planned_layer import PlannedLayer
from .text_table import text_table

_COLUMNS = ("layer", "kind", "weight", "input", "T", "calls", "norms", "consumers", "Hessian")

# What a layer without neurons ends in; a layer may be named "head".
_ENDS = {"head": "the output", "unresolved": "unresolved"}


def plan_table(layers: Sequence[PlannedLayer], left_alone: Sequence[str]) -> str:
    """One line a layer, then the layers' notes, then the parameters that stay as they are.

    A note that several layers have stands once, also where the names in it differ in their numbers.
    """
    lines = text_table(_COLUMNS, [_row(layer) for layer in layers], left=range(len(_COLUMNS)))
    notes: dict[str, list[tuple[str, str]]] = {}
    for layer in layers:
        for note in layer.notes:
            notes.setdefault(pattern_of(note), []).append((layer.name, note))
    for pattern, layers_and_notes in notes.items():
        names = grouped(dict.fromkeys(name for name, _ in layers_and_notes))
        texts = {note for _, note in layers_and_notes}
        lines.append(f"{names}: {texts.pop() if len(texts) == 1 else pattern}")
    if left_alone:
        lines.append(f"left alone: {grouped(left_alone)}")
    return "\n".join(lines)


def states_kept(states: Sequence[str]) -> str:
    """The states that a forward leaves behind, in one line."""
    names = _few([shown_state(name) for name in states])
    return f"state kept in {names}: put back before each batch"


def layer_json(layer: PlannedLayer) -> dict[str, Any]:
    """A layer's attributes as JSON knows them; neurons as Python would write them."""
    plain = {k: v for k, v in vars(layer).items() if k not in ("neurons", "layout")}
    return {
        **plain,
        "conv": None if layer.conv is None else asdict(layer.conv),
        "neurons": [None if neuron is None else repr(neuron) for neuron in layer.neurons],
        "layout": asdict(layer.layout),
    }


def _row(layer: PlannedLayer) -> tuple[str, ...]:
    called = layer.calls > 0
    hessians = _few([_hessian_name(neuron) for neuron in layer.neurons])
    return (
        layer.name,
        layer.kind,
        "x".join(map(str, layer.shape)),
        f"{layer.input_kind}{_of_unit(layer.input_unit)} {100 * layer.input_rate:.0f} %"
        if called
        else "",
        str(layer.layout.steps) if called else "",
        str(layer.calls),
        _few(layer.norms + layer.step_norms),
        _few(layer.consumers or ((_ENDS[layer.role],) if layer.compressed else ())),
        hessians if layer.compressed else layer.role,
    )


def _of_unit(unit: float) -> str:
    """Returns "/4" for a quarter, " x 0.3" for a unit that is no fraction, nothing for 1."""
    parts = round(1 / unit)
    if parts >= 1 and abs(parts * unit - 1) < 1e-6:
        return "" if parts == 1 else f"/{parts}"
    return f" x {unit:.3g}"


def _few(names: Sequence[str], most: int = 3) -> str:
    rest = len(names) - most
    return ", ".join(names[:most]) + (f" and {rest} more" if rest > 0 else "")


def _hessian_name(neuron: Neuron | None) -> str:
    """The neuron with its numbers cut to six digits: a decay that was a float32 has 16 otherwise."""
    if neuron is None:
        return "current"
    return re.sub(r"\d+\.\d{6,}(e-?\d+)?", lambda match: f"{float(match[0]):g}", repr(neuron))
