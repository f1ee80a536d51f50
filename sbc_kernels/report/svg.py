"""matplotlib draws, the page shows: a figure as SVG that lives inside an HTML page.

matplotlib makes the geometry: scales, bars, lines, markers. Words are put in as SVG text, so that
they take the page's font and that no name is ever read as mathematics. Colours become the page's CSS
variables, ids get a prefix of their own.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import StringIO
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import PathPatch
from matplotlib.path import Path

__all__ = ["PALETTE", "Sheet", "rectangles", "style"]

PALETTE = {  # role: light, dark. The light ones are all different, see `_themed`
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
    return PALETTE[role][0]


@contextmanager
def style() -> Iterator[None]:
    """matplotlib as it ships, whatever its user has set, for as long as this lasts."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams["svg.hashsalt"] = "sbc-kernels"  # the same ids in every run
        mpl.rcParams["path.simplify"] = False
        yield


class Sheet:
    """A picture of `width` x `height` CSS pixels; places count from its upper left corner."""

    def __init__(self, width: float, height: float) -> None:
        self.width, self.height = width, height
        self.figure = Figure(figsize=(width / 72, height / 72), dpi=72, facecolor="none")
        FigureCanvasSVG(self.figure)
        self._words: list[ET.Element] = []
        self._areas: list[ET.Element] = []

    def axes(self, x: float, y: float, width: float, height: float) -> Axes:
        """Bare axes: no frame, no ticks. Their limits are the caller's to set."""
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
        """A hairline from place to place, behind the axes or in front of them."""
        across, down = np.array(xs) / self.width, 1 - np.array(ys) / self.height
        line = Line2D(across, down, color=color("line"), lw=1, zorder=1 if above else -1)
        self.figure.add_artist(line)

    def text(self, x: float, y: float, text: str, kind: str = "", anchor: str = "start") -> None:
        """`kind` is CSS classes of the page: quiet, warn, head. `y` is the middle of the letters."""
        element = ET.Element(
            f"{_SVG}text", {"x": _short(x), "y": _short(y), "text-anchor": anchor, "class": kind}
        )
        element.text = text
        self._words.append(element)

    def hover(self, x: float, y: float, width: float, height: float, text: str) -> None:
        """An area that lights up under the pointer and says `text`."""
        box = {"x": x, "y": y, "width": width, "height": height}
        area = ET.Element(
            f"{_SVG}rect", {"class": "area", **{k: _short(v) for k, v in box.items()}}
        )
        ET.SubElement(area, f"{_SVG}title").text = text
        self._areas.append(area)

    def svg(self, key: str, css_class: str) -> str:
        """As an `<svg>` element; `key` is what its ids begin with."""
        buffer = StringIO()
        self.figure.savefig(buffer, format="svg", metadata={"Date": None})
        root = ET.fromstring(buffer.getvalue())
        for child in list(root):
            if child.tag == f"{_SVG}metadata" or child.find(f"{_SVG}style") is not None:
                root.remove(child)  # a style element would hold for the whole page
        _tidy(root, key)
        root.extend(self._words)
        root.extend(self._areas)
        size = f"0 0 {_short(self.width)} {_short(self.height)}"
        attributes = {"class": css_class, "viewBox": size, "aria-hidden": "true"}
        root.attrib.clear()
        root.attrib.update(attributes)
        ET.register_namespace("", _SVG[1:-1])
        ET.register_namespace("xlink", "http://www.w3.org/1999/xlink")
        return ET.tostring(root, encoding="unicode")


def rectangles(
    axes: Axes, x: Any, y: Any, width: Any, height: Any, role: str, alpha: float = 1.0
) -> None:
    """Any number of rectangles as one path: `x`, `y` are lower left corners, numbers or arrays."""
    x, y, width, height = np.broadcast_arrays(*map(np.atleast_1d, (x, y, width, height)))
    across = x[:, None] + width[:, None] * np.array([0, 1, 1, 0, 0])
    up = y[:, None] + height[:, None] * np.array([0, 0, 1, 1, 0])
    corners = np.stack([across, up], axis=-1).reshape(-1, 2)
    codes = [Path.MOVETO, Path.LINETO, Path.LINETO, Path.LINETO, Path.CLOSEPOLY] * len(x)
    if len(corners):
        patch = PathPatch(Path(corners, codes), facecolor=color(role), lw=0, alpha=alpha)
        axes.add_patch(patch)


def _tidy(root: ET.Element, key: str) -> None:
    """Colours by role, ids by `key`, two decimals, no id that nothing refers to."""
    used: set[str] = set()
    for element in root.iter():
        for name, value in element.attrib.items():
            used.update(re.findall(r"url\(#(.+?)\)", value))
            if name == _LINK:
                used.add(value[1:])
    for element in root.iter():
        if element.get("id") not in used:
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
    """matplotlib's inline style with the page's variables for colours."""
    return re.sub(r"#[0-9a-f]{6}", lambda m: f"var(--{_ROLES[m.group()]})", css)


def _short(number: float) -> str:
    return f"{number:.2f}".rstrip("0").rstrip(".")
