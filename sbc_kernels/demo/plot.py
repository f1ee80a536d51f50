"""The picture: the events of one sample, and the accuracy of each method."""

from __future__ import annotations

from io import BytesIO
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.gridspec import GridSpec
from matplotlib.patches import Patch

from .data import Dataset
from .events import Events
from .results import Results, Row

INK, QUIET, FAINT, PAPER = "#222831", "#5b6470", "#e6e9ed", "#ffffff"
RED, BLUE, GREY, BOTH = "#e4572e", "#2f6fb0", "#9aa3ad", "#7d4f8f"
STYLES = {  # method: name, colour, marker
    "magnitude": ("magnitude", GREY, "s"),
    "rtn": ("round to nearest", GREY, "s"),
    "exactobs": ("ExactOBS", BLUE, "^"),
    "gptq": ("GPTQ", BLUE, "^"),
    "sbc": ("SBC", RED, "o"),
}


def draw(report: Results, dataset: Dataset, events: Events) -> bytes:
    """Returns the picture as PNG: one sample's events, uint8 [T, 2, h, w], above the results."""
    figure = Figure(figsize=(13, 7.6), dpi=140, facecolor=PAPER)
    FigureCanvasAgg(figure)
    dense = report["dense"]
    title = "Spiking Brain Compression: one pass, no retraining"
    figure.text(0.055, 0.945, title, size=19, weight="bold", color=INK)
    subtitle = (
        f"{dataset.name} seen by an event camera, two LIF layers; dense: {dense['accuracy']:.1f} % "
        f"accuracy, {dense['synops']:,.0f} synaptic operations per sample"
    )
    figure.text(0.055, 0.905, subtitle, size=11.5, color=QUIET)
    strip = figure.add_gridspec(
        1, len(events) + 1, left=0.055, right=0.98, top=0.855, bottom=0.70, wspace=0.08
    )
    _strip(figure, strip, dataset, events)
    lines = figure.add_gridspec(1, 2, left=0.055, right=0.66, top=0.57, bottom=0.06, wspace=0.17)
    sizes = figure.add_gridspec(1, 1, left=0.765, right=0.98, top=0.57, bottom=0.06)
    rows = report["rows"]
    sparse = [row for row in rows if row["bits"] is None]
    coded = [row for row in rows if row["bits"] is not None]
    if sparse:
        _lines(figure.add_subplot(lines[0]), sparse, "sparsity", dense["accuracy"])
    if coded:
        _lines(figure.add_subplot(lines[1]), coded, "bits", dense["accuracy"])
    _sizes(figure.add_subplot(sizes[0]), report)
    buffer = BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _strip(figure: Figure, cells: GridSpec, dataset: Dataset, events: Events) -> None:
    """Draws the image and a frame for each time step, with ON and OFF events in two colours."""
    frames = [figure.add_subplot(cells[i]) for i in range(len(events) + 1)]
    frames[0].imshow(1 - dataset.test_images[0], cmap="gray", vmin=0, vmax=1)
    frames[0].set_title("image", size=10, color=QUIET)
    for step, (on, off) in enumerate(events.astype(bool)):
        picture = np.full((*on.shape, 3), to_rgb("#f4f5f7"))
        for mask, color in ((on, RED), (off, BLUE), (on & off, BOTH)):
            picture[mask] = to_rgb(color)
        frames[step + 1].imshow(picture, interpolation="nearest")
        frames[step + 1].set_title(f"t = {step}", size=10, color=QUIET)
    for axes in frames:
        axes.set(xticks=[], yticks=[])
        for spine in axes.spines.values():
            spine.set_color(FAINT)
    figure.legend(
        handles=[Patch(color=RED), Patch(color=BLUE), Patch(color=BOTH)],
        labels=["brighter", "darker", "both within the step"],
        title="three saccades, an event wherever the light changes:",
        loc="upper left",
        bbox_to_anchor=(frames[1].get_position().x0 - 0.006, 0.70),
        ncols=3,
        fontsize=10,
        title_fontsize=10,
        labelcolor=QUIET,
        frameon=False,
        alignment="left",
        handlelength=1,
    ).get_title().set_color(QUIET)


