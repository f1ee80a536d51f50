"""matplotlib's figures as SVG elements of an HTML page.

matplotlib draws scales, bars, lines and markers. Text is added as SVG text, so that it takes the page's
font and a name with a dollar sign is not read as mathematics. Colours become the page's CSS variables,
and ids get a prefix that makes them unique on the page.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import StringIO

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import PathPatch
from matplotlib.path import Path
from numpy.typing import ArrayLike

__all__ = ["PALETTE", "Sheet", "rectangles", "style"]

PALETTE = {  # role: (light, dark); `_themed` needs all light ones to differ
    "paper": ("#fcfcfb", "#13161a"),
    "card": ("#ffffff", "#1a1e24"),
    "line": ("#e3e5e8", "#2d333b"),
    "ink": ("#1b1f24", "#e8eaed"),
    "quiet": ("#59626d", "#a0a9b4"),
    "dense": ("#8b949f", "#626d7a"),
    "accent": ("#1d63a8", "#6fb0f2"),
    "warn": ("#a85a00", "#f2b155"),
    "wash": ("#fdf6ea", "#2a2318"),
}
_ROLES = {light: role for role, (light, _) in PALETTE.items()}
_SVG, _LINK = "{http://www.w3.org/2000/svg}", "{http://www.w3.org/1999/xlink}href"
_DECIMALS = re.compile(r"-?\d+\.\d+")


def color(role: str) -> str:
    """Returns the light colour of a role, which `Sheet.svg` replaces by the page's variable."""
    return PALETTE[role][0]


@contextmanager
def style() -> Iterator[None]:
    """Inside the context, matplotlib has its default settings, whatever the user has configured."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams["svg.hashsalt"] = "sbc-kernels"  # the same ids in every run
        mpl.rcParams["path.simplify"] = False
        yield


class Sheet:
    """A picture of `width` x `height` CSS pixels. Coordinates start at its upper left corner."""

    def __init__(self, width: float, height: float) -> None:
        self.width, self.height = width, height
        self.figure = Figure(figsize=(width / 72, height / 72), dpi=72, facecolor="none")
        FigureCanvasSVG(self.figure)
        self._texts: list[ET.Element] = []
        self._areas: list[ET.Element] = []

    def axes(self, x: float, y: float, width: float, height: float) -> Axes:
        """Returns axes without frame and ticks. The caller sets their limits."""
        box = (
            x / self.width,
            1 - (y + height) / self.height,
            width / self.width,
            height / self.height,
        )
        axes: Axes = self.figure.add_axes(box, facecolor="none", autoscale_on=False)
        axes.set_axis_off()
        return axes

    def line(self, xs: Sequence[float], ys: Sequence[float], above: bool = False) -> None:
        """Draws a hairline through the points, in front of the axes if `above`, else behind them."""
        across, down = np.array(xs) / self.width, 1 - np.array(ys) / self.height
        line = Line2D(across, down, color=color("line"), lw=1, zorder=1 if above else -1)
        self.figure.add_artist(line)

    def text(self, x: float, y: float, text: str, kind: str = "", anchor: str = "start") -> None:
        """Adds text whose letters are centred at height `y`.

        `kind` holds CSS classes of the page (quiet, warn, head, value), `anchor` is SVG's text-anchor.
        """
        element = ET.Element(
            f"{_SVG}text", {"x": _short(x), "y": _short(y), "text-anchor": anchor, "class": kind}
        )
        element.text = text
        self._texts.append(element)

    def hover(self, x: float, y: float, width: float, height: float, text: str) -> None:
        """Adds an area that lights up under the pointer and shows `text` as a tooltip."""
        box = {"x": x, "y": y, "width": width, "height": height}
        area = ET.Element(
            f"{_SVG}rect", {"class": "area", **{k: _short(v) for k, v in box.items()}}
        )
        ET.SubElement(area, f"{_SVG}title").text = text
        self._areas.append(area)

    def svg(self, key: str, css_class: str) -> str:
        """Returns the picture as an `<svg>` element whose ids start with `key`."""
        buffer = StringIO()
        self.figure.savefig(buffer, format="svg", metadata={"Date": None})
        root = ET.fromstring(buffer.getvalue())
        for child in list(root):
            if child.tag == f"{_SVG}metadata" or child.find(f"{_SVG}style") is not None:
                root.remove(child)  # a style element would hold for the whole page
        _tidy(root, key)
        root.extend(self._texts)
        root.extend(self._areas)
        size = f"0 0 {_short(self.width)} {_short(self.height)}"
        attributes = {"class": css_class, "viewBox": size, "aria-hidden": "true"}
        root.attrib.clear()
        root.attrib.update(attributes)
        ET.register_namespace("", _SVG[1:-1])
        ET.register_namespace("xlink", "http://www.w3.org/1999/xlink")
        return ET.tostring(root, encoding="unicode")


def rectangles(
    axes: Axes,
    x: ArrayLike,
    y: ArrayLike,
    width: ArrayLike,
    height: ArrayLike,
    role: str,
    alpha: float = 1.0,
) -> None:
    """Draws any number of rectangles as one path.

    `x`, `y` (lower left corners), `width` and `height` are numbers or arrays [N] that broadcast.
    """
    left, bottom, widths, heights = np.broadcast_arrays(
        *(np.atleast_1d(np.asarray(side)) for side in (x, y, width, height))
    )
    across = left[:, None] + widths[:, None] * np.array([0, 1, 1, 0, 0])
    up = bottom[:, None] + heights[:, None] * np.array([0, 0, 1, 1, 0])
    corners = np.stack([across, up], axis=-1).reshape(-1, 2)
    codes = [Path.MOVETO, Path.LINETO, Path.LINETO, Path.LINETO, Path.CLOSEPOLY] * len(left)
    if len(corners):
        patch = PathPatch(Path(corners, codes), facecolor=color(role), lw=0, alpha=alpha)
        axes.add_patch(patch)


def _tidy(root: ET.Element, key: str) -> None:
    """Replaces colours by roles, prefixes ids with `key`, rounds to two decimals, drops unused ids."""
    references: set[str] = set()
    for element in root.iter():
        for name, value in element.attrib.items():
            references.update(re.findall(r"url\(#(.+?)\)", value))
            if name == _LINK:
                references.add(value[1:])
    for element in root.iter():
        if element.get("id") not in references:
            element.attrib.pop("id", None)
        for name, value in element.attrib.items():
            if name == "id":
                value = f"{key}-{value}"
            elif name == _LINK:
                value = f"#{key}-{value[1:]}"
            elif name in ("d", "x", "y", "width", "height"):
                value = _DECIMALS.sub(lambda m: _short(float(m.group())), value).replace("\n", "")
            elif name == "style":
                value = _themed(value)
            element.set(name, value.replace("url(#", f"url(#{key}-"))
        element.text = element.tail = None


def _themed(css: str) -> str:
    """Returns matplotlib's inline style with the page's variables in place of colours."""
    return re.sub(r"#[0-9a-f]{6}", lambda m: f"var(--{_ROLES[m.group()]})", css)


def _short(number: float) -> str:
    """Returns the number with at most two decimals."""
    return f"{number:.2f}".rstrip("0").rstrip(".")
