"""The elimination order in Triton: against brute force, step by step where scores may tie."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from helpers import (
    assert_close,
    assert_greedy,
    eps,
    order_problem,
)
from interpreted import DEVICE, needs_gpu, needs_triton, small_tiles, to_device, to_host

from sbc_kernels.backends.kernels import recorded_kernels

pytest.importorskip("triton")
from sbc_kernels.backends.cuda.device import has_kernel
from sbc_kernels.backends.cuda.obs_order import CudaPanel
from sbc_kernels.backends.triton import obs_order as module

pytestmark = needs_triton
DTYPES = (np.float32, np.float64)
OWN_TILES = dict(module.TILES)


@pytest.fixture(autouse=True)
def tiles(request: pytest.FixtureRequest) -> Iterator[None]:
    """Small ones, where the test is not of the tiles that a GPU has."""
    if "own_tiles" in request.fixturenames:
        yield
        return
    with small_tiles():
        yield


@pytest.fixture
def own_tiles() -> None:
    assert module.TILES == OWN_TILES


def order_of(
    weight: np.ndarray,
    G: np.ndarray,
    num_pruned: int,
    group: np.ndarray | None = None,
    quota: np.ndarray | None = None,
    max_memory: int | None = None,
    own_panel: module.Panel | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """The op on tensors, which must stay as they were."""
    arrays = {"weight": weight, "inverse_hessian": G, "group": group, "quota": quota}
    tensors = {name: to_device(array) for name, array in arrays.items()}
    order, loss = module.obs_order(
        **tensors, num_pruned=num_pruned, max_memory=max_memory, own_panel=own_panel
    )
    for name, array in arrays.items():
        same = array is None or to_host(tensors[name]).tobytes() == array.tobytes()
        assert same, f"{name} has changed"
    assert order.shape == loss.shape == (len(weight), num_pruned)
    assert (order.dtype, loss.dtype) == (torch.int32, tensors["weight"].dtype)
    return to_host(order), to_host(loss)


@pytest.mark.parametrize("dtype", DTYPES)
def test_tiles_of_its_own(own_tiles: None, dtype: Any) -> None:
    """From the shared matrix, then from a triangle, in tiles of 64 or 128."""
    steps = 70 if dtype == np.float32 else 130  # two panels, three
    weight, G = order_problem("correlated", 260, dtype, rows=1)
    order, loss = order_of(weight, G, steps)
    assert_greedy(weight, G, order, loss)


@pytest.mark.parametrize("dtype", DTYPES)
def test_of_equal_scores_the_lower_column_goes_first(dtype: Any) -> None:
    small = np.arange(20, 30)
    weight = np.ones((1, 48), dtype)
    weight[0, 40:] = -1
    weight[0, small] = 0.5
    order, loss = order_of(weight, np.eye(48, dtype=dtype), 48)
    assert np.array_equal(order[0], np.r_[small, np.delete(np.arange(48), small)])
    assert np.array_equal(loss[0], np.r_[np.full(10, 0.125), np.full(38, 0.5)])


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_not_a_number_is_no_crash() -> None:
    weight, G = order_problem("correlated", 20, np.float32, rows=2)
    order, loss = order_of(weight, G, 20)
    weight[0, 3] = np.nan
    again, cost = order_of(weight, G, 20)
    assert ((again[0] >= 0) & (again[0] < 20)).all()
    assert np.isnan(cost[0]).any()
    assert np.array_equal(again[1], order[1])
    assert np.array_equal(cost[1], loss[1])


def test_memory_repetition_and_company_change_nothing() -> None:
    weight, G = order_problem("correlated", 45, np.float32, rows=3)
    order, loss = order_of(weight, G, 45)
    tiles = module.TILES[module.device_class(to_device(weight)), torch.float32]
    row = module.Scratch.row_bytes(45, module._panels(45, 45, tiles), 0, tiles, 4)
    answer = 3 * 45 * 8
    again, cost = order_of(weight, G, 45, max_memory=answer + row)  # in three turns
    assert np.array_equal(order, again)
    assert np.array_equal(loss, cost)
    with pytest.raises(MemoryError, match=f"one row of 45 weights need {answer + row} bytes"):
        order_of(weight, G, 45, max_memory=answer + row - 1)


def test_layouts_and_gradients() -> None:
    weight, G = order_problem("correlated", 20, np.float64, rows=3)
    order, loss = order_of(weight, G, 20)
    w = to_device(np.ascontiguousarray(weight.T)).T.requires_grad_()
    wide = torch.zeros(20, 40, dtype=torch.float64, device=DEVICE)
    wide[:, ::2] = to_device(G)
    again, cost = module.obs_order(weight=w, inverse_hessian=wide[:, ::2], num_pruned=20)
    assert not cost.requires_grad
    assert np.array_equal(to_host(again), order)
    assert np.array_equal(to_host(cost), loss)


@pytest.mark.parametrize(("rows", "d"), [(0, 5), (3, 0), (0, 0)])
def test_nothing_to_do(rows: int, d: int) -> None:
    order, _ = order_of(np.ones((rows, d)), np.eye(d), d)
    assert order.shape == (rows, d)


def test_quotas_that_are_refused() -> None:
    weight, G = order_problem("correlated", 6, np.float64, rows=1)
    group, quota = np.zeros(6, np.int32), np.array([2], np.int32)
    with pytest.raises(ValueError, match="the quotas admit 2 removals a row; num_pruned is 3"):
        order_of(weight, G, 3, group, quota)
    with pytest.raises(ValueError, match=r"group has entries outside 0\.\.0"):
        order_of(weight, G, 2, group + 1, quota)
    with pytest.raises(ValueError, match="quota has negative entries"):
        order_of(weight, G, 0, group, -quota)
    with pytest.raises(ValueError, match="group and quota come together"):
        order_of(weight, G, 2, group)
    with pytest.raises(ValueError, match=r"group is torch\.int64 \[6\]"):
        order_of(weight, G, 2, group.astype(np.int64), quota)
    with pytest.raises(ValueError, match=r"num_pruned is 7; accepted is 0\.\.6"):
        order_of(weight, G, 7)
    with pytest.raises(ValueError, match=r"weight is torch\.float16"):
        order_of(weight.astype(np.float16), G, 6)
    with pytest.raises(ValueError, match=r"inverse_hessian is torch\.float32"):
        order_of(weight, G.astype(np.float32), 6)


@pytest.mark.usefixtures("own_tiles")
@pytest.mark.parametrize("dtype", DTYPES)
class TestOnlyOnAGPU:
    pytestmark = needs_gpu

    @pytest.mark.parametrize("native", [True, False])
    @pytest.mark.parametrize(
        ("d", "rows", "steps"), [(700, 40, 700), (1540, 3, 500), (5000, 2, 200)]
    )
    def test_a_layer(self, dtype: Any, d: int, rows: int, steps: int, native: bool) -> None:
        """All sweeps, both ends of the panels. G is a diagonal and one direction."""
        if native and (dtype == np.float64 or not has_kernel("order_panel")):
            pytest.skip("no CUDA kernel for it")
        rng = np.random.default_rng(d)
        diagonal, direction = rng.random(d) + 0.5, rng.standard_normal(d)
        G = (np.diag(diagonal) + np.outer(direction, direction)).astype(dtype)
        # At most, of G scaled to a unit diagonal: 1 + trace of the direction's part over what is left.
        share = direction**2 / (diagonal + direction**2)
        condition = (1 + share.sum()) / (1 - share.max())
        weight = rng.standard_normal((rows, d)).astype(dtype)
        own_panel = CudaPanel() if native else None
        with recorded_kernels() as kernels:
            order, loss = order_of(weight, G, steps, own_panel=own_panel)
        assert ("cuda" in kernels["obs_order"]) == native
        some = [0, rows - 1]
        assert_greedy(weight[some], G, order[some], loss[some], condition=condition)
        again, cost = order_of(weight, G, steps, own_panel=own_panel)
        assert np.array_equal(order, again)
        assert np.array_equal(loss, cost)

    def test_many_rows(self, dtype: Any) -> None:
        """In turns. What removing all costs is known beforehand."""
        weight, G = order_problem("correlated", 900, dtype, rows=300)
        order, loss = order_of(weight, G, 900, max_memory=1 << 29)
        assert_greedy(weight[[0, 299]], G, order[[0, 299]], loss[[0, 299]])
        assert (np.sort(order, axis=1) == np.arange(900)).all()
        wide = weight.astype(np.float64)
        whole = 0.5 * np.einsum("ri,ij,rj->r", wide, np.linalg.inv(G.astype(np.float64)), wide)
        sums = loss.astype(np.float64).sum(axis=1)
        assert_close(sums, whole, 1e5 * eps(dtype) * whole, "sum of the losses")

    def test_peak_memory(self, dtype: Any) -> None:
        weight, G = order_problem("independent", 1000, dtype, rows=200)
        w, matrix = to_device(weight), to_device(G)
        limit = 256 << 20
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        module.obs_order(weight=w, inverse_hessian=matrix, num_pruned=300, max_memory=limit)
        assert torch.cuda.max_memory_allocated() - before <= 1.1 * limit
