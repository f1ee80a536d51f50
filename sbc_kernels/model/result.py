"""What `compress_model` answers."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any

from torch import Tensor, nn

from .plan import Plan, text_table

__all__ = ["CompressedModel", "LayerRecord"]


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

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> LayerRecord:
        """Of what `dataclasses.asdict` gave, after a trip through JSON."""
        tuples = {key: tuple(record[key]) for key in ("shape", "notes", "log")}
        return cls(**{**{k: v for k, v in record.items() if k != "parts"}, **tuples})


@dataclass(frozen=True)
class CompressedModel:
    """What `compress_model` answers.

    Attributes
    ----------
    model : the compressed model, of the same classes; the user's own where ``inplace=True``.
    layers : a record of each compressed layer, in the order of the plan.
    plan : what `trace` found.
    sparsity : fraction of exact zeros over all compressed layers.
    tensors : by layer name, what only the compression knows: `mask`, `codes`, `scale`, `zero_point`.
    options : what was asked for, defaults filled in.
    allocation : the sparsity that each layer was given, where one is a fraction.
    seconds : wall time of it all. `resumed` is how many layers came from `checkpoint_dir`.
    peak_bytes : the process's largest resident size during the run, where the system tells.
    predicted_bytes : the plan's prediction of what is needed beside what the process had before.
    start_bytes : the process's resident size at the start.
    log : what was done, line by line.
    """

    model: nn.Module
    layers: tuple[LayerRecord, ...]
    plan: Plan
    sparsity: float
    tensors: dict[str, dict[str, Tensor]]
    options: dict[str, Any]
    allocation: dict[str, float]
    seconds: float
    resumed: int
    peak_bytes: int | None
    predicted_bytes: int
    start_bytes: int | None
    log: list[str] = field(default_factory=list)

    def table(self) -> str:
        """The layers as a table for a terminal."""
        head = (
            "layer", "weight", "sparsity", "bits", "error", "damping", "dead", "Gram", "seconds",
        )  # fmt: skip
        rows = [
            (
                layer.name,
                "x".join(map(str, layer.shape)),
                f"{100 * layer.sparsity:.2f} %",
                str(layer.bits or ""),
                f"{100 * layer.relative_error:.2f} %",
                f"{layer.damp_percent:g}" + (f" ({layer.retries})" if layer.retries else ""),
                f"{layer.dead_inputs}/{layer.inputs}",
                layer.gram_path,
                f"{layer.seconds:.2f}",
            )
            for layer in self.layers
        ]
        lines = text_table(head, rows, left=(0, 1, 7))
        lines.append(
            f"{100 * self.sparsity:.2f} % of {sum(_size(r.shape) for r in self.layers):,} weights "
            f"are zero; {self.seconds:.1f} s"
        )
        return "\n".join(lines)

    def to_json(self) -> str:
        """Everything but tensors, as JSON."""
        return json.dumps(
            {
                "sparsity": self.sparsity,
                "seconds": self.seconds,
                "resumed": self.resumed,
                "peak_bytes": self.peak_bytes,
                "predicted_bytes": self.predicted_bytes,
                "start_bytes": self.start_bytes,
                "options": self.options,
                "allocation": self.allocation,
                "layers": [asdict(layer) for layer in self.layers],
                "log": self.log,
            },
            default=str,
            indent=2,
        )


def _size(shape: tuple[int, ...]) -> int:
    size = 1
    for extent in shape:
        size *= extent
    return size
