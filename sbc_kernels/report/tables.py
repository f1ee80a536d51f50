"""The tables of the report: the plots' values as numbers, which can be sorted and read aloud."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .format import UNKNOWN, count, duration, percent, plural, si
from .schema import Comparison, Layer, Number

__all__ = [
    "Cell",
    "Column",
    "Table",
    "curve_table",
    "damping_of",
    "error_at",
    "layer_table",
    "neuron_table",
]

LEVELS = (0.5, 0.7, 0.8, 0.9, 0.95, 0.97, 0.98, 0.99)  # sparsities of the table of curves


@dataclass(frozen=True)
class Column:
    """The heading of a column; `number` columns are aligned to the right."""

    title: str
    number: bool = True


@dataclass(frozen=True)
class Cell:
    """One cell.

    Attributes
    ----------
    text : what is shown.
    key : what rows are sorted by. None is sorted last in either direction.
    kind : CSS classes.
    """

    text: str
    key: float | str | None
    kind: str = ""


@dataclass(frozen=True)
class Table:
    """A table with an HTML id (`key`); the first cell of each row is its heading."""

    key: str
    caption: str
    columns: list[Column]
    rows: list[list[Cell]]


def layer_table(layers: Sequence[Layer], comparison: Comparison | None) -> Table:
    """Returns one row a layer, without the columns in which no layer has a value."""
    before = {} if comparison is None else comparison.dense.synops
    after = {} if comparison is None else comparison.compressed.synops
    columns: list[tuple[Column, list[Cell]]] = [
        (Column("Layer", number=False), [Cell(layer.name, layer.name) for layer in layers]),
        (Column("No."), [Cell(str(i), i) for i in range(1, len(layers) + 1)]),
        (
            Column("Weight"),
            [
                Cell(f"{layer.kind} {'×'.join(map(str, layer.shape))}", layer.size)
                for layer in layers
            ],
        ),
        (
            Column("Sparsity"),
            [_cell(layer.sparsity, percent(layer.sparsity, 2)) for layer in layers],
        ),
        (
            Column("Bits"),
            [Cell(UNKNOWN if b is None else str(b), b) for b in (layer.bits for layer in layers)],
        ),
        (
            Column("Error"),
            [_cell(layer.relative_error, percent(layer.relative_error, 2)) for layer in layers],
        ),
        (Column("Operations before"), [_count(before.get(layer.name)) for layer in layers]),
        (Column("Operations after"), [_count(after.get(layer.name)) for layer in layers]),
        (Column("Bytes before"), [_cell(x, si(x, "B")) for x in (la.dense_bytes for la in layers)]),
        (Column("Bytes after"), [_cell(x, si(x, "B")) for x in (la.bytes for la in layers)]),
        (
            Column("Damping"),
            [
                Cell(damping_of(layer), layer.damp_percent, "warn" if layer.retries else "")
                for layer in layers
            ],
        ),
        (
            Column("Silent inputs"),
            [
                Cell(
                    f"{layer.dead_inputs:,} of {layer.inputs:,}",
                    layer.dead_share,
                    "warn" if layer.dead_share > 0.5 else "",
                )
                for layer in layers
            ],
        ),
        (Column("Time"), [_cell(layer.seconds, duration(layer.seconds)) for layer in layers]),
    ]
    return _table("layers", "Layers, in the network's order", columns)


def neuron_table(comparison: Comparison) -> Table:
    """Returns spike rates before and after, and the distance of the spike trains, a row a neuron."""
    before, after = comparison.dense.spike_rates, comparison.compressed.spike_rates
    names = list(before)
    columns = [
        (Column("Neuron", number=False), [Cell(name, name) for name in names]),
        (Column("No."), [Cell(str(i), i) for i in range(1, len(names) + 1)]),
        (Column("Rate before"), [_cell(before[n], percent(before[n], 2)) for n in names]),
        (Column("Rate after"), [_cell(after.get(n), percent(after.get(n), 2)) for n in names]),
        (
            Column("van Rossum distance"),
            [
                _cell(d, UNKNOWN if d is None else f"{d:.3g}")
                for d in map(comparison.van_rossum.get, names)
            ],
        ),
    ]
    return _table("neurons", "Spike rates of the neurons", columns)


def curve_table(layers: Sequence[Layer]) -> Table:
    """Returns each layer's relative error at the sparsities of `LEVELS`."""
    columns = [(Column("Layer", number=False), [Cell(layer.name, layer.name) for layer in layers])]
    for level in LEVELS:
        errors = [error_at(layer, level) for layer in layers]
        columns.append((Column(percent(level, 0)), [_cell(e, percent(e)) for e in errors]))
    return _table("curves-table", "Error of each layer at the sparsity of the column", columns)


def error_at(layer: Layer, sparsity: float) -> Number:
    """Returns the error on the loss curve, interpolated linearly; None outside the curve."""
    for (x0, y0), (x1, y1) in zip(layer.curve, layer.curve[1:], strict=False):
        if x0 <= sparsity <= x1:
            return y0 + (y1 - y0) * (sparsity - x0) / (x1 - x0) if x1 > x0 else y1
    return None


def damping_of(layer: Layer) -> str:
    """Returns the final damping and how often it was raised: 0.01 (2 retries)."""
    damping = UNKNOWN if layer.damp_percent is None else f"{layer.damp_percent:g}"
    return damping + (f" ({plural(layer.retries, 'retry', 'retries')})" if layer.retries else "")


def _table(key: str, caption: str, columns: list[tuple[Column, list[Cell]]]) -> Table:
    """Returns the table from its columns, without those that hold no value."""
    filled = [c for c in columns if not c[1] or any(cell.key is not None for cell in c[1])]
    rows = [list(row) for row in zip(*(cells for _, cells in filled), strict=True)]
    return Table(key, caption, [column for column, _ in filled], rows)


def _cell(value: Number, text: str) -> Cell:
    return Cell(text, value)


def _count(value: Number) -> Cell:
    return Cell(count(value), value)
