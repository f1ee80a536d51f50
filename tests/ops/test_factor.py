"""The factorisations behind the ops: R with H = R R', and the inverse."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from helpers import assert_close, eps
from hypothesis import given, settings
from hypothesis import strategies as st
from on_backends import Ops

import sbc_kernels as sbc
from sbc_kernels.arrays import matrix_product
from sbc_kernels.backends.registry import BACKENDS

# Around the tiles of float64: 8, 12 and 24 to a side.
GRID = sbc.fit_grid(np.ones((2, 60)), 4)
SIZES = [1, 2, 7, 8, 9, 12, 13, 23, 24, 25, 48, 49, 100, 193]


def positive_definite(d: int, dtype: Any, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((d, d + 8))
    scale = 10.0 ** rng.uniform(-3, 3, d)  # inputs that fire often and rarely
    return ((X @ X.T / d + 0.1 * np.eye(d)) * scale[:, None] * scale).astype(dtype)


def assert_factor(R: np.ndarray, H: np.ndarray, perm: np.ndarray) -> None:
    """Backward stable: R R' is H within d eps of the geometric mean of its diagonal entries."""
    assert R.dtype == H.dtype
    assert (np.tril(R, -1) == 0).all()
    assert (np.diagonal(R) > 0).all()
    wide = R.astype(np.longdouble)
    size = np.sqrt(np.diagonal(H).astype(np.float64))
    bound = 2 * eps(H.dtype) * len(H) * np.outer(size, size)
    assert_close(wide @ wide.T, H[np.ix_(perm, perm)], bound[np.ix_(perm, perm)], "R R'")


