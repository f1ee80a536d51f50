"""What several test files share: the comparator, calibration data, the replay of an OBS order."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sbc_kernels.backends.matched_filter import (
    BYTES_FIXED_POINT_BITS,
    FIXED_POINT_BITS,
    matched_filter,
)
from sbc_kernels.neurons import Neuron, impulse_response, membrane_matrix

Array = NDArray[Any]


def assert_close(actual: Any, expected: Any, bound: Any, what: str = "") -> None:
    """``|actual - expected| <= bound`` in every entry. NaN fails; the worst index is printed."""
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.shape == expected.shape, (
        f"{what}: shape {actual.shape}, expected {expected.shape}"
    )
    wide = np.longdouble if actual.dtype.kind == "f" else np.float64
    error = np.abs(actual.astype(wide) - expected.astype(wide))
    limit = np.broadcast_to(np.asarray(bound, dtype=wide), error.shape)
    bad = ~(error <= limit)
    if bad.any():
        over = np.where(np.isnan(error), np.inf, error - limit)
        worst = np.unravel_index(int(np.argmax(np.where(bad, over, -np.inf))), error.shape)
        at = [int(i) for i in worst]
        raise AssertionError(
            f"{what}: {int(bad.sum())} of {bad.size} entries are off, the worst at {at}: "
            f"{actual[worst]!r}, expected {expected[worst]!r}, "
            f"error {float(error[worst]):.3g}, bound {float(limit[worst]):.3g}"
        )


def eps(dtype: Any) -> float:
    return float(np.finfo(dtype).eps)


# ---- calibration data --------------------------------------------------------------------------


def spike_train(rng: np.random.Generator, *shape: int, rate: float = 0.3) -> Array:
    """Binary uint8 spikes, inputs correlated through a shared drive."""
    drive = rng.random(shape[:2]).reshape(shape[:2] + (1,) * (len(shape) - 2))
    return (rng.random(shape) < 2 * rate * drive).astype(np.uint8)


def draw_spikes(rng: np.random.Generator, low: int, high: int, *shape: int) -> NDArray[np.int64]:
    """Integers in [low, high], half of them 0, both ends present."""
    spikes = rng.integers(low, high + 1, shape) * (rng.random(shape) < 0.5)
    spikes.flat[: 2 if spikes.size > 1 else 1] = (high, low)[: spikes.size]
    return spikes.astype(np.int64)


def write_idx(path: Path, array: Array) -> None:
    """A file of bytes as MNIST has them, compressed if its name ends in ".gz"."""
    data = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


def layouts(values: Array) -> dict[str, Array]:
    """The same values in every memory layout that NumPy knows."""
    frozen = values.copy()
    frozen.setflags(write=False)
    spaced = np.zeros((*values.shape, 2), dtype=values.dtype)
    spaced[..., 0] = values
    return {
        "C": np.ascontiguousarray(values),
        "Fortran": np.asfortranarray(values),
        "read-only": frozen,
        "strided": spaced[..., 0],
        "backwards": np.ascontiguousarray(values[..., ::-1])[..., ::-1],
        "first axis backwards": np.ascontiguousarray(values[::-1])[::-1],
        "other byte order": values.astype(values.dtype.newbyteorder()),
    }


HESSIAN_KINDS = ("independent", "correlated", "duplicate", "dead")


def damped_hessian(kind: str, d: int, seed: int = 0, damp: float = 0.01) -> NDArray[np.float64]:
    """``2 X'X / n + damp * mean diagonal * I`` of inputs of one kind. d >= 1."""
    rng = np.random.default_rng([seed, d])
    samples = 2 * d + 8
    X = rng.standard_normal((samples, d))
    if kind != "independent":
        X = 0.3 * X + rng.standard_normal((samples, 1)) + rng.random((samples, 1)) * rng.random(d)
    if kind == "duplicate":
        X[:, 1::2] = X[:, 0 : d - d % 2 : 2]
    if kind == "dead":
        X[:, rng.permutation(d)[: d // 3]] = 0.0
    H = 2.0 / samples * X.T @ X
    H += damp * np.diagonal(H)[np.diagonal(H) > 0].mean() * np.eye(d)
    return (H + H.T) / 2


def inverse_of(H: Array) -> NDArray[np.float64]:
    G = np.linalg.inv(H)
    return (G + G.T) / 2


# ---- problems of the ops -----------------------------------------------------------------------


def order_problem(
    kind: str, d: int, dtype: Any, rows: int = 2, damp: float = 0.01
) -> tuple[Array, Array]:
    """Weight [rows, d] and inverse Hessian [d, d]."""
    weight = np.random.default_rng([7, d]).standard_normal((rows, d)).astype(dtype)
    return weight, inverse_of(damped_hessian(kind, d, damp=damp)).astype(dtype)


def solve_problem(
    kind: str, d: int, dtype: Any, rows: int, kept: float, damp: float = 0.01
) -> tuple[Array, Array, Array]:
    """Weight [rows, d], Hessian [d, d] and mask [rows, d] of a part `kept`."""
    rng = np.random.default_rng([3, d, rows])
    H = damped_hessian(kind, d, damp=damp).astype(dtype)
    return rng.standard_normal((rows, d)).astype(dtype), H, rng.random((rows, d)) < kept


def quantize_problem(
    kind: str, d: int, dtype: Any, rows: int = 7, damp: float = 0.01
) -> tuple[Array, Array]:
    """Weight [rows, d] and Hessian [d, d]."""
    weight = np.random.default_rng([11, d]).standard_normal((rows, d)).astype(dtype)
    return weight, damped_hessian(kind, d, damp=damp).astype(dtype)


# ---- sums of spikes ----------------------------------------------------------------------------


def exact_spike_sum(spikes: Array, neuron: Neuron | None) -> NDArray[np.float64]:
    """``sum_n Y_n' Y_n`` of integer spikes [T, N, d] in rational arithmetic, rounded once."""
    from fractions import Fraction

    T, _, d = spikes.shape
    k = [Fraction(float(v)) for v in impulse_response(neuron, T)] if neuron else [Fraction(1)]
    unit = Fraction(1, max(v.denominator for v in k))
    taps = [int(v / unit) for v in k]
    largest = sum(abs(v) for v in taps) * int(np.abs(spikes.astype(np.int64)).max())
    narrow = largest**2 * (spikes.size // d) < 2**62
    X = spikes.astype(np.int64 if narrow else object)
    Y = np.zeros_like(X)
    for t in range(T):
        for s in range(t + 1 if neuron else 1):
            Y[t] += taps[s] * X[t - s]
    flat = Y.reshape(-1, d)
    total = flat.T @ flat
    scale = unit * unit
    if narrow:  # rounded once, to float64; the unit is a power of two
        return total.astype(np.float64) * float(scale)
    return np.array([[float(v * scale) for v in row] for row in total])


def fixed_point_error(neuron: Neuron | None, T: int, backend: str) -> float:
    """Bound on what rounding does to an entry of M'M: half a unit of its row sums' last bit.

    A row sum of b bits is at least half of 2^b units.
    """
    if matched_filter(neuron, T).exact:
        return 0.0
    bits = BYTES_FIXED_POINT_BITS if backend == "amx" else FIXED_POINT_BITS
    M = membrane_matrix(neuron, T)
    return 1.001 * 2.0**-bits * float(np.abs(M.T @ M).sum(axis=1).max())


# ---- OBS order ---------------------------------------------------------------------------------


def scaled_condition(matrix: Array) -> float:
    """Condition number once the diagonal is scaled to ones: what rounding is amplified by."""
    wide = matrix.astype(np.float64)
    unit = 1.0 / np.sqrt(np.diagonal(wide))
    values = np.linalg.eigvalsh(unit[:, None] * wide * unit)
    return float(values[-1] / values[0])


class Replay(NamedTuple):
    """One row's order walked again. Roots of twice the saliencies: ``|w_p| / sqrt(G_pp)``."""

    chosen: Array  # [steps], of the weight that the order names
    least: Array  # [steps], over all weights that might have gone
    spent: Array  # [steps], root of twice the loss of all steps before


def replay_order(
    weight: Array, G: Array, order: Array, group: Array | None = None, quota: Array | None = None
) -> Replay:
    """Follows ``order`` on one row in extended precision. Asserts that every step was allowed."""
    d, wide = weight.size, np.longdouble
    w, matrix = weight.astype(wide), G.astype(wide)
    diagonal = np.diagonal(matrix).copy()
    open_ = np.ones(d, dtype=bool)
    left = None if quota is None else quota.copy()
    factor = np.zeros((order.size, d), dtype=wide)
    chosen, least = np.zeros(order.size, dtype=wide), np.zeros(order.size, dtype=wide)
    for step, p in enumerate(order):
        allowed = open_ if left is None or group is None else open_ & (left[group] > 0)
        assert allowed[p], f"step {step} removes {p}, which may not go"
        root = np.full(d, np.inf, dtype=wide)
        root[allowed] = np.abs(w[allowed]) / np.sqrt(diagonal[allowed])
        chosen[step], least[step] = root[p], root.min()
        column = (matrix[:, p] - factor[:step, p] @ factor[:step]) / np.sqrt(diagonal[p])
        column[~open_] = 0
        factor[step] = column
        w = w - w[p] / np.sqrt(diagonal[p]) * column
        diagonal = diagonal - column * column
        open_[p] = False
        diagonal[p], w[p] = 1, 0
        if left is not None and group is not None:
            left[group[p]] -= 1
    spent = np.sqrt(np.concatenate([[0], np.cumsum(chosen**2)[:-1]])) if order.size else chosen
    return Replay(chosen, least, spent)


def assert_greedy(
    weight: Array,
    G: Array,
    order: Array,
    loss: Array,
    group: Array | None = None,
    quota: Array | None = None,
    condition: float | None = None,
) -> None:
    """Every step of every row took the least saliency there was, and reported it, within rounding.

    A saliency's root moves by the rounding of what was taken from it so far, amplified by the
    condition of G: twice that is allowed (the kernels and the plain brute force reach 0.35 of it).
    """
    unit = 2 * eps(weight.dtype) * (scaled_condition(G) if condition is None else condition)
    for row in range(len(weight)):
        replay = replay_order(weight[row], G, order[row], group, quota)
        bound = unit * (replay.least + replay.spent)
        assert_close(replay.chosen, replay.least, bound, f"row {row}: least saliency")
        root = np.sqrt(2 * loss[row].astype(np.longdouble))
        assert_close(root, replay.chosen, bound, f"row {row}: root of the loss")


def plain_order(weight: Array, G: Array, steps: int) -> tuple[Array, Array]:
    """`reference.obs_order` of one row in the precision that the arrays have."""
    w, G = weight.copy(), G.copy()
    open_ = np.ones(weight.size, dtype=bool)
    order, loss = np.zeros(steps, np.int32), np.zeros(steps, w.dtype)
    for step in range(steps):
        score = np.where(open_, w * w / np.where(open_, np.diagonal(G), 1), np.inf)
        p = int(np.argmin(score))
        order[step], loss[step] = p, score[p] / 2
        column = G[:, p] / G[p, p]
        w, G = w - w[p] * column, G - np.outer(column, G[p])
        open_[p], w[p] = False, 0
    return order, loss
