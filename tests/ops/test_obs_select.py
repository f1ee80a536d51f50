"""Forward selection: each step replayed in float64, and the loss that remains against obs_solve."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from helpers import HESSIAN_KINDS, Array, assert_close, damped_hessian, eps, scaled_condition

import sbc_kernels as sbc
from sbc_kernels.backends.native.backend import NativeBackend
from sbc_kernels.backends.registry import BACKENDS
from sbc_kernels.ops import reference

DTYPES = (np.float32, np.float64)
CPU = [n for n in sbc.available_backends("cpu") if isinstance(BACKENDS[n], NativeBackend)]
# Around the edges of the vectors and of the strips of 8 of them: 16 to 128 elements.
SIZES = (1, 2, 3, 7, 15, 16, 17, 31, 33, 63, 64, 65, 127, 129, 140)


def select_problem(kind: str, d: int, dtype: Any, rows: int = 2) -> tuple[Array, Array]:
    weight = np.random.default_rng([13, d]).standard_normal((rows, d)).astype(dtype)
    return weight, damped_hessian(kind, d).astype(dtype)


def assert_selected(
    weight: Array, H: Array, order: Array, gain: Array, members: int = 0, quota: int = 0
) -> None:
    """Every step takes the largest gain that there is, and reports it, within rounding.

    A gain's root moves by the rounding of the whole loss's, amplified by the condition of H.
    """
    d, wide = weight.shape[1], H.astype(np.float64)
    unit = 8 * eps(weight.dtype) * scaled_condition(H) + 2 * eps(np.float32)
    for row, steps in enumerate(order):
        w = weight[row].astype(np.float64)
        S, g = wide.copy(), wide @ w
        bound = unit * np.sqrt(w @ wide @ w)
        free = np.ones(d, dtype=bool)
        for step, p in enumerate(steps):
            allowed = free.copy()
            if members:
                kept = np.bincount(steps[:step] // members, minlength=d)
                allowed &= kept[np.arange(d) // members] < quota
            assert allowed[p], f"step {step} keeps {p}, which may not be kept"
            root = np.where(allowed, np.abs(g) / np.sqrt(np.where(free, np.diagonal(S), 1)), -1)
            assert root[p] >= root.max() - bound, f"row {row}, step {step}: not the largest gain"
            assert abs(np.sqrt(2 * np.float64(gain[row, step])) - root[p]) <= bound
            column = S[:, p] / S[p, p]
            g, S = g - g[p] * column, S - np.outer(column, S[p])
            free[p] = False


def kept_mask(order: Array, d: int) -> Array:
    mask = np.zeros((len(order), d), dtype=bool)
    np.put_along_axis(mask, order.astype(np.int64), True, axis=1)
    return mask


def loss_of(weight: Array, changed: Array, H: Array) -> Array:
    change = changed.astype(np.float64) - weight.astype(np.float64)
    return np.asarray(0.5 * np.einsum("ri,ij,rj->r", change, H.astype(np.float64), change))


def test_comparator_rejects_a_wrong_pick() -> None:
    weight, H = select_problem("correlated", 12, np.float64, rows=1)
    order, gain = reference.obs_select(weight, H, 12)
    assert_selected(weight, H, order, gain)
    swapped = order.copy()
    swapped[0, [0, 1]] = swapped[0, [1, 0]]
    with pytest.raises(AssertionError, match="largest gain"):
        assert_selected(weight, H, swapped, gain)
    with pytest.raises(AssertionError):
        assert_selected(weight, H, order, gain * 1.01)
    with pytest.raises(AssertionError, match="may not be kept"):
        assert_selected(weight, H, np.full_like(order, order[0, 0]), gain[:, [0] * 12])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("backend", CPU)
def test_every_step_is_greedy(backend: str, dtype: Any) -> None:
    for d in SIZES:
        weight, H = select_problem(HESSIAN_KINDS[d % 4], d, dtype)
        for kept in sorted({0, 1, d // 3, d}):
            order, gain = sbc.obs_select(weight, H, kept, backend=backend)
            assert order.shape == gain.shape == (2, kept)
            assert (order.dtype, gain.dtype) == (np.int32, np.float32)
            assert_selected(weight, H, order, gain)


@pytest.mark.parametrize("kind", HESSIAN_KINDS)
@pytest.mark.parametrize("backend", CPU)
def test_float64_order_is_the_reference_order(backend: str, kind: str) -> None:
    for d in (1, 5, 61, 130):
        weight, H = select_problem(kind, d, np.float64)
        order, gain = BACKENDS[backend].obs_select(weight, H, d // 2)
        wanted, true_gain = reference.obs_select(weight, H, d // 2)
        assert np.array_equal(order, wanted), d
        assert_close(gain, true_gain, 1e4 * eps(np.float64) * true_gain.max(initial=0), "gain")


@pytest.mark.parametrize("kind", HESSIAN_KINDS)
@pytest.mark.parametrize("backend", CPU)
def test_gains_are_the_losses_of_the_solved_masks(backend: str, kind: str) -> None:
    d = 40
    weight, H = select_problem(kind, d, np.float64)
    order, gain = BACKENDS[backend].obs_select(weight, H, d)
    whole = loss_of(weight, np.zeros_like(weight), H)
    for kept in (1, 2, 10, 39, 40):
        solved = sbc.obs_solve(weight, H, kept_mask(order[:, :kept], d), backend=backend)
        left = whole - gain[:, :kept].sum(axis=1)
        assert_close(loss_of(weight, solved, H), left, 1e5 * eps(np.float64) * whole, "loss")


@pytest.mark.parametrize("backend", CPU)
def test_fewer_kept_are_a_prefix(backend: str) -> None:
    weight, H = select_problem("correlated", 70, np.float32)
    every, gains = sbc.obs_select(weight, H, 70, backend=backend)
    for kept in (0, 1, 7, 69):
        order, gain = sbc.obs_select(weight, H, kept, backend=backend)
        assert np.array_equal(order, every[:, :kept])
        assert np.array_equal(gain, gains[:, :kept])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("quota", "group", "d"), [(2, 4, 48), (1, 2, 47), (5, 12, 84), (4, 4, 9)])
@pytest.mark.parametrize("backend", CPU)
def test_quotas(backend: str, dtype: Any, quota: int, group: int, d: int) -> None:
    weight, H = select_problem("correlated", d, dtype)
    members = np.bincount(np.arange(d) // group)
    kept = int(np.minimum(members, quota).sum())
    order, gain = sbc.obs_select(weight, H, kept, group=group, quota=quota, backend=backend)
    assert_selected(weight, H, order, gain, group, quota)
    for row in order:
        assert np.array_equal(np.bincount(row // group), np.minimum(members, quota))
    with pytest.raises(sbc.ParameterError, match="num_kept") as caught:
        sbc.obs_select(weight, H, kept + 1, group=group, quota=quota, backend=backend)
    assert caught.value.parameter == "num_kept"


@pytest.mark.parametrize("backend", CPU)
def test_ties_go_to_the_lowest_index(backend: str) -> None:
    order, gain = sbc.obs_select(np.ones((2, 70)), np.eye(70), 70, backend=backend)
    assert (order == np.arange(70)).all()
    assert (gain == 0.5).all()
    zero, nothing = sbc.obs_select(np.zeros((1, 70)), np.eye(70), 70, backend=backend)
    assert (zero == np.arange(70)).all()
    assert (nothing == 0).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("backend", CPU)
def test_duplicates_that_depend_on_the_kept_come_last(backend: str, dtype: Any) -> None:
    """Two equal halves without damping: the copies gain nothing and change nothing."""
    half = damped_hessian("independent", 20).astype(dtype)
    H = np.block([[half, half], [half, half]])
    weight = np.random.default_rng(0).standard_normal((3, 40)).astype(dtype)
    order, gain = sbc.obs_select(weight, H, 40, backend=backend)
    assert (np.sort(order, axis=1) == np.arange(40)).all()
    assert (np.sort(order[:, :20], axis=1) == np.arange(20)).all()  # ties: the first of each pair
    assert (gain[:, :20] > 0).all()
    assert (gain[:, 20:] == 0).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("backend", CPU)
def test_not_positive_definite(backend: str, dtype: Any) -> None:
    weight = np.ones((3, 4), dtype=dtype)
    H = np.eye(4, dtype=dtype)
    H[0, 1] = H[1, 0] = 2
    with pytest.raises(np.linalg.LinAlgError, match="hessian is not positive definite: 3 rows"):
        sbc.obs_select(weight, H, 2, backend=backend)
    H = np.diag(np.array([1, 0, 1, -1], dtype=dtype))
    with pytest.raises(sbc.ParameterError, match="2 diagonal entries that are not positive"):
        sbc.obs_select(weight, H, 2, backend=backend)


@pytest.mark.parametrize("backend", CPU)
@pytest.mark.parametrize("power", [-100, 60, 100])
def test_weights_of_any_size(backend: str, power: int) -> None:
    weight, H = select_problem("correlated", 50, np.float32)
    order, _ = sbc.obs_select(weight, H, 25, backend=backend)
    scaled, _ = sbc.obs_select(np.ldexp(weight, power), H, 25, backend=backend)
    assert np.array_equal(order, scaled)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("backend", CPU)
def test_threads_change_nothing(
    backend: str, dtype: Any, set_threads: Callable[[int], None]
) -> None:
    weight, H = select_problem("correlated", 700, dtype, rows=6)  # enough work for two threads
    answers = []
    for threads in (1, 2, 2):
        set_threads(threads)
        answers.append(BACKENDS[backend].obs_select(weight, H, 200))
    for order, gain in answers[1:]:
        assert np.array_equal(order, answers[0][0])
        assert np.array_equal(gain, answers[0][1])


def test_instruction_sets_agree() -> None:
    weight, H = select_problem("correlated", 150, np.float64)
    answers = [BACKENDS[name].obs_select(weight, H, 60) for name in CPU]
    for order, gain in answers[1:]:
        assert np.array_equal(order, answers[0][0])
        assert_close(gain, answers[0][1], 1e4 * eps(np.float64) * gain.max(), "gain")


def test_tensors_and_mixed_precision() -> None:
    weight, H = select_problem("correlated", 20, np.float32)
    wanted = sbc.obs_select(weight, H, 7)
    tensors = sbc.obs_select(torch.tensor(weight, requires_grad=True), torch.tensor(H).double(), 7)
    for got, known in zip(tensors, wanted, strict=True):
        assert isinstance(got, torch.Tensor)
        assert np.array_equal(got.numpy(), known)


@pytest.mark.parametrize(("rows", "d"), [(0, 5), (3, 0), (0, 0), (1, 1)])
def test_small_shapes(rows: int, d: int) -> None:
    order, gain = sbc.obs_select(np.ones((rows, d)), np.eye(d), d)
    assert order.shape == gain.shape == (rows, d)
    assert (order == np.arange(d)).all()


@pytest.mark.parametrize(
    ("options", "parameter"),
    [
        ({"num_kept": 5}, "num_kept"),
        ({"num_kept": -1}, "num_kept"),
        ({"num_kept": None}, "num_kept"),
        ({"num_kept": 1.5}, "num_kept"),
        ({"group": 0, "quota": 0}, "group"),
        ({"group": 4}, "quota"),
        ({"quota": 2}, "group"),
        ({"group": 2, "quota": 3}, "quota"),
        ({"hessian": np.eye(3)}, "hessian"),
        ({"hessian": np.triu(np.ones((4, 4)))}, "hessian"),
        ({"weight": np.full((2, 4), np.nan)}, "weight"),
    ],
)
def test_bad_input(options: dict[str, Any], parameter: str) -> None:
    given = {"weight": np.ones((2, 4)), "hessian": np.eye(4), "num_kept": 2, **options}
    with pytest.raises(sbc.ParameterError) as caught:
        sbc.obs_select(**given)
    assert caught.value.parameter == parameter


@pytest.mark.parametrize("name", ["triton", "cuda"])
def test_backends_without_a_kernel_say_so(name: str) -> None:
    weight, H = torch.ones(2, 4), torch.eye(4)
    with pytest.raises(NotImplementedError, match=f"obs_select has no GPU kernel yet.*'{name}'"):
        BACKENDS[name].obs_select(weight, H, 2)