def _lines(axes: Axes, rows: list[Row], key: Literal["sparsity", "bits"], dense: float) -> None:
    """Draws the accuracy of each method against sparsity or bits, with evenly spaced levels.

    `key` is not None in any of the rows.
    """
    levels = sorted({row[key] or 0 for row in rows}, reverse=key == "bits")
    for method in dict.fromkeys(row["method"] for row in rows):
        name, color, marker = STYLES[method]
        curve = {
            levels.index(row[key] or 0): row["accuracy"] for row in rows if row["method"] == method
        }
        front = method == "sbc"
        axes.plot(
            list(curve), list(curve.values()), color=color, marker=marker, ms=8, mec=PAPER,
            lw=3 if front else 2, zorder=3 if front else 2, label=name,
        )  # fmt: skip
    axes.axhline(dense, color=INK, lw=1.3, ls=(0, (5, 3)), zorder=1, label="dense")
    last = sorted((r["accuracy"], r["method"]) for r in rows if r[key] == levels[-1])
    height = -np.inf
    for accuracy, method in last:  # values at the right end, at least 6 % apart
        height = max(height + 6, accuracy)
        axes.text(
            len(levels) - 0.9, height, f"{accuracy:.1f}", va="center", size=10,
            color=STYLES[method][1], weight="bold" if method == "sbc" else "normal",
            bbox={"facecolor": PAPER, "edgecolor": "none", "pad": 1.5},
        )  # fmt: skip
    labels = [f"{level:g} bits" if key == "bits" else f"{100 * level:g} %" for level in levels]
    axes.set_xticks(range(len(levels)), labels)
    axes.set(xlim=(-0.2, len(levels) - 0.6), ylim=(0, 108))
    axes.grid(axis="y", color=FAINT, lw=1)
    axes.legend(frameon=False, loc="lower left", fontsize=10, labelcolor=INK)
    _tidy(axes, "test accuracy, %, by " + ("weights pruned" if key == "sparsity" else "precision"))


def _sizes(axes: Axes, report: Results) -> None:
    """Draws the size of SBC's packed files, largest first, labelled with their accuracy."""
    dense = report["dense"]
    bars = [("dense", INK, dense["bytes"], dense["accuracy"])]
    for row in report["rows"]:
        if row["method"] == "sbc":
            pruned = f"{100 * (row['sparsity'] or 0):g} % pruned"
            level = pruned if row["bits"] is None else f"{row['bits']} bits"
            bars.append((level, RED, row["bytes"], row["accuracy"]))
    bars.sort(key=lambda bar: -bar[2])
    largest = bars[0][2]
    for i, (_, color, size, accuracy) in enumerate(bars):
        axes.barh(i, size, color=color, height=0.62)
        inside = size > 0.6 * largest
        axes.text(
            size + (-0.02 if inside else 0.02) * largest, i,
            f"{size / 1000:.1f} kB,  {accuracy:.1f} % accuracy",
            va="center", ha="right" if inside else "left", size=10, color=PAPER if inside else INK,
        )  # fmt: skip
    axes.set_yticks(range(len(bars)), [name for name, *_ in bars])
    axes.set(xticks=[], xlim=(0, 1.02 * largest))
    axes.invert_yaxis()
    _tidy(axes, "size of the packed file, SBC")


def _tidy(axes: Axes, title: str) -> None:
    """Adds a title and removes all spines but the one along the labels."""
    axes.set_title(title, loc="left", size=12, weight="bold", color=INK, pad=10)
    axes.set_axisbelow(True)
    axes.tick_params(colors=INK, length=0, labelsize=10)
    for side, spine in axes.spines.items():
        spine.set_visible(side == ("left" if axes.yaxis_inverted() else "bottom"))
        spine.set_color("#b8bfc8")
