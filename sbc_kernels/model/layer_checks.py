"""Checks of the options of single layers, before any work."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from ..errors import ParameterError, naming_layer
from ..memory import in_bytes, require_memory
from ..method.options import less_memory
from .plan import Plan
from .settings import ModelOptions


def check_layers(plan: Plan, settings: ModelOptions) -> None:
    """Raises ParameterError where there is no layer to compress, or options do not fit a layer."""
    if not plan.compressed:
        raise ParameterError(
            "model",
            plan,
            "one with Linear, Conv1d or Conv2d layers",
            verb="has",
            shown=f"no weight layer that can be compressed:\n{plan}\n",
        )
    for layer in plan.compressed:
        sparsity = layer.options.get("sparsity", settings.sparsity)
        with naming_layer(layer.name):
            options = settings.for_layer(layer.options, sparsity)
            if options is not None:
                options.require_fits((layer.shape[0], layer.in_features))


def check_memory(
    plan: Plan, settings: ModelOptions, device: torch.device, max_memory: int | None
) -> None:
    """Refuses a layer that by itself needs more memory than there is, or than the user allows.

    Parameters
    ----------
    max_memory : as the user gave it.

    Raises
    ------
    ParameterError : more than `max_memory` is predicted.
    MemoryError : more is needed than this process can get.
    """
    paired, method = settings.calibration_mode == "sequential", settings.method

    def need(paired: bool, method: str) -> int:
        return plan.peak_bytes(1, paired, method)

    def remedies() -> Iterator[tuple[str, int]]:
        for other in (method, *less_memory(settings)):
            for beside in dict.fromkeys((paired, False)):
                if (other, beside) != (method, paired):
                    options = [f"method={other!r}"] if other != method else []
                    options += ["calibration_mode='parallel'"] if beside != paired else []
                    yield " with ".join(options), need(beside, other)

    layer = max(plan.compressed, key=lambda layer: plan.layer_bytes(layer, paired, method))
    if max_memory is not None and need(paired, method) > max_memory:
        fitting = [f"{how} ({in_bytes(size)})" for how, size in remedies() if size <= max_memory]
        raise ParameterError(
            "max_memory",
            max_memory,
            " or ".join([f"at least {need(paired, method)}", *fitting]),
            shown=f"{max_memory} and layer {layer.name!r} takes {in_bytes(need(paired, method))}",
        )
    require_memory(
        need(paired, method) - plan.model_bytes,  # of which there is one copy already
        device,
        f"layer {layer.name!r} {list(layer.shape)}, {settings.calibration_mode}, by method {method!r}",
        remedies(),
    )
