"""One HTML file about one compression: figures, plots and sortable tables. It loads nothing else.

schema     the report's types
parsing    the report dictionary, checked and converted to these types
format     numbers as people read them
sections   headline, remarks, options and log
tables     tables of layers, neurons and loss curves
figures    which plots there are, with their captions
plots      bars, dots and profiles over layers
curves     loss curves
svg        matplotlib's figures as part of the page
rendering  page.html, page.css and page.js with all of these filled in
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ..files.atomic import write_atomic

__all__ = ["render", "write_html"]


def write_html(path: str | Path, report: Mapping[str, object]) -> None:
    """Writes the report as one self-contained HTML file.

    Needs Jinja2 and matplotlib (the extra `report`).

    Parameters
    ----------
    path : where to write. An existing file is replaced as a whole or not at all.
    report : the dictionary that `CompressedModel.report()` returns, or the one that a packed file of a
        compressed model holds.

    Raises
    ------
    ParameterTypeError : `report` is not a dictionary.
    ParameterError : a key is missing or a value has the wrong type; the message names the entry.
    """
    write_atomic(path, render(report).encode())


def render(report: Mapping[str, object]) -> str:
    """Returns the page of `write_html` as text. Equal reports give equal bytes."""
    from .rendering import page  # imports Jinja2 and matplotlib, which only a page needs

    return page(report)
