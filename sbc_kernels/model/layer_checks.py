"""Checks of the options of single layers, before any work."""

from __future__ import annotations

from ..errors import ParameterError, naming_layer
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
