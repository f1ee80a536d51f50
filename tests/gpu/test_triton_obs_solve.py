"""The weights that remain, in Triton: residuals of the normal equations, on both sides of the mask."""

from __future__ import annotations

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
from interpreted import DEVICE, needs_gpu, needs_triton, to_device, to_host
from test_obs_solve import assert_solved

from sbc_kernels.backends.registry import BACKENDS
from sbc_kernels.ops import reference

pytest.importorskip("triton")
from sbc_kernels.backends.triton import obs_solve as module

pytestmark = needs_triton
DTYPES = (np.float32, np.float64)


def solve(
    weight: np.ndarray,
    H: np.ndarray,
    mask: np.ndarray,
    G: np.ndarray | None = None,
    max_memory: int | None = None,
) -> np.ndarray:
    """The op on tensors, which must stay as they were."""
    arrays = {"weight": weight, "hessian": H, "mask": mask, "inverse_hessian": G}
    tensors = {name: to_device(array) for name, array in arrays.items()}
    answer = module.obs_solve(**tensors, max_memory=max_memory)
    for name, array in arrays.items():
        assert array is None or np.array_equal(to_host(tensors[name]), array)
    return to_host(answer)


def _keeping(counts: list[int], d: int) -> np.ndarray:
    """Row r keeps counts[r] inputs, scattered."""
    rng = np.random.default_rng(d)
    return np.stack([rng.permutation(d) < count for count in counts])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.usefixtures("small_tiles")
def test_subsets_around_the_tiles(dtype: Any) -> None:
    """Rows of one to four tiles together, at and beside their edges, in no order."""
    counts = [65, 1, 32, 97, 0, 31, 33, 64, 16]
    weight, H, _ = solve_problem("correlated", 200, dtype, len(counts), 0.5)
    mask = _keeping(counts, 200)
    answer = solve(weight, H, mask)
    assert_solved(weight, H, mask, answer)
    assert (answer[4] == 0).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", HESSIAN_KINDS)
@pytest.mark.usefixtures("small_tiles")
def test_the_native_answer(dtype: Any, kind: str) -> None:
    """Both sides in one call: rows that keep little and rows that lose little."""
    counts = [10, 50, 40, 7]
    weight, H, _ = solve_problem(kind, 60, dtype, len(counts), 0.5)
    mask = _keeping(counts, 60)
    G = inverse_of(H.astype(np.float64))
    answer = solve(weight, H, mask, G)
    assert_solved(weight, H, mask, answer)
    exact = reference.obs_solve(weight.astype(np.float64), H.astype(np.float64), mask)
    bound = eps(dtype) * 10 * scaled_condition(H) * np.abs(exact).max()
    assert_close(answer, exact, bound, "weights, of the reference")
    native = BACKENDS["portable"].obs_solve(weight, H, mask, inverse_hessian=G)
    assert_close(answer, native, 2 * bound, "weights, of the native op")


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_tiles_of_a_gpu(dtype: Any) -> None:
    weight, H, _ = solve_problem("correlated", 150, dtype, 3, 0.5)
    mask = _keeping([70, 20, 130], 150)
    answer = solve(weight, H, mask, inverse_of(H.astype(np.float64)))
    assert_solved(weight, H, mask, answer)


@pytest.mark.usefixtures("small_tiles")
def test_sizes_of_the_sides_that_are_solved(monkeypatch: pytest.MonkeyPatch) -> None:
    sides = []
    plain = module._solve_subsets

    def spy(matrix: Any, rhs: Any, select: Any, size: Any, *rest: Any) -> Any:
        sides.append(list(size))
        assert list(select.sum(dim=1).cpu()) == list(size)
        return plain(matrix, rhs, select, size, *rest)

    monkeypatch.setattr(module, "_solve_subsets", spy)
    weight, H, _ = solve_problem("correlated", 30, np.float64, 7, 0.5)
    mask = _keeping([0, 3, 15, 16, 28, 30, 29], 30)
    answer = solve(weight, H, mask, inverse_of(H))
    assert_solved(weight, H, mask, answer)
    assert sides == [[14, 2, 1], [0, 3, 15]]
    assert np.array_equal(answer[5], weight[5])  # nothing pruned: not one bit changes
    sides.clear()
    few = mask[6:7]
    assert_solved(weight[:1], H, few, solve(weight[:1], H, few))
    assert sides == [[29]]  # one row does not pay for an inverse


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.usefixtures("small_tiles")
def test_an_inverse_that_is_repaid(dtype: Any) -> None:
    """A row that loses one of nine saves 8^3 / 3 - 1 / 3; 40 of them pay for G."""
    weight, H, mask = solve_problem("correlated", 9, dtype, 40, 0.5)
    mask[:] = np.arange(9) != (np.arange(40) % 9)[:, None]
    calls = []
    plain = module.inverse

    def spy(matrix: torch.Tensor) -> torch.Tensor:
        calls.append(matrix.shape)
        return plain(matrix)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "inverse", spy)
        answer = solve(weight, H, mask)
    assert len(calls) == 1
    assert_solved(weight, H, mask, answer)


@pytest.mark.usefixtures("small_tiles")
def test_memory_and_repetition_change_nothing() -> None:
    weight, H, mask = solve_problem("correlated", 60, np.float32, 5, 0.4)
    answer = solve(weight, H, mask)
    assert np.array_equal(solve(weight, H, mask), answer)
    side = module._tile(module.device_class(to_device(H)), torch.float32).side
    across = -(-int(mask.sum(axis=1).max()) // side)
    each = (
        across * (across + 1) // 2 * side**2 * 4 + 60 * 40
    )  # tiles, and what a row has beside them
    assert np.array_equal(solve(weight, H, mask, max_memory=2 * each), answer)
    assert np.array_equal(solve(weight, H, mask, max_memory=each), answer)
    tensors = [torch.as_tensor(a, device=DEVICE).T.contiguous().T for a in (weight, H, mask)]
    other = module.obs_solve(weight=tensors[0], hessian=tensors[1], mask=tensors[2])
    assert np.array_equal(to_host(other), answer)
    with pytest.raises(MemoryError, match=r"max_memory is 1000 bytes and a row with .* needs"):
        solve(weight, H, mask, max_memory=1000)


@pytest.mark.parametrize("dtype", DTYPES)
class TestOnAGpu:
    pytestmark = needs_gpu

    @pytest.mark.parametrize("kept", [0.03, 0.5, 0.9])
    def test_a_layer(self, dtype: Any, kept: float) -> None:
        weight, H, mask = solve_problem("correlated", 1000, dtype, 300, kept)
        answer = solve(weight, H, mask)
        assert_solved(weight, H, mask, answer)
        assert np.array_equal(solve(weight, H, mask, max_memory=64 << 20), answer)
