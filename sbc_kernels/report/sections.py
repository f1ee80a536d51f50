"""The page's content: headline, remarks, options, log."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .format import UNKNOWN, duration, large, percent, plural, points, ratio, si
from .schema import Comparison, Layer, Number, Report, clean, total

__all__ = [
    "PJ_PER_AC", "PJ_PER_MAC", "Remark", "Tile", "done_to", "options_of", "remarks_of", "tiles_of",
]  # fmt: skip

PJ_PER_AC, PJ_PER_MAC = 0.9, 4.6  # 45 nm, float32 (Horowitz, ISSCC 2014)


@dataclass(frozen=True)
class Tile:
    """A figure of the headline: what it is now, what it was, and a word about it."""

    title: str
    value: str
    before: str = ""
    note: str = ""


@dataclass(frozen=True)
class Remark:
    """Something to know before one relies on the result, and of which layers it holds."""

    title: str
    text: str
    layers: list[str]
    warns: bool


def tiles_of(report: Report) -> list[Tile]:
    tiles = [] if report.comparison is None else _compared(report.comparison)
    layers = report.layers
    size = sum(layer.size for layer in layers)
    tiles.append(
        Tile("Sparsity", percent(report.sparsity, 2), "", f"of {large(size)} weights are zero")
    )
    tiles.append(_bits(layers))
    less = ratio(report.dense_bytes, report.bytes)
    tiles.append(
        Tile(
            "Size of the packed file",
            si(report.bytes, "B"),
            si(report.dense_bytes, "B"),
            f"{less} smaller" if less else "",
        )
    )
    notes = [] if report.peak_bytes is None else [f"{si(report.peak_bytes, 'B')} of memory at most"]
    if report.resumed:
        notes.append(f"{plural(report.resumed, 'layer')} from the checkpoint")
    tiles.append(Tile("Time", duration(report.seconds), "", ", ".join(notes)))
    return tiles


def _compared(comparison: Comparison) -> list[Tile]:
    dense, small = comparison.dense, comparison.compressed
    samples = plural(comparison.samples, "sample")
    tiles = []
    if dense.accuracy is not None and small.accuracy is not None:
        change = small.accuracy - dense.accuracy
        note = f"{change:+.2f} points on {samples}".replace("-", "−")
        tiles.append(Tile("Accuracy", points(small.accuracy), points(dense.accuracy), note))
    if comparison.agreement is not None:
        note = f"of {samples} get the dense network's answer"
        tiles.append(Tile("Agreement", points(comparison.agreement), "", note))
    operations = [total([side.macs, side.acs]) for side in (dense, small)]
    less = ratio(*operations)
    tiles.append(
        Tile(
            "Synaptic operations",
            large(operations[1]),
            large(operations[0]),
            "effective, a sample" + (f"; {less} fewer" if less else ""),
        )
    )
    joules = [side.energy(PJ_PER_AC, PJ_PER_MAC) for side in (dense, small)]
    less = ratio(*joules)
    tiles.append(
        Tile(
            "Energy",
            si(joules[1], "J"),
            si(joules[0], "J"),
            "estimated, a sample" + (f"; {less} less" if less else ""),
        )
    )
    return tiles


def _bits(layers: Sequence[Layer]) -> Tile:
    widths = sorted({layer.bits for layer in layers if layer.bits is not None})
    note = "a weight that is kept"
    if not widths:
        dense = _bits_a_weight(layers, [layer.dense_bytes for layer in layers])
        value, note = UNKNOWN if dense is None else f"{dense:g}", "a weight: not quantized"
    else:
        value = f"{widths[0]}" if len(widths) == 1 else f"{widths[0]} to {widths[-1]}"
    coded = sum(layer.bits is not None for layer in layers)
    if 0 < coded < len(layers):
        note += f", in {coded} of {plural(len(layers), 'layer')}"
    stored = _bits_a_weight(layers, [layer.bytes for layer in layers])
    return Tile("Bits", value, "", note + (f"; {stored:.2f} in the file" if stored else ""))


def _bits_a_weight(layers: Sequence[Layer], sizes: Sequence[Number]) -> Number:
    """Of all weights, zeros counted; None where a layer's size is not known."""
    stored, weights = total(sizes), sum(layer.size for layer in layers)
    return None if stored is None or not weights else 8 * stored / weights


def remarks_of(layers: Sequence[Layer]) -> list[Remark]:
    """Retries first, then silent inputs, then what was approximated: each said once for all layers."""
    remarks = []
    retried = [
        f"{layer.name} ({plural(layer.retries, 'retry', 'retries')}, damping {layer.damp_percent:g})"
        if layer.damp_percent is not None
        else layer.name
        for layer in layers
        if layer.retries
    ]
    if retried:
        remarks.append(
            Remark(
                f"Damping was raised in {plural(len(retried), 'layer')}",
                "Their Hessians were too close to singular for the damping that was asked for. More "
                "calibration samples help.",
                retried,
                True,
            )
        )
    silent = sorted((x for x in layers if x.dead_inputs), key=lambda x: -x.dead_share)
    if silent:
        worst = silent[0]
        remarks.append(
            Remark(
                f"{plural(len(silent), 'layer has', 'layers have')} inputs that never fired",
                f"Most in {worst.name}, {percent(worst.dead_share)}. Calibration tells nothing of "
                "weights on such inputs; where they fire in use, the output is not what it was.",
                [f"{x.name} ({x.dead_inputs:,} of {x.inputs:,})" for x in silent],
                worst.dead_share > 0.5,
            )
        )
    notes: dict[str, list[str]] = defaultdict(list)
    for layer in layers:
        for note in dict.fromkeys(layer.notes):
            notes[note].append(layer.name)
    for note, names in notes.items():
        remarks.append(Remark(note[:1].upper() + note[1:], "", names, False))
    return remarks


def done_to(layer: Layer) -> list[str]:
    """What was done to a layer, step by step."""
    given = (
        [] if layer.allocated is None else [f"given a sparsity of {percent(layer.allocated, 2)}"]
    )
    gathered = [f"Hessian gathered by {layer.gram_path}"] if layer.gram_path else []
    return [*given, *gathered, *layer.log]


def options_of(report: Report) -> list[tuple[str, str]]:
    """Option and value, as Python writes it; long ones are cut."""
    return [(name, _short(value)) for name, value in report.options.items()]


def _short(value: Any, most: int = 300) -> str:
    if isinstance(value, (dict, list, tuple)):
        value = json.dumps(value, default=str, ensure_ascii=False)
    text = clean(value)
    return text if len(text) <= most else text[:most] + " …"
