"""Compress one layer: prune it, quantize it, or both, in one pass and without training."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
from array_api_compat import array_namespace, device
from numpy.typing import NDArray

from .arrays import (
    Array,
    Restore,
    cast_like,
    contiguous,
    dtype_name,
    is_float,
    require_finite,
    to_array,
)
from .backends.kernels import Kernels, note_kernel, recorded_kernels
from .backends.registry import backend_of
from .errors import ParameterError, ParameterTypeError
from .grid import Grid
from .hessian import SpikeHessian
from .layer_input import DEFAULT_NEURON, checked_conv, hessian_of, require_layer_memory
from .method import METHODS, LayerOptions
from .method.damping import share_unit, warn
from .method.fields import from_arguments
from .method.loss import row_losses
from .method.options import DEFAULT_SPARSITY, Curve
from .method.rows import Rows
from .method.units import drop_small_masks, in_callers_units, parts_in_units
from .neurons import Neuron
from .weights import CompressedWeight, Pruned, Quantized

__all__ = ["CompressedLayer", "compress_layer"]


_logger = logging.getLogger("sbc_kernels")


@dataclass(frozen=True)
class CompressedLayer:
    """The result of `compress_layer`. Its arrays are of W's framework.

    Attributes
    ----------
    weight : W's dtype and shape.
    mask : bool, W's shape, True = kept; None if nothing was pruned. Zeros that W had before are among
        those not kept; where W was only quantized and has few of them, the mask is None and their codes
        are the zero point.
    codes : uint8, W's shape; None if nothing was quantized. ``(codes - zero_point) * scale`` is the
        weight, up to the rounding to W's dtype, and 0 where the mask is False.
    scale, zero_point : float32 [d_out, groups]; None if nothing was quantized.
    bits, group_size : those of the codes; None if nothing was quantized.
    loss : float64 [d_out], ``1/2 dw H dw'`` of each row with the undamped Hessian: the layer's mean
        squared filtered output error over the calibration samples, ``E_n |Y_n dw|^2``. In the units of
        W; infinite or 0 with a warning where float64 cannot hold it.
    sparsity : fraction of exact zeros in `weight`.
    damp_percent : the damping that was used, after retries.
    retries : how often a Cholesky factorisation failed and was repeated with more damping.
    log : what was done and why, line by line.
    seconds : wall time.
    curve : the cost of pruning less or more, with method "exact" and no pattern: pairs of sparsity and
        relative error, 0..1, by the damped Hessian and before quantization.
    backend : the kernels that ran, by op: names joined by " + " where one op ran several. The Hessian's
        is among them where `compress_layer` summed it.
    """

    weight: Array
    mask: Array | None
    codes: Array | None
    scale: Array | None
    zero_point: Array | None
    bits: int | None
    group_size: int | None
    loss: Array
    sparsity: float
    damp_percent: float
    seconds: float
    log: list[str] = field(default_factory=list)
    curve: Curve = ()
    backend: Mapping[str, str] = field(default_factory=dict)
    retries: int = 0

    @property
    def compressed(self) -> CompressedWeight:
        """The weight as a `Pruned` or, where it was quantized, a `Quantized` of the arrays above."""
        if self.codes is None:
            return Pruned(self.weight, self.weight != 0 if self.mask is None else self.mask)
        assert self.bits is not None
        assert self.group_size is not None
        grid = Grid(self.bits, self.scale, self.zero_point, self.group_size)
        return Quantized(self.codes, grid, self.mask, dtype_name(self.weight))


def compress_layer(
    W: Array,
    spikes: Array | SpikeHessian,
    neuron: Neuron | None = DEFAULT_NEURON,
    *,
    sparsity: float | str | None = None,
    bits: int | None = None,
    hessian: str = "smp",
    method: str = "exact",
    grid: str | None = None,
    sym: bool = False,
    group_size: int = -1,
    act_order: bool | None = None,
    block_size: int = 128,
    damp_percent: float = 0.01,
    stride: int | tuple[int, ...] = 1,
    padding: int | tuple[int, ...] | str = 0,
    dilation: int | tuple[int, ...] = 1,
    groups: int = 1,
    backend: str | None = None,
) -> CompressedLayer:
    """Prunes and/or quantizes a layer so that what its neurons integrate changes least.

    Spiking Brain Compression (arXiv 2506.03996): Optimal Brain Surgeon on the leaky-filtered input
    spike trains. ``compress_layer(W, spikes)`` alone takes ``LIF(tau=2.0)`` and prunes 90 % of the
    weights, unstructured.

    Parameters
    ----------
    W : [d_out, d_in], [C_out, C_in/groups, kw] or [C_out, C_in/groups, kh, kw]; torch, NumPy or
        DLPack, any real float dtype. Never modified. A bias stays as it is.
    spikes : the layer's input, time first: [T, N, d_in], [T, N, positions, d_in], [T, N, C, W] or
        [T, N, C, H, W]; bool, integer or float. Or a `SpikeHessian` that has been fed.
    neuron : the neuron that integrates the layer's output; default ``LIF(tau=2.0)``. None is the
        current Hessian, as in `spike_gram`: no filter, like ``hessian="current"``. A SpikeHessian
        brings its own.
    sparsity : fraction 0..1 of weights to prune, or "N:M": N of every M consecutive inputs are KEPT
        (others count the pruned ones).
    bits : 1..8, to quantize. With `sparsity`, survivors are quantized with compensation.
    hessian : "smp" (SBC) or "current" (no filter: that is OBC and GPTQ).
    method : "exact" (greedy ExactOBS a row, the layer's quota shared by all rows), "blocked"
        (SparseGPT-style, one shared elimination order, far cheaper), or a baseline: "magnitude"
        (prune the smallest, then round to nearest if bits are given), "rtn" (round to nearest).
    grid : "mse" (default; weighted by the Hessian's diagonal) or "absmax" (default for "rtn" and
        "magnitude").
    sym : levels symmetric about 0.
    group_size : consecutive inputs that share a scale; -1 is the whole row.
    act_order : quantize inputs in the order of falling Hessian diagonal. Default True, False for an
        N:M pattern with method "blocked", which needs the natural order.
    block_size : columns that choose their mask together ("blocked").
    damp_percent : fraction of the Hessian's mean diagonal over live inputs that is added to the
        diagonal. If a Cholesky factorisation fails, it is repeated with ten times as much, at most five
        times, with a warning each.
    stride, padding, dilation, groups : geometry of a convolution, as in PyTorch.
    backend : a name of `available_backends()`, or None for the fastest.

    Returns
    -------
    CompressedLayer

    Raises
    ------
    ParameterError : a value is not accepted; a ValueError, and a TypeError where the type is wrong.
    numpy.linalg.LinAlgError : the Hessian is not positive definite even after all retries.
    MemoryError : before any work, where it certainly takes more memory than this process can get. It
        names what it needs, and the methods that fit.

    Notes
    -----
    An input that never spiked has no influence on the loss: pruning takes its weights first, and
    quantization rounds them to the nearest level.

    A weight that is exactly zero stays zero, so that a pruned layer that is quantized later stays
    pruned, and an N:M pattern N:M. Such weights count among those that `sparsity` prunes; if there are
    more of them, all of them stay zero.
    """
    options = from_arguments(LayerOptions, locals())
    start = time.perf_counter()
    log: list[str] = []
    if options.idle:
        options = replace(options, sparsity=DEFAULT_SPARSITY)
        log.append("neither sparsity nor bits given: pruning 90 %, unstructured")
    options = options.resolved()
    weight = checked_weight(W, backend)
    values = weight.values
    conv = checked_conv(values, stride, padding, dilation, groups)
    options.require_fits((len(values), math.prod(values.shape[1:])))
    require_layer_memory(values, spikes, conv, options)
    with recorded_kernels() as kernels:
        scaled = hessian_of(W, values, spikes, neuron, hessian, conv, backend, log)
    prepared = PreparedLayer(weight, scaled.stack, exponent=scaled.exponent, fired=scaled.fired)
    out = prepared.compress(options, log=log, start=start, kernels=kernels)
    out.log.append("kernels: " + ", ".join(f"{op} {name}" for op, name in out.backend.items()))
    _logger.debug(out.log[-1])
    return out


class CheckedWeight(NamedTuple):
    """A layer's weight, converted and checked once.

    Attributes
    ----------
    original : as it was given.
    values : the same numbers as NumPy, or as torch where they lie on a GPU; halves are widened.
    restore : takes such an array back to the framework of the original.
    backend : that the weight is meant for, or None.
    """

    original: Array
    values: Array
    restore: Restore
    backend: str | None


class PreparedLayer:
    """A weight and its Hessian, to be compressed once or at several sparsities.

    Results of a method that do not depend on the sparsity, such as the exact order of removal, are
    kept for the next call.

    Parameters
    ----------
    weight : from `checked_weight`. Its backend computes.
    stack : the undamped Hessian of each convolution group, float64 [groups, d, d], beside the weight.
    row_scale : float64 [d_out], what each row's output is multiplied by before it is integrated (a
        BatchNorm's ``gamma / sqrt(var + eps)``, one over the threshold). Rows compete for the layer's
        quota by the losses times its square; inside a row it changes nothing. None is all ones.
    exponent : the Hessian is 2^exponent times the stack, which decides nothing but the loss.
    fired : bool [groups, d], NumPy: inputs that spiked. None: those whose diagonal is not 0.
    """

    def __init__(
        self,
        weight: CheckedWeight,
        stack: Array,
        row_scale: Array | None = None,
        *,
        exponent: int = 0,
        fired: NDArray[np.bool_] | None = None,
    ) -> None:
        self.stack = stack
        self.exponent = exponent
        self.fired = fired
        self.W, self.values, self._restore, self.backend = weight
        xp = array_namespace(self.values)
        where = device(self.values)
        ones = xp.ones(len(self.values), dtype=xp.float64, device=where)
        self.row_scale = ones if row_scale is None else xp.abs(xp.asarray(row_scale, device=where))
        # The method and its key, its order, and the kernels that ran for it.
        self._order: tuple[Hashable, Any, Kernels] | None = None

    def compress(
        self,
        options: LayerOptions,
        *,
        log: list[str] | None = None,
        start: float | None = None,
        kernels: Kernels | None = None,
    ) -> CompressedLayer:
        """Compresses as `compress_layer` does with these resolved options, and raises what it raises.

        `log`, `start` and `kernels` are those of the steps before, which this one adds to.
        """
        start = time.perf_counter() if start is None else start
        log = [] if log is None else log
        W, values, restore = self.W, self.values, self._restore
        xp = array_namespace(values)
        flat = contiguous(values.reshape(len(values), -1))
        exponent, parts = parts_in_units(flat, self.stack, self.row_scale, self.backend, log)
        share_unit(parts)
        options.require_fits(flat.shape)
        for group, part in enumerate(parts):
            d = len(part.live)
            never = part.silent if self.fired is None else int(d - self.fired[group].sum())
            vanished = (
                part.silent - never
            )  # they spiked, but too weakly, too late, or as a bias does
            if part.silent == d:
                reason = (
                    "no input spiked in calibration"
                    if never == d
                    else f"{vanished} of {d} inputs spiked in calibration, but none with an effect of "
                    "its own on the neuron"
                )
                warn(
                    log,
                    f"{reason}: there is nothing to weigh, so weights are compared by magnitude and "
                    "rounded to the nearest level",
                )
                continue
            if never:
                log.append(f"{never} of {d} inputs never spiked in calibration")
            if vanished:
                log.append(
                    f"{vanished} of {d} inputs spiked in calibration, but without an effect of their "
                    "own on the neuron"
                )

        with recorded_kernels(kernels) as kernels:
            order = self._ordered(parts, options, log)
            damping, curve = METHODS[options.method].compress(parts, order, options, log)

        result = in_callers_units(W, flat, exponent, parts, log)
        if not bool(xp.all(xp.isfinite(result))):
            raise np.linalg.LinAlgError(
                "the compressed weight is not finite: the Hessian is too close to singular; accepted "
                f"is a larger damp_percent than {options.damp_percent}"
            )
        weight = cast_like(restore(result.reshape(values.shape)), W)
        changed = weight_array(weight, self.backend).reshape(flat.shape)  # rounded to W's dtype
        if not bool(xp.all(xp.isfinite(changed))):
            raise ParameterError(
                "W",
                W,
                "a wider dtype or a smaller scale",
                verb="has",
                shown=f"dtype {getattr(W, 'dtype', values.dtype)}, which cannot hold the compressed "
                f"weight: it reaches {float(xp.max(xp.abs(result))):.4g}",
            )
        if parts[0].mask is not None:  # a method of somebody else's may contradict itself
            pruned = ~xp.concat([part.mask for part in parts])
            if bool(xp.any(pruned & ((changed != 0) | xp.signbit(changed)))):
                raise ParameterError(
                    "method",
                    options.method,
                    "one whose result is +0 where its mask is False",
                    shown=f"{options.method!r}, whose result is not what its mask says",
                )
        loss = row_losses(parts, flat, changed, exponent, log, self.exponent)
        for line in log:
            _logger.debug(line)

        def stacked(arrays: list[Array | None], shape: tuple[int, ...]) -> Array | None:
            return None if arrays[0] is None else restore(xp.concat(arrays).reshape(shape))

        if options.pattern is None:
            drop_small_masks(parts)
        grids = [part.grid for part in parts]
        scales = [None if g is None else g.scale for g in grids]
        zeros = [None if g is None else g.zero_point for g in grids]
        return CompressedLayer(
            weight=weight,
            mask=stacked([part.mask for part in parts], tuple(values.shape)),
            codes=stacked([part.codes for part in parts], tuple(values.shape)),
            scale=stacked(scales, (len(values), -1)),
            zero_point=stacked(zeros, (len(values), -1)),
            bits=options.bits if parts[0].codes is not None else None,
            group_size=options.group_size if parts[0].codes is not None else None,
            loss=restore(loss),
            sparsity=int(xp.count_nonzero(changed == 0)) / math.prod(changed.shape),
            damp_percent=damping.percent,
            retries=damping.retries,
            seconds=time.perf_counter() - start,
            log=log,
            curve=curve,
            backend=kernels,
        )

    def _ordered(self, parts: list[Rows], options: LayerOptions, log: list[str]) -> Any:
        """Returns the method's order, from an earlier call if that had the same key."""
        method = METHODS[options.method]
        key = method.order_key(options)
        if key is None:
            return None
        key = (options.method, key)
        if self._order is None or self._order[0] != key:
            with recorded_kernels() as kernels:
                order = method.order(parts, options, log)
            self._order = (key, order, kernels)
        else:
            for op, kernel in self._order[2].items():
                note_kernel(op, kernel)
        return self._order[1]


def weight_array(W: Array, backend: str | None = None) -> Array:
    """Returns W as NumPy, or as a torch tensor if it lies on a GPU; halves are widened to float32."""
    return to_array(W, "W", backend_of(W, "W", backend).device)[0]


def checked_weight(W: Array, backend: str | None = None) -> CheckedWeight:
    """Converts and checks a weight. Raises ParameterError where it is not accepted."""
    values, restore = to_array(W, "W", backend_of(W, "W", backend).device)
    if not is_float(values):
        raise ParameterTypeError(
            "W", W, "accepted are real floats", shown=f"dtype {dtype_name(values)}", verb="has"
        )
    if values.ndim not in (2, 3, 4) or 0 in values.shape:
        raise ParameterError(
            "W",
            W,
            "[d_out, d_in], [C_out, C_in/groups, kw] or [C_out, C_in/groups, kh, kw] with no axis "
            "empty",
            shown=f"shape {list(values.shape)}",
            verb="has",
        )
    require_finite(values, "W")
    return CheckedWeight(W, values, restore, backend)
