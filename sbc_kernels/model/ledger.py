"""The finished layers of a run, and the entries of the model's state that they change."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

import torch
from torch import Tensor, nn

from ..weights import CompressedWeight, compressed_weight
from .checkpoint import Checkpoint
from .record import FinishedLayer, LayerRecord


class Ledger:
    """The decisions of a run so far.

    Parameters
    ----------
    checkpoint : where finished layers are stored.

    Attributes
    ----------
    finished : layers by name.
    changed : entries of the model's state, with their new values.
    resumed : how many of the layers came from the checkpoint.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.checkpoint = checkpoint
        self.finished: dict[str, FinishedLayer] = {}
        self.changed: dict[str, Tensor] = {}
        self.resumed = 0

    def add(self, layer: FinishedLayer) -> dict[str, Tensor]:
        """Enters a finished layer. Returns the entries of the state that change by it."""
        entries = {layer.record.weight_entry: layer.state_weight, **layer.entries}
        self.changed |= entries
        self.finished[layer.record.name] = layer
        return entries

    def add_entries(self, entries: dict[str, Tensor], layers: Iterable[str]) -> None:
        """Enters further entries of the state; those of the layers that are finished hold them too."""
        self.changed |= entries
        for name in layers:
            if name in self.finished:
                layer = self.finished[name]
                self.finished[name] = replace(layer, entries={**layer.entries, **entries})

    def store(self, name: str) -> None:
        """Writes a finished layer to the checkpoint."""
        self.checkpoint.save_layer(self.finished[name])

    def restore(self, name: str, tensor_of: Callable[[str], Tensor]) -> dict[str, Tensor] | None:
        """Enters a layer that the checkpoint holds.

        Parameters
        ----------
        name : of the layer.
        tensor_of : gives the model's tensor of an entry; those of the checkpoint have to fit it.

        Returns
        -------
        The entries of the state that change by it; None where the checkpoint does not hold it.
        """
        layer = self.checkpoint.load_layer(name, tensor_of)
        if layer is None:
            return None
        self.resumed += 1
        return self.add(layer)

    def records(self, order: Iterable[str]) -> tuple[LayerRecord, ...]:
        """The records of all layers, by their names in this order."""
        return tuple(self.finished[name].record for name in order)

    def deliver(self, model: nn.Module) -> dict[str, CompressedWeight]:
        """Writes the changed entries into a model that is otherwise as the user gave it.

        Returns
        -------
        By layer name, the compressed weights. Their values are the model's own tensors.
        """
        state = dict(model.named_parameters(remove_duplicate=False))
        state |= dict(model.named_buffers(remove_duplicate=False))
        pairs = [(state[key], value) for key, value in self.changed.items()]  # all, or KeyError
        with torch.no_grad():
            for tensor, value in pairs:
                tensor.copy_(value)
        weights = {}
        for name, layer in self.finished.items():
            if layer.compressed is None:
                continue
            weight = state[layer.record.weight_entry].detach()
            weight = weight.mT if layer.record.transposed else weight
            parts = {k: v.to(weight.device) for k, v in layer.compressed.parts().items()}
            record = layer.record
            compressed = compressed_weight(weight, parts, record.bits, record.group_size)
            assert compressed is not None
            weights[name] = compressed
        return weights
