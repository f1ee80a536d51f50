"""The ops in float64, a few lines each: the truth that every backend is tested against."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..arrays import NumpyArray
from ..conv import Conv
from ..grid import Grid
from ..neurons import Neuron, membrane_matrix

Matrix = NDArray[np.float64]


def unfold(maps: NumpyArray, conv: Conv) -> Matrix:
    """[S, C, *map] to [S, outputs, C * taps]: the inputs of each output position."""
    padded = np.pad(maps.astype(np.float64), [(0, 0), (0, 0), *conv.pads()])
    outputs = conv.output_size(maps.shape[2:])
    columns = []
    for tap in np.ndindex(*conv.kernel_size):
        window: tuple[slice, ...] = (slice(None), slice(None))
        for dim, a in enumerate(tap):
            start, step = a * conv.dilations[dim], conv.strides[dim]
            window += (slice(start, start + step * (outputs[dim] - 1) + 1, step),)
        columns.append(padded[window].reshape(*maps.shape[:2], -1))
    stacked = np.stack(columns, axis=2)  # [S, C, taps, outputs]
    unfolded: Matrix = stacked.reshape(len(maps), -1, stacked.shape[3]).transpose(0, 2, 1)
    return unfolded


def filtered_input(spikes: NumpyArray, neuron: Neuron | None, conv: Conv | None) -> Matrix:
    """Y [groups, samples, d_in] of a layer, every time step and position a sample."""
    T, N = spikes.shape[:2]
    M = membrane_matrix(neuron, T)
    Y = np.tensordot(M, spikes.astype(np.float64), axes=1)
    if conv is None:
        return Y.reshape(1, -1, Y.shape[-1])
    maps = Y.reshape(T * N, *Y.shape[2:])
    return np.stack(
        [
            (rows := unfold(part, conv)).reshape(-1, rows.shape[-1])
            for part in np.split(maps, conv.groups, axis=1)
        ]
    )


def spike_sum(spikes: NumpyArray, neuron: Neuron | None = None, conv: Conv | None = None) -> Matrix:
    """``sum_n Y_n' Y_n`` [groups, d_in, d_in]."""
    Y = filtered_input(spikes, neuron, conv)
    total: Matrix = Y.transpose(0, 2, 1) @ Y
    return total


def spike_gram(
    spikes: NumpyArray, neuron: Neuron | None = None, conv: Conv | None = None
) -> Matrix:
    """``2 E_n[Y_n' Y_n]`` [groups, d_in, d_in]."""
    mean: Matrix = 2.0 / spikes.shape[1] * spike_sum(spikes, neuron, conv)
    return mean


def damped_hessian(hessian: Matrix, damp_percent: float = 0.01) -> Matrix:
    """Damping by the mean diagonal of the inputs that fired."""
    H = hessian.astype(np.float64)
    live = np.diagonal(H) > 0
    if not live.any():
        return np.eye(len(H))
    damped: Matrix = H + damp_percent * float(np.diagonal(H)[live].mean()) * np.eye(len(H))
    return damped


def damped_inverse(hessian: Matrix, damp_percent: float = 0.01) -> Matrix:
    """Inverse of the damped Hessian, by LU factorisation."""
    return np.asarray(np.linalg.inv(damped_hessian(hessian, damp_percent)), dtype=np.float64)


def obs_order(
    weight: Matrix,
    inverse_hessian: Matrix,
    num_pruned: int | None = None,
    *,
    group: NDArray[np.int32] | None = None,
    quota: NDArray[np.int32] | None = None,
) -> tuple[NDArray[np.int32], Matrix]:
    """The exact order, one weight at a time, with a full inverse a row."""
    rows, d = weight.shape
    count = d if num_pruned is None else num_pruned
    order, loss = np.zeros((rows, count), np.int32), np.zeros((rows, count))
    for r in range(rows):
        w, G = weight[r].astype(np.float64), inverse_hessian.astype(np.float64)
        open_ = np.ones(d, dtype=bool)
        allowance = None if quota is None else quota.copy()
        for step in range(count):
            allowed = (
                open_ if group is None or allowance is None else open_ & (allowance[group] > 0)
            )
            score = np.where(allowed, w**2 / np.where(open_, np.diagonal(G), 1.0), np.inf)
            p = int(np.argmin(score))
            order[r, step], loss[r, step] = p, score[p] / 2
            column = G[:, p] / G[p, p]
            w = w - w[p] * column
            G = G - np.outer(column, G[p])
            open_[p] = False
            w[p] = 0.0
            if allowance is not None and group is not None:
                allowance[group[p]] -= 1
    return order, loss


