"""From spikes to compressed rows by the public ops, without a cast, and the damping in between."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import torch
from helpers import assert_close, assert_greedy, eps, scaled_condition, spike_train
from on_backends import Ops
from test_obs_quantize import assert_swept
from test_obs_solve import assert_solved

import sbc_kernels as sbc
from sbc_kernels.ops import reference

PERCENTS = (0.0, 1e-4, 0.01, 1.0)


def gram(d: int, dead: int = 0, seed: int = 0) -> np.ndarray:
    """Of which the first `dead` inputs never fire."""
    spikes = spike_train(np.random.default_rng(seed), 4, 60 + 4 * d, d)
    spikes[:, :, :dead] = 0
    return sbc.spike_gram(spikes, sbc.LIF(2.0))


@pytest.mark.parametrize("percent", PERCENTS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("dead", [0, 3, 12])
def test_damping(dead: int, dtype: Any, percent: float) -> None:
    """The mean is over live inputs: a sum of d terms, each rounded once."""
    H = gram(12, dead).astype(dtype)
    before = H.copy()
    damped, wanted = sbc.damped_hessian(H, percent), reference.damped_hessian(H, percent)
    assert damped.dtype == np.float64
    assert np.array_equal(H, before)
    assert_close(damped, wanted, 12 * eps(np.float64) * np.abs(wanted).max(), "damped")
    assert np.array_equal(damped - np.diag(np.diag(damped)), H - np.diag(np.diag(H)))


@pytest.mark.parametrize("percent", PERCENTS[1:])
@pytest.mark.parametrize("d", [1, 2, 13, 64, 193])
def test_inverse(ops: Ops, d: int, percent: float) -> None:
    H = gram(d, dead=d // 10)
    G = ops.take(sbc.damped_inverse(ops.put(H), percent, backend=ops.name))
    damped = reference.damped_hessian(H, percent)
    assert G.dtype == np.float64
    assert np.array_equal(G, G.T)
    size = np.sqrt(np.diagonal(damped))
    unit = (G * size[:, None] * size) @ (damped / size[:, None] / size)
    assert_close(unit, np.eye(d), 4 * d * eps(np.float64) * scaled_condition(damped), "G H")


def test_inverse_is_the_reference() -> None:
    H = gram(40, dead=4)
    G, wanted = sbc.damped_inverse(H), reference.damped_inverse(H)
    size = np.sqrt(np.diagonal(wanted))
    bound = (
        40 * eps(np.float64) * scaled_condition(reference.damped_hessian(H)) * np.outer(size, size)
    )
    assert_close(G, wanted, bound, "inverse")


def test_each_group_has_its_own_mean() -> None:
    stack = np.stack([gram(6), 100 * gram(6, seed=1), np.zeros((6, 6))])
    for op in (sbc.damped_hessian, sbc.damped_inverse):
        result = op(stack)
        assert result.shape == stack.shape
        for matrix, alone in zip(result, stack, strict=True):
            assert np.array_equal(matrix, op(alone))
    assert np.array_equal(sbc.damped_hessian(stack)[2], np.eye(6))
    assert sbc.damped_inverse(stack[:0]).shape == (0, 6, 6)


def test_a_dead_input_needs_damping() -> None:
    with pytest.raises(np.linalg.LinAlgError, match="leading minor of order 1 is not"):
        sbc.damped_inverse(gram(6, dead=1), 0.0)


def test_the_kind_that_came_goes_out() -> None:
    H = torch.from_numpy(gram(6)).requires_grad_()
    for op in (sbc.damped_hessian, sbc.damped_inverse):
        result = op(H.float())
        assert isinstance(result, torch.Tensor)
        assert result.dtype == torch.float64
        assert not result.requires_grad


@pytest.mark.parametrize(
    ("hessian", "percent", "error", "message"),
    [
        (np.eye(3), -1.0, ValueError, "damp_percent is -1.0; accepted is a number of at least 0"),
        (np.eye(3), np.nan, ValueError, "damp_percent is nan"),
        (np.eye(3), np.inf, ValueError, "damp_percent is inf"),
        (np.eye(3), True, ValueError, "damp_percent is True"),
        (np.eye(3), "1 %", ValueError, "damp_percent is '1 %'"),
        (
            np.ones((2, 3)),
            0.1,
            ValueError,
            r"hessian has shape \[2, 3\]; accepted is \[d_in, d_in\]",
        ),
        (np.eye(3) * np.nan, 0.1, ValueError, "hessian has 9 values that are NaN or infinite"),
        (np.eye(3, k=1), 0.1, ValueError, "hessian is not symmetric"),
        (-np.eye(3), 0.1, ValueError, "hessian has 3 negative diagonal entries"),
        (np.eye(3, dtype=int), 0.1, TypeError, "hessian has dtype int64; accepted are float32 and"),
    ],
)
def test_refusals(hessian: Any, percent: Any, error: type[Exception], message: str) -> None:
    for op in (sbc.damped_hessian, sbc.damped_inverse):
        with pytest.raises(error, match=message):
            op(hessian, percent)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_ops_chain(ops: Ops, dtype: Any) -> None:
    """spike_gram to obs_quantize, each op fed with what the one before returned."""
    d, rows = 24, 3
    spikes = spike_train(np.random.default_rng(1), 3, 200, d)
    spikes[:, :, 5] = 0
    weight = np.random.default_rng(2).standard_normal((rows, d)).astype(dtype)
    W, on = ops.put(weight), {"backend": ops.name}
    H = sbc.spike_gram(ops.put(spikes), sbc.LIF(2.0), **on)
    damped, G = sbc.damped_hessian(H), sbc.damped_inverse(H, **on)
    order, loss = map(ops.take, sbc.obs_order(W, G, **on))
    narrow = ops.take(G).astype(dtype)
    same, precise = ops.obs_order(weight, narrow, d)
    assert_greedy(weight, narrow, order, precise)
    assert np.array_equal(order, same)
    assert np.array_equal(loss, precise.astype(np.float32))
    mask = np.ones(weight.shape, dtype=bool)
    np.put_along_axis(mask, order[:, :12], False, axis=1)
    solved = sbc.obs_solve(W, damped, ops.put(mask), **on)
    exact = ops.take(damped)
    assert_solved(weight, exact.astype(dtype), mask, ops.take(solved))
    grid = sbc.fit_grid(ops.take(solved), 4, mask=mask)
    rounded = ops.take(sbc.obs_quantize(solved, damped, ops.put(grid), mask=ops.put(mask), **on))
    assert_swept(ops.take(solved), exact, rounded, grid, True, mask)


def test_a_float64_hessian_is_factored_as_it_came(ops: Ops) -> None:
    """Two inputs that are all but the same: rounded to float32 their Hessian is singular."""
    H = np.array([[1.0, 1.0 - 2.0**-26], [1.0 - 2.0**-26, 1.0]])
    weight = np.array([[0.3, 0.8]], dtype=np.float32)
    grid = sbc.fit_grid(weight, 4)
    W, levels = ops.put(weight), ops.put(grid)
    with pytest.raises(np.linalg.LinAlgError):
        sbc.obs_quantize(W, ops.put(H.astype(np.float32)), levels, backend=ops.name)
    answer = ops.take(sbc.obs_quantize(W, ops.put(H), levels, backend=ops.name))
    assert_swept(weight, H, answer, grid, True)


@pytest.mark.parametrize(("scale", "other"), [(1e40, "smaller"), (1e-40, "larger")])
def test_a_matrix_that_float32_cannot_hold(scale: float, other: str) -> None:
    """Neither is it rounded to infinity, nor to zero or a number of few bits."""
    weight, G = np.ones((2, 3), np.float32), scale * np.eye(3)
    message = (
        rf"hessian reaches {re.escape(f'{scale:.4g}')}, which weight's float32.* {other} scale"
    )
    half = sbc.parse_sparsity(0.5)
    with pytest.raises(sbc.ParameterError, match=f"inverse_{message}"):
        sbc.obs_order(weight, G)
    with pytest.raises(sbc.ParameterError, match=message):
        sbc.obs_solve(weight, G, np.ones((2, 3), dtype=bool))
    with pytest.raises(sbc.ParameterError, match=message):
        sbc.obs_quantize(weight, G, sbc.fit_grid(weight, 4))
    with pytest.raises(sbc.ParameterError, match=message):
        sbc.obs_quantize(weight, G, None, pattern=half)
    kept = sbc.obs_quantize(weight.astype(np.float64), G, None, pattern=half).mask
    assert kept.sum() == 3


def test_a_matrix_that_float64_can_hold() -> None:
    order, _ = sbc.obs_order(np.ones((2, 3)), 1e40 * np.eye(3))
    assert order.shape == (2, 3)
