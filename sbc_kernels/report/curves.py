"""The loss curves: error against sparsity, with the sparsity chosen for each layer.

The sparsity axis is logarithmic in the fraction kept: 90 to 99 % is as long as 0 to 90 %.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from .format import percent
from .plots import NARROW, WIDE, Drawing, fitting, slots, stages
from .schema import Layer
from .svg import Sheet, color, rectangles

__all__ = ["heat", "small_multiples"]

TICKS = (0.0, 0.9, 0.99, 0.999, 0.9999, 0.5, 0.97, 0.7, 0.95, 0.995, 0.8)  # most important first
SHADES = 10  # of the colour, for errors from 0 to 100 %


def small_multiples(key: str, layers: Sequence[Layer]) -> Drawing:
    """Returns a small plot for each layer, all on the same scales."""
    wide, narrow = (
        _multiples(layers, WIDE, min(max(len(layers), 2), 4)),
        _multiples(layers, NARROW, 2),
    )
    return Drawing(wide.svg(f"{key}-w", "wide") + narrow.svg(f"{key}-n", "narrow"), True)


def heat(key: str, layers: Sequence[Layer]) -> Drawing:
    """Returns one column a layer, for many layers: sparsity upwards, error as depth of colour."""
    wide, narrow = _heat(layers, WIDE), _heat(layers, NARROW)
    return Drawing(wide.svg(f"{key}-w", "wide") + narrow.svg(f"{key}-n", "narrow"), True)


def _multiples(layers: Sequence[Layer], width: float, columns: int) -> Sheet:
    """Returns the small plots, `columns` in a row, each 96 pixels high below its two headings."""
    left, gap, above, height, below = 34.0, 18.0, 36.0, 96.0, 26.0
    room = (width - left - gap * (columns - 1)) / columns
    sheet = Sheet(width, -(-len(layers) // columns) * (above + height + below))
    least = _least_kept(layers)
    high = max(
        1.0, *(error for layer in layers for _, error in (*layer.curve, _final_point(layer)))
    )
    fractions = np.geomspace(1.0, least, 64)
    for i, layer in enumerate(layers):
        line, column = divmod(i, columns)
        x, y = left + column * (room + gap), line * (above + height + below) + above
        axes = sheet.axes(x, y, room, height)
        axes.set(xscale="log", xlim=(1.0, least), ylim=(0.0, high))
        for error in (0.0, 0.5, 1.0):
            level = y + height * (1 - error / high)
            sheet.line([x, x + room], [level, level])
            if column == 0:
                sheet.text(x - 6, level, f"{100 * error:g} %", "quiet", "end")
        for sparsity, share in _ticks(least, room / 36):
            anchor = "middle" if sparsity else "start"
            sheet.text(x + room * share, y + height + 12, f"{100 * sparsity:g} %", "quiet", anchor)
        axes.plot(fractions, _interpolated(layer, fractions), color=color("accent"), lw=1.8)
        sparsity, error = _final_point(layer)
        axes.plot(
            [max(1 - sparsity, least)], [error], "o", ms=8, mew=2, mec=color("card"),
            color=color("ink"), clip_on=False, zorder=4,
        )  # fmt: skip
        sheet.text(x, y - 26, fitting(layer.name, room), "head")
        sheet.text(x, y - 11, _description(layer), "quiet value")
        sheet.hover(
            x - 4, y - above, room + 8, above + height + 20, f"{layer.name}. {_description(layer)}"
        )
    return sheet


def _heat(layers: Sequence[Layer], width: float) -> Sheet:
    """Returns the heat map: 32 cells a column, equal neighbours merged into one rectangle."""
    left, above, height = 40.0, 28.0, 210.0
    names = [layer.name for layer in layers]
    sheet = Sheet(width, above + height + 26)
    least = _least_kept(layers)
    axes = sheet.axes(left, above, width - left, height)
    axes.set(xlim=(-0.5, len(layers) - 0.5), yscale="log", ylim=(1.0, least))
    edges = np.geomspace(1.0, least, 33)  # of the cells, as fractions kept
    middles = np.sqrt(edges[1:] * edges[:-1])
    cells: dict[int, list[tuple[float, float, float]]] = {}  # by shade: column, from, to
    for i, layer in enumerate(layers):
        shade = np.clip(np.rint(SHADES * np.nan_to_num(_interpolated(layer, middles))), 0, SHADES)
        start = 0
        for value, run in groupby(shade.astype(int).tolist()):
            end = start + len(list(run))
            cells.setdefault(value, []).append((i, edges[start], edges[end]))
            start = end
    for value in sorted(cells.keys() - {0}):
        column, low, high = np.array(cells[value]).T
        rectangles(axes, column - 0.5, low, 1, high - low, "accent", value / SHADES)
    lines = [max(1 - _final_point(layer)[0], least) for layer in layers]
    steps = [i + side for i in range(len(layers)) for side in (-0.5, 0.5)]
    thin = 0.7 if width / len(layers) < 4 else 1.0
    for role, weight in (("card", 3.6 * thin), ("ink", 1.6 * thin)):
        axes.plot(steps, np.repeat(lines, 2), color=color(role), lw=weight, clip_on=False)
    sheet.text(0, 8, "Sparsity", "head")
    for sparsity, share in _ticks(least, height / 22):
        sheet.text(left - 6, above + height * (1 - share), f"{100 * sparsity:g} %", "quiet", "end")
    _key(sheet, width)
    stages(sheet, names, left, width - left, [(above, above + height)], above_all=True)
    for layer, (x, slot) in zip(layers, slots(len(layers), left, width - left), strict=True):
        sheet.hover(x, above, slot, height, f"{layer.name}. {_description(layer)}")
    return sheet


def _key(sheet: Sheet, width: float) -> None:
    """Draws the scale of colours into the upper right corner."""
    size = 10.0
    x = width - 38 - size * SHADES
    sheet.text(x - 6, 8, "error 0 %", "quiet", "end")
    sheet.text(width, 8, "100 %", "quiet", "end")
    axes = sheet.axes(x, 3, size * SHADES, size)
    axes.set(xlim=(0, SHADES), ylim=(0, 1))
    for shade in range(SHADES):
        rectangles(axes, shade, 0, 1, 1, "accent", (shade + 1) / SHADES)


def _interpolated(layer: Layer, fractions: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns the curve at these kept fractions, interpolated linearly; NaN outside the curve."""
    sparsity, error = np.array(layer.curve).T
    return np.asarray(
        np.interp(1 - fractions, sparsity, error, left=np.nan, right=np.nan), np.float64
    )


def _final_point(layer: Layer) -> tuple[float, float]:
    """Returns the layer's final (sparsity, relative error); 0 stands for an unknown one."""
    return layer.sparsity or 0.0, layer.relative_error or 0.0


def _description(layer: Layer) -> str:
    return f"{percent(layer.sparsity)} pruned, error {percent(layer.relative_error)}"


def _least_kept(layers: Sequence[Layer]) -> float:
    """Returns the kept fraction at which the scale ends: a third of the sparsest layer's."""
    fractions = [1 - layer.sparsity for layer in layers if layer.sparsity is not None]
    return float(np.clip(min((k for k in fractions if k > 0), default=0.1) / 3, 1e-4, 0.02))


def _ticks(least: float, most: float) -> list[tuple[float, float]]:
    """Returns (sparsity, position 0..1 on the scale) of the ticks.

    Ticks are at least ``1 / most`` apart; of two that collide, the earlier one in `TICKS` is shown.
    """
    ticks: list[tuple[float, float]] = []
    for sparsity in TICKS:
        position = float(np.log(1 - sparsity) / np.log(least))
        if position <= 1 and all(abs(position - other) >= 1 / most for _, other in ticks):
            ticks.append((sparsity, position))
    return ticks
