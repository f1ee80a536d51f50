"""The report dictionary, checked and typed: what the page and its plots are made from."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np

__all__ = ["Comparison", "Layer", "Report", "Side", "clean", "read", "total"]

# What XML and UTF-8 cannot hold: control characters, lone surrogates, the two non-characters.
_UNPRINTABLE = re.compile("[^\t\n\x20-\x7e\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")

Number = float | None  # None where the value is not known or not finite
Curve = tuple[tuple[float, float], ...]


def clean(text: Any) -> str:
    """`text` as a string that HTML, XML and UTF-8 can hold."""
    return _UNPRINTABLE.sub("\ufffd", str(text))


@dataclass(frozen=True)
class Layer:
    """A `LayerRecord`, with what the footprint and the allocation say of the layer."""

    name: str
    kind: str
    shape: tuple[int, ...]
    sparsity: Number
    bits: int | None
    loss: Number
    relative_error: Number
    damp_percent: Number
    retries: int
    dead_inputs: int
    inputs: int
    gram_path: str
    seconds: Number
    notes: tuple[str, ...]
    log: tuple[str, ...]
    curve: Curve
    bytes: Number
    dense_bytes: Number
    allocated: Number

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def dead_share(self) -> float:
        return self.dead_inputs / self.inputs if self.inputs else 0.0


@dataclass(frozen=True)
class Side:
    """One of the two networks: accuracy in percent, the rest a sample. `None` is not known."""

    accuracy: Number
    synops: dict[str, Number]
    macs: Number
    acs: Number
    spike_rates: dict[str, Number]

    def energy(self, pj_per_ac: float, pj_per_mac: float) -> Number:
        """Joules a sample."""
        if self.macs is None or self.acs is None:
            return None
        return (pj_per_ac * self.acs + pj_per_mac * self.macs) * 1e-12


@dataclass(frozen=True)
class Comparison:
    samples: int
    agreement: Number
    dense: Side
    compressed: Side
    van_rossum: dict[str, Number]


@dataclass(frozen=True)
class Report:
    versions: dict[str, str]
    created: datetime
    model: str
    options: dict[str, Any]
    sparsity: Number
    seconds: Number
    resumed: int
    peak_bytes: Number
    predicted_bytes: Number
    start_bytes: Number
    layers: tuple[Layer, ...]
    log: tuple[str, ...]
    bytes: Number
    dense_bytes: Number
    comparison: Comparison | None


class _Node:
    """A value within the report that knows where it is; every look that fails names the place."""

    def __init__(self, value: Any, where: str) -> None:
        self.value, self.where = value, where

    def __getitem__(self, key: str) -> _Node:
        place = f"{self.where}.{key}" if self.where else key
        if key not in self._mapping():
            raise ValueError(
                f"report lacks {place!r}; accepted is what CompressedModel.report() gives"
            )
        return _Node(self.value[key], place)

    def get(self, key: str) -> _Node | None:
        return self[key] if key in self._mapping() else None

    def items(self) -> Iterator[tuple[str, _Node]]:
        for key, value in self._mapping().items():
            yield clean(key), _Node(value, f"{self.where}.{key}")

    def __iter__(self) -> Iterator[_Node]:
        if isinstance(self.value, (str, bytes)) or not isinstance(self.value, Sequence):
            raise self.wrong("a list")
        return (_Node(value, f"{self.where}[{i}]") for i, value in enumerate(self.value))

    def number(self) -> Number:
        if self.value is None:
            return None
        if isinstance(self.value, bool) or not isinstance(self.value, (int, float, np.number)):
            raise self.wrong("a number, or None")
        try:
            number = float(self.value)
        except OverflowError:  # an integer beyond float64
            return None
        return number if math.isfinite(number) else None

    def count(self) -> int:
        whole = isinstance(self.value, (int, np.integer)) and not isinstance(self.value, bool)
        if not whole or self.value < 0:
            raise self.wrong("an integer of at least 0")
        return int(self.value)

    def numbers(self) -> dict[str, Number]:
        return {key: node.number() for key, node in self.items()}

    def text(self) -> str:
        return clean(self.value)

    def texts(self) -> tuple[str, ...]:
        return tuple(node.text() for node in self)

    def pair(self) -> tuple[Number, Number]:
        numbers = [node.number() for node in self]
        if len(numbers) != 2:
            raise self.wrong("two numbers")
        return numbers[0], numbers[1]

    def wrong(self, accepted: str) -> ValueError:
        return ValueError(f"report's {self.where} is {self.value!r:.80}; accepted is {accepted}")

    def _mapping(self) -> Mapping[str, Any]:
        if not isinstance(self.value, Mapping):
            raise self.wrong("a dictionary")
        return self.value


def read(report: Mapping[str, Any]) -> Report:
    """The typed report.

    Raises
    ------
    TypeError : `report` is not a dictionary.
    ValueError : a key is missing, or a value is of the wrong kind; the message names the place.
    """
    if not isinstance(report, Mapping):
        raise TypeError(
            f"report is a {type(report).__name__}; accepted is the dictionary that "
            "CompressedModel.report() gives"
        )
    root = _Node(report, "")
    footprint = root["footprint"]
    sizes = {name: node.pair() for name, node in footprint["layers"].items()}
    allocation = root["allocation"].numbers()
    comparison = root["comparison"]
    created = root["created"]
    try:
        moment = datetime.fromisoformat(created.text())
    except ValueError:
        raise created.wrong("an ISO 8601 date and time") from None
    return Report(
        versions={
            name: root["versions"][name].text() for name in ("sbc_kernels", "torch", "python")
        },
        created=moment,
        model=root["model"].text(),
        options={key: node.value for key, node in root["options"].items()},
        sparsity=root["sparsity"].number(),
        seconds=root["seconds"].number(),
        resumed=root["resumed"].count(),
        peak_bytes=root["peak_bytes"].number(),
        predicted_bytes=root["predicted_bytes"].number(),
        start_bytes=root["start_bytes"].number(),
        layers=tuple(_layer(node, sizes, allocation) for node in root["layers"]),
        log=root["log"].texts(),
        bytes=footprint["bytes"].number(),
        dense_bytes=footprint["dense_bytes"].number(),
        comparison=None if comparison.value is None else _comparison(comparison),
    )


def _layer(
    node: _Node, sizes: dict[str, tuple[Number, Number]], allocation: dict[str, Number]
) -> Layer:
    name = node["name"].text()
    bits = node["bits"]
    small, large = sizes.get(name, (None, None))
    return Layer(
        name=name or "(the model itself)",
        kind=node["kind"].text(),
        shape=tuple(extent.count() for extent in node["shape"]),
        sparsity=node["sparsity"].number(),
        bits=None if bits.value is None else bits.count(),
        loss=node["loss"].number(),
        relative_error=node["relative_error"].number(),
        damp_percent=node["damp_percent"].number(),
        retries=node["retries"].count(),
        dead_inputs=node["dead_inputs"].count(),
        inputs=node["inputs"].count(),
        gram_path=node["gram_path"].text(),
        seconds=node["seconds"].number(),
        notes=node["notes"].texts(),
        log=node["log"].texts(),
        curve=tuple(
            sorted(
                (x, y)
                for x, y in (point.pair() for point in node["curve"])
                if x is not None and y is not None
            )
        ),
        bytes=small,
        dense_bytes=large,
        allocated=allocation.get(name),
    )


def _comparison(node: _Node) -> Comparison:
    return Comparison(
        samples=node["samples"].count(),
        agreement=node["agreement"].number(),
        dense=_side(node["dense"]),
        compressed=_side(node["compressed"]),
        van_rossum=node["van_rossum"].numbers(),
    )


def _side(node: _Node) -> Side:
    macs: dict[str, Number] = {}
    acs: dict[str, Number] = {}
    for name, layer in node["operations"]["layers"].items():
        macs[name], acs[name] = layer["macs"].number(), layer["acs"].number()
    return Side(
        accuracy=node["accuracy"].number(),
        synops={name: total([macs[name], acs[name]]) for name in macs},
        macs=total(macs.values()),
        acs=total(acs.values()),
        spike_rates=node["spike_rates"].numbers(),
    )


def total(values: Iterable[Number]) -> Number:
    """None where any part is not known: a sum of the rest would look like the whole."""
    parts = list(values)
    known = [value for value in parts if value is not None]
    return sum(known) if len(known) == len(parts) else None
