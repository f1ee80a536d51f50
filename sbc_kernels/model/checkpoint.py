"""Finished layers on disk, so that a run that was stopped resumes where it was.

A folder holds ``run.json`` with the fingerprint of weights, calibration data and options, one
safetensors file for each finished layer, and ``trials.jsonl`` with what an allocation has measured.
Every file is written in one step: it is whole or not there. Each holds the name of its run and a
checksum; one that is damaged is computed again, with a note. The folder is locked while a run uses it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Self, TypeVar

import torch
from torch import Tensor

from ..errors import ParameterError
from ..files.atomic import remove_leftovers, write_atomic
from ..files.header import parse_json
from ..files.lock import FolderLock
from ..network.tensors import plain
from ..weights import compressed_weight, is_weight_of
from .journal import TRIALS, Journal
from .progress import logger
from .record import FinishedLayer, LayerRecord

__all__ = ["Checkpoint"]

PARTS = ("format", "model", "calibration", "options")
HEAD = "run.json"
_HINTS = {
    "calibration": " (its batches have to be the same in every pass and every run; a DataLoader that "
    "shuffles with a generator of its own gives other ones each time)"
}
_DAMAGE = (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)

Kept = TypeVar("Kept")


class Checkpoint:
    """A folder of finished layers. It is locked from `open` to the end of the ``with`` block.

    Parameters
    ----------
    folder : is made where it does not exist. None keeps nothing.

    Attributes
    ----------
    notes : remarks for people: a stale lock that was taken over, files that were damaged.
    journal : measurements.
    """

    def __init__(self, folder: str | Path | None) -> None:
        self.folder = None if folder is None else Path(folder)
        self.notes: list[str] = []
        self.journal = Journal(None, "", self._note)
        self._run = ""
        self._lock: FolderLock | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._lock is not None:
            self._lock.release()

    def open(self, marks: Callable[[], dict[str, str]]) -> None:
        """Takes possession of the folder.

        Parameters
        ----------
        marks : gives the run's `fingerprint`; called once, if there is a folder.

        Raises
        ------
        ParameterError : a ValueError; another run is using the folder, or it belongs to a run with
            another model, other calibration data or options, or holds something else.
        OSError : it cannot be written.
        """
        if self.folder is None:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        self._require_ours(self.folder)  # no lock is put among somebody's files
        self._lock = FolderLock(self.folder, "checkpoint_dir")
        for note in self._lock.acquire():
            self._note(note)
        self._require_ours(self.folder)
        if leftovers := remove_leftovers(self.folder):
            logger.info("checkpoint_dir: %d unfinished files removed", len(leftovers))
        own = marks()
        self._claim(self.folder / HEAD, own)
        self._run = hashlib.sha256(json.dumps(own, sort_keys=True).encode()).hexdigest()[:24]
        self.journal = Journal(self.folder / TRIALS, self._run, self._note)

    def _require_ours(self, folder: Path) -> None:
        """Raises ParameterError where a folder holds files and no run."""
        others = [p.name for p in folder.iterdir() if not p.name.startswith(".")]
        if others and HEAD not in others:
            raise self._refused(f"which holds {', '.join(sorted(others)[:3])} and no {HEAD}")

    def _claim(self, head: Path, marks: dict[str, str]) -> None:
        """Writes the run's marks into the folder, unless they are there.

        Raises
        ------
        ParameterError : those of another run are there, with layers that it has finished.
        """
        assert self.folder is not None
        data = json.dumps({**marks, "checksum": _digest_of(marks)}, indent=2).encode()
        if head.exists():
            try:
                earlier = parse_json(head.read_bytes())
                code = earlier.pop("checksum", None)
                differing = [part for part in PARTS if earlier.get(part) != marks[part]]
            except (ValueError, AttributeError, TypeError) as error:
                raise self._refused(f"whose {HEAD} is damaged ({error})") from error
            if code != _digest_of(earlier) and "format" not in differing:
                raise self._refused(f"whose {HEAD} is damaged (a checksum differs)")
            if not differing:
                return
            if any(self.folder.glob("*.safetensors")) or (self.folder / TRIALS).exists():
                raise ParameterError(
                    "checkpoint_dir",
                    self.folder,
                    "the same again, or another folder",
                    shown=f"{self.folder}, which belongs to a run with another "
                    + " and ".join(part + _HINTS.get(part, "") for part in differing),
                )
        write_atomic(head, data)  # nothing was done there yet

    def _refused(self, reason: str) -> ParameterError:
        return ParameterError(
            "checkpoint_dir",
            self.folder,
            "an empty folder or one of an earlier run",
            shown=f"{self.folder}, {reason}",
        )

    def _note(self, text: str) -> None:
        logger.warning("%s", text)
        self.notes.append(text)

    # ---- layers

    def load_layer(self, name: str, tensor_of: Callable[[str], Tensor]) -> FinishedLayer | None:
        """Returns a finished layer; None where it is not there yet, or damaged.

        Parameters
        ----------
        name : of the layer.
        tensor_of : gives the model's tensor of an entry, whose shape and dtype the stored one has.
        """
        return self.load(name, lambda tensors, header: _layer_of(tensors, header, tensor_of))

    def save_layer(self, layer: FinishedLayer) -> None:
        """Writes a finished layer, whole or not at all."""
        parts = {} if layer.compressed is None else layer.compressed.parts()
        tensors = {"weight": layer.weight, **parts, **layer.entries}
        header = {**asdict(layer.record), "entries": list(layer.entries)}
        self.save(layer.record.name, tensors, header)

    # ---- anything

    def load(
        self, name: str, convert: Callable[[dict[str, Tensor], dict[str, Any]], Kept]
    ) -> Kept | None:
        """Returns what was saved under a name; None where it is not there, or damaged.

        Parameters
        ----------
        name : of `save`.
        convert : is given the tensors and the header. What it cannot use is damage.
        """
        if self.folder is None or not (path := self._path(name)).exists():
            return None
        from safetensors import SafetensorError

        try:
            return convert(*self._read(path, name))
        except (SafetensorError, *_DAMAGE) as error:
            self._note(f"{path} of {name!r} is damaged ({error!s:.200}); it is computed again")
            return None

    def _read(self, path: Path, name: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Returns the tensors and the header of a file. Raises one of `_DAMAGE` for another one."""
        from safetensors import safe_open

        with safe_open(path, framework="pt") as file:
            about = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        text, run, code = (about[key] for key in ("record", "run", "checksum"))
        if run != self._run:
            raise ValueError("it is another run's")
        if code != checksum(run, text, tensors):
            raise ValueError("a checksum differs")
        header = parse_json(text)
        if header["name"] != name:
            raise ValueError(f"it holds {header['name']!r:.80}")
        return tensors, header

    def save(self, name: str, tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> None:
        """Writes tensors and a header under a name, whole or not at all.

        Raises
        ------
        OSError : it cannot be written, which the message says of which file.
        """
        if self.folder is None:
            return
        from safetensors.torch import save

        dense = {key: plain(tensor) for key, tensor in tensors.items()}
        text = json.dumps({**header, "name": name})
        about = {"record": text, "run": self._run, "checksum": checksum(self._run, text, dense)}
        write_atomic(self._path(name), save(dense, about))

    def _path(self, name: str) -> Path:
        """Returns a name's file. Layer names have dots and may be long, so their digest is used."""
        assert self.folder is not None
        return self.folder / f"{hashlib.sha256(name.encode()).hexdigest()[:24]}.safetensors"


def checksum(run: str, record: str, tensors: Mapping[str, Tensor]) -> str:
    """Returns the digest of all that a layer's file holds."""
    code = hashlib.sha256(f"{run}\n{record}\n".encode())
    for name in sorted(tensors):
        tensor = plain(tensors[name])
        code.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)};".encode())
        code.update(tensor.reshape(-1).view(torch.uint8).numpy())
    return code.hexdigest()


