"""What a compressed layer costs to run."""

from __future__ import annotations

from typing import Any

import numpy as np

from .arrays import to_numpy

__all__ = ["connection_sparsity", "synaptic_operations"]


def connection_sparsity(*weights: Any) -> float:
    """Fraction of exact zeros among all the weights, 0..1.

    Parameters
    ----------
    weights : torch, NumPy or DLPack arrays of any shape, at least one that is not empty.
    """
    arrays = [to_numpy(weight, "weights")[0] for weight in weights]
    size = sum(array.size for array in arrays)
    if size == 0:
        raise ValueError("weights are empty; accepted is at least one weight")
    return 1.0 - sum(int(np.count_nonzero(array)) for array in arrays) / size


def synaptic_operations(weight: Any, spikes: Any, *, weighted: bool = False) -> int | float:
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
