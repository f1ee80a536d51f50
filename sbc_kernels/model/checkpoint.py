"""Finished layers on disk, so that a run that was stopped resumes where it was.

A folder holds ``run.json`` with the fingerprint of weights, calibration data and options, and one
safetensors file for each finished layer. Every file is written in one step: it is whole or not there.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from torch import Tensor

from ..files.atomic import write_atomic

__all__ = ["Checkpoint"]

_PARTS = ("format", "model", "calibration", "options")


class Checkpoint:
    """Where finished layers go; with ``folder=None`` nowhere.

    Raises
    ------
    ValueError : the folder belongs to a run with another model, other calibration data or options, or
        holds something else.
    """

    def __init__(self, folder: str | Path | None, marks: dict[str, str]) -> None:
        self.folder = None if folder is None else Path(folder)
        if self.folder is None:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        head = self.folder / "run.json"
        if not head.exists():
            strangers = [p.name for p in self.folder.iterdir() if not p.name.startswith(".")]
            if strangers:
                raise ValueError(
                    f"checkpoint_dir {self.folder} holds {', '.join(sorted(strangers)[:3])} and no "
                    "run.json; accepted is an empty folder or one of an earlier run"
                )
            write_atomic(head, json.dumps(marks, indent=2).encode())
            return
        try:
            found = json.loads(head.read_text())
            differing = [part for part in _PARTS if found.get(part) != marks[part]]
        except (ValueError, AttributeError) as error:
            raise ValueError(
                f"checkpoint_dir {self.folder}: run.json is damaged: {error}"
            ) from error
        if differing and not any(self.folder.glob("*.safetensors")):  # nothing was done there yet
            write_atomic(head, json.dumps(marks, indent=2).encode())
        elif differing:
            raise ValueError(
                f"checkpoint_dir {self.folder} belongs to a run with another "
                f"{' and '.join(differing)}; accepted is the same again, or another folder"
            )

    def load(self, name: str) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """A finished layer's tensors and record; None where it is not there yet."""
        if self.folder is None or not (path := self._path(name)).exists():
            return None
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework="pt") as file:
                record = json.loads((file.metadata() or {})["record"])
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        except (SafetensorError, KeyError, ValueError) as error:
            raise ValueError(f"{path} is damaged: {error!r}; remove it to go on") from error
        if record.get("name") != name:
            raise ValueError(
                f"{path} holds {record.get('name')!r}, not {name!r}; remove it to go on"
            )
        return tensors, record

    def save(self, name: str, tensors: dict[str, Tensor], record: dict[str, Any]) -> None:
        """Writes a finished layer, whole or not at all."""
        if self.folder is None:
            return
        from safetensors.torch import save

        dense = {key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}
        text = json.dumps({**record, "name": name})
        write_atomic(self._path(name), save(dense, {"record": text}))

    def _path(self, name: str) -> Path:
        """Layer names have dots and may be long: their digest makes the file's name."""
        assert self.folder is not None
        return self.folder / f"{hashlib.sha256(name.encode()).hexdigest()[:24]}.safetensors"
