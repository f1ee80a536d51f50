"""What a network costs to run, and how near a compressed one is to the dense one.

Of arrays and files (no torch needed): `layer_synaptic_operations`, `connection_sparsity`, `footprint`.
Of whole models on data: `synaptic_operations`, `spike_rates`, `accuracy`, and `compare`, which gives
all of them for two models in one pass.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ..files.footprint import Footprint, footprint
from .weights import connection_sparsity, layer_synaptic_operations

if TYPE_CHECKING:
    from .activity import spike_rates
    from .comparison import Comparison, Measured, compare
    from .operations import LayerOperations, SynapticOperations, synaptic_operations
    from .predictions import accuracy

_NEED_TORCH = {
    "Comparison": "comparison",
    "LayerOperations": "operations",
    "Measured": "comparison",
    "SynapticOperations": "operations",
    "accuracy": "predictions",
    "compare": "comparison",
    "spike_rates": "activity",
    "synaptic_operations": "operations",
}


def __getattr__(name: str) -> Any:
    """Whole models need torch, the rest does not: they are imported when first asked for."""
    if name in _NEED_TORCH:
        return getattr(import_module(f".{_NEED_TORCH[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [
    "Comparison",
    "Footprint",
    "LayerOperations",
    "Measured",
    "SynapticOperations",
    "accuracy",
    "compare",
    "connection_sparsity",
    "footprint",
    "layer_synaptic_operations",
    "spike_rates",
    "synaptic_operations",
]
