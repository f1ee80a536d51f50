"""The types of a report: what the page, its plots and the terminal's tables are made from."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

__all__ = ["Comparison", "Curve", "Layer", "Number", "Report", "Side", "clean", "total"]

# What XML and UTF-8 cannot hold: control characters, lone surrogates, the two non-characters.
_UNPRINTABLE = re.compile("[^\t\n\x20-\x7e\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")

Number = float | None  # None where the value is not known or not finite
Curve = tuple[tuple[float, float], ...]  # (sparsity, relative error), by increasing sparsity


def clean(text: object) -> str:
    """Returns `text` as a string without the characters that HTML, XML or UTF-8 cannot hold."""
    return _UNPRINTABLE.sub("\ufffd", str(text))


@dataclass(frozen=True)
class Layer:
    """One layer: its `LayerRecord` together with its bytes and its allocated sparsity.

    Attributes
    ----------
    sparsity, allocated : fraction of zero weights, and the fraction that the allocation assigned.
    bits : bits a weight; None where the layer is not quantized.
    relative_error : root of the mean squared change of the neurons' input over that of the input.
    damp_percent, retries : final damping, and how often it was raised.
    inputs, dead_inputs : inputs of the layer, and those that never fired during calibration.
    gram_path : name of the algorithm that built the Hessian; "" where there is none.
    bytes, dense_bytes : size of the weight in the packed file, and in the dense network.
    curve : relative error at increasing sparsities; empty where the method has none.
    """

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
        """Number of weights."""
        return math.prod(self.shape)

    @property
    def dead_share(self) -> float:
        """Fraction of the inputs that never fired during calibration, 0..1."""
        return self.dead_inputs / self.inputs if self.inputs else 0.0


@dataclass(frozen=True)
class Side:
    """Measurements of one of the two networks. None stands for what is not known.

    Attributes
    ----------
    accuracy : in percent.
    synops : effective synaptic operations a sample, by layer.
    macs, acs : multiply-accumulates and accumulates a sample, of the whole network.
    spike_rates : fraction of the outputs that are spikes, by neuron module.
    """

    accuracy: Number
    synops: dict[str, Number]
    macs: Number
    acs: Number
    spike_rates: dict[str, Number]

    def energy(self, pj_per_ac: float, pj_per_mac: float) -> Number:
        """Returns joules a sample, from picojoules an operation; None where a count is not known."""
        if self.macs is None or self.acs is None:
            return None
        return (pj_per_ac * self.acs + pj_per_mac * self.macs) * 1e-12


@dataclass(frozen=True)
class Comparison:
    """Both networks on the same samples, as `sbc_kernels.metrics.compare` measures them.

    Attributes
    ----------
    samples : how many were measured.
    agreement : samples of which both networks predict the same class, in percent.
    van_rossum : mean distance of the two networks' spike trains, by neuron module.
    """

    samples: int
    agreement: Number
    dense: Side
    compressed: Side
    van_rossum: dict[str, Number]


@dataclass(frozen=True)
class Report:
    """A whole report. Times are in seconds, sizes in bytes, `sparsity` is a fraction 0..1."""

    versions: dict[str, str]
    created: datetime
    model: str
    options: dict[str, object]
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


def total(values: Iterable[Number]) -> Number:
    """Returns the sum; None where a part is not known, as a sum of the rest would mislead."""
    parts = list(values)
    numbers = [value for value in parts if value is not None]
    return sum(numbers) if len(numbers) == len(parts) else None
