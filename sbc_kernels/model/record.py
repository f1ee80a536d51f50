"""The record of one compressed layer."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from ..weights import CompressedWeight


@dataclass(frozen=True)
class LayerRecord:
    """The result of compressing one layer, in figures.

    Attributes
    ----------
    name, kind, shape : of the layer.
    sparsity : fraction of exact zeros in its weight.
    bits : of its codes; None where it was not quantized.
    loss : sum over rows of the mean squared filtered output error, ``E_n |Y_n dw|^2``, in the units of
        the layer's own output, against the weight that it was to approximate.
    relative_error : root of that loss over ``E_n |Y_n w|^2``.
    damp_percent, retries : the damping used, and how often it had to be raised.
    dead_inputs, inputs : inputs that never fired in calibration, and all inputs, of all groups.
    gram_path : how the batches of the Hessian were computed.
    seconds : time of the decision, without calibration passes.
    notes, log : remarks of the plan and of the compression.
    curve : (sparsity, relative error) along the layer's exact order, as `CompressedLayer.curve`.
    group_size : of its grid, as in `Grid`; None where it was not quantized.
    weight_entry : the entry of the model's state that is its weight.
    transposed : whether that entry is [d_in, d_out]; `shape` is [d_out, d_in].
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
    weight_entry: str = ""
    transposed: bool = False

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> LayerRecord:
        """The inverse of `dataclasses.asdict`, also after a trip through JSON.

        Raises
        ------
        TypeError, KeyError, ValueError : an entry is missing, unknown or of another type.
        """
        for key, kinds in _KINDS.items():
            value = record[key]
            if not isinstance(value, kinds) or isinstance(value, bool):
                raise TypeError(f"{key} of a layer's record is {value!r:.80}")
        tuples = {key: tuple(record[key]) for key in ("shape", "notes", "log")}
        tuples["curve"] = tuple((float(x), float(y)) for x, y in record["curve"])
        if not all(isinstance(text, str) for text in (*tuples["notes"], *tuples["log"])):
            raise TypeError("notes and log of a layer's record are no texts")
        if not 0.0 <= record["sparsity"] <= 1.0:
            raise ValueError(f"sparsity of a layer's record is {record['sparsity']!r}")
        return cls(**{**record, **tuples})


_NUMBER = (int, float)
_LIST = (list, tuple)
_KINDS: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("name", "kind", "gram_path"), (str,)),
    **dict.fromkeys(("sparsity", "loss", "relative_error", "damp_percent", "seconds"), _NUMBER),
    **dict.fromkeys(("retries", "dead_inputs", "inputs"), (int,)),
    **dict.fromkeys(("bits", "group_size"), (int, type(None))),
    **dict.fromkeys(("shape", "notes", "log", "curve"), _LIST),
}


@dataclass(frozen=True, eq=False)
class FinishedLayer:
    """A compressed layer: its record and its tensors.

    Attributes
    ----------
    record : the figures.
    weight : the new dense weight, of the record's shape.
    compressed : the weight as mask or codes; None for a layer that was left as it was.
    entries : other entries of the model's state that change with the weight: a bias, or statistics of
        BatchNorms.
    """

    record: LayerRecord
    weight: Tensor
    compressed: CompressedWeight | None = None
    entries: dict[str, Tensor] = field(default_factory=dict)

    @property
    def state_weight(self) -> Tensor:
        """The new dense weight as the model's state has it."""
        return self.weight.mT.contiguous() if self.record.transposed else self.weight
