"""Numbers as people read them. What is not known is an en dash."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from .schema import Number

UNKNOWN = "–"
NBSP = "\u00a0"  # between a number and its unit
_PREFIXES = ("f", "p", "n", "µ", "m", "", "k", "M", "G", "T", "P", "E")


def percent(share: Number, digits: int = 1) -> str:
    """Of a share 0..1. What is not quite nothing, or not quite all, is not rounded to it."""
    if share is None:
        return UNKNOWN
    while digits < 4 and 0 < share < 1 and round(100 * share, digits) in (0, 100):
        digits += 1
    return f"{100 * share:,.{digits}f}{NBSP}%"


def points(percents: Number, digits: int = 2) -> str:
    """Of a number that is in percent already."""
    return UNKNOWN if percents is None else f"{percents:.{digits}f}{NBSP}%"


def count(value: Number) -> str:
    """171,624."""
    return UNKNOWN if value is None else f"{value:,.0f}"


def large(value: Number) -> str:
    """171,624, but 60.0 M from a million on."""
    return si(value, "") if value is not None and abs(value) >= 1e6 else count(value)


def si(value: Number, unit: str) -> str:
    """Three digits and a prefix: 154 nJ, 15.7 kB."""
    if value is None:
        return UNKNOWN
    if value == 0:
        return f"0{NBSP}{unit}".strip()
    power = min(max(math.floor(math.log10(abs(value)) / 3), -5), 6)
    scaled = value / 1000.0**power
    if float(f"{scaled:.3g}") >= 1000 and power < 6:  # 999.9 rounds up
        power, scaled = power + 1, scaled / 1000
    digits = max(0, 2 - math.floor(math.log10(abs(scaled))))
    digits = 0 if unit == "B" and power <= 0 else min(digits, 2)
    return f"{scaled:,.{digits}f}{NBSP}{_PREFIXES[power + 5]}{unit}".strip()


def tick(value: float, unit: str) -> str:
    """On a scale: 2.5 MB, not 2.50 MB."""
    number, _, prefix = si(value, unit).partition(NBSP)
    return f"{number.rstrip('0').rstrip('.') if '.' in number else number}{NBSP}{prefix}".strip()


def duration(seconds: Number) -> str:
    if seconds is None:
        return UNKNOWN
    if seconds < 1:
        return f"{1000 * seconds:.{0 if seconds >= 0.01 else 1}f}{NBSP}ms"
    if seconds < 99.95:
        return f"{seconds:.{1 if seconds >= 9.995 else 2}f}{NBSP}s"
    minutes, left = divmod(round(seconds), 60)
    return (
        f"{minutes}{NBSP}min {left}{NBSP}s"
        if minutes < 60
        else f"{minutes // 60}{NBSP}h {minutes % 60}{NBSP}min"
    )


def ratio(before: Number, after: Number) -> str:
    """How many times less `after` is; empty where it is not less, or nothing."""
    if before is None or after is None or not 0 < after <= before:
        return ""
    times = before / after
    return f"{times:.{1 if times < 99.95 else 0}f}{NBSP}×"


def plural(number: int, one: str, many: str = "") -> str:
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def span(
    what: str, names: Sequence[str], values: Sequence[Number], words: Callable[[Number], str]
) -> str:
    """One sentence about the least and the largest of the known values; empty where there is none."""
    known = [(v, name) for name, v in zip(names, values, strict=True) if v is not None]
    if not known:
        return ""
    (low, first), (high, last) = min(known), max(known)
    if words(low) == words(high):
        return f"{what} {words(low)}{' in every one' if len(known) > 1 else ''}."
    return f"{what} {words(low)} ({first}) to {words(high)} ({last})."
