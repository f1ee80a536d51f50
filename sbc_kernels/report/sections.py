"""The page's sections besides its plots and tables: headline, remarks, options, log."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from .format import UNKNOWN, duration, large, percent, plural, points, ratio, si
from .schema import Comparison, Layer, Number, Report, clean, total

__all__ = [
    "PJ_PER_AC", "PJ_PER_MAC", "Remark", "Tile", "options_of", "remarks_of", "steps_of", "tiles_of",
]  # fmt: skip

PJ_PER_AC, PJ_PER_MAC = 0.9, 4.6  # 45 nm, float32 (Horowitz, ISSCC 2014)


@dataclass(frozen=True)
class Tile:
    """A figure of the headline: its value, the dense network's value, and a short note."""

    title: str
    value: str
    before: str = ""
    note: str = ""


@dataclass(frozen=True)
class Remark:
    """Something to know before relying on the result, with the layers that it concerns."""

    title: str
    text: str
    layers: list[str]
    warns: bool


def tiles_of(report: Report) -> list[Tile]:
    """Returns the headline: accuracy and operations where they were measured, then sizes and time."""
    tiles = [] if report.comparison is None else _measurements(report.comparison)
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
    notes = [] if report.peak_bytes is None else [f"{si(report.peak_bytes, 'B')} of memory at peak"]
    if report.resumed:
        notes.append(f"{plural(report.resumed, 'layer')} from the checkpoint")
    tiles.append(Tile("Time", duration(report.seconds), "", ", ".join(notes)))
    return tiles


def _measurements(comparison: Comparison) -> list[Tile]:
    """Returns the tiles of what was measured on data."""
    dense, small = comparison.dense, comparison.compressed
    samples = plural(comparison.samples, "sample")
    tiles = []
    if dense.accuracy is not None and small.accuracy is not None:
        change = small.accuracy - dense.accuracy
        note = f"{change:+.2f} points on {samples}".replace("-", "−")
        tiles.append(Tile("Accuracy", points(small.accuracy), points(dense.accuracy), note))
    if comparison.agreement is not None:
        note = f"of {samples} get the dense network's prediction"
        tiles.append(Tile("Agreement", points(comparison.agreement), "", note))
    operations = [total([side.macs, side.acs]) for side in (dense, small)]
    less = ratio(*operations)
    tiles.append(
        Tile(
            "Synaptic operations",
            large(operations[1]),
            large(operations[0]),
            "effective, per sample" + (f"; {less} fewer" if less else ""),
        )
    )
    joules = [side.energy(PJ_PER_AC, PJ_PER_MAC) for side in (dense, small)]
    less = ratio(*joules)
    tiles.append(
        Tile(
            "Energy",
            si(joules[1], "J"),
            si(joules[0], "J"),
            "estimated, per sample" + (f"; {less} less" if less else ""),
        )
    )
    return tiles


def _bits(layers: Sequence[Layer]) -> Tile:
    """Returns the tile of the bits a weight: of the codes, and on average in the packed file."""
    widths = sorted({layer.bits for layer in layers if layer.bits is not None})
    note = "per kept weight"
    if not widths:
        dense = _bits_a_weight(layers, [layer.dense_bytes for layer in layers])
        value, note = UNKNOWN if dense is None else f"{dense:g}", "per weight: not quantized"
    else:
        value = f"{widths[0]}" if len(widths) == 1 else f"{widths[0]} to {widths[-1]}"
    coded = sum(layer.bits is not None for layer in layers)
    if 0 < coded < len(layers):
        note += f", in {coded} of {plural(len(layers), 'layer')}"
    stored = _bits_a_weight(layers, [layer.bytes for layer in layers])
    return Tile("Bits", value, "", note + (f"; {stored:.2f} in the file" if stored else ""))


def _bits_a_weight(layers: Sequence[Layer], sizes: Sequence[Number]) -> Number:
    """Returns bits over all weights, zeros included; None where a layer's size is unknown."""
    stored, weights = total(sizes), sum(layer.size for layer in layers)
    return None if stored is None or not weights else 8 * stored / weights


def remarks_of(layers: Sequence[Layer]) -> list[Remark]:
    """Returns the remarks: raised damping, silent inputs, then each note once with its layers."""
    remarks = []
    retries = [
        f"{layer.name} ({plural(layer.retries, 'retry', 'retries')}, damping {layer.damp_percent:g})"
        if layer.damp_percent is not None
        else layer.name
        for layer in layers
        if layer.retries
    ]
    if retries:
        remarks.append(
            Remark(
                f"Damping was raised in {plural(len(retries), 'layer')}",
                "Their Hessians were too close to singular for the requested damping. More calibration "
                "samples help.",
                retries,
                True,
            )
        )
    silent = sorted((x for x in layers if x.dead_inputs), key=lambda x: -x.dead_share)
    if silent:
        worst = silent[0]
        remarks.append(
            Remark(
                f"{plural(len(silent), 'layer has', 'layers have')} inputs that never fired",
                f"Most in {worst.name}, {percent(worst.dead_share)}. Calibration says nothing about "
                "the weights on such inputs; if they fire at run time, the output may change.",
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


def steps_of(layer: Layer) -> list[str]:
    """Returns what was done to a layer, in order: allocation, Hessian, then its own log."""
    steps = []
    if layer.allocated is not None:
        steps.append(f"allocated a sparsity of {percent(layer.allocated, 2)}")
    if layer.gram_path:
        steps.append(f"Hessian computed by {layer.gram_path}")
    return [*steps, *layer.log]


def options_of(report: Report) -> list[tuple[str, str]]:
    """Returns (option, value), the value as Python or JSON text of at most 300 characters."""
    return [(name, _short(value)) for name, value in report.options.items()]


def _short(value: object, most: int = 300) -> str:
    if isinstance(value, (dict, list, tuple)):
        value = json.dumps(value, default=str, ensure_ascii=False)
    text = clean(value)
    return text if len(text) <= most else text[:most] + " …"
