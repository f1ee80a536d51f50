"""Converts the docstrings of the package to reStructuredText.

They have the sections of NumPy's docstrings, but ``name :`` is followed by a sentence or two about
shape and meaning instead of a type with a description below. A section becomes a field, and an
entry a term with its text:

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
    """Title and lines of each section; the text before the first section has the title ""."""
    title, body = "", []
    for line, below in zip(lines, [*lines[1:], ""], strict=True):
        if line in ENTRIES + PROSE and below == "-" * len(line):
            yield title, body
            title, body = line, []
        elif not (title and not body and line == "-" * len(title)):
            body.append(line)
    yield title, body


def entries(lines: list[str]) -> list[str]:
    """Turns ``name : text`` and the indented lines below it into a definition; keeps other lines."""
    definitions: list[str] = []
    for line in lines:
        entry = re.fullmatch(r"([\w.*]+(?:, [\w.*]+)*) : (.*)", line)
        if entry:
            names = ", ".join(f"``{name}``" for name in entry[1].split(", "))
            definitions += ["", names, f"    {entry[2]}"]
        else:  # a type alone, or prose
            definitions.append(f"``{line}``" if re.fullmatch(r"[A-Z]\w+", line) else line)
    return definitions


def drawings(lines: list[str]) -> list[str]:
    """Marks indented lines between others, which are tables or drawings in text, as literal blocks."""
    text: list[str] = []
    for line in lines:
        after_prose = not text or not text[-1].strip()
        if line.startswith("    ") and after_prose and not _in_drawing(text):
            text += ["::", ""]
        text.append(line)
    return text


def _in_drawing(lines: list[str]) -> bool:
    filled = [line for line in lines if line.strip()]
    return bool(filled) and filled[-1].startswith("    ")


def as_fields(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Handler of autodoc-process-docstring: rewrites `lines` in place."""
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
    """Handler of autodoc-process-signature: hides the constructor of records and protocols.

    Users do not create them, and their fields are listed in the docstring.
    """
    is_record = dataclasses.is_dataclass(obj) or hasattr(obj, "_fields")
    listed = "\nAttributes\n" in (inspect.getdoc(obj) or "")
    is_protocol = getattr(obj, "_is_protocol", False)
    return ("", "") if what == "class" and ((is_record and listed) or is_protocol) else None


def setup(app: Any) -> dict[str, bool]:
    app.connect("autodoc-process-docstring", as_fields)
    app.connect("autodoc-process-signature", without_fields)
    return {"parallel_read_safe": True}
