"""Gram matrices of leaky-filtered spike trains."""

from __future__ import annotations

from ..arrays import Array
from ..conv import Conv
from ..hessian import SpikeHessian
from ..neurons import Neuron

__all__ = ["spike_gram"]


def spike_gram(
    spikes: Array,
    neuron: Neuron | None = None,
    *,
    conv: Conv | None = None,
    backend: str | None = None,
) -> Array:
    """``2 E_n[Y_n' Y_n]`` with ``Y_n = M X_n``: the SMP Hessian of a layer (SBC, eq. 6).

    Parameters
    ----------
    spikes : [T, N, d_in] or [T, N, positions, d_in]; for a convolution [T, N, C, W] or
        [T, N, C, H, W]. bool, integer or float; torch, NumPy or DLPack.
    neuron : whose membrane integrates the layer's output, of `sbc_kernels.neurons`. None is the
        current Hessian, M = I, here as in `compress_layer`.
    conv : the geometry of a convolution.
    backend : a name of `available_backends()`, or None for the fastest.

    Returns
    -------
    float64 [d_in, d_in], or [groups, d_in, d_in] for a grouped convolution, with
    ``d_in = C / groups * kh * kw`` in the order of a flattened weight; of the
    framework of `spikes`.

    Raises
    ------
    TypeError, ValueError : naming the parameter, what was given and what is accepted; also where
        float64 cannot hold an entry of the result.

    Notes
    -----
    Spikes that are integers in [-128, 127], or those times one unit, are summed in integers: see
    `SpikeHessian`.
    """
    return SpikeHessian.of_batch(spikes, neuron, conv=conv, backend=backend)
