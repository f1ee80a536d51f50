"""One HTML file about one compression: figures, plots, sortable tables; it loads nothing.

schema.py checks the report dictionary; sections.py, tables.py and figures.py say what is on the page;
plots.py draws with matplotlib, svg.py makes that part of the page; page.html, .css and .js are it;
rendering.py puts it together.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..files.atomic import write_atomic

__all__ = ["render", "write_html"]


def write_html(path: str | Path, report: Mapping[str, Any]) -> None:
    """Writes the report as one self-contained HTML file.

    Needs Jinja2 and matplotlib (the extra `report`).

    Parameters
    ----------
    path : of the file; it is replaced whole or not at all.
    report : what `CompressedModel.report()` gives, or what a packed file of a compressed model holds.

    Raises
    ------
    TypeError : `report` is not a dictionary.
    ValueError : a key is missing or a value is of the wrong kind; the message names the place.
    """
    write_atomic(path, render(report).encode())


def render(report: Mapping[str, Any]) -> str:
    """The page of `write_html` as text: the same for the same report, byte for byte."""
    from .rendering import render as rendered  # Jinja2 and matplotlib, when a page is asked for

    return rendered(report)
