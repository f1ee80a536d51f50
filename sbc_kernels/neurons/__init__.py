"""Impulse responses of the neuron that consumes a layer's output.

A neuron enters the compression through one thing only: its subthreshold impulse response ``k``, the
membrane potential at time ``t`` after a unit input at time 0 (SBC, arXiv 2506.03996, eq. 4). A
constant gain on ``k`` scales a layer's Hessian and changes no decision inside the layer.

Every class is a frozen dataclass with ``impulse_response(T) -> float64 [T]``. `models.py` has the
closed forms of the frameworks' neurons, `response.py` the protocol and responses given as numbers.
"""

from .models import (
    IAF,
    IF,
    LIF,
    PLIF,
    Alpha,
    CubaLIF,
    Lapicque,
    Leaky,
    NorseLIF,
    NorseLIFBox,
    SinabsLIF,
    Synaptic,
)
from .response import (
    Kernel,
    Neuron,
    Response,
    StateSpace,
    impulse_response,
    membrane_matrix,
)

__all__ = [
    "IAF",
    "IF",
    "LIF",
    "PLIF",
    "Alpha",
    "CubaLIF",
    "Kernel",
    "Lapicque",
    "Leaky",
    "Neuron",
    "NorseLIF",
    "NorseLIFBox",
    "Response",
    "SinabsLIF",
    "StateSpace",
    "Synaptic",
    "impulse_response",
    "membrane_matrix",
]
