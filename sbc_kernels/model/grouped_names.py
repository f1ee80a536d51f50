"""Names that differ in numbers alone, as one: h.0.fc, h.1.fc and h.2.fc are h.0..2.fc."""

from __future__ import annotations

import re
from collections.abc import Iterable

# A dotted name with a part that is no number, in a text; 1.5 is none.
_NAME = re.compile(r"(?<![\w.])(?:\d+\.)*[A-Za-z_]\w*(?:\.\w+)+|(?<![\w.])(?:\d+\.)+[A-Za-z_]\w*")
_NUMBER = re.compile(r"(?<![^.])\d+(?![^.])")  # a whole part of a name
_LONG_LIST = re.compile(r"((?:'[^']*', ){3})(?:'[^']*', )*'[^']*'")


def pattern_of(text: str) -> str:
    """Returns a text whose names have # in the place of numbers, and whose lists of names are short."""
    short = _LONG_LIST.sub(r"\1and more", text)
    return _NAME.sub(lambda match: _NUMBER.sub("#", match[0]), short)


def grouped(names: Iterable[str]) -> str:
    """Returns names in one line, those that differ in one number together: ``h.0..11.fc``."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(_NUMBER.sub("#", name), []).append(name)
    parts = []
    for shape, members in groups.items():
        numbers = [[int(number) for number in _NUMBER.findall(name)] for name in members]
        columns = [list(dict.fromkeys(column)) for column in zip(*numbers, strict=True)]
        if sum(len(column) > 1 for column in columns) > 1:
            parts.append(f"{members[0]} .. {members[-1]} ({len(members)})")
        else:
            pattern = shape
            for column in columns:
                pattern = pattern.replace("#", _ranges(column), 1)
            parts.append(pattern)
    return ", ".join(parts)


def _ranges(numbers: list[int]) -> str:
    """Returns numbers as ranges: 0..3,5."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ",".join(str(run[0]) if len(run) == 1 else f"{run[0]}..{run[-1]}" for run in runs)
