"""Compress one layer: prune it, quantize it, or both, in one pass and without training."""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .arrays import Array, cast_like, require_finite, require_same_kind, to_numpy
from .conv import Conv
from .grid import Grid, fit_grid
from .hessian import SpikeHessian
from .linalg import inverse
from .neurons import LIF, Neuron
from .obs_order import run_obs_order
from .obs_quantize import run_obs_quantize
from .obs_solve import run_obs_solve
from .pattern import Pattern, parse_sparsity, prune_least

__all__ = ["CompressedLayer", "compress_layer"]

METHODS = ("exact", "blocked", "magnitude", "rtn")
MAX_RETRIES = 5

_logger = logging.getLogger("sbc_kernels")


@dataclass(frozen=True)
class CompressedLayer:
    """What `compress_layer` answers. Arrays are of W's framework.

    Attributes
    ----------
    weight : W's dtype and shape.
    mask : bool, W's shape, True = kept; None if nothing was pruned.
    codes : uint8, W's shape; None if nothing was quantized. ``(codes - zero_point) * scale`` is the
        weight, up to the rounding to W's dtype, and 0 where the mask is False.
    scale, zero_point : float32 [d_out, groups]; None if nothing was quantized.
    bits, group_size : of the codes; None if nothing was quantized.
    loss : float64 [d_out], ``1/2 dw H dw'`` of each row with the undamped Hessian: half of the growth
        of the layer's mean squared filtered output error over the calibration samples.
    sparsity : fraction of exact zeros in `weight`.
    damp_percent : the damping that was used, after retries.
    log : what was done and why, line by line.
    seconds : wall time.
    """

    weight: Any
    mask: Any
    codes: Any
    scale: Any
    zero_point: Any
    bits: int | None
    group_size: int | None
    loss: Any
    sparsity: float
    damp_percent: float
    seconds: float
    log: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Options:
    """What one group of rows is compressed with, checked."""

    pattern: Pattern | None
    bits: int | None
    method: str
    grid: str
    sym: bool
    group_size: int
    act_order: bool
    block_size: int
    damp_percent: float
    backend: str | None


@dataclass
class _Group:
    """One convolution group's rows (all rows of other layers) and what becomes of them."""

    weight: Array  # [rows, d], float32 or float64
    hessian: NDArray[np.float64]  # undamped
    live: NDArray[np.bool_] = field(init=False)
    result: Array = field(init=False)
    mask: NDArray[np.bool_] | None = None
    codes: NDArray[np.uint8] | None = None
    grid: Grid | None = None

    def __post_init__(self) -> None:
        self.live = np.diagonal(self.hessian) > 0
        self.result = self.weight.copy()


