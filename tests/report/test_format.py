"""The HTML report: what it refuses, its words and colours."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_up_reports import made_up

import sbc_kernels as sbc
from sbc_kernels.report import render, write_html
from sbc_kernels.report.format import UNKNOWN, count, duration, large, percent, ratio, si
from sbc_kernels.report.parsing import parse_report
from sbc_kernels.report.svg import PALETTE

# ---- what is refused ---------------------------------------------------------------------------


UNUSED = {"weighted_acs", "dense"}  # of a layer's operations, and the samples beside them


FREE = ("options", "allocation", "footprint.layers", "spike_rates", "van_rossum")  # keys are names


def required(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path to every key that a report must have."""
    place = ".".join(map(str, path))
    if isinstance(value, dict):
        for key in value:
            if place.endswith("operations.layers"):
                yield from required(value[key], (*path, key))
            elif not place.endswith(FREE) and not (
                (key in UNUSED or key == "samples") and "operations" in path
            ):
                yield (*path, key)
                yield from required(value[key], (*path, key))
    elif isinstance(value, list) and value and isinstance(value[0], dict):
        yield from required(value[0], (*path, 0))


@pytest.mark.parametrize(
    "path", list(required(made_up(["a"]))), ids=lambda path: ".".join(map(str, path))
)
def test_a_missing_key_is_named(path: tuple[Any, ...]) -> None:
    report: Any = made_up(["a"])
    where = report
    for step in path[:-1]:
        where = where[step]
    del where[path[-1]]
    place = ".".join(map(str, path)).replace(".0.", "[0].")
    with pytest.raises(
        ValueError, match=f"report is a dictionary without '{re.escape(place)}'; accepted is the"
    ):
        render(report)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sparsity": "much"}, "report's sparsity is 'much'; accepted is a number, or None"),
        ({"seconds": True}, "report's seconds is True; accepted is a number, or None"),
        ({"resumed": -1}, "report's resumed is -1; accepted is an integer of at least 0"),
        ({"layers": "conv1"}, "report's layers is 'conv1'; accepted is a list"),
        ({"created": "today"}, "report's created is 'today'; accepted is an ISO 8601 date"),
        ({"options": []}, r"report's options is \[\]; accepted is a dictionary"),
        (
            {"footprint": {"bytes": 1, "dense_bytes": 2, "layers": {"a": [1]}}},
            r"report's footprint.layers.a is \[1\]; accepted is two numbers",
        ),
    ],
)
def test_a_value_of_the_wrong_kind_is_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        render(made_up(["a"]) | change)


def test_a_report_is_a_dictionary() -> None:
    with pytest.raises(TypeError, match="report is a list; accepted is the dictionary"):
        render([])  # type: ignore[arg-type]


def test_a_page_is_whole_or_not_there(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    write_html(path, made_up(["a"]))
    good = path.read_bytes()
    assert good.startswith(b"<!DOCTYPE html>")
    with pytest.raises(ValueError, match="without 'model'"):
        write_html(path, {k: v for k, v in made_up(["a"]).items() if k != "model"})
    assert path.read_bytes() == good
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]


# ---- words and colours -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (percent(0.95), "95.0 %"),
        (percent(0.99996), "99.996 %"),
        (percent(1.0), "100.0 %"),
        (percent(0.00001), "0.001 %"),
        (percent(0.0), "0.0 %"),
        (percent(None), UNKNOWN),
        (count(171624.2), "171,624"),
        (large(60_040_384), "60.0 M"),
        (si(0, "J"), "0 J"),
        (si(1.544e-7, "J"), "154 nJ"),
        (si(999.7, "B"), "1.00 kB"),
        (si(15720, "B"), "15.7 kB"),
        (si(12, "B"), "12 B"),
        (si(2e-17, "J"), "0.02 fJ"),
        (duration(0.0004), "0.4 ms"),
        (duration(0.551), "551 ms"),
        (duration(9.996), "10.0 s"),
        (duration(3216), "53 min 36 s"),
        (duration(5836), "1 h 37 min"),
        (ratio(100, 8), "12.5 ×"),
        (ratio(100, 0), ""),
        (ratio(100, 120), ""),
        (ratio(None, 3), ""),
    ],
)
def test_words(said: str, expected: str) -> None:
    assert said.replace("\xa0", " ") == expected


PREFIXES = ("f", "p", "n", "µ", "m", "", "k", "M", "G", "T", "P", "E")


@given(st.floats(1e-14, 1e20))
def test_si_keeps_three_digits(value: float) -> None:
    number, _, prefix = si(value, "").partition("\xa0")
    scale = dict(zip(PREFIXES, range(-15, 21, 3), strict=True))
    assert float(number.replace(",", "")) * 10.0 ** scale[prefix] == pytest.approx(
        value, rel=0.0051
    )


def luminance(color: str) -> float:
    parts = np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
@pytest.mark.parametrize(
    ("front", "back", "least"),
    [
        *(
            (text, back, 4.5)
            for text in ("ink", "quiet", "warn")
            for back in ("paper", "card", "wash")
        ),
        *(("accent", back, 4.5) for back in ("paper", "card")),
        ("dense", "card", 3.0),
    ],
)
def test_contrast(scheme: int, front: str, back: str, least: float) -> None:
    """WCAG 2.2 AA: 4.5 for text, 3 for what plots are made of."""
    light, dark = sorted((luminance(PALETTE[role][scheme]) for role in (front, back)), reverse=True)
    assert (light + 0.05) / (dark + 0.05) >= least


@pytest.mark.parametrize(
    "change",
    [
        lambda report: report["options"].update(a=json.loads("[" * 900 + "]" * 900)),
        lambda report: report["layers"][0].update(shape=[2**62, 2**62]),
        lambda report: report["layers"][0].update(shape=[10**400]),
        lambda report: report["layers"][0].update(retries=2**63),
    ],
)
def test_reports_are_refused_by_entry(change: Callable[[Any], Any]) -> None:
    report = made_up(["fc1"])
    parse_report(report)
    change(report)
    with pytest.raises(sbc.ParameterError, match="report"):
        parse_report(report)
