"""The picture: what the camera sees, and what each method leaves of the network."""

from __future__ import annotations

from io import BytesIO
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from .data import Dataset
from .events import Events

INK, QUIET, FAINT, PAPER = "#222831", "#5b6470", "#e6e9ed", "#ffffff"
RED, BLUE, GREY, BOTH = "#e4572e", "#2f6fb0", "#9aa3ad", "#7d4f8f"
STYLES = {  # name, colour, marker
    "magnitude": ("magnitude", GREY, "s"),
    "rtn": ("round to nearest", GREY, "s"),
    "exactobs": ("ExactOBS", BLUE, "^"),
    "gptq": ("GPTQ", BLUE, "^"),
    "sbc": ("SBC", RED, "o"),
}


def draw(report: dict[str, Any], dataset: Dataset, events: Events) -> bytes:
    """The report of `run_demo` as a PNG, with one sample's events, uint8 [T, 2, h, w]."""
    figure = Figure(figsize=(13, 7.6), dpi=140, facecolor=PAPER)
    FigureCanvasAgg(figure)
    dense = report["dense"]
    title = "Spiking Brain Compression: one pass, no retraining"
    figure.text(0.055, 0.945, title, size=19, weight="bold", color=INK)
    facts = (
        f"{dataset.name} seen by an event camera, two LIF layers; dense: {dense['accuracy']:.1f} % "
        f"right, {dense['synops']:,.0f} synaptic operations a sample"
    )
    figure.text(0.055, 0.905, facts, size=11.5, color=QUIET)
    strip = figure.add_gridspec(
        1, len(events) + 1, left=0.055, right=0.98, top=0.855, bottom=0.70, wspace=0.08
    )
    _strip(figure, strip, dataset, events)
    lines = figure.add_gridspec(1, 2, left=0.055, right=0.66, top=0.57, bottom=0.06, wspace=0.17)
    sizes = figure.add_gridspec(1, 1, left=0.765, right=0.98, top=0.57, bottom=0.06)
    rows = report["rows"]
    sparse = [row for row in rows if row["bits"] is None]
    coded = [row for row in rows if row["bits"] is not None]
    for cell, chosen, key in ((lines[0], sparse, "sparsity"), (lines[1], coded, "bits")):
        if chosen:
            _lines(figure.add_subplot(cell), chosen, key, dense["accuracy"])
    _sizes(figure.add_subplot(sizes[0]), report)
    buffer = BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _strip(figure: Figure, cells: Any, dataset: Dataset, events: Events) -> None:
    """The image, then a frame for each time step: ON events in one colour, OFF in another."""
    frames = [figure.add_subplot(cells[i]) for i in range(len(events) + 1)]
    frames[0].imshow(1 - dataset.test_images[0], cmap="gray", vmin=0, vmax=1)
    frames[0].set_title("image", size=10, color=QUIET)
    for step, (on, off) in enumerate(events.astype(bool)):
        picture = np.full((*on.shape, 3), to_rgb("#f4f5f7"))
        for where, color in ((on, RED), (off, BLUE), (on & off, BOTH)):
            picture[where] = to_rgb(color)
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


def _lines(axes: Axes, rows: list[dict[str, Any]], key: str, dense: float) -> None:
    """Accuracy of each method against sparsity or bits, the levels evenly spaced."""
    levels = sorted({row[key] for row in rows}, reverse=key == "bits")
    for method in dict.fromkeys(row["method"] for row in rows):
        name, color, marker = STYLES[method]
        mine = {levels.index(row[key]): row["accuracy"] for row in rows if row["method"] == method}
        front = method == "sbc"
        axes.plot(
            list(mine), list(mine.values()), color=color, marker=marker, ms=8, mec=PAPER,
            lw=3 if front else 2, zorder=3 if front else 2, label=name,
        )  # fmt: skip
    axes.axhline(dense, color=INK, lw=1.3, ls=(0, (5, 3)), zorder=1, label="dense")
    last = sorted((r["accuracy"], r["method"]) for r in rows if r[key] == levels[-1])
    height = -np.inf
    for accuracy, method in last:  # the values at the far end, never on top of each other
        height = max(height + 6, accuracy)
        axes.text(
            len(levels) - 0.9, height, f"{accuracy:.1f}", va="center", size=10,
            color=STYLES[method][1], weight="bold" if method == "sbc" else "normal",
            bbox={"facecolor": PAPER, "edgecolor": "none", "pad": 1.5},
        )  # fmt: skip
    words = "{:g} bits".format if key == "bits" else (lambda level: f"{100 * level:g} %")
    axes.set_xticks(range(len(levels)), [words(level) for level in levels])
    axes.set(xlim=(-0.2, len(levels) - 0.6), ylim=(0, 108))
    axes.grid(axis="y", color=FAINT, lw=1)
    axes.legend(frameon=False, loc="lower left", fontsize=10, labelcolor=INK)
    _tidy(axes, "test accuracy, %, by " + ("weights pruned" if key == "sparsity" else "precision"))


def _sizes(axes: Axes, report: dict[str, Any]) -> None:
    """Bytes of the packed files that SBC wrote, largest first, with their accuracy."""
    bars = [("dense", INK, report["dense"])]
    for row in report["rows"]:
        if row["method"] == "sbc":
            pruned = row["bits"] is None
            level = f"{100 * row['sparsity']:g} % pruned" if pruned else f"{row['bits']} bits"
            bars.append((level, RED, row))
    bars.sort(key=lambda bar: -bar[2]["bytes"])
    largest = bars[0][2]["bytes"]
    for i, (_, color, what) in enumerate(bars):
        axes.barh(i, what["bytes"], color=color, height=0.62)
        inside = what["bytes"] > 0.6 * largest
        axes.text(
            what["bytes"] + (-0.02 if inside else 0.02) * largest, i,
            f"{what['bytes'] / 1000:.1f} kB,  {what['accuracy']:.1f} % right",
            va="center", ha="right" if inside else "left", size=10, color=PAPER if inside else INK,
        )  # fmt: skip
    axes.set_yticks(range(len(bars)), [name for name, _, _ in bars])
    axes.set(xticks=[], xlim=(0, 1.02 * largest))
    axes.invert_yaxis()
    _tidy(axes, "size of the packed file, SBC")


def _tidy(axes: Axes, title: str) -> None:
    axes.set_title(title, loc="left", size=12, weight="bold", color=INK, pad=10)
    axes.set_axisbelow(True)
    axes.tick_params(colors=INK, length=0, labelsize=10)
    for side, spine in axes.spines.items():
        spine.set_visible(side == ("left" if axes.yaxis_inverted() else "bottom"))
        spine.set_color("#b8bfc8")
