"""Digests of everything that decides the outcome of a run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from .._version import __version__
from ..network.copies import neurons_of, undisturbed
from ..network.tensors import plain, tensors_in
from ..neurons import impulse_response
from .plan import Plan

_VERSION = 3  # of the files in a checkpoint's folder
_SIMPLE = (bool, int, float, str, tuple, type(None))


def fingerprint(
    model: nn.Module,
    plan: Plan,
    calibration: Iterable[Any],
    options: dict[str, Any],
) -> dict[str, str]:
    """Digests of everything that decides the outcome of a run, by part.

    The part "model" covers the weights, the BatchNorms' statistics, the plan, and plain attributes of
    the modules: a neuron's time constant, threshold and way to reset are no parameters.

    Parameters
    ----------
    model : the user's.
    plan : of the model.
    calibration : batches; all of them are read.
    options : of the run, by name.
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
    for layer in plan.layers:  # rate and unit are the example's and decide nothing
        weights.update(repr(replace(layer, input_rate=0.0, input_unit=1.0)).encode())
    for module in model.modules():
        simple = {
            k: v for k, v in vars(module).items() if isinstance(v, _SIMPLE) and k != "training"
        }
        weights.update(repr(sorted(simple.items())).encode())
    for layer in plan.compressed:
        for neuron in layer.neurons:
            if neuron is not None:
                weights.update(impulse_response(neuron, layer.layout.steps).tobytes())
    options_digest = hashlib.sha256(json.dumps(options, sort_keys=True, default=repr).encode())
    return {
        "format": f"{_VERSION}, sbc-kernels {__version__}",
        "model": weights.hexdigest(),
        "calibration": data.hexdigest(),
        "options": options_digest.hexdigest(),
    }


def _add(digest: hashlib._Hash, name: str, tensor: Tensor) -> None:
    dense = plain(tensor)
    digest.update(f"{name}:{dense.dtype}:{tuple(dense.shape)};".encode())
    digest.update(dense.reshape(-1).view(torch.uint8).numpy())