def _digest_of(marks: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(marks, sort_keys=True).encode()).hexdigest()


def _layer_of(
    tensors: dict[str, Tensor], header: dict[str, Any], tensor_of: Callable[[str], Tensor]
) -> FinishedLayer:
    """Returns the layer in a file. Raises one of `_DAMAGE` where that does not fit the model."""
    entries = {key: tensors.pop(key) for key in header.pop("entries")}
    record = LayerRecord.from_json(header)
    weight = tensors.pop("weight")
    if record.shape != tuple(weight.shape):
        raise ValueError(f"its weight is {list(weight.shape)}, its record {list(record.shape)}")
    finished = FinishedLayer(record, weight, None, entries)
    for key, value in {record.weight_entry: finished.state_weight, **entries}.items():
        own = tensor_of(key)
        if (value.shape, value.dtype) != (own.shape, own.dtype):
            raise ValueError(
                f"{key!r} is {value.dtype} {list(value.shape)}, in the model {own.dtype} "
                f"{list(own.shape)}"
            )
        if value.is_floating_point() and not bool(value.isfinite().all()):
            raise ValueError(f"{key!r} has values that are not finite")
    compressed = compressed_weight(weight, tensors, record.bits, record.group_size)
    if compressed is not None and not is_weight_of(compressed, weight):
        raise ValueError("its weight is not what its mask and codes say")
    return replace(finished, compressed=compressed)
