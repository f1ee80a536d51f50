"""Spiking Brain Compression: prune or quantize a trained spiking network in one pass.

import sbc_kernels as sbc
out = sbc.compress_layer(W, spikes, neuron=sbc.LIF(tau=2.0), sparsity=0.97)
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from . import metrics
from ._version import __version__ as __version__
from .backends.registry import available_backends, native_info
from .conv import Conv
from .errors import ParameterError
from .grid import Grid, fit_grid
from .hessian import SpikeHessian
from .layer import CompressedLayer, compress_layer
from .neurons import (
    IAF,
    IF,
    LIF,
    PLIF,
    Alpha,
    CubaLIF,
    Kernel,
    Lapicque,
    Leaky,
    Neuron,
    NorseLIF,
    NorseLIFBox,
    SinabsLIF,
    Synaptic,
)
from .ops.damping import damped_hessian, damped_inverse
from .ops.obs_order import obs_order
from .ops.obs_quantize import QuantizedRows, obs_quantize
from .ops.obs_select import obs_select
from .ops.obs_solve import obs_solve
from .ops.spike_gram import spike_gram
from .sparsity import Pattern, parse_sparsity

if TYPE_CHECKING:
    from .model import (
        CompressedModel,
        Plan,
        compress_model,
        load_compressed,
        register_neuron,
        trace,
    )

_NEED_TORCH = (
    "CompressedModel",
    "Plan",
    "compress_model",
    "load_compressed",
    "register_neuron",
    "trace",
)


def __getattr__(name: str) -> Any:
    """Whole models need torch, the rest does not: they are imported when first asked for."""
    if name in _NEED_TORCH:
        return getattr(import_module(".model", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


__all__ = [
    "IAF",
    "IF",
    "LIF",
    "PLIF",
    "Alpha",
    "CompressedLayer",
    "CompressedModel",
    "Conv",
    "CubaLIF",
    "Grid",
    "Kernel",
    "Lapicque",
    "Leaky",
    "Neuron",
    "NorseLIF",
    "NorseLIFBox",
    "ParameterError",
    "Pattern",
    "Plan",
    "QuantizedRows",
    "SinabsLIF",
    "SpikeHessian",
    "Synaptic",
    "available_backends",
    "compress_layer",
    "compress_model",
    "damped_hessian",
    "damped_inverse",
    "fit_grid",
    "load_compressed",
    "metrics",
    "native_info",
    "obs_order",
    "obs_quantize",
    "obs_select",
    "obs_solve",
    "parse_sparsity",
    "register_neuron",
    "spike_gram",
    "trace",
]
