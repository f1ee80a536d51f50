"""The package's docstrings as reStructuredText.

Their sections are NumPy's, but what follows ``name :`` is a sentence or two about shape and meaning,
not a type with a description under it. A section becomes a field, an entry a term and its text:

    Parameters                       :Parameters:
    ----------                           ``W``
    W : [d_out, d_in], real;    ->           [d_out, d_in], real; never modified.
        never modified.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Iterator
from typing import Any

ENTRIES = ("Parameters", "Attributes", "Returns", "Yields", "Raises")
PROSE = ("Notes", "Examples", "References")


def sections(lines: list[str]) -> Iterator[tuple[str, list[str]]]:
    """(title, lines) of each section; the text before the first has the title ""."""
    title, body = "", []
    for line, below in zip(lines, [*lines[1:], ""], strict=True):
        if line in ENTRIES + PROSE and below == "-" * len(line):
            yield title, body
            title, body = line, []
        elif not (title and not body and line == "-" * len(title)):
            body.append(line)
    yield title, body


def entries(lines: list[str]) -> list[str]:
    """``name : text`` with its indented lines, as a definition; other lines as they are."""
    found: list[str] = []
    for line in lines:
        entry = re.fullmatch(r"([\w.*]+(?:, [\w.*]+)*) : (.*)", line)
        if entry:
            names = ", ".join(f"``{name}``" for name in entry[1].split(", "))
            found += ["", names, f"    {entry[2]}"]
        else:  # a type alone, or prose
            found.append(f"``{line}``" if re.fullmatch(r"[A-Z]\w+", line) else line)
    return found


def drawings(lines: list[str]) -> list[str]:
    """Indented lines between others are tables or drawings made of text: literal blocks."""
    found: list[str] = []
    for line in lines:
        after_prose = not found or not found[-1].strip()
        if line.startswith("    ") and after_prose and not _in_drawing(found):
            found += ["::", ""]
        found.append(line)
    return found


def _in_drawing(lines: list[str]) -> bool:
    said = [line for line in lines if line.strip()]
    return bool(said) and said[-1].startswith("    ")


def as_fields(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """autodoc-process-docstring: rewrites `lines` in place."""
    text: list[str] = []
    for title, body in sections(list(lines)):
        if title in ENTRIES:
            text += [f":{title}:", *(f"    {line}" for line in entries(body)), ""]
        elif title:
            text += [f".. rubric:: {title}", "", *body, ""]
        else:
            text += [*drawings(body), ""]
    lines[:] = text


def without_fields(app: Any, what: str, name: str, obj: Any, options: Any, *_: Any) -> Any:
    """autodoc-process-signature: a result is not made by hand, its fields are listed below it."""
    is_record = dataclasses.is_dataclass(obj) or hasattr(obj, "_fields")
    listed = "\nAttributes\n" in (inspect.getdoc(obj) or "")
    is_protocol = getattr(obj, "_is_protocol", False)
    return ("", "") if what == "class" and ((is_record and listed) or is_protocol) else None


def setup(app: Any) -> dict[str, bool]:
    app.connect("autodoc-process-docstring", as_fields)
    app.connect("autodoc-process-signature", without_fields)
    return {"parallel_read_safe": True}
