"""The types of the demonstration's report, which `sbc demo` writes as report.json."""

from __future__ import annotations

from typing import TypedDict


class Figures(TypedDict):
    """Accuracy in percent, synaptic operations per sample, size of the packed file in bytes."""

    accuracy: float
    synops: float
    bytes: int


class Row(TypedDict):
    """One compression: either `sparsity`, a fraction 0..1, or `bits` is None. Time is in seconds."""

    method: str
    sparsity: float | None
    bits: int | None
    accuracy: float
    synops: float
    bytes: int
    seconds: float


class Results(TypedDict):
    """The dense network and all compressions of it."""

    dense: Figures
    rows: list[Row]
