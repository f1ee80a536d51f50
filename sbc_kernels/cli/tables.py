"""Tables and sentences for the terminal."""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeAlias

from ..report.format import count, duration, percent, points, ratio, si
from ..report.schema import Comparison, Number, Report, Side

if TYPE_CHECKING:
    from rich.table import Table

    from ..metrics import Measured

Part: TypeAlias = "Table | str"
WIDE = 200  # columns of the text if it goes to a file or pipe


def render(*parts: Part) -> str:
    """Returns tables and lines as text for the terminal's width."""
    from rich.console import Console

    terminal = sys.stdout.isatty()
    buffer = io.StringIO()
    console = Console(
        file=buffer,
        width=None if terminal else WIDE,
        force_terminal=terminal,
        highlight=False,
    )
    for part in parts:
        console.print(part, markup=False, soft_wrap=isinstance(part, str))
    text = buffer.getvalue().replace("\xa0", " ")
    return "\n".join(line.rstrip() for line in text.rstrip().splitlines())


def grid(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """Returns a table whose first column is aligned to the left and the others to the right."""
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


def report_parts(report: Report) -> list[Part]:
    """Returns the tables and lines of a packed file's report."""
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
    took = "" if report.seconds is None else f" in {duration(report.seconds)}"
    lines: list[Part] = [
        f"{report.model}, compressed on {report.created:%Y-%m-%d %H:%M} UTC by sbc-kernels "
        f"{report.versions['sbc_kernels']}{took}",
        "",
        grid(head, layers),
        "",
        f"{percent(report.sparsity, 2)} of the weights are zero; {size_line(report)}",
        *notes,
    ]
    return lines + ([] if report.comparison is None else ["", *comparison_parts(report.comparison)])


def size_line(report: Report) -> str:
    """Returns the size of the file, and of the dense network."""
    times = ratio(report.dense_bytes, report.bytes)
    return f"{si(report.bytes, 'B')} of {si(report.dense_bytes, 'B')}" + (
        f", {times} smaller" if times else ""
    )


def comparison_parts(
    comparison: Comparison, prices: tuple[float, float] = (0.9, 4.6)
) -> list[Part]:
    """Returns both networks side by side; `prices` are pJ per accumulate and multiply-accumulate."""
    return [
        figures([("dense", comparison.dense), ("compressed", comparison.compressed)], prices),
        "",
        f"Both networks predict the same class for {points(comparison.agreement)} of "
        f"{comparison.samples:,} samples.",
    ]


def figures(sides: Sequence[tuple[str, Side]], prices: tuple[float, float]) -> Table:
    """Returns accuracy, operations and energy, with the ratio of two networks if there are two."""
    acs, macs, energy = (
        [side.acs for _, side in sides],
        [side.macs for _, side in sides],
        [side.energy(*prices) for _, side in sides],
    )
    rows = [
        ("accuracy", [points(side.accuracy) for _, side in sides], ""),
        ("accumulates per sample", [count(v) for v in acs], _less(acs)),
        ("multiply-accumulates per sample", [count(v) for v in macs], _less(macs)),
        ("energy per sample (proxy)", [si(v, "J") for v in energy], _less(energy)),
    ]
    one = len(sides) == 1
    head = ["", *(name for name, _ in sides), *([] if one else ["less"])]
    return grid(head, [[label, *shown, *([] if one else [less])] for label, shown, less in rows])


def rates(sides: Sequence[tuple[str, Side]], van_rossum: dict[str, float] | None = None) -> Table:
    """Returns spike rates by neuron, with the distance of the spike trains if it is given."""
    names = list(sides[0][1].spike_rates)
    rows = [
        [name]
        + [percent(side.spike_rates.get(name), 2) for _, side in sides]
        + ([] if van_rossum is None else [_spikes(van_rossum.get(name))])
        for name in names
    ]
    head = ["spike rate of", *(name for name, _ in sides)]
    return grid(head + ([] if van_rossum is None else ["van Rossum distance"]), rows)


def operations(sides: Sequence[tuple[str, Side]]) -> Table:
    """Returns synaptic operations by layer."""
    rows = [
        [name, *(count(side.synops.get(name)) for _, side in sides)] for name in sides[0][1].synops
    ]
    return grid(["operations per sample of", *(name for name, _ in sides)], rows)


def side_of(measured: Measured) -> Side:
    """Returns measurements in the type that a report holds."""
    counts = measured.operations
    return Side(
        measured.accuracy,
        {name: layer.macs + layer.acs for name, layer in counts.layers.items()},
        counts.effective_macs,
        counts.effective_acs,
        dict(measured.spike_rates),
    )


def _less(values: Sequence[Number]) -> str:
    """Returns how many times smaller the last value is than the first."""
    return ratio(values[0], values[-1])


def _spikes(value: Number) -> str:
    return "–" if value is None else f"{value:.3f}"