@pytest.mark.parametrize("d", SIZES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_factor(ops: Ops, d: int, dtype: Any) -> None:
    H = positive_definite(d, dtype, d)
    perm = np.random.default_rng(d).permutation(d).astype(np.int32)
    R = ops.run("upper_factor", H, perm)
    assert R.flags.c_contiguous
    assert_factor(R, H, perm)


@settings(max_examples=50)
@given(st.integers(1, 130), st.integers(0, 99), st.sampled_from(sbc.available_backends("cpu")))
def test_any_factor(d: int, seed: int, backend: str) -> None:
    H = positive_definite(d, np.float64, seed)
    perm = np.random.default_rng(seed).permutation(d).astype(np.int32)
    assert_factor(BACKENDS[backend].upper_factor(H, perm), H, perm)


def test_threads_do_not_change_it(backend: str, set_threads: Callable[[int], None]) -> None:
    H, perm = positive_definite(333, np.float64), np.arange(333, dtype=np.int32)
    factors = []
    for threads in (1, 2, 5, 2):
        set_threads(threads)
        factors.append(BACKENDS[backend].upper_factor(H, perm))
    for other in factors[1:]:
        assert np.array_equal(factors[0], other)


@pytest.mark.parametrize("value", [0.0, -1.0, np.nan, np.inf])
@pytest.mark.parametrize("place", [0, 30, 59])
def test_what_is_not_positive_definite(ops: Ops, place: int, value: float) -> None:
    H = np.eye(60)
    H[place, place] = value
    order = 60 - place  # the factorisation begins at the last row
    with pytest.raises(np.linalg.LinAlgError, match=f"leading minor of order {order} is not"):
        ops.run("upper_factor", H, np.arange(60, dtype=np.int32))
    with pytest.raises(np.linalg.LinAlgError, match="the Hessian is not positive definite"):
        ops.run("obs_quantize", np.ones((2, 60)), H, GRID, block_size=128, act_order=False)


@pytest.mark.parametrize("place", [0, 30, 59])
def test_no_inverse_of_what_is_not_positive_definite(ops: Ops, place: int) -> None:
    """cuSOLVER need not see what is not finite, so Triton's backend looks for it."""
    for value in ops.several((0.0, -1.0), (0.0, -1.0, np.nan, np.inf)):
        H = np.eye(60)
        H[place, place] = value
        with pytest.raises(np.linalg.LinAlgError, match="the Hessian is not positive definite"):
            ops.run("inverse", H)
        with pytest.raises(np.linalg.LinAlgError, match=r"definite|singular"):
            ops.run("solve_positive", H, np.ones((60, 2)))


@pytest.mark.parametrize("d", [0, *SIZES])
def test_inverse(ops: Ops, d: int) -> None:
    H = positive_definite(d, np.float64, d)
    G, size = ops.run("inverse", H), np.sqrt(np.diagonal(H))
    assert np.array_equal(G, G.T)
    unit = (G * size[:, None] * size) @ (H / size[:, None] / size)
    assert_close(unit, np.eye(d), 1e-11, "G H")


@pytest.mark.parametrize("d", SIZES)
def test_solution(ops: Ops, d: int) -> None:
    """Backward stable: the residual is within d eps of what it is made of."""
    H, rhs = positive_definite(d, np.float64, d), np.random.default_rng(d).standard_normal((d, 3))
    x = ops.run("solve_positive", H, rhs)
    made_of = np.abs(H) @ np.abs(x) + np.abs(rhs)
    size = np.sqrt(np.diagonal(H))[:, None]
    bound = 8 * d * eps(np.float64) * (size * (made_of / size).max(axis=0))
    assert_close(H @ x, rhs, bound, "H x")


# ---- LAPACK's own measures ---------------------------------------------------------------------


def one_norm(matrix: np.ndarray) -> float:
    return float(np.abs(matrix).sum(axis=0).max(initial=0.0))


def with_condition(d: int, condition: float) -> np.ndarray:
    rng = np.random.default_rng(d)
    Q = np.linalg.qr(rng.standard_normal((d, d)))[0]
    H = (Q * np.geomspace(1, 1 / condition, d)) @ Q.T
    return (H + H.T) / 2


@pytest.mark.parametrize("condition", [1e2, 1e4, 1e8, 1e12])
@pytest.mark.parametrize("d", [40, 193, 500])
def test_residuals_by_lapacks_measure(ops: Ops, d: int, condition: float) -> None:
    """LAPACK's testers accept 30: xPOT01 for the factor, xPOT03 for the inverse, xPOT02 for x."""
    H, perm = with_condition(d, condition), np.arange(d, dtype=np.int32)
    unit = d * eps(np.float64)
    R = ops.run("upper_factor", H, perm)
    assert one_norm(R @ R.T - H) <= 30 * unit * one_norm(H)
    G = ops.run("inverse", H)
    assert one_norm(np.eye(d) - G @ H) <= 30 * unit * one_norm(H) * one_norm(G)
    rhs = np.random.default_rng(0).standard_normal((d, 30))
    x = ops.run("solve_positive", H, rhs)
    residual, size = np.abs(H @ x - rhs).sum(axis=0), np.abs(x).sum(axis=0)
    assert (residual <= 30 * unit * one_norm(H) * size).all()


@pytest.mark.parametrize("place", [0, 250, 398, 399])
def test_the_minor_that_is_not_positive_is_named(ops: Ops, place: int) -> None:
    """Also in a matrix of several blocks, whose later ones are not factored."""
    H = np.eye(400)
    H[place, place] = -1.0
    with pytest.raises(np.linalg.LinAlgError, match=f"leading minor of order {place + 1} is not"):
        ops.run("inverse", H)


def test_threads_change_neither_inverse_nor_solution(
    backend: str, set_threads: Callable[[int], None]
) -> None:
    H, rhs = positive_definite(500, np.float64), np.random.default_rng(0).random((500, 70))
    answers = []
    for threads in (1, 2, 5):
        set_threads(threads)
        answers.append((BACKENDS[backend].inverse(H), BACKENDS[backend].solve_positive(H, rhs)))
    for inverse, solution in answers[1:]:
        assert np.array_equal(inverse, answers[0][0])
        assert np.array_equal(solution, answers[0][1])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 70, 50), (65, 300, 130), (4, 0, 2), (0, 3, 2)])
def test_product(dtype: Any, shape: tuple[int, int, int]) -> None:
    """Against float64, also of arrays with strides."""
    m, k, n = shape
    rng = np.random.default_rng(k)
    left, right = rng.standard_normal((m, 2 * k))[:, ::2], rng.standard_normal((n, k)).T
    left, right = left.astype(dtype, order="K"), right.astype(dtype, order="K")
    made_of = np.abs(left).astype(np.float64) @ np.abs(right)
    product = matrix_product(left, right)
    assert product.dtype == dtype
    assert_close(
        product, left.astype(np.float64) @ right, (k + 1) * eps(dtype) * made_of, "product"
    )
