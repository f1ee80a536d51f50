"""The elimination order: against brute force in float64, step by step where scores may tie."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from helpers import (
    HESSIAN_KINDS,
    assert_close,
    assert_greedy,
    damped_hessian,
    eps,
    inverse_of,
    order_problem,
    plain_order,
    replay_order,
    spike_train,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from on_backends import Ops

import sbc_kernels as sbc
from sbc_kernels.ops import reference

DTYPES = (np.float32, np.float64)
# Tiles have 12, 24 or 48 sides, panels 24 pivots: every size up to two tiles, then the edges.
SIZES = (*range(1, 50), 63, 64, 65, 95, 96, 97, 127, 128, 129, 144, 193, 200)


def test_comparator_rejects_a_wrong_pick() -> None:
    weight, G = order_problem("correlated", 12, np.float64, rows=1)
    order, loss = reference.obs_order(weight, G)
    assert_greedy(weight, G, order, loss)
    for step in range(11):
        swapped = order.copy()
        swapped[0, [step, step + 1]] = swapped[0, [step + 1, step]]
        with pytest.raises(AssertionError, match="least saliency"):
            assert_greedy(weight, G, swapped, loss)
    with pytest.raises(AssertionError, match="root of the loss"):
        assert_greedy(weight, G, order, loss * (1 + 1e-9))
    with pytest.raises(AssertionError, match="may not go"):
        assert_greedy(weight, G, np.full_like(order, 3), loss)


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_step_takes_the_least_saliency(ops: Ops, dtype: Any) -> None:
    # On a GPU: one panel, two, one more than a block, an odd and an even number of tiles.
    for d in ops.several(SIZES, (1, 2, 15, 33, 97)):
        rows = 3 if d < 20 or (d < 50 and not ops.on_gpu) else 1
        weight, G = order_problem(HESSIAN_KINDS[d % 4], d, dtype, rows=rows)
        order, loss = ops.obs_order(weight, G, d)
        assert_greedy(weight, G, order, loss)
        if ops.on_gpu and dtype == np.float64:
            wanted, true_loss = reference.obs_order(weight, G)
            assert np.array_equal(order, wanted)
            bound = 100 * eps(dtype) * np.linalg.cond(G) * true_loss.max()
            assert_close(loss, true_loss, bound, "loss")


@pytest.mark.parametrize("kind", HESSIAN_KINDS)
def test_float64_order_is_the_reference_order(backend: str, kind: str) -> None:
    for d in (1, 2, 5, 24, 61, 130, 200):
        weight, G = order_problem(kind, d, np.float64, rows=2)
        order, _ = Ops(backend).obs_order(weight, G, d)
        assert np.array_equal(order, reference.obs_order(weight, G)[0]), d


@pytest.mark.parametrize("kind", ["correlated", "duplicate"])
def test_float32_is_as_good_as_plain_float32(ops: Ops, kind: str) -> None:
    d, rows = (70 if kind == "duplicate" else 33, 1) if ops.on_gpu else (150, 4)
    weight, G = order_problem(kind, d, np.float32, rows=rows)
    order, loss = ops.obs_order(weight, G, d)

    def worst_error(row: int, steps: np.ndarray, losses: np.ndarray) -> float:
        replay = replay_order(weight[row], G, steps)
        picked = replay.chosen - replay.least
        reported = np.abs(np.sqrt(2 * losses.astype(np.longdouble)) - replay.chosen)
        return float(np.maximum(picked, reported).max())

    ours = max(worst_error(row, order[row], loss[row]) for row in range(rows))
    plain = max(worst_error(row, *plain_order(weight[row], G, d)) for row in range(rows))
    assert ours <= (16 if ops.splits_products else 4) * plain


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("d", "steps"), [(400, 100), (1540, 110)])
def test_wider_panels(backend: str, dtype: Any, d: int, steps: int) -> None:
    """48 pivots a panel from d = 384, 96 from d = 1536. G is a diagonal and one direction."""
    rng = np.random.default_rng(d)
    diagonal, direction = rng.random(d) + 0.5, rng.standard_normal(d)
    G = (np.diag(diagonal) + np.outer(direction, direction)).astype(dtype)
    # At most, of G scaled to a unit diagonal: 1 + trace of the direction's part over what is left.
    share = direction**2 / (diagonal + direction**2)
    condition = (1 + share.sum()) / (1 - share.max())
    weight = rng.standard_normal((1, d)).astype(dtype)
    order, loss = Ops(backend).obs_order(weight, G, steps)
    assert_greedy(weight, G, order, loss, condition=condition)


def test_fewer_steps_are_a_prefix(ops: Ops) -> None:
    d = 45 if ops.on_gpu else 60
    weight, G = order_problem("correlated", d, np.float32, rows=1 if ops.on_gpu else 2)
    every, losses = ops.obs_order(weight, G, d)
    for num_pruned in ops.several((0, 1, 23, 24, 25, 59, 60), (0, 1, 16, 17, 32)):
        order, loss = ops.obs_order(weight, G, num_pruned)
        assert np.array_equal(order, every[:, :num_pruned])
        assert np.array_equal(loss, losses[:, :num_pruned])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("keep", "of"), [(2, 4), (1, 2), (0, 3), (3, 4), (5, 12), (4, 4)])
def test_quotas_of_groups(ops: Ops, dtype: Any, keep: int, of: int) -> None:
    d = 96 if of != 12 else 84
    if ops.on_gpu:
        d = {(2, 4): 48, (0, 3): 36, (5, 12): 36}.get((keep, of), 12)
    weight, G = order_problem("correlated", d, dtype)
    group = (np.arange(d) // of).astype(np.int32)
    quota = np.full(d // of, of - keep, dtype=np.int32)
    steps = int(quota.sum())
    order, loss = ops.obs_order(weight, G, steps, group=group, quota=quota)
    assert_greedy(weight, G, order, loss, group, quota)
    gone = np.zeros((2, d // of), dtype=int)
    for row in range(2):
        np.add.at(gone[row], group[order[row]], 1)
    assert (gone == of - keep).all()
    if dtype == np.float64:
        wanted, _ = reference.obs_order(weight, G, steps, group=group, quota=quota)
        assert np.array_equal(order, wanted)


@settings(max_examples=10)
@given(st.data())
def test_any_groups_and_quotas(ops: Ops, data: st.DataObject) -> None:
    d = data.draw(st.integers(1, 50 if ops.on_gpu else 70), "d")
    groups = data.draw(st.integers(1, 8), "groups")
    member = st.integers(0, groups - 1)
    group = np.array(data.draw(st.lists(member, min_size=d, max_size=d), "group"), np.int32)
    quota = np.array(
        data.draw(st.lists(st.integers(0, d), min_size=groups, max_size=groups), "quota"), np.int32
    )
    admitted = int(np.minimum(np.bincount(group, minlength=groups), quota).sum())
    steps = data.draw(st.integers(0, admitted), "steps")
    dtype = data.draw(st.sampled_from(DTYPES), "dtype")
    weight, G = order_problem(
        data.draw(st.sampled_from(HESSIAN_KINDS), "kind"), d, dtype, rows=1 if ops.on_gpu else 2
    )
    order, loss = ops.obs_order(weight, G, steps, group=group, quota=quota)
    assert_greedy(weight, G, order, loss, group, quota)


def test_quotas_that_admit_too_little_raise(ops: Ops) -> None:
    weight, G = order_problem("correlated", 6, np.float64)
    group, quota = np.zeros(6, np.int32), np.array([2], np.int32)
    with pytest.raises(ValueError, match=r"the quotas admit 2 removals a row; .* 3$"):
        ops.obs_order(weight, G, 3, group=group, quota=quota)


def test_exact_ties(backend: str) -> None:
    """Equal weights on identical inputs of a spike train: any of them may go first, all must go."""
    spikes = np.repeat(spike_train(np.random.default_rng(0), 5, 40, 10), 4, axis=2)
    H = reference.spike_gram(spikes, sbc.LIF(2.0))[0]
    H += 0.01 * np.diagonal(H).mean() * np.eye(40)
    G = inverse_of(H)
    weight = np.repeat(np.random.default_rng(1).standard_normal((3, 10)), 4, axis=1)
    order, loss = Ops(backend).obs_order(weight, G, 40)
    assert_greedy(weight, G, order, loss)
    assert (np.sort(order, axis=1) == np.arange(40)).all()


def test_total_loss_is_the_loss_of_removing_all(backend: str) -> None:
    d = 90
    H = damped_hessian("correlated", d)
    weight, G = order_problem("correlated", d, np.float64, rows=4)
    _, loss = Ops(backend).obs_order(weight, G, d)
    whole = 0.5 * np.einsum("ri,ij,rj->r", weight, H, weight)
    assert_close(loss.sum(axis=1), whole, 1e5 * eps(np.float64) * whole, "sum of the losses")


@pytest.mark.parametrize("dtype", DTYPES)
def test_nearly_singular_stays_finite(ops: Ops, dtype: Any) -> None:
    """Duplicates with next to no damping: rounding decides, but the order is whole, losses real."""
    d, rows = (50, 1) if ops.on_gpu else (80, 3)
    weight, G = order_problem("duplicate", d, dtype, rows=rows, damp=10 * eps(dtype))
    order, loss = ops.obs_order(weight, G, d)
    assert (np.sort(order, axis=1) == np.arange(d)).all()
    assert np.isfinite(loss).all()
    assert (loss >= 0).all()


@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning")  # of the losses, in the interpreter
@pytest.mark.parametrize("power", [-100, -60, 60, 100])
def test_weights_of_any_size(ops: Ops, power: int) -> None:
    """A power of two on the weights changes no decision, though their squares leave float32."""
    d, rows = (36, 1) if ops.on_gpu else (50, 2)
    weight, G = order_problem("correlated", d, np.float32, rows=rows)
    order, _ = ops.obs_order(weight, G, d)
    scaled, _ = ops.obs_order(np.ldexp(weight, power), G, d)
    assert np.array_equal(order, scaled)


def test_zero_weights_go_first_and_cost_nothing(ops: Ops) -> None:
    weight, G = order_problem("correlated", 30, np.float64)
    weight[:, ::3] = 0.0
    weight[1] = 0.0
    order, loss = ops.obs_order(weight, G, 30)
    assert sorted(order[0, :10]) == list(range(0, 30, 3))
    assert (loss[0, :10] == 0).all()
    assert (loss[0, 10:] > 0).all()
    assert (loss[1] == 0).all()
    assert sorted(order[1]) == list(range(30))


@pytest.mark.parametrize("dtype", DTYPES)
def test_threads_and_repetition_change_nothing(
    backend: str, dtype: Any, set_threads: Callable[[int], None]
) -> None:
    weight, G = order_problem("correlated", 120, dtype, rows=9)
    answers = []
    for threads in (1, 2, 2):
        set_threads(threads)
        answers.append(Ops(backend).obs_order(weight, G, 120))
    for order, loss in answers[1:]:
        assert np.array_equal(order, answers[0][0])
        assert np.array_equal(loss, answers[0][1])
    for row in range(9):  # nor does the company a row is in
        alone = Ops(backend).obs_order(weight[row : row + 1], G, 120)
        assert np.array_equal(alone[0][0], answers[0][0][row])


def test_public_op() -> None:
    weight, G = order_problem("correlated", 20, np.float64)
    order, loss = sbc.obs_order(weight, G)
    wanted, true_loss = reference.obs_order(weight, G)
    assert order.dtype == np.int32
    assert loss.dtype == np.float32
    assert np.array_equal(order, wanted)
    assert_close(loss, true_loss, 4 * eps(np.float32) * true_loss, "loss")
    tensors = sbc.obs_order(torch.tensor(weight, requires_grad=True), torch.tensor(G), 7)
    assert all(isinstance(part, torch.Tensor) for part in tensors)
    assert np.array_equal(tensors[0].numpy(), wanted[:, :7])
    assert tensors[1].dtype == torch.float32


@pytest.mark.parametrize(("rows", "d"), [(0, 5), (3, 0), (0, 0), (1, 1)])
def test_small_shapes(rows: int, d: int) -> None:
    order, loss = sbc.obs_order(np.ones((rows, d)), np.eye(d))
    assert order.shape == loss.shape == (rows, d)
    assert (order == np.arange(d)).all()
    assert (loss == 0.5).all()
