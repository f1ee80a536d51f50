"""Sparsity of weights, and synaptic operations of one layer. Needs no torch."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import numpy as np

from ..arrays import to_numpy

__all__ = ["connection_sparsity", "layer_synaptic_operations"]


def connection_sparsity(*weights_or_models: Any) -> float:
    """Fraction of exact zeros among all the weights, 0..1: NeuroBench's ConnectionSparsity.

    Parameters
    ----------
    weights_or_models : torch, NumPy or DLPack arrays of any shape; or torch models, also as a
        `CompressedModel`, whose Linear, Conv1d, Conv2d and Conv3d weights count, one that several
        modules share once. At least one weight that is not empty.

    Raises
    ------
    TypeError, ValueError : naming the parameter, what came and what is accepted.
    """
    size = nonzero = 0
    for weight in _weights_of(weights_or_models):
        array = to_numpy(weight, "weights_or_models")[0]
        size += array.size
        nonzero += int(np.count_nonzero(array))
    if size == 0:
        raise ValueError("weights_or_models have no weight; accepted is at least one")
    return 1.0 - nonzero / size


def _weights_of(given: tuple[Any, ...]) -> Iterator[Any]:
    """Arrays as they are, models as their weights."""
    for item in given:
        if hasattr(item, "__dlpack__") or "torch" not in sys.modules:  # who has a model imported it
            yield item
        else:
            from .operations import weights_in

            weights = weights_in(item)
            yield from [item] if weights is None else weights


def layer_synaptic_operations(weight: Any, spikes: Any, *, weighted: bool = False) -> int | float:
    """Non-zero weights met by input spikes, over all samples and time steps: NeuroBench's count.

    ``sum_i s_i * nnz(W[:, i])``, where s_i is the number of spikes of input i.

    Parameters
    ----------
    weight : [d_out, d_in], a Linear layer's.
    spikes : [..., d_in], the layer's input: bool, integer or float.
    weighted : count a spike of value v as ``|v|`` operations and not as one: what a chip does that
        sends an integer as so many unit spikes.

    Returns
    -------
    int, unless weighted floats were summed.

    Raises
    ------
    TypeError, ValueError : naming the parameter, what came and what is accepted.
    """
    matrix, inputs = to_numpy(weight, "weight")[0], to_numpy(spikes, "spikes")[0]
    if matrix.ndim != 2:
        raise ValueError(f"weight has shape {list(matrix.shape)}; accepted is [d_out, d_in]")
    if inputs.ndim == 0 or inputs.shape[-1] != matrix.shape[1]:
        raise ValueError(
            f"spikes have shape {list(inputs.shape)}; accepted is [..., {matrix.shape[1]}] for a "
            f"weight of shape {list(matrix.shape)}"
        )
    fan_out = np.count_nonzero(matrix, axis=0)
    steps = inputs.reshape(-1, inputs.shape[-1])
    if not weighted:
        return int(np.count_nonzero(steps, axis=0) @ fan_out)
    if steps.dtype.kind == "f":
        return float(np.abs(steps).sum(axis=0, dtype=np.float64) @ fan_out)
    return int(np.abs(steps.astype(np.int64)).sum(axis=0) @ fan_out)