def compress_layer(
    W: Any,
    spikes: Any,
    neuron: Neuron | None = None,
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
    neuron : that consumes the layer's output; default ``LIF(tau=2.0)``. A SpikeHessian brings its own.
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
    damp_percent : of the mean diagonal of the Hessian over live inputs, added to the diagonal. If the
        Cholesky factorisation fails, ten times as much, at most five times, with a warning each.
    stride, padding, dilation, groups : of a convolution, as in PyTorch.
    backend : a name of `available_backends()`, or None for the fastest.

    Returns
    -------
    CompressedLayer

    Raises
    ------
    TypeError, ValueError : naming the parameter, what came and what is accepted.
    numpy.linalg.LinAlgError : the Hessian is not positive definite even after all retries.

    Notes
    -----
    An input that never spiked has no influence on the loss: pruning takes its weights first, and
    quantization rounds them to the nearest level.
    """
    start = time.perf_counter()
    log: list[str] = []
    values, restore = to_numpy(W, "W")
    if values.dtype.kind != "f":
        raise TypeError(f"W has dtype {values.dtype}; accepted are real floats")
    if values.ndim not in (2, 3, 4) or values.size == 0:
        raise ValueError(
            f"W has shape {list(values.shape)}; accepted is [d_out, d_in], [C_out, C_in/groups, kw] "
            "or [C_out, C_in/groups, kh, kw] with no axis empty"
        )
    require_finite(values, "W")
    if sparsity is None and bits is None:
        sparsity = 0.9
        log.append("neither sparsity nor bits given: pruning 90 %, unstructured")
    options = _checked_options(
        sparsity, bits, method, grid, sym, group_size, act_order, block_size, damp_percent, backend
    )
    conv = _checked_conv(values, stride, padding, dilation, groups)
    stack = _hessian_of(W, values, spikes, neuron, hessian, conv, options, log)

    rows = len(values) // len(stack)
    flat = np.ascontiguousarray(values.reshape(len(values), -1))
    parts = [_Group(flat[g * rows : (g + 1) * rows], matrix) for g, matrix in enumerate(stack)]
    for part in parts:
        if options.pattern is not None:
            options.pattern.require_fits(part.weight.shape)
        silent = int((~part.live).sum())
        if silent == part.live.size:
            _warn(
                log,
                "no input spiked in calibration: there is nothing to weigh, so weights are "
                "compared by magnitude and rounded to the nearest level",
            )
        elif silent:
            log.append(f"{silent} of {part.live.size} inputs never spiked in calibration")

    damp = options.damp_percent
    if options.pattern is not None:
        damp = max(damp, _prune(parts, options, log))
    if options.bits is not None:
        damp = max(damp, _quantize(parts, options, log))

    result = np.concatenate([part.result for part in parts])
    if not np.isfinite(result).all():
        raise np.linalg.LinAlgError(
            "the compressed weight is not finite: the Hessian is too close to singular; accepted is a "
            f"larger damp_percent than {options.damp_percent}"
        )
    answer = cast_like(restore(result.reshape(values.shape)), W)
    changed = to_numpy(answer, "W")[0].reshape(flat.shape)  # after the rounding to W's dtype
    loss = _loss(parts, flat, changed)
    for line in log:
        _logger.debug(line)

    def stacked(arrays: list[Any], shape: tuple[int, ...]) -> Any:
        return None if arrays[0] is None else restore(np.concatenate(arrays).reshape(shape))

    grids = [part.grid for part in parts]
    scales = [None if g is None else g.scale for g in grids]
    zeros = [None if g is None else g.zero_point for g in grids]
    return CompressedLayer(
        weight=answer,
        mask=stacked([part.mask for part in parts], values.shape),
        codes=stacked([part.codes for part in parts], values.shape),
        scale=stacked(scales, (len(values), -1)),
        zero_point=stacked(zeros, (len(values), -1)),
        bits=options.bits,
        group_size=None if options.bits is None else options.group_size,
        loss=restore(loss),
        sparsity=float((changed == 0).mean()),
        damp_percent=damp,
        seconds=time.perf_counter() - start,
        log=log,
    )


# ---- checks ------------------------------------------------------------------------------------


def _checked_options(
    sparsity: float | str | None,
    bits: int | None,
    method: str,
    grid: str | None,
    sym: bool,
    group_size: int,
    act_order: bool | None,
    block_size: int,
    damp_percent: float,
    backend: str | None,
) -> _Options:
    pattern = None if sparsity is None else parse_sparsity(sparsity)
    if bits is not None:
        integral = isinstance(bits, (int, np.integer)) and not isinstance(bits, bool)
        if not integral or not 1 <= bits <= 8:
            raise ValueError(f"bits is {bits!r}; accepted is an integer in 1..8, or None")
    if method not in METHODS:
        raise ValueError(f"method is {method!r}; accepted are {', '.join(METHODS)}")
    if method == "rtn" and (pattern is not None or bits is None):
        raise ValueError("method is 'rtn'; accepted with it is bits and no sparsity")
    if method == "magnitude" and pattern is None:
        raise ValueError("method is 'magnitude'; accepted with it is a sparsity")
    if grid not in (None, "mse", "absmax"):
        raise ValueError(f"grid is {grid!r}; accepted are 'mse' and 'absmax'")
    if not isinstance(block_size, (int, np.integer)) or block_size < 1:
        raise ValueError(f"block_size is {block_size!r}; accepted is an integer of at least 1")
    number = isinstance(damp_percent, (int, float)) and not isinstance(damp_percent, bool)
    if not number or not 0.0 <= damp_percent < np.inf:
        raise ValueError(f"damp_percent is {damp_percent!r}; accepted is a number of at least 0")
    natural = method == "blocked" and pattern is not None and pattern.of_m > 0
    if natural and act_order:
        raise ValueError(
            "act_order is True with method 'blocked' and an N:M pattern; accepted is False"
        )
    if natural and pattern is not None:
        block_size = -(-block_size // pattern.of_m) * pattern.of_m
    return _Options(
        pattern=pattern,
        bits=None if bits is None else int(bits),
        method=method,
        grid=grid or ("absmax" if method in ("rtn", "magnitude") else "mse"),
        sym=bool(sym),
        group_size=group_size,
        act_order=not natural if act_order is None else bool(act_order),
        block_size=int(block_size),
        damp_percent=float(damp_percent),
        backend=backend,
    )


def _checked_conv(
    values: Array, stride: Any, padding: Any, dilation: Any, groups: int
) -> Conv | None:
    if values.ndim == 2:
        given = {
            "stride": stride != 1,
            "padding": padding != 0,
            "dilation": dilation != 1,
            "groups": groups != 1,
        }
        for name, wrong in given.items():
            if wrong:
                raise ValueError(
                    f"{name} is given for W of shape {list(values.shape)}; accepted is a "
                    "convolution's weight of 3 or 4 dimensions with it"
                )
        return None
    conv = Conv(values.shape[2:], stride, padding, dilation, groups)
    if len(values) % conv.groups:
        raise ValueError(f"groups is {groups} with {len(values)} outputs; accepted is a divisor")
    return conv


def _hessian_of(
    W: Any,
    values: Array,
    spikes: Any,
    neuron: Neuron | None,
    hessian: str,
    conv: Conv | None,
    options: _Options,
    log: list[str],
) -> NDArray[np.float64]:
    """The undamped Hessian, [groups, d, d]."""
    if hessian not in ("smp", "current"):
        raise ValueError(f"hessian is {hessian!r}; accepted are 'smp' and 'current'")
    d = int(np.prod(values.shape[1:]))
    if isinstance(spikes, SpikeHessian):
        if neuron is not None and neuron != spikes.neuron:
            raise ValueError(
                f"neuron is {neuron!r} and spikes was fed with {spikes.neuron!r}; accepted "
                "is None or the same"
            )
        if hessian == "current" and spikes.neuron is not None:
            raise ValueError(
                "hessian is 'current' and spikes was fed with a neuron; accepted is a "
                "SpikeHessian with neuron=None"
            )
        if spikes.conv != conv:
            raise ValueError(f"spikes was fed for {spikes.conv!r}; accepted for this W is {conv!r}")
        source = spikes
    else:
        require_same_kind(W, spikes, "W", "spikes")
        if neuron is None and hessian == "smp":
            neuron = LIF(tau=2.0)
            log.append("no neuron given: LIF(tau=2.0)")
        source = SpikeHessian(
            neuron if hessian == "smp" else None,
            conv=conv,
            backend=options.backend,
            in_features=d if conv is None else None,
            in_channels=None if conv is None else values.shape[1] * conv.groups,
        )
        source.update(spikes)
    if source.in_features is not None and source.in_features != d:
        raise ValueError(
            f"W has {d} inputs and spikes was fed {source.in_features}; accepted are equal"
        )
    stack = source.stacked()
    log.append(
        f"Hessian: {'current' if source.neuron is None else repr(source.neuron)}, "
        f"{source.num_samples} samples, " + "; ".join(source.paths)
    )
    return stack


def _warn(log: list[str], message: str) -> None:
    log.append(message)
    warnings.warn(message, RuntimeWarning, stacklevel=4)


# ---- damping -----------------------------------------------------------------------------------


def _damped(part: _Group, damp_percent: float) -> NDArray[np.float64]:
    """H with damping; the identity where no input is live."""
    diagonal = np.diagonal(part.hessian)
    if not part.live.any():
        return np.eye(diagonal.size)
    matrix = part.hessian.copy()
    matrix[np.diag_indices(diagonal.size)] += damp_percent * diagonal[part.live].mean()
    return matrix


def _with_damping(
    part: _Group, options: _Options, log: list[str], attempt: Callable[[NDArray[np.float64]], Any]
) -> tuple[Any, float]:
    """``attempt(damped Hessian)``; where its Cholesky fails, again with ten times the damping."""
    percent = options.damp_percent
    for retry in range(MAX_RETRIES + 1):
        try:
            return attempt(_damped(part, percent)), percent
        except np.linalg.LinAlgError as error:
            if retry == MAX_RETRIES:
                raise np.linalg.LinAlgError(
                    f"{error}; {MAX_RETRIES} retries up to damp_percent {percent:g} did not help"
                ) from error
            larger = 10 * percent if percent > 0 else 1e-4
            _warn(
                log,
                f"Cholesky failed at damp_percent {percent:g} ({error}); retry {retry + 1} with "
                f"{larger:g}",
            )
            percent = larger
    raise AssertionError("unreachable")


# ---- pruning -----------------------------------------------------------------------------------


def _prune(parts: list[_Group], options: _Options, log: list[str]) -> float:
    pattern = options.pattern
    assert pattern is not None
    percent = options.damp_percent
    if options.method == "magnitude":
        masks = _shared_masks([np.abs(part.weight) for part in parts], pattern)
        for part, mask in zip(parts, masks, strict=True):
            part.mask, part.result = mask, np.where(mask, part.weight, 0).astype(part.weight.dtype)
        log.append(f"pruned {pattern} by magnitude, weights not updated")
    elif options.method == "blocked":
        # With bits, the same sweep rounds what it keeps: see _quantize.
        if options.bits is None:
            for part in parts:
                percent = max(percent, _sweep(part, options, None, log))
        log.append(f"pruned {pattern} by blocks of {options.block_size} columns")
    else:
        percent = _prune_exact(parts, options, log)
        log.append(f"pruned {pattern} by exact OBS")
    return percent


def _prune_exact(parts: list[_Group], options: _Options, log: list[str]) -> float:
    """Orders the weights of each row, shares out the quota, solves for the survivors."""
    pattern = options.pattern
    assert pattern is not None
    percents, orders, inverses, dampeds = [], [], [], []
    for part in parts:

        def attempt(matrix: NDArray[np.float64], part: _Group = part) -> Any:
            live = np.flatnonzero(part.live)
            return matrix, inverse(matrix[np.ix_(live, live)])

        (matrix, G), percent = _with_damping(part, options, log, attempt)
        dampeds.append(matrix)
        inverses.append(G)
        percents.append(percent)
        orders.append(_order(part, G, pattern, options.backend))
    if pattern.of_m:
        masks = [
            _mask_of_steps(part, order, None)
            for part, (order, _) in zip(parts, orders, strict=True)
        ]
        for part, mask in zip(parts, masks, strict=True):
            _prune_silent_in_groups(part, mask, pattern)
    else:
        counts = _share_quota(parts, [loss for _, loss in orders], pattern)
        masks = [
            _mask_of_steps(part, order, count)
            for part, (order, _), count in zip(parts, orders, counts, strict=True)
        ]
        _prune_silent(parts, masks, pattern)
    for part, mask, matrix, G in zip(parts, masks, dampeds, inverses, strict=True):
        part.mask = mask
        live = part.live
        part.result = np.where(mask, part.weight, 0).astype(part.weight.dtype)
        if live.any():
            part.result[:, live] = run_obs_solve(
                np.ascontiguousarray(part.weight[:, live]),
                matrix[np.ix_(live, live)].astype(part.weight.dtype),
                mask[:, live],
                inverse_hessian=G,
                backend=options.backend,
            )
    return max(percents)


def _order(
    part: _Group, G: NDArray[np.float64], pattern: Pattern, backend: str | None
) -> tuple[NDArray[np.int32], Array]:
    """Order and loss over the live inputs. With N:M, dead inputs fill their groups' quotas first."""
    live = np.flatnonzero(part.live)
    weight = np.ascontiguousarray(part.weight[:, live])
    G = G.astype(weight.dtype)
    if not pattern.of_m:
        return run_obs_order(weight, G, len(live), backend=backend)
    d = part.weight.shape[1]
    dead = np.bincount(np.flatnonzero(~part.live) // pattern.of_m, minlength=d // pattern.of_m)
    quota = np.maximum(pattern.of_m - pattern.keep_n - dead, 0).astype(np.int32)
    return run_obs_order(
        weight,
        G,
        int(quota.sum()),
        group=(live // pattern.of_m).astype(np.int32),
        quota=quota,
        backend=backend,
    )


def _share_quota(
    parts: list[_Group], losses: list[Array], pattern: Pattern
) -> list[NDArray[np.int64]]:
    """How many live weights each row gives up: the layer's quota goes to the least losses."""
    size = sum(part.weight.size for part in parts)
    dead = sum(len(part.weight) * int((~part.live).sum()) for part in parts)
    quota = max(pattern.num_pruned(size) - dead, 0)
    every = np.concatenate([loss.ravel() for loss in losses])
    chosen = np.zeros(every.size, dtype=bool)
    chosen[np.argsort(every, kind="stable")[:quota]] = True
    counts, at = [], 0
    for loss in losses:
        counts.append(chosen[at : at + loss.size].reshape(loss.shape).sum(axis=1))
        at += loss.size
    return counts


def _mask_of_steps(
    part: _Group, order: NDArray[np.int32], counts: NDArray[np.int64] | None
) -> NDArray[np.bool_]:
    """Mask of the first ``counts`` removals of each row (None: all). Dead inputs are still kept."""
    mask = np.ones(part.weight.shape, dtype=np.bool_)
    live = np.flatnonzero(part.live)
    steps = np.arange(order.shape[1])[None, :]
    removed = np.full(order.shape, True) if counts is None else steps < counts[:, None]
    rows, at = np.nonzero(removed)
    mask[rows, live[order[rows, at]]] = False
    return mask


def _prune_silent(parts: list[_Group], masks: list[NDArray[np.bool_]], pattern: Pattern) -> None:
    """Dead inputs' weights cost nothing: they fill the quota, the smallest first."""
    size = sum(part.weight.size for part in parts)
    missing = pattern.num_pruned(size) - sum(int((~mask).sum()) for mask in masks)
    sizes = [np.where(part.live[None, :], np.inf, np.abs(part.weight)).ravel() for part in parts]
    least = np.argsort(np.concatenate(sizes), kind="stable")[: max(missing, 0)]
    at = 0
    for mask in masks:
        mine = least[(least >= at) & (least < at + mask.size)] - at
        mask.ravel()[mine] = False
        at += mask.size


def _prune_silent_in_groups(part: _Group, mask: NDArray[np.bool_], pattern: Pattern) -> None:
    """The same for an N:M pattern: dead inputs fill what `_order` left them of each group's quota."""
    size = np.where(part.live[None, :], np.inf, np.abs(part.weight))
    grouped, keep = (a.reshape(len(mask), -1, pattern.of_m) for a in (size, mask))
    rank = np.argsort(np.argsort(grouped, axis=2, kind="stable"), axis=2, kind="stable")
    missing = pattern.of_m - pattern.keep_n - (~keep).sum(axis=2, keepdims=True)
    keep &= ~((rank < missing) & np.isfinite(grouped))


def _shared_masks(scores: list[Array], pattern: Pattern) -> list[NDArray[np.bool_]]:
    """One quota for all groups of a layer."""
    mask = prune_least(np.concatenate(scores), pattern)
    return np.split(mask, np.cumsum([len(score) for score in scores])[:-1])


# ---- quantization ------------------------------------------------------------------------------


def _quantize(parts: list[_Group], options: _Options, log: list[str]) -> float:
    percent = options.damp_percent
    assert options.bits is not None
    for part in parts:
        grid = _fit(part, options)
        if options.method in ("rtn", "magnitude"):
            part.grid = grid
            part.codes, part.result = grid.round(part.result)
            if part.mask is not None:
                part.result = np.where(part.mask, part.result, 0).astype(part.weight.dtype)
        else:
            percent = max(percent, _sweep(part, options, grid, log))
    log.append(
        f"quantized to {options.bits} bits, {options.grid} grid, "
        f"{'symmetric' if options.sym else 'asymmetric'}, group_size {options.group_size}"
        + (", rounded to nearest" if options.method in ("rtn", "magnitude") else "")
    )
    return percent


def _fit(part: _Group, options: _Options) -> Grid:
    assert options.bits is not None
    return fit_grid(
        part.result,
        options.bits,
        kind=options.grid,
        sym=options.sym,
        group_size=options.group_size,
        importance=None if options.method in ("rtn", "magnitude") else np.diagonal(part.hessian),
        mask=part.mask,
    )


def _sweep(part: _Group, options: _Options, grid: Grid | None, log: list[str]) -> float:
    """One obs_quantize over the part: rounds if there is a grid, prunes if the method is "blocked"."""
    pattern = options.pattern if options.method == "blocked" else None
    weight = part.result
    if pattern is not None:  # free, and so the first to go
        weight = np.where(part.live[None, :], weight, 0).astype(weight.dtype)

    def attempt(matrix: NDArray[np.float64]) -> Any:
        return run_obs_quantize(
            weight,
            matrix,
            grid,
            block_size=options.block_size,
            act_order=options.act_order,
            mask=part.mask,
            pattern=pattern,
            backend=options.backend,
        )

    answer, percent = _with_damping(part, options, log, attempt)
    part.result, part.codes, part.grid = answer.weight, answer.codes, grid
    if answer.mask is not None:
        part.mask = answer.mask
    return percent


# ---- loss --------------------------------------------------------------------------------------


def _loss(parts: list[_Group], weight: Array, changed: Array) -> NDArray[np.float64]:
    change = changed.astype(np.float64) - weight.astype(np.float64)
    losses, at = [], 0
    for part in parts:
        mine = change[at : at + len(part.weight)]
        losses.append(0.5 * np.einsum("ri,ri->r", mine @ part.hessian, mine))
        at += len(part.weight)
    return np.concatenate(losses)
