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
