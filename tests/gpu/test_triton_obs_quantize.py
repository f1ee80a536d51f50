"""The column sweep in Triton: step by step, against GPTQ as published, and against the native sweep."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from helpers import (
    assert_close,
    eps,
    quantize_problem,
)
from interpreted import DEVICE, needs_gpu, needs_triton, to_device, to_host
from test_obs_quantize import assert_swept

import sbc_kernels as sbc
from sbc_kernels.backends.registry import BACKENDS, QuantizedRows
from sbc_kernels.sparsity import Pattern, parse_sparsity

pytest.importorskip("triton")
from sbc_kernels.backends.triton import factor as linalg
from sbc_kernels.backends.triton import obs_quantize as module

pytestmark = needs_triton
DTYPES = (np.float32, np.float64)


def on_device(grid: sbc.Grid | None) -> sbc.Grid | None:
    if grid is None:
        return None
    return replace(grid, scale=to_device(grid.scale), zero_point=to_device(grid.zero_point))


def quantize(
    weight: np.ndarray,
    H: np.ndarray,
    grid: sbc.Grid | None,
    *,
    act_order: bool = True,
    block_size: int = 128,
    mask: np.ndarray | None = None,
    pattern: Pattern | None = None,
) -> QuantizedRows:
    """The op on tensors. Inputs must stay as they were."""
    arrays = {"weight": weight, "hessian": H, "mask": mask}
    tensors = {name: to_device(array) for name, array in arrays.items()}
    answer = module.obs_quantize(
        tensors["weight"],
        tensors["hessian"],
        on_device(grid),
        block_size=block_size,
        act_order=act_order,
        mask=tensors["mask"],
        pattern=pattern,
    )
    for name, array in arrays.items():
        assert array is None or np.array_equal(to_host(tensors[name]), array)
    return QuantizedRows(*map(to_host, answer))


# ---- linear algebra ----------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("m", "n", "k"), [(1, 1, 1), (70, 130, 40), (65, 3, 128), (5, 200, 33)])
def test_product(dtype: Any, m: int, n: int, k: int) -> None:
    """Within half an eps a term of its terms' sizes, on parts of larger matrices."""
    rng = np.random.default_rng(m)
    start, left, right = (
        rng.standard_normal(shape).astype(dtype) for shape in ((m, n), (m, k), (k, n))
    )

    def inside(array: np.ndarray) -> torch.Tensor:
        wide = torch.full((len(array) + 1, array.shape[1] + 2), torch.nan, device=DEVICE)
        view = wide.to(to_device(array).dtype)[1:, 1:-1]
        return view.copy_(to_device(array))

    to = inside(start)
    around = to._base
    linalg.add_product(to, inside(left), inside(right))
    terms = np.abs(left).astype(np.float64) @ np.abs(right) + np.abs(start)
    wanted = left.astype(np.float64) @ right + start
    assert_close(to_host(to), wanted, eps(dtype) * (k + 1) / 2 * terms, "product")
    assert int(torch.isnan(around).sum()) == around.numel() - m * n


def test_product_of_nothing() -> None:
    for m, n, k in ((0, 3, 2), (3, 0, 2), (3, 2, 0)):
        to = torch.ones(m, n, device=DEVICE)
        linalg.add_product(to, to.new_ones(m, k), to.new_ones(k, n))
        assert bool((to == 1).all())


# ---- quantization ------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_tiles_of_a_gpu(dtype: Any) -> None:
    """Two panels of 128 columns, the second ragged, and two programs of rows: as the native sweep."""
    weight, H = quantize_problem("correlated", 141, dtype, rows=18)
    grid = sbc.fit_grid(weight, 4, group_size=64)
    answer = quantize(weight, H, grid)
    assert_swept(weight, H, answer, grid, True)
    _assert_native(weight, H, grid, answer, share=0.9)


