"""What of the data a tensor depends on, noted on the tensors while a model runs.

It tells products of two things that depend on the data, and the reset of a neuron, which is a product
with its own spikes, from products with constants and parameters.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..network.tensors import tensors_in

Taint = frozenset[Any]  # "data", names of neurons, and sites of spikes
NOTHING: Taint = frozenset()
DATA: Taint = frozenset({"data"})


def taint_of(tensor: Tensor) -> Taint:
    """Returns what of the data a tensor depends on: "data", or the sites of the spikes."""
    taint: Taint = getattr(tensor, "_sbc_taint", NOTHING)
    return taint


def joint_taint(tensors: list[Tensor]) -> Taint:
    """Returns what several tensors depend on."""
    taint = NOTHING
    for tensor in tensors:
        own = taint_of(tensor)
        if own is not taint:
            taint = taint | own if taint else own
    return taint


def mark(value: Any, taint: Taint) -> None:
    """Notes what tensors depend on."""
    if isinstance(value, Tensor):
        value._sbc_taint = taint
        return
    for tensor in tensors_in(value):
        tensor._sbc_taint = taint
