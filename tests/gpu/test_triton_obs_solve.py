"""The weights that remain, in Triton: residuals of the normal equations, on both sides of the mask."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from helpers import HESSIAN_KINDS, assert_close, damped_hessian, eps, inverse_of, scaled_condition
from interpreted import DEVICE, needs_gpu, needs_triton, to_device, to_host
from test_obs_solve import assert_solved

from sbc_kernels.backends.registry import BACKENDS
from sbc_kernels.ops import reference

pytest.importorskip("triton")
from sbc_kernels.backends.triton import obs_solve as module

pytestmark = needs_triton
DTYPES = (np.float32, np.float64)


@pytest.fixture
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiles of 32 for both types, of which the interpreter can walk a few; a GPU keeps its own."""
    tile = module.TILES["other"]._replace(side=32, terms=16)
    if DEVICE == "cpu":
        monkeypatch.setattr(module, "_tile", lambda device, dtype: tile)


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


def _problem(
    kind: str, d: int, dtype: Any, rows: int, kept: float, damp: float = 0.01
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng([3, d, rows])
    H = damped_hessian(kind, d, damp=damp).astype(dtype)
    return rng.standard_normal((rows, d)).astype(dtype), H, rng.random((rows, d)) < kept


def _keeping(counts: list[int], d: int) -> np.ndarray:
    """Row r keeps counts[r] inputs, scattered."""
    rng = np.random.default_rng(d)
    return np.stack([rng.permutation(d) < count for count in counts])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.usefixtures("small_tiles")
def test_subsets_around_the_tiles(dtype: Any) -> None:
    """Rows of one to four tiles together, at and beside their edges, in no order."""
    counts = [65, 1, 32, 97, 0, 31, 33, 64, 16]
    weight, H, _ = _problem("correlated", 200, dtype, len(counts), 0.5)
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
    weight, H, _ = _problem(kind, 60, dtype, len(counts), 0.5)
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
    weight, H, _ = _problem("correlated", 150, dtype, 3, 0.5)
    mask = _keeping([70, 20, 130], 150)
    answer = solve(weight, H, mask, inverse_of(H.astype(np.float64)))
    assert_solved(weight, H, mask, answer)


@pytest.mark.usefixtures("small_tiles")
def test_each_row_is_solved_on_its_smaller_side(monkeypatch: pytest.MonkeyPatch) -> None:
    sides = []
    plain = module._solve_subsets

    def spy(matrix: Any, rhs: Any, select: Any, size: Any, *rest: Any) -> Any:
        sides.append(list(size))
        assert list(select.sum(dim=1).cpu()) == list(size)
        return plain(matrix, rhs, select, size, *rest)

    monkeypatch.setattr(module, "_solve_subsets", spy)
    weight, H, _ = _problem("correlated", 30, np.float64, 7, 0.5)
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
    weight, H, mask = _problem("correlated", 9, dtype, 40, 0.5)
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


@pytest.mark.parametrize("dtype", DTYPES)
def test_all_none_and_one(dtype: Any) -> None:
    weight, H, _ = _problem("correlated", 50, dtype, 4, 0.5)
    mask = np.ones((4, 50), dtype=bool)
    mask[1] = False
    mask[2] = np.arange(50) == 17
    answer = solve(weight, H, mask)
    for row in (0, 3):
        assert np.array_equal(answer[row], weight[row])
    assert (answer[1] == 0).all()
    assert_solved(weight, H, mask, answer)


@pytest.mark.usefixtures("small_tiles")
def test_memory_and_repetition_change_nothing() -> None:
    weight, H, mask = _problem("correlated", 60, np.float32, 5, 0.4)
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


@pytest.mark.parametrize("damp", [-0.5, -3.0])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.usefixtures("small_tiles")
def test_indefinite_hessian(damp: float, dtype: Any) -> None:
    weight, H, mask = _problem("independent", 40, dtype, 3, 0.9)
    H = (H + damp * np.diagonal(H).mean() * np.eye(40)).astype(dtype)
    mask[0] = False
    with pytest.raises(
        np.linalg.LinAlgError, match=r"hessian is not positive definite: 2 rows .* is row 1 at"
    ):
        solve(weight, H, mask)


@pytest.mark.parametrize("place", [0, 15, 16, 31, 32, 50])
@pytest.mark.usefixtures("small_tiles")
def test_which_pivot_failed(place: int) -> None:
    """In the first or second half of the first or second tile, as the native op names it."""
    H = np.eye(60)
    H[place + 3, place + 3] = -1.0
    mask = np.arange(60)[None, :] >= 3
    weight = np.ones((1, 60))
    with pytest.raises(np.linalg.LinAlgError, match=f"row 0 at pivot {place};"):
        BACKENDS["portable"].obs_solve(weight, H, mask)
    with pytest.raises(np.linalg.LinAlgError, match=f"row 0 at pivot {place};"):
        solve(weight, H, mask)


def test_singular_hessian() -> None:
    """Two copies of one input: no unique answer while both are kept, and one if not."""
    H = np.array([[4.0, 4.0, 1.0], [4.0, 4.0, 1.0], [1.0, 1.0, 2.0]])
    weight = np.array([[1.0, 2.0, 3.0]])
    with pytest.raises(np.linalg.LinAlgError, match=r"accepted is a .*damped Hessian"):
        solve(weight, H, np.array([[True, True, False]]))
    answer = solve(weight, H, np.array([[True, False, True]]))
    assert_close(answer, [[3.0, 0.0, 3.0]], 8 * eps(np.float64), "the survivor carries both")


@pytest.mark.parametrize(("rows", "d"), [(0, 4), (3, 0), (0, 0)])
def test_zero_size(rows: int, d: int) -> None:
    answer = solve(np.ones((rows, d)), np.eye(d), np.zeros((rows, d), dtype=bool))
    assert answer.shape == (rows, d)


@pytest.mark.parametrize("dtype", DTYPES)
class TestOnAGpu:
    pytestmark = needs_gpu

    @pytest.mark.parametrize("kept", [0.03, 0.5, 0.9])
    def test_a_layer(self, dtype: Any, kept: float) -> None:
        weight, H, mask = _problem("correlated", 1000, dtype, 300, kept)
        answer = solve(weight, H, mask)
        assert_solved(weight, H, mask, answer)
        assert np.array_equal(solve(weight, H, mask, max_memory=64 << 20), answer)
