"""Finished layers on disk, so that a run that was stopped resumes where it was.

A folder holds ``run.json`` with the fingerprint of weights, calibration data and options, and one
safetensors file for each finished layer. Every file is written in one step: it is whole or not there.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor

from ..errors import ParameterError
from ..files.atomic import write_atomic
from ..weights import compressed_weight
from .record import FinishedLayer, LayerRecord

__all__ = ["Checkpoint"]

_PARTS = ("format", "model", "calibration", "options")


class Checkpoint:
    """A folder of finished layers.

    Parameters
    ----------
    folder : is made where it does not exist. None keeps nothing.
    marks : the run's `fingerprint`.

    Raises
    ------
    ParameterError : a ValueError; the folder belongs to a run with another model, other calibration
        data or options, or holds something else.
    """

    def __init__(self, folder: str | Path | None, marks: dict[str, str]) -> None:
        self.folder = None if folder is None else Path(folder)
        if self.folder is None:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        head = self.folder / "run.json"
        if not head.exists():
            others = [p.name for p in self.folder.iterdir() if not p.name.startswith(".")]
            if others:
                files = ", ".join(sorted(others)[:3])
                raise ParameterError(
                    "checkpoint_dir",
                    folder,
                    "an empty folder or one of an earlier run",
                    shown=f"{folder}, which holds {files} and no run.json",
                )
            write_atomic(head, json.dumps(marks, indent=2).encode())
            return
        try:
            earlier = json.loads(head.read_text())
            differing = [part for part in _PARTS if earlier.get(part) != marks[part]]
        except (ValueError, AttributeError) as error:
            raise ParameterError(
                "checkpoint_dir",
                folder,
                "an empty folder or one of an earlier run",
                shown=f"{folder}, whose run.json is damaged ({error})",
            ) from error
        if differing and not any(self.folder.glob("*.safetensors")):  # nothing was done there yet
            write_atomic(head, json.dumps(marks, indent=2).encode())
        elif differing:
            raise ParameterError(
                "checkpoint_dir",
                folder,
                "the same again, or another folder",
                shown=f"{folder}, which belongs to a run with another {' and '.join(differing)}",
            )

    def load_layer(self, name: str) -> FinishedLayer | None:
        """Returns a finished layer; None where it is not there yet."""
        stored = self.load(name)
        if stored is None:
            return None
        tensors, header = stored
        entries = {key: tensors.pop(key) for key in header.pop("entries")}
        record = LayerRecord.from_json(header)
        weight = tensors.pop("weight")
        compressed = compressed_weight(weight, tensors, record.bits, record.group_size)
        return FinishedLayer(record, weight, compressed, entries)

    def save_layer(self, layer: FinishedLayer) -> None:
        """Writes a finished layer, whole or not at all."""
        parts = {} if layer.compressed is None else layer.compressed.parts()
        tensors = {"weight": layer.weight, **parts, **layer.entries}
        header = {**asdict(layer.record), "entries": list(layer.entries)}
        self.save(layer.record.name, tensors, header)

    def load(self, name: str) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """Returns the tensors and the header that were saved under a name, if there are any."""
        if self.folder is None or not (path := self._path(name)).exists():
            return None
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework="pt") as file:
                header = json.loads((file.metadata() or {})["record"])
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        except (SafetensorError, KeyError, ValueError) as error:
            raise ValueError(f"{path} is damaged: {error!r}; remove it to go on") from error
        if header.get("name") != name:
            raise ValueError(
                f"{path} holds {header.get('name')!r}, not {name!r}; remove it to go on"
            )
        return tensors, header

    def save(self, name: str, tensors: dict[str, Tensor], header: dict[str, Any]) -> None:
        """Writes tensors and a header under a name, whole or not at all."""
        if self.folder is None:
            return
        from safetensors.torch import save

        dense = {key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}
        text = json.dumps({**header, "name": name})
        write_atomic(self._path(name), save(dense, {"record": text}))

    def _path(self, name: str) -> Path:
        """Returns a name's file. Layer names have dots and may be long, so their digest is used."""
        assert self.folder is not None
        return self.folder / f"{hashlib.sha256(name.encode()).hexdigest()[:24]}.safetensors"