def _assert_native(
    weight: np.ndarray,
    H: np.ndarray,
    grid: sbc.Grid | None,
    answer: QuantizedRows,
    share: float = 0.95,
    pattern: Pattern | None = None,
) -> None:
    """Codes and masks of float64 are the native op's. In float32 one near a tie may differ, and with it
    what follows in its row: all but a share of the rows agree."""
    native = BACKENDS["portable"].obs_quantize(
        weight, H, grid, block_size=128, act_order=True, mask=None, pattern=pattern
    )
    same = np.ones(len(weight), dtype=bool)
    for ours, theirs in ((answer.codes, native.codes), (answer.mask, native.mask)):
        assert (ours is None) == (theirs is None)
        if ours is not None:
            same &= (ours == theirs).all(axis=1)
    assert same.mean() >= (share if weight.dtype == np.float32 else 1.0)
    assert_close(answer.loss.sum(), native.loss.sum(), 1e-3 * native.loss.sum(), "loss")


# ---- pruning -----------------------------------------------------------------------------------


@pytest.mark.parametrize("sparsity", ["1:4", 0.5])
def test_ties_are_the_native_ones(sparsity: float | str) -> None:
    """Equal weights under an identity: which of them go is decided by place alone."""
    pattern = parse_sparsity(sparsity)
    weight, H = np.ones((3, 8)), np.eye(8)
    answer = quantize(weight, H, None, act_order=False, block_size=4, pattern=pattern)
    native = BACKENDS["portable"].obs_quantize(
        weight, H, None, block_size=4, act_order=False, mask=None, pattern=pattern
    )
    assert np.array_equal(answer.mask, native.mask)
    assert np.array_equal(answer.weight, native.weight)


@pytest.mark.filterwarnings("ignore:overflow")
def test_scores_that_overflow_are_kept() -> None:
    """The square of 1e25 is infinite in float32: the last to go."""
    weight = np.full((1, 8), 1e-3, np.float32)
    weight[0, 2] = 1e25
    answer = quantize(
        weight, np.eye(8, dtype=np.float32), None, act_order=False, pattern=parse_sparsity(0.875)
    )
    assert list(np.flatnonzero(answer.mask[0])) == [2]


# ---- the rest ----------------------------------------------------------------------------------


@pytest.mark.usefixtures("small_tiles")
def test_repetition_and_layout_change_nothing() -> None:
    weight, H = quantize_problem("correlated", 20, np.float32)
    grid = sbc.fit_grid(weight, 3)
    pattern = parse_sparsity(0.5)
    plain, wide = to_device(weight), torch.zeros(20, 14, device=DEVICE)
    wide[:, ::2] = plain.T
    precise = sbc.Grid(3, grid.scale.astype(np.float64), grid.zero_point, -1)
    answers = [
        module.obs_quantize(
            layout, to_device(H), on_device(levels), block_size=8, act_order=False, pattern=pattern
        )
        for layout, levels in ((plain, grid), (plain, grid), (wide[:, ::2].T, precise))
    ]
    for answer in answers[1:]:
        for part, first in zip(answer, answers[0], strict=True):
            assert torch.equal(part, first)


@pytest.mark.parametrize("dtype", DTYPES)
class TestOnAGpu:
    pytestmark = needs_gpu

    @pytest.mark.parametrize("sparsity", [None, 0.5])
    def test_a_layer(self, dtype: Any, sparsity: float | None) -> None:
        weight, H = quantize_problem("correlated", 1100, dtype, rows=777)
        grid = sbc.fit_grid(weight, 4, group_size=128)
        pattern = None if sparsity is None else parse_sparsity(sparsity)
        answer = quantize(weight, H, grid, pattern=pattern)
        assert_swept(weight, H, answer, grid, True, answer.mask)
        # In float32 one weight that another takes the place of in a block's quota changes two rows.
        _assert_native(weight, H, grid, answer, share=0.8 if sparsity else 0.95, pattern=pattern)