def obs_select(
    weight: Matrix,
    hessian: Matrix,
    num_kept: int,
    *,
    group: NDArray[np.int32] | None = None,
    quota: NDArray[np.int32] | None = None,
) -> tuple[NDArray[np.int32], Matrix]:
    """Forward selection, one weight at a time, with a full Schur complement a row."""
    rows, d = weight.shape
    order, gain = np.zeros((rows, num_kept), np.int32), np.zeros((rows, num_kept))
    for r in range(rows):
        S = hessian.astype(np.float64)
        g = S @ weight[r].astype(np.float64)
        allowed, allowance = np.ones(d, dtype=bool), None if quota is None else quota.copy()
        for step in range(num_kept):
            free = (
                allowed if group is None or allowance is None else allowed & (allowance[group] > 0)
            )
            score = np.where(free, g**2 / np.where(allowed, np.diagonal(S), 1.0), -1.0)
            p = int(np.argmax(score))
            order[r, step], gain[r, step] = p, score[p] / 2
            column = S[:, p] / S[p, p]
            g, S = g - g[p] * column, S - np.outer(column, S[p])
            allowed[p] = False
            if allowance is not None and group is not None:
                allowance[group[p]] -= 1
    return order, gain


def obs_solve(weight: Matrix, hessian: Matrix, mask: NDArray[np.bool_]) -> Matrix:
    """Normal equations of each row's survivors."""
    solution = np.zeros(weight.shape)
    for r, keep in enumerate(mask):
        if keep.any():
            H = hessian.astype(np.float64)
            solution[r, keep] = np.linalg.solve(
                H[np.ix_(keep, keep)], H[keep] @ weight[r].astype(np.float64)
            )
    return solution


def obs_quantize(
    weight: Matrix,
    hessian: Matrix,
    grid: Grid,
    *,
    act_order: bool = True,
    mask: NDArray[np.bool_] | None = None,
) -> tuple[NDArray[np.uint8], Matrix, Matrix]:
    """GPTQ as published: ``H^-1 = U' U``, column by column, every later one updated."""
    rows, d = weight.shape
    H = hessian.astype(np.float64)
    perm = np.argsort(-np.diagonal(H), kind="stable") if act_order else np.arange(d)
    U = np.linalg.cholesky(np.linalg.inv(H[np.ix_(perm, perm)])).T
    w = weight.astype(np.float64)[:, perm]
    codes, q = np.zeros((rows, d), np.uint8), np.zeros((rows, d))
    group = grid.group_of_column(d)
    for step, j in enumerate(perm):
        scale = grid.scale[:, group[j]].astype(np.float64)
        zero = grid.zero_point[:, group[j]].astype(np.float64)
        code = np.rint(np.clip(w[:, step] / scale + zero, 0, 2**grid.bits - 1))
        value = (code - zero) * scale
        if mask is not None:
            value = np.where(mask[:, j], value, 0.0)
        codes[:, j], q[:, j] = code, value
        error = (w[:, step] - value) / U[step, step]
        w[:, step:] -= np.outer(error, U[step, step:])
    change = weight.astype(np.float64) - q
    return codes, q, 0.5 * np.einsum("ri,ij,rj->r", change, H, change)


def output_error(
    weight: NumpyArray,
    changed: NumpyArray,
    spikes: NumpyArray,
    neuron: Neuron | None = None,
    conv: Conv | None = None,
) -> Matrix:
    """``E_n |Y_n (w' - w)|^2`` of each output row on the spikes, which the loss predicts."""
    Y = filtered_input(spikes, neuron, conv)
    change = (changed.astype(np.float64) - weight.astype(np.float64)).reshape(
        len(Y), -1, Y.shape[2]
    )
    errors = np.einsum("gsi,gri->gsr", Y, change)
    mean: Matrix = (errors**2).sum(axis=1).ravel() / spikes.shape[1]
    return mean
