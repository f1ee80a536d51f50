"""Whole models: find the weight layers of a spiking network, compress them, lose nothing."""

from ..frameworks import register_neuron
from .compress import compress_model
from .loading import load_compressed
from .plan import Plan
from .planned_layer import PlannedLayer
from .record import LayerRecord
from .result import CompressedModel
from .tracing import trace

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
