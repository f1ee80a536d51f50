"""Finished layers on disk, so that a run that was killed goes on where it was.

A folder holds ``run.json`` with the fingerprint of weights, calibration data and options, and one
safetensors file for each finished layer. Every file is written in one step: it is whole or not there.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .._version import __version__
from ..files.atomic import write_atomic
from ..network.copies import neurons_of, undisturbed
from ..network.tensors import tensors_in
from ..neurons import impulse_response
from .plan import Plan

__all__ = ["Checkpoint", "fingerprint"]

_VERSION = 1
_SIMPLE = (bool, int, float, str, tuple, type(None))
_PARTS = ("format", "model", "calibration", "options")


def fingerprint(
    model: nn.Module,
    plan: Plan,
    calibration: Iterable[Any],
    options: dict[str, Any],
) -> dict[str, str]:
    """What decides the outcome of a run, a digest a part.

    The model is its weights, its BatchNorms' statistics, what was found in it, and its modules' plain
    attributes: a neuron's time constant, threshold or way to reset is no parameter.
    """
    data = hashlib.sha256()
    with undisturbed():
        for batch in calibration:
            for tensor in tensors_in(batch):
                _add(data, "", tensor)
    weights = hashlib.sha256()
    states = tuple(f"{name}." for name in neurons_of(model))  # change whenever the model runs
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if isinstance(tensor, nn.Parameter) or not name.startswith(states):
            _add(weights, name, tensor)
    for layer in plan.layers:  # but for the example's own rate
        weights.update(repr(replace(layer, input_rate=0.0)).encode())
    for module in model.modules():
        own = {k: v for k, v in vars(module).items() if isinstance(v, _SIMPLE) and k != "training"}
        weights.update(repr(sorted(own.items())).encode())
    for layer in plan.compressed:
        for neuron in layer.neurons:
            if neuron is not None:
                weights.update(impulse_response(neuron, layer.layout.steps).tobytes())
    said = hashlib.sha256(json.dumps(options, sort_keys=True, default=repr).encode())
    return {
        "format": f"{_VERSION}, sbc-kernels {__version__}",
        "model": weights.hexdigest(),
        "calibration": data.hexdigest(),
        "options": said.hexdigest(),
    }


def _add(digest: Any, name: str, tensor: Tensor) -> None:
    dense = tensor.detach().cpu().contiguous()
    digest.update(f"{name}:{dense.dtype}:{tuple(dense.shape)};".encode())
    digest.update(dense.reshape(-1).view(torch.uint8).numpy() if dense.numel() else b"")


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
