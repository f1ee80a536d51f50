"""Bars and dots over the layers of a network, each plot drawn for a wide page and for a phone.

Up to `ROWS` layers are rows with their names and values. More are columns side by side in the network's
order; their names are shown when the pointer hovers over them, and in the table.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, MaxNLocator
from numpy.typing import ArrayLike, NDArray

from .schema import Number
from .svg import Sheet, color, rectangles

__all__ = ["Drawing", "Panel", "fitting", "panels", "slots", "stages"]

ROWS = 24  # at most this many layers as rows with names
HALVES = 60  # at most this many fit half a page
WIDE, HALF, NARROW = 900, 440, 340  # CSS pixels, for a font of 11
LETTER = 6.0  # a letter's width, on average


@dataclass(frozen=True)
class Panel:
    """One measure of every layer.

    Attributes
    ----------
    title : the heading.
    values : one a layer; None is not drawn.
    labels : the values as text, one a layer.
    before : the dense network's values, drawn behind in grey.
    dots : draw dots, each with a line from the value before, instead of bars.
    log : use a logarithmic scale, on which values of 0 are not drawn.
    top : the end of the scale; None is the largest value.
    warn : indices of the layers that are drawn in the warning colour.
    tick : formats the numbers of the scale.
    """

    title: str
    values: Sequence[Number]
    labels: Sequence[str]
    before: Sequence[Number] | None = None
    dots: bool = False
    log: bool = False
    top: float | None = None
    warn: frozenset[int] = frozenset()
    tick: Callable[[float], str] = "{:g}".format

    def limits(self) -> tuple[float, float]:
        """Returns the ends of the scale."""
        every = [v for v in (*self.values, *(self.before or ())) if v is not None]
        if self.log:
            every = [v for v in every if v > 0] or [1.0]
            return min(every) / 2, max(every) * 2
        return 0.0, (self.top or max(every, default=0.0) or 1.0) * (1.04 if self.dots else 1.0)


@dataclass(frozen=True)
class Drawing:
    """The SVG elements of one plot, and whether it takes the page's whole width."""

    svg: str
    full: bool


def panels(key: str, names: Sequence[str], measures: Sequence[Panel]) -> Drawing:
    """Returns panels of the same layers: beside each other for rows, below each other for columns."""
    full = len(names) > HALVES
    draw = _rows if len(names) <= ROWS else _profile
    wide = draw(names, measures, WIDE if full else HALF)
    narrow = draw(names, measures, NARROW)
    return Drawing(wide.svg(f"{key}-w", "wide") + narrow.svg(f"{key}-n", "narrow"), full)


# ---- layers as rows ----------------------------------------------------------------------------


def _rows(names: Sequence[str], measures: Sequence[Panel], width: float) -> Sheet:
    step, head = 22.0, 24.0
    sheet = Sheet(width, head + step * len(names) + 2)
    notes = [LETTER * max(map(len, [*m.labels, ""])) + 6 for m in measures]
    name_width = min(LETTER * max(map(len, names)), width * (0.36 if len(measures) == 1 else 0.27))
    left = name_width + 8
    room = (width - left - 14 * (len(measures) - 1)) / len(measures)
    for i, name in enumerate(names):
        y = head + step * (i + 0.5)
        sheet.text(0, y, fitting(name, name_width))
        values = "; ".join(f"{m.title}: {m.labels[i]}" for m in measures if m.labels[i])
        sheet.hover(0, y - step / 2, width, step, f"{name}. {values}")
    for measure, note in zip(measures, notes, strict=True):
        sheet.text(left, 8, measure.title, "head")
        sheet.line([left, left], [head, sheet.height - 2])
        if any(v is not None for v in measure.values):
            axes = sheet.axes(left, head, max(room - note, 20), step * len(names))
            axes.set_ylim(len(names) - 0.5, -0.5)
            if measure.log:
                axes.set_xscale("log")
            axes.set_xlim(*measure.limits())
            _marks(axes, measure, across=True)
        for i, label in enumerate(measure.labels):
            kind = "value warn" if i in measure.warn else "value"
            sheet.text(left + room, head + step * (i + 0.5), label, kind, "end")
        left += room + 14
    return sheet


# ---- layers side by side -----------------------------------------------------------------------


def _profile(names: Sequence[str], measures: Sequence[Panel], width: float) -> Sheet:
    left, head, foot = 40.0, 22.0, 20.0
    height = 104.0 if len(measures) > 1 else 150.0
    sheet = Sheet(width, (head + height + 14) * len(measures) + foot - 10)
    top = 0.0
    spans = []
    for measure in measures:
        spans.append((top + head, top + head + height))
        sheet.text(0, top + 8, measure.title, "head")
        axes = sheet.axes(left, top + head, width - left, height)
        axes.set_xlim(-0.5, len(names) - 0.5)
        if measure.log:
            axes.set_yscale("log")
        axes.set_ylim(*measure.limits())
        for value in _ticks(axes, measure):
            y = top + head + height * (1 - _height(axes, value))
            sheet.line([left, width], [y, y])
            sheet.text(left - 6, y, measure.tick(value), "quiet", "end")
        _marks(axes, measure, across=False)
        top += head + height + 14
    stages(sheet, names, left, width - left, spans)
    for i, (x, slot) in enumerate(slots(len(names), left, width - left)):
        values = "; ".join(f"{m.title}: {m.labels[i]}" for m in measures if m.labels[i])
        sheet.hover(x, head, slot, top - 14 - head, f"{names[i]}. {values}")
    return sheet


