"""Sparsity of weights, and synaptic operations of one layer. No torch is needed."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import numpy as np

from ..arrays import to_numpy
from ..errors import ParameterError

__all__ = ["connection_sparsity", "layer_synaptic_operations"]


def connection_sparsity(*weights_or_models: object) -> float:
    """Returns the fraction of exact zeros among all weights, 0..1.

    This is NeuroBench's ConnectionSparsity (arXiv 2304.04640).

    Parameters
    ----------
    weights_or_models : torch, NumPy or DLPack arrays of any shape, or torch models, also as a
        `CompressedModel`. Of a model the weights of Linear, Conv1d, Conv2d and Conv3d layers count; a
        weight that several layers share counts once.

    Raises
    ------
    ParameterError : there is no weight, or all are empty.
    TypeError : something is neither an array nor a model.
    """
    size = nonzero = 0
    for weight in _weights_of(weights_or_models):
        array = to_numpy(weight, "weights_or_models")[0]
        size += array.size
        nonzero += int(np.count_nonzero(array))
    if size == 0:
        raise ParameterError(
            "weights_or_models", weights_or_models, "at least one weight", shown="without weights"
        )
    return 1.0 - nonzero / size


def _weights_of(weights_or_models: tuple[object, ...]) -> Iterator[object]:
    """Yields the arrays, and the weights of the models."""
    for item in weights_or_models:
        # Whoever has a model has imported torch, so this need not.
        if hasattr(item, "__dlpack__") or "torch" not in sys.modules:
            yield item
        else:
            from .operations import weights_in

            weights = weights_in(item)
            yield from [item] if weights is None else weights


def layer_synaptic_operations(
    weight: object, spikes: object, *, weighted: bool = False
) -> int | float:
    """Counts the synaptic operations of one Linear layer: the non-zero weights met by input spikes.

    NeuroBench (arXiv 2304.04640) counts them as ``sum_i s_i * nnz(W[:, i])``, where s_i is the number
    of spikes of input i over all samples and time steps.

    Parameters
    ----------
    weight : [d_out, d_in], a torch, NumPy or DLPack array.
    spikes : [..., d_in], the layer's input: bool, integer or float.
    weighted : count a spike of value v as ``|v|`` operations instead of one, as on a chip that sends an
        integer as that many unit spikes.

    Returns
    -------
    The number of operations, an int; a float if `weighted` and the spikes are floating point.

    Raises
    ------
    ParameterError : `weight` is not a matrix, or `spikes` has another number of inputs.
    TypeError : a parameter is no array of numbers.
    """
    matrix, inputs = to_numpy(weight, "weight")[0], to_numpy(spikes, "spikes")[0]
    if matrix.ndim != 2:
        raise ParameterError(
            "weight", weight, "[d_out, d_in]", shown=f"an array of shape {list(matrix.shape)}"
        )
    if inputs.ndim == 0 or inputs.shape[-1] != matrix.shape[1]:
        raise ParameterError(
            "spikes",
            spikes,
            f"[..., {matrix.shape[1]}] for a weight of shape {list(matrix.shape)}",
            shown=f"an array of shape {list(inputs.shape)}",
        )
    fan_out = np.count_nonzero(matrix, axis=0)
    steps = inputs.reshape(-1, inputs.shape[-1])
    if not weighted:
        return int(np.count_nonzero(steps, axis=0) @ fan_out)
    if steps.dtype.kind == "f":
        return float(np.abs(steps).sum(axis=0, dtype=np.float64) @ fan_out)
    return int(np.abs(steps.astype(np.int64)).sum(axis=0) @ fan_out)
