"""The weights that remain: residuals of the normal equations, on both sides of the mask."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from helpers import (
    HESSIAN_KINDS,
    assert_close,
    eps,
    inverse_of,
    scaled_condition,
    solve_problem,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from on_backends import Ops

import sbc_kernels as sbc
from sbc_kernels.backends.native import obs_solve as native
from sbc_kernels.backends.registry import BACKENDS
from sbc_kernels.ops import reference

DTYPES = (np.float32, np.float64)
# Around the sides of one to four tiles: 8, 12, 24 and 48 elements.
SIZES = (1, 2, 3, 7, 8, 9, 11, 12, 13, 16, 23, 24, 25, 36, 47, 48, 49, 72, 97, 144, 150)


def assert_solved(weight: np.ndarray, H: np.ndarray, mask: np.ndarray, answer: np.ndarray) -> None:
    """Zero where pruned, and ``(H v - H w)_R`` no larger than 30 eps d of what it is made of."""
    assert answer.shape == weight.shape
    assert answer.dtype == weight.dtype
    assert (answer[~mask] == 0).all()
    w, v, wide = (array.astype(np.float64) for array in (weight, answer, H))
    residual = np.where(mask, (v - w) @ wide, 0.0)
    size = np.abs(v).max(axis=1, initial=0) + np.abs(w).max(axis=1, initial=0)
    scale = np.abs(wide).sum(axis=1).max(initial=0) * size
    bound = 30 * eps(weight.dtype) * weight.shape[1] * np.broadcast_to(scale[:, None], v.shape)
    assert_close(residual, np.zeros_like(residual), bound, "residual of the normal equations")


def test_comparator_rejects_a_wrong_answer() -> None:
    weight, H, mask = solve_problem("correlated", 40, np.float64, 5, 0.5)
    answer = reference.obs_solve(weight, H, mask)
    assert_solved(weight, H, mask, answer)
    for wrong in (np.where(mask, weight, 0), answer * (1 + 1e-9), answer * np.nan):
        with pytest.raises(AssertionError):
            assert_solved(weight, H, mask, wrong)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kept", [0.03, 0.3, 0.7, 0.97])
def test_normal_equations(backend: str, dtype: Any, kept: float) -> None:
    for d in SIZES:
        for rows in (1, 30):
            weight, H, mask = solve_problem(HESSIAN_KINDS[d % 4], d, dtype, rows, kept)
            assert_solved(weight, H, mask, sbc.obs_solve(weight, H, mask, backend=backend))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("damp", [1e-1, 1e-4])
def test_through_the_inverse(backend: str, dtype: Any, damp: float) -> None:
    """With G at hand every row that keeps most of its weights is solved on the pruned side."""
    for d in (1, 2, 13, 48, 100):
        for kind in HESSIAN_KINDS:
            weight, H, mask = solve_problem(kind, d, dtype, 8, 0.8, damp)
            answer = BACKENDS[backend].obs_solve(
                weight, H, mask, inverse_hessian=inverse_of(H.astype(np.float64))
            )
            assert_solved(weight, H, mask, answer)


def test_each_row_is_solved_on_its_smaller_side(monkeypatch: pytest.MonkeyPatch) -> None:
    sides = []
    solve = native._solve_subsets

    def spy(matrix: Any, rhs: Any, select: np.ndarray, *rest: Any, **options: Any) -> Any:
        sides.append(select.sum(axis=1))
        return solve(matrix, rhs, select, *rest, **options)

    monkeypatch.setattr(native, "_solve_subsets", spy)
    weight, H, _ = solve_problem("correlated", 60, np.float64, 61, 0.5)
    mask = np.arange(60) < np.arange(61)[:, None]  # row r keeps r
    answer = BACKENDS["portable"].obs_solve(weight, H, mask, inverse_hessian=inverse_of(H))
    assert_solved(weight, H, mask, answer)
    assert max(size.max() for size in sides) <= 30
    assert len(sides) == 2
    sides.clear()
    sbc.obs_solve(weight[:1], H, mask[59:60])  # one row does not pay for an inverse
    assert [list(size) for size in sides] == [[59]]


@pytest.mark.parametrize("kind", HESSIAN_KINDS)
@pytest.mark.parametrize("kept", [0.1, 0.9])
def test_float64_is_the_reference(backend: str, kind: str, kept: float) -> None:
    weight, H, mask = solve_problem(kind, 90, np.float64, 40, kept)
    answer = sbc.obs_solve(weight, H, mask, backend=backend)
    exact = reference.obs_solve(weight, H, mask)
    bound = eps(np.float64) * 10 * scaled_condition(H) * np.abs(exact).max()
    assert_close(answer, exact, bound, "weights")


@pytest.mark.parametrize("dtype", DTYPES)
def test_all_none_and_one(ops: Ops, dtype: Any) -> None:
    weight, H, _ = solve_problem("correlated", 50, dtype, 4, 0.5)
    mask = np.ones((4, 50), dtype=bool)
    mask[1] = False
    mask[2] = np.arange(50) == 17
    mask[3] = np.arange(50) != 17
    answer = ops.obs_solve(weight, H, mask)
    assert np.array_equal(answer[0], weight[0])  # nothing pruned: not one bit changes
    assert (answer[1] == 0).all()
    assert_solved(weight, H, mask, answer)
    one = ops.obs_solve(weight[:, :1].copy(), H[:1, :1].copy(), mask[:, :1].copy())
    assert np.array_equal(one, np.where(mask[:, :1], weight[:, :1], 0))


@settings(max_examples=60)
@given(st.data())
def test_any_mask(data: st.DataObject) -> None:
    d, rows = data.draw(st.integers(1, 60), "d"), data.draw(st.integers(1, 12), "rows")
    kind, dtype = data.draw(st.sampled_from(HESSIAN_KINDS)), data.draw(st.sampled_from(DTYPES))
    weight, H, _ = solve_problem(kind, d, dtype, rows, 0.5)
    shares = data.draw(st.lists(st.floats(0, 1), min_size=rows, max_size=rows), "kept")
    chance = np.random.default_rng(d).random((rows, d))
    mask = chance < np.array(shares)[:, None]
    answer = sbc.obs_solve(
        weight, H, mask, backend=data.draw(st.sampled_from(sbc.available_backends("cpu")))
    )
    assert_solved(weight, H, mask, answer)


@pytest.mark.parametrize("dtype", DTYPES)
def test_threads_and_repetition_change_nothing(
    backend: str, dtype: Any, set_threads: Callable[[int], None]
) -> None:
    weight, H, mask = solve_problem("correlated", 100, dtype, 41, 0.4)
    answers = []
    for threads in (1, 2, 2):
        set_threads(threads)
        answers.append(sbc.obs_solve(weight, H, mask, backend=backend))
    assert np.array_equal(answers[0], answers[1])
    assert np.array_equal(answers[1], answers[2])


@pytest.mark.parametrize("damp", [-0.5, -3.0])
@pytest.mark.parametrize("dtype", DTYPES)
def test_indefinite_hessian(ops: Ops, damp: float, dtype: Any) -> None:
    weight, H, mask = solve_problem("independent", 40, dtype, 3, 0.9)
    H = (H + damp * np.diagonal(H).mean() * np.eye(40)).astype(dtype)
    mask[0] = False
    with pytest.raises(
        np.linalg.LinAlgError, match=r"hessian is not positive definite: 2 rows .* is row 1 at"
    ):
        ops.obs_solve(weight, H, mask)


@pytest.mark.parametrize("place", [0, 15, 16, 31, 32, 50])
def test_which_pivot_failed(ops: Ops, place: int) -> None:
    """In the first or second half of the first or second tile."""
    H = np.eye(60)
    H[place + 3, place + 3] = -1.0
    mask = np.arange(60)[None, :] >= 3
    with pytest.raises(np.linalg.LinAlgError, match=f"row 0 at pivot {place};"):
        ops.obs_solve(np.ones((1, 60)), H, mask)


def test_singular_hessian(ops: Ops) -> None:
    """Two copies of one input: no unique answer while both are kept, and one if not."""
    H = np.array([[4.0, 4.0, 1.0], [4.0, 4.0, 1.0], [1.0, 1.0, 2.0]])
    weight = np.array([[1.0, 2.0, 3.0]])
    with pytest.raises(np.linalg.LinAlgError, match=r"accepted is a .*damped Hessian"):
        ops.obs_solve(weight, H, np.array([[True, True, False]]))
    mask = np.array([[True, False, True]])
    answer = ops.obs_solve(weight, H, mask)
    assert_close(answer, [[3.0, 0.0, 3.0]], 8 * eps(np.float64), "the survivor carries both")
    assert_solved(weight, H, mask, answer)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_torch(dtype: torch.dtype) -> None:
    weight, H, mask = solve_problem("correlated", 20, np.float64, 3, 0.5)
    tensors = [torch.tensor(array).to(dtype) for array in (weight, H)]
    answer = sbc.obs_solve(tensors[0].requires_grad_(), tensors[1], torch.tensor(mask))
    assert isinstance(answer, torch.Tensor)
    assert answer.dtype == dtype
    assert_solved(tensors[0].detach().numpy(), tensors[1].numpy(), mask, answer.numpy())


@pytest.mark.parametrize(("rows", "d"), [(0, 4), (3, 0), (0, 0)])
def test_zero_size(ops: Ops, rows: int, d: int) -> None:
    answer = ops.obs_solve(np.ones((rows, d)), np.eye(d), np.zeros((rows, d), dtype=bool))
    assert answer.shape == (rows, d)
