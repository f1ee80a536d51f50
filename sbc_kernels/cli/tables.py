"""What people see on the terminal."""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..report.format import count, duration, percent, points, ratio, si
from ..report.schema import Comparison, Number, Report, Side

if TYPE_CHECKING:
    from ..metrics import Measured

WIDE = 200  # columns where the answer goes into a file or pipe


def render(*parts: Any) -> str:
    """Tables and lines as text, as wide as the terminal is."""
    from rich.console import Console

    shown = sys.stdout.isatty()
    console = Console(
        file=io.StringIO(), width=None if shown else WIDE, force_terminal=shown, highlight=False
    )
    for part in parts:
        console.print(part, markup=False, soft_wrap=isinstance(part, str))
    text = console.file.getvalue().replace("\xa0", " ")  # type: ignore[attr-defined]
    return "\n".join(line.rstrip() for line in text.rstrip().splitlines())


def grid(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Any:
    """A table of words: the first column flushed left, the others right."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for number, title in enumerate(head):
        table.add_column(
            title,
            justify="right" if number else "left",
            overflow="fold",
            no_wrap=number > 0,
            style="" if number else "bold",
        )
    for row in rows:
        table.add_row(*row)
    return table


def report_parts(report: Report) -> list[Any]:
    """A packed file's own report."""
    layers = [
        (
            layer.name,
            "x".join(map(str, layer.shape)),
            percent(layer.sparsity, 2),
            "" if layer.bits is None else str(layer.bits),
            percent(layer.relative_error, 2),
            si(layer.dense_bytes, "B"),
            si(layer.bytes, "B"),
        )
        for layer in report.layers
    ]
    head = ("layer", "weight", "sparsity", "bits", "error", "dense", "packed")
    notes = [f"{layer.name}: {note}" for layer in report.layers for note in layer.notes]
    lines = [
        f"{report.model}, compressed on {report.created:%Y-%m-%d %H:%M} UTC by sbc-kernels "
        f"{report.versions['sbc_kernels']} in {duration(report.seconds)}",
        "",
        grid(head, layers),
        "",
        f"{percent(report.sparsity, 2)} of the weights are zero; {size_line(report)}",
        *notes,
    ]
    return lines + ([] if report.comparison is None else ["", *comparison_parts(report.comparison)])


def size_line(report: Report) -> str:
    """What the file takes."""
    times = ratio(report.dense_bytes, report.bytes)
    return f"{si(report.bytes, 'B')} of {si(report.dense_bytes, 'B')}" + (
        f", {times} smaller" if times else ""
    )


def comparison_parts(comparison: Comparison, prices: tuple[float, float] = (0.9, 4.6)) -> list[Any]:
    """Both networks side by side. Prices in pJ an accumulate and a multiply-accumulate."""
    return [
        figures([("dense", comparison.dense), ("compressed", comparison.compressed)], prices),
        "",
        f"{points(comparison.agreement)} of {comparison.samples:,} samples are given the same class by "
        "both networks.",
    ]


def figures(sides: Sequence[tuple[str, Side]], prices: tuple[float, float]) -> Any:
    """Accuracy, operations and energy; with two networks also how many times less."""
    acs, macs, energy = (
        [side.acs for _, side in sides],
        [side.macs for _, side in sides],
        [side.energy(*prices) for _, side in sides],
    )
    rows = [
        ("accuracy", [points(side.accuracy) for _, side in sides], ""),
        ("accumulates a sample", [count(v) for v in acs], _less(acs)),
        ("multiply-accumulates a sample", [count(v) for v in macs], _less(macs)),
        ("energy a sample (proxy)", [si(v, "J") for v in energy], _less(energy)),
    ]
    one = len(sides) == 1
    head = ["", *(name for name, _ in sides), *([] if one else ["less"])]
    return grid(head, [[label, *shown, *([] if one else [less])] for label, shown, less in rows])


def rates(sides: Sequence[tuple[str, Side]], van_rossum: dict[str, float] | None = None) -> Any:
    """Spike rates by neuron."""
    names = list(sides[0][1].spike_rates)
    rows = [
        [name]
        + [percent(side.spike_rates.get(name), 2) for _, side in sides]
        + ([] if van_rossum is None else [_spikes(van_rossum.get(name))])
        for name in names
    ]
    head = ["spike rate of", *(name for name, _ in sides)]
    return grid(head + ([] if van_rossum is None else ["apart, in spikes"]), rows)


def operations(sides: Sequence[tuple[str, Side]]) -> Any:
    """Synaptic operations by layer."""
    rows = [
        [name, *(count(side.synops.get(name)) for _, side in sides)] for name in sides[0][1].synops
    ]
    return grid(["operations a sample of", *(name for name, _ in sides)], rows)


def side_of(measured: Measured) -> Side:
    """What a report's reader makes of the same figures."""
    done = measured.operations
    return Side(
        measured.accuracy,
        {name: layer.macs + layer.acs for name, layer in done.layers.items()},
        done.effective_macs,
        done.effective_acs,
        dict(measured.spike_rates),
    )


def _less(values: Sequence[Number]) -> str:
    return ratio(values[0], values[-1])


def _spikes(value: Number) -> str:
    return "–" if value is None else f"{value:.3f}"
