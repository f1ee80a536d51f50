"""What became of one layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    pass


@dataclass(frozen=True)
class LayerRecord:
    """What became of one layer.

    Attributes
    ----------
    name, kind, shape : of the layer.
    sparsity : fraction of exact zeros in its weight.
    bits : of its codes; None where it was not quantized.
    loss : sum over rows of the mean squared filtered output error, ``E_n |Y_n dw|^2``, in the units of
        the layer's own output, against the weight that it was to approximate.
    relative_error : root of that loss over ``E_n |Y_n w|^2``.
    damp_percent, retries : the damping used, and how often it had to be raised.
    dead_inputs, inputs : inputs that never fired in calibration, of how many (of all groups).
    gram_path : which way the Hessian's batches went.
    seconds : of the decision, calibration passes not counted.
    notes, log : the plan's and the compression's remarks.
    curve : (sparsity, relative error) along the layer's exact order, as `CompressedLayer.curve`.
    group_size : of its grid, as in `Grid`; None where it was not quantized.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    sparsity: float
    bits: int | None
    loss: float
    relative_error: float
    damp_percent: float
    retries: int
    dead_inputs: int
    inputs: int
    gram_path: str
    seconds: float
    notes: tuple[str, ...] = ()
    log: tuple[str, ...] = ()
    curve: tuple[tuple[float, float], ...] = ()
    group_size: int | None = None

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> LayerRecord:
        """Of what `dataclasses.asdict` gave, after a trip through JSON."""
        tuples = {key: tuple(record[key]) for key in ("shape", "notes", "log")}
        tuples["curve"] = tuple((x, y) for x, y in record["curve"])
        return cls(**{**{k: v for k, v in record.items() if k != "parts"}, **tuples})
