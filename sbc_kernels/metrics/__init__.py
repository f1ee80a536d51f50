"""Metrics: what a network costs to run, and how closely a compressed one follows the dense one.

`layer_synaptic_operations`, `connection_sparsity` and `footprint` take arrays or files, without torch.
`synaptic_operations`, `spike_rates` and `accuracy` run a whole model on data. `compare` measures all of
them for two models in one pass.
"""

from importlib import import_module
from typing import TYPE_CHECKING

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


def __getattr__(name: str) -> object:
    """Imports the metrics of whole models, which need torch, when they are first used."""
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
