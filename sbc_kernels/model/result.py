"""The result of `compress_model`."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from .._version import __version__
from ..files.atomic import write_atomic
from ..files.footprint import Footprint
from ..network.copies import copy_of
from ..network.tensors import map_tensors
from ..weights import CompressedWeight
from .plan import Plan
from .record import LayerRecord
from .result_text import result_table
from .saving import PackedFile, packed_file
from .stamp import Stamp, current_stamp

if TYPE_CHECKING:
    from ..metrics import Comparison

__all__ = ["CompressedModel"]

# Of the report, what differs between equal runs. The prediction depends on a GPU's free memory.
_MEASURED = ("seconds", "peak_bytes", "start_bytes", "predicted_bytes")


@dataclass(frozen=True)
class CompressedModel:
    """The result of `compress_model`.

    Attributes
    ----------
    model : the compressed model, of the same classes; the user's own where ``inplace=True``.
    layers : a record of each compressed layer, in the order of the plan.
    plan : what `trace` found.
    sparsity : fraction of exact zeros over all compressed layers.
    weights : by layer name, the weight of each layer that was pruned or quantized: a
        `sbc_kernels.files.Pruned` or `sbc_kernels.files.Quantized`. The values of a pruned one are the
        model's parameter, in the same memory.
    options : the arguments of `compress_model`, defaults filled in.
    allocation : by layer name, the sparsity it was given, where that is a fraction.
    seconds : wall time of the run.
    resumed : number of layers that came from `checkpoint_dir`.
    peak_bytes : the largest resident size of the process during the run, None where the system does not
        tell; on a GPU the most that torch had allocated there.
    predicted_bytes : the memory that the plan predicted beside what the process had before.
    start_bytes : the resident size at the start of the run, or what torch had allocated on the GPU.
    log : remarks on the run as a whole, such as BatchNorms that were not folded. What was done to a
        layer stands in the `log` of its record.
    folded : by layer name, the BatchNorm that was folded into it (``fold=True``). Of two BatchNorms in
        a row the second is folded into the first, under the name of that one.
    unfolded : by name of each BatchNorm that ``fold=True`` left in place, the reason.
    example : the first calibration batch.
    forward : ``forward(model, batch)`` runs one whole sequence; None for ``model(batch)``.
    stamp : the time of the run, `stamp.created`, which files and reports state.
    kernels : by op, the kernels that ran, joined by " + " where there were several. Neither files nor
        reports state them, so that both have the same size on every processor.
    """

    model: nn.Module
    layers: tuple[LayerRecord, ...]
    plan: Plan
    sparsity: float
    weights: dict[str, CompressedWeight]
    options: dict[str, Any]
    allocation: dict[str, float]
    seconds: float
    resumed: int
    peak_bytes: int | None
    predicted_bytes: int
    start_bytes: int | None
    log: list[str] = field(default_factory=list)
    folded: dict[str, str] = field(default_factory=dict)
    unfolded: dict[str, str] = field(default_factory=dict)
    example: Any = field(default=None, repr=False)
    forward: Callable[[nn.Module, Any], Any] | None = None
    stamp: Stamp = field(default_factory=current_stamp)
    kernels: Mapping[str, str] = field(default_factory=dict)

    @property
    def tensors(self) -> dict[str, dict[str, Tensor]]:
        """The tensors of `weights` by layer name and part: `mask`, `codes`, `scale`, `zero_point`.

        Empty for a layer that was neither pruned nor quantized.
        """
        return {
            layer.name: self.weights[layer.name].parts() if layer.name in self.weights else {}
            for layer in self.layers
        }

    def packed_file(self, comparison: Comparison | None = None) -> PackedFile:
        """Returns what `save` writes, in memory: the file's bytes, its footprint and its report.

        The same each time for the same weights and comparison: the time in the report is that of the
        run. Where the environment variable SOURCE_DATE_EPOCH was set for the run, that is its time, and
        the report leaves out (as None) what differs between equal runs: seconds, peak_bytes,
        start_bytes, predicted_bytes. Files of equal runs are then equal, byte for byte.

        Parameters
        ----------
        comparison : of `sbc.metrics.compare`, to go into the report.

        Raises
        ------
        ValueError : a weight is not what its codes or its mask say: it was changed after the
            compression.
        """
        return packed_file(
            self.model, self.layers, self.weights, self.folded, self._about(comparison)
        )

    def save(self, path: str | Path, *, comparison: Comparison | None = None) -> int:
        """Writes the model to one safetensors file in which a weight takes no more than it holds.

        Of a pruned weight the survivors and a coded mask are stored; of a quantized one codes of `bits`
        bits, scales and zero points; of one that is both, all of these; any other tensor as it is.
        Neurons' states are not kept. The header holds `report()`. `load_compressed` reads the file.
        `packed_file` says when two files are equal.

        Parameters
        ----------
        path : its folder must exist. The file is whole or not there.
        comparison : of `sbc.metrics.compare`, to go into the report.

        Returns
        -------
        Its size in bytes.

        Raises
        ------
        ValueError : a weight is not what its codes say: it was changed after the compression.
        """
        return write_atomic(path, self.packed_file(comparison).data)

    def to_nir(self, path: str | Path, *, integer_weights: bool = False) -> None:
        """Writes the model as a NIR graph (Neuromorphic Intermediate Representation), for simulators
        and chips. See `sbc_kernels.export.nir.graph.nir_graph` for what a graph can hold.

        Parameters
        ----------
        path : an HDF5 file; its folder must exist.
        integer_weights : write ``codes - zero_point`` as weights, and move the scales into thresholds,
            resets, leaks and biases. Exact for IF and LIF neurons.
        """
        from ..export.nir.graph import nir_graph, write_nir

        graph = nir_graph(
            copy_of(self.model).cpu(),  # followed value by value, which is no work for a GPU
            map_tensors(self.example, lambda tensor: tensor.cpu()),
            forward=self.forward,
            weights={
                name: weight.converted(lambda tensor: tensor.cpu())
                for name, weight in self.weights.items()
            },
            integer_weights=integer_weights,
            unfolded=self.unfolded,
        )
        write_nir(path, graph)

    def to_html(self, path: str | Path, *, comparison: Comparison | None = None) -> None:
        """Writes the report as one HTML file that loads nothing else. Needs jinja2 and matplotlib.

        Parameters
        ----------
        path : its folder must exist.
        comparison : of `sbc.metrics.compare` with the dense model: accuracies, synaptic operations and
            spike rates, before and after.
        """
        from ..report import write_html

        write_html(path, self.report(comparison))

    def footprint(self) -> Footprint:
        """Returns what `save` would write, in bytes, and what the layers take of it."""
        return self.packed_file().footprint

    def report(self, comparison: Comparison | None = None) -> dict[str, Any]:
        """Returns all that is known but the tensors, as JSON has it: what `to_html` shows."""
        return self.packed_file(comparison).report

    def _about(self, comparison: Comparison | None) -> dict[str, Any]:
        """Returns `report` without the footprint."""
        record = json.loads(self.to_json())
        if self.stamp.reproducible:
            record |= dict.fromkeys(_MEASURED)
            for layer in record["layers"]:
                layer["seconds"] = None
        return {
            "versions": {
                "sbc_kernels": __version__,
                "torch": torch.__version__,
                "python": platform.python_version(),
            },
            "created": self.stamp.created,
            "model": type(self.model).__name__,
            **record,
            "comparison": None if comparison is None else comparison.to_dict(),
        }

    def table(self) -> str:
        """Returns the layers as a table for a terminal."""
        return result_table(self.layers, self.sparsity, self.seconds)

    def to_json(self) -> str:
        """Returns everything but tensors, as JSON."""
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
