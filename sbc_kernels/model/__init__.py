"""Whole models: find the weight layers of a spiking network, compress them, lose nothing.

The names below need torch and are imported when first asked for. The records of options
(`model.settings`) and the rules of allocation (`model.allocation`) do without.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..frameworks import register_neuron
    from .compress import compress_model
    from .loading import load_compressed
    from .plan import Plan
    from .planned_layer import PlannedLayer
    from .record import LayerRecord
    from .result import CompressedModel
    from .tracing import trace

_MODULES = {
    "CompressedModel": ".result",
    "LayerRecord": ".record",
    "Plan": ".plan",
    "PlannedLayer": ".planned_layer",
    "compress_model": ".compress",
    "load_compressed": ".loading",
    "register_neuron": "..frameworks",
    "trace": ".tracing",
}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(import_module(_MODULES[name], __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


__all__ = [
    "CompressedModel",
    "LayerRecord",
    "Plan",
    "PlannedLayer",
    "compress_model",
    "load_compressed",
    "register_neuron",
    "trace",
]
