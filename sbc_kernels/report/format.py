"""Numbers as text for people. An unknown number (None) is written as an en dash."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from .schema import Number

UNKNOWN = "–"
NBSP = "\u00a0"  # between a number and its unit
_PREFIXES = ("f", "p", "n", "µ", "m", "", "k", "M", "G", "T", "P", "E")


def percent(share: Number, digits: int = 1) -> str:
    """Returns a share 0..1 as a percentage.

    A share strictly between 0 and 1 gets up to four digits so that it is not rounded to 0 or 100 %.
    """
    if share is None:
        return UNKNOWN
    while digits < 4 and 0 < share < 1 and round(100 * share, digits) in (0, 100):
        digits += 1
    return f"{100 * share:,.{digits}f}{NBSP}%"


def points(percents: Number, digits: int = 2) -> str:
    """Returns a number that is already in percent, with its unit."""
    return UNKNOWN if percents is None else f"{percents:.{digits}f}{NBSP}%"


def count(value: Number) -> str:
    """Returns an integer with thousands separators: 171,624."""
    return UNKNOWN if value is None else f"{value:,.0f}"


def large(value: Number) -> str:
    """Returns a count below a million in full (171,624) and a larger one with a prefix (60.0 M)."""
    return si(value, "") if value is not None and abs(value) >= 1e6 else count(value)


def si(value: Number, unit: str) -> str:
    """Returns three digits and an SI prefix: 154 nJ, 15.7 kB."""
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
    """Returns the label of a scale's tick, without trailing zeros: 2.5 MB, not 2.50 MB."""
    number, _, prefix = si(value, unit).partition(NBSP)
    return f"{number.rstrip('0').rstrip('.') if '.' in number else number}{NBSP}{prefix}".strip()


def duration(seconds: Number) -> str:
    """Returns a time in the unit that suits it: 12 ms, 3.40 s, 2 min 5 s, 1 h 20 min."""
    if seconds is None:
        return UNKNOWN
    if seconds < 1:
        return f"{1000 * seconds:.{0 if seconds >= 0.01 else 1}f}{NBSP}ms"
    if seconds < 99.95:
        return f"{seconds:.{1 if seconds >= 9.995 else 2}f}{NBSP}s"
    minutes, rest = divmod(round(seconds), 60)
    return (
        f"{minutes}{NBSP}min {rest}{NBSP}s"
        if minutes < 60
        else f"{minutes // 60}{NBSP}h {minutes % 60}{NBSP}min"
    )


def ratio(before: Number, after: Number) -> str:
    """Returns ``before / after`` as text; "" where `after` is larger, zero or unknown."""
    if before is None or after is None or not 0 < after <= before:
        return ""
    times = before / after
    return f"{times:.{1 if times < 99.95 else 0}f}{NBSP}×"


def plural(number: int, one: str, many: str = "") -> str:
    """Returns the number with its noun: 1 layer, 3 layers."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def span(
    what: str, names: Sequence[str], values: Sequence[Number], text: Callable[[Number], str]
) -> str:
    """Returns a sentence about the least and the largest value: "What 1 % (fc1) to 5 % (fc2)."

    Parameters
    ----------
    what : beginning of the sentence.
    names, values : of the layers; None values are left out. Without any value the sentence is "".
    text : formats a value.
    """
    pairs = [(v, name) for name, v in zip(names, values, strict=True) if v is not None]
    if not pairs:
        return ""
    (low, first), (high, last) = min(pairs), max(pairs)
    if text(low) == text(high):
        return f"{what} {text(low)}{' in every layer' if len(pairs) > 1 else ''}."
    return f"{what} {text(low)} ({first}) to {text(high)} ({last})."
