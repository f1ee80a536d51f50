"""The report dictionary, checked and converted to the types of schema.py."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime

import numpy as np

from ..errors import ParameterError, ParameterTypeError
from ..files.header import require_shallow
from .schema import Comparison, Layer, Number, Report, Side, clean, total

__all__ = ["parse_report"]

LARGEST = 1e100  # what is beyond measures nothing, and sums and ratios of the others are finite
ACCEPTED = "the dictionary that CompressedModel.report() returns"


class _Node:
    """A value in the report dictionary together with its path, which error messages name."""

    def __init__(self, value: object, path: str) -> None:
        self.value, self.path = value, path

    def __getitem__(self, key: str) -> _Node:
        path = f"{self.path}.{key}" if self.path else key
        mapping = self._mapping()
        if key not in mapping:
            raise ParameterError(
                "report", mapping, ACCEPTED, shown=f"a dictionary without {path!r}"
            )
        return _Node(mapping[key], path)

    def items(self) -> Iterator[tuple[str, _Node]]:
        for key, value in self._mapping().items():
            yield clean(key), _Node(value, f"{self.path}.{key}")

    def __iter__(self) -> Iterator[_Node]:
        if isinstance(self.value, (str, bytes)) or not isinstance(self.value, Sequence):
            raise self.wrong("a list")
        return (_Node(value, f"{self.path}[{i}]") for i, value in enumerate(self.value))

    def number(self) -> Number:
        """Returns a float; None where the value is None, not finite or beyond `LARGEST`."""
        if self.value is None:
            return None
        if isinstance(self.value, bool) or not isinstance(self.value, (int, float, np.number)):
            raise self.wrong("a number, or None")
        try:
            number = float(self.value)
        except OverflowError:  # an integer beyond float64
            return None
        return number if abs(number) <= LARGEST else None

    def count(self) -> int:
        """Returns an integer of at least 0."""
        value = self.value
        if (
            not isinstance(value, (int, np.integer))
            or isinstance(value, bool)
            or not 0 <= value < 2**63
        ):
            raise self.wrong("an integer of at least 0 and below 2**63")
        return int(value)

    def shape(self) -> tuple[int, ...]:
        """Returns the counts of a list, whose product is one as well."""
        extents = tuple(extent.count() for extent in self)
        if len(extents) > 64 or math.prod(extents) >= 2**63:
            raise self.wrong("the shape of an array")
        return extents

    def numbers(self) -> dict[str, Number]:
        """Returns a dictionary of numbers."""
        return {key: node.number() for key, node in self.items()}

    def text(self) -> str:
        """Returns the value as a printable string."""
        return clean(self.value)

    def texts(self) -> tuple[str, ...]:
        """Returns the strings of a list."""
        return tuple(node.text() for node in self)

    def pair(self) -> tuple[Number, Number]:
        """Returns the two numbers of a list of two."""
        numbers = [node.number() for node in self]
        if len(numbers) != 2:
            raise self.wrong("two numbers")
        return numbers[0], numbers[1]

    def wrong(self, accepted: str) -> ParameterError:
        """Returns the error to raise for a value that is something else than `accepted`."""
        return ParameterError(
            f"report's {self.path}", self.value, accepted, shown=f"{self.value!r:.80}"
        )

    def _mapping(self) -> Mapping[str, object]:
        if not isinstance(self.value, Mapping):
            raise self.wrong("a dictionary")
        return self.value


def parse_report(report: Mapping[str, object]) -> Report:
    """Returns the typed report.

    Parameters
    ----------
    report : the dictionary that `CompressedModel.report()` returns, also after a trip through JSON.

    Raises
    ------
    ParameterTypeError : `report` is not a dictionary.
    ParameterError : a key is missing or a value has the wrong type; the message names the entry.
    """
    if not isinstance(report, Mapping):
        raise ParameterTypeError("report", report, ACCEPTED, shown=f"a {type(report).__name__}")
    try:
        require_shallow(report, "a dictionary that")
    except ValueError as error:
        raise ParameterError("report", report, ACCEPTED, shown=str(error)) from None
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
    packed_bytes, dense_bytes = sizes.get(name, (None, None))
    return Layer(
        name=name or "(the model itself)",
        kind=node["kind"].text(),
        shape=node["shape"].shape(),
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
        bytes=packed_bytes,
        dense_bytes=dense_bytes,
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
