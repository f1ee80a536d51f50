"""What can be wrong with the options of single layers, found before any work."""

from __future__ import annotations

from .plan import Plan
from .settings import Settings


def check_layers(plan: Plan, settings: Settings) -> None:
    """Raises ValueError where there is no layer to compress, or options do not fit a layer."""
    if not plan.compressed:
        raise ValueError(f"model has no weight layer that can be compressed:\n{plan}")
    for layer in plan.compressed:
        sparsity = layer.options.get("sparsity", settings.said["sparsity"])
        if sparsity is None and layer.options.get("bits", settings.said["bits"]) is None:
            continue
        options = settings.options(layer.options, sparsity)
        if options.pattern is not None:
            try:
                options.pattern.require_fits((layer.shape[0], layer.in_features))
            except ValueError as error:
                raise ValueError(f"layer {layer.name!r}: {error}") from error