def _ticks(axes: Axes, measure: Panel) -> list[float]:
    low, high = axes.get_ylim()
    locator = LogLocator(numticks=5) if measure.log else MaxNLocator(4, steps=[1, 2, 2.5, 5, 10])
    return [float(v) for v in locator.tick_values(low, high) if low <= v <= high * 1.0001]


def _height(axes: Axes, value: float) -> float:
    """Returns the position of a value as a fraction of the axes' height, 0 at the bottom."""
    point = axes.transData.transform((0, value))
    return float(axes.transAxes.inverted().transform(point)[1])


def slots(number: int, left: float, width: float) -> list[tuple[float, float]]:
    """Returns the left edge and the width of each column, in pixels."""
    return [(left + i * width / number, width / number) for i in range(number)]


def stages(
    sheet: Sheet,
    names: Sequence[str],
    left: float,
    width: float,
    spans: Sequence[tuple[float, float]],
    above_all: bool = False,
) -> None:
    """Labels the columns: with the network's stages if names have 2 to 12 of them, else by number.

    Parameters
    ----------
    names : of the layers, in the network's order.
    left, width : of the panels, in pixels.
    spans : upper and lower ends of the panels, which the lines between stages cross.
    above_all : draw these lines in front of the panels.
    """
    slot, y = width / len(names), spans[-1][1] + 12
    runs = [(stage, len(list(run))) for stage, run in groupby(_stage_names(names))]
    if 2 <= len(runs) <= 12:
        first, free = 0, left - 20
        for stage, length in runs:
            start, middle = left + first * slot, left + (first + length / 2) * slot
            half = LETTER * len(stage) / 2
            if first:
                for top, bottom in spans:
                    sheet.line([start, start], [top, bottom], above_all)
            if middle - half >= free and 2 * half < max(length * slot, 3 * LETTER):
                sheet.text(middle, y, stage, "quiet", "middle")
                free = middle + half + 4
            first += length
        return
    step = max(10, 10 * round(len(names) * LETTER / width))
    for number in (1, *range(step, len(names) + 1, step)):
        sheet.text(left + (number - 0.5) * slot, y, str(number), "quiet", "middle")


def _stage_names(names: Sequence[str]) -> list[str]:
    """Returns the first dotted part of each name, after the parts that all names share."""
    parts = [name.split(".") for name in names]
    while all(len(p) > 1 for p in parts) and len({p[0] for p in parts}) == 1:
        parts = [p[1:] for p in parts]
    return [p[0] for p in parts]


# ---- bars and dots -----------------------------------------------------------------------------


def _marks(axes: Axes, measure: Panel, across: bool) -> None:
    """Draws a measure's values; `across` says that they run along x and the layers along y."""
    low = axes.get_xlim()[0] if across else axes.get_ylim()[0]
    layers, values = _on_scale(measure.values, low)
    layers_before, before = _on_scale(measure.before or (), low)
    warns = np.isin(layers, list(measure.warn))
    series = [  # layers, values, colour, thickness of a bar
        (layers_before, before, "dense", 1.0),
        (layers[~warns], values[~warns], "accent", 0.5 if measure.before else 1.0),
        (layers[warns], values[warns], "warn", 0.5 if measure.before else 1.0),
    ]
    high = axes.get_xlim()[1] if across else axes.get_ylim()[1]
    if measure.dots:
        ends = dict(zip(layers, values, strict=True))
        for i, start in zip(layers_before, before, strict=True):
            if i in ends:
                _line(axes, (i, i), (start, ends[i]), "dense", across, lw=2)
        size = 6.5 if len(measure.values) <= ROWS else 3.2
        for index, value, role, _ in series:
            _line(axes, index, value, role, across, ls="", marker="o", ms=size, mew=0)
        return
    for index, value, role, part in series:
        thick = part * (0.62 if across else 0.8)
        least = low + (high - low) / 160  # a shorter bar could not be seen
        value = np.where(value > low, np.maximum(value, least), value)
        if across:
            rectangles(axes, low, index - thick / 2, value - low, thick, role)
        else:
            rectangles(axes, index - thick / 2, low, thick, value - low, role)


def _line(
    axes: Axes, layers: ArrayLike, values: ArrayLike, role: str, across: bool, **look: Any
) -> None:
    """Plots values over layers in the colour of a role; `look` goes to matplotlib."""
    x, y = (values, layers) if across else (layers, values)
    axes.plot(x, y, color=color(role), clip_on=False, solid_capstyle="butt", **look)


def _on_scale(values: Sequence[Number], low: float) -> tuple[NDArray[np.int_], NDArray[np.float64]]:
    """Returns indices and values of the layers whose value is known and not below the scale."""
    pairs = [(i, v) for i, v in enumerate(values) if v is not None and v >= low]
    return np.array([i for i, _ in pairs], int), np.array([v for _, v in pairs], float)


def fitting(text: str, width: float) -> str:
    """Returns `text` shortened to `width` pixels. The end is kept, as names differ there."""
    letters = max(int(width / LETTER + 0.5), 2)
    return text if len(text) <= letters else "…" + text[-(letters - 1) :]
