"""The column sweep: GPTQ and SparseGPT as published, step by step where rounding may decide."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from helpers import (
    HESSIAN_KINDS,
    assert_close,
    eps,
    quantize_problem,
    scaled_condition,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from on_backends import Ops

import sbc_kernels as sbc
from sbc_kernels.backends.registry import BACKENDS, QuantizedRows
from sbc_kernels.ops import reference
from sbc_kernels.sparsity import Pattern, parse_sparsity

DTYPES = (np.float32, np.float64)


def _sweep_order(H: np.ndarray, act_order: bool) -> np.ndarray:
    return np.argsort(-np.diagonal(H), kind="stable") if act_order else np.arange(len(H))


def _quadratic(weight: np.ndarray, q: np.ndarray, H: np.ndarray) -> np.ndarray:
    change = weight.astype(np.float64) - q.astype(np.float64)
    return 0.5 * np.einsum("ri,ij,rj->r", change, H.astype(np.float64), change)


def assert_swept(
    weight: np.ndarray,
    H: np.ndarray,
    answer: QuantizedRows,
    grid: sbc.Grid | None,
    act_order: bool,
    keep: np.ndarray | None = None,
) -> None:
    """Each step took the level nearest to its target, given the errors that were really made.

    Targets are sums of rounded products: 8 eps of their terms' sizes are allowed, which is what
    decides between two levels where a target lies halfway; and two float64 factors of H, the op's and
    this one, differ by eps times its condition.
    """
    perm = _sweep_order(H, act_order)
    wide = H.astype(np.float64)[np.ix_(perm, perm)]
    R = np.linalg.cholesky(wide[::-1, ::-1])[::-1, ::-1]
    w, q = weight.astype(np.float64)[:, perm], answer.weight.astype(np.float64)[:, perm]
    carried = np.triu(R, 1) / np.diagonal(R)
    target = w + (w - q) @ carried
    size = np.abs(w) + np.abs(w - q) @ np.abs(carried)
    kept = np.ones(w.shape, dtype=bool) if keep is None else keep[:, perm]
    assert (q[~kept] == 0).all()
    unit = 8 * (eps(weight.dtype) + eps(np.float64) * scaled_condition(H))
    if grid is None:
        assert answer.codes is None
        assert_close(np.where(kept, q - target, 0), 0 * q, unit * size, "survivors")
    else:
        group = grid.group_of_column(len(perm))[perm]
        scale = grid.scale[:, group].astype(np.float64)
        zero = grid.zero_point[:, group].astype(np.float64)
        codes, top = answer.codes[:, perm].astype(np.float64), 2**grid.bits - 1
        assert (codes <= top).all()
        away = np.abs(np.clip(target / scale + zero, 0, top) - codes)
        assert_close(away, 0 * away, 0.5 + unit * (size / scale + top), "distance from the level")
        value = np.where(kept, (codes - zero) * scale, 0)
        assert_close(q, value, 2 * eps(weight.dtype) * np.abs(value), "value of the code")
    root = np.sqrt(2 * _quadratic(weight, answer.weight, H))
    bound = unit * np.sqrt(((size * np.diagonal(R)) ** 2).sum(axis=1))
    assert_close(np.sqrt(2 * answer.loss.astype(np.float64)), root, bound, "root of the loss")


def test_comparator_rejects_a_wrong_code() -> None:
    weight, H = quantize_problem("correlated", 30, np.float64)
    grid = sbc.fit_grid(weight, 4)
    codes, q, loss = reference.obs_quantize(weight, H, grid)
    assert_swept(weight, H, QuantizedRows(codes, q, loss, None), grid, True)
    off = codes.copy()
    off[2, 5] += 1 if off[2, 5] < 15 else -1
    value = (off - grid.zero_point.astype(np.float64)) * grid.scale.astype(np.float64)
    for wrong in (
        QuantizedRows(off, value, _quadratic(weight, value, H), None),
        QuantizedRows(codes, q * (1 + 1e-9), loss, None),
        QuantizedRows(codes, q, loss * (1 + 1e-9), None),
    ):
        with pytest.raises(AssertionError):
            assert_swept(weight, H, wrong, grid, True)


# ---- quantization ------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bits", [1, 2, 3, 4, 5, 6, 7, 8])
def test_every_step_takes_the_nearest_level(ops: Ops, dtype: Any, bits: int) -> None:
    few = (1, 15, 16, 37) if bits in (1, 3, 8) else (17,)  # for a GPU
    for d in ops.several((1, 2, 3, 4, 5, 8, 13, 24, 49, 130), few):
        rows = 1 + d % 9 if ops.on_gpu else 3 + 10 * (d % 4)
        weight, H = quantize_problem(HESSIAN_KINDS[(d + bits) % 4], d, dtype, rows=rows)
        grid = sbc.fit_grid(weight, bits, group_size=-1 if d < 4 else (d + 1) // 2)
        for act_order in ops.several((True, False), (bool(d % 2),)):
            answer = ops.obs_quantize(weight, H, grid, act_order=act_order)
            assert answer.mask is None
            assert answer.codes.dtype == np.uint8
            assert_swept(weight, H, answer, grid, act_order)


@pytest.mark.parametrize("kind", HESSIAN_KINDS)
@pytest.mark.parametrize("act_order", [True, False])
def test_float64_codes_are_gptqs(ops: Ops, kind: str, act_order: bool) -> None:
    for d in ops.several((1, 7, 60, 150), (45,)):
        weight, H = quantize_problem(kind, d, np.float64, rows=6 if ops.on_gpu else 20)
        for bits in ops.several((1, 2, 4, 8), (3,)):
            sym = act_order if ops.on_gpu else bits == 2
            grid = sbc.fit_grid(weight, bits, sym=sym, group_size=7 if ops.on_gpu else -1)
            answer = ops.obs_quantize(weight, H, grid, act_order=act_order)
            codes, q, loss = reference.obs_quantize(weight, H, grid, act_order=act_order)
            assert np.array_equal(answer.codes, codes)
            assert_close(answer.weight, q, 2 * eps(np.float64) * np.abs(q), "weight")
            floor = 1e-3 * np.diagonal(H).max() * eps(np.float64)
            assert_close(answer.loss, loss, 1e-11 * loss + floor, "loss")


@pytest.mark.parametrize("act_order", [True, False])
def test_float32_codes_are_gptqs_but_for_ties(backend: str, act_order: bool) -> None:
    """In float32 a code may differ where the target is within rounding of the middle of two."""
    weight, H = quantize_problem("correlated", 120, np.float32, rows=60)
    grid = sbc.fit_grid(weight, 4)
    answer = sbc.obs_quantize(weight, H, grid, act_order=act_order, backend=backend)
    codes, _, loss = reference.obs_quantize(weight, H, grid, act_order=act_order)
    assert (answer.codes == codes).all(axis=1).mean() >= 0.95
    assert_close(answer.loss.sum(), loss.sum(), 1e-3 * loss.sum(), "loss")


@pytest.mark.parametrize("group_size", [-1, 1, 2, 7, 16, 50, 59, 60])
def test_groups_of_columns(backend: str, group_size: int) -> None:
    weight, H = quantize_problem("correlated", 60, np.float64)
    grid = sbc.fit_grid(weight, 3, group_size=group_size)
    for act_order in (True, False):
        answer = sbc.obs_quantize(weight, H, grid, act_order=act_order, backend=backend)
        assert_swept(weight, H, answer, grid, act_order)
        codes, _, _ = reference.obs_quantize(weight, H, grid, act_order=act_order)
        assert np.array_equal(answer.codes, codes)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kept", [0.0, 0.1, 0.4, 0.6, 1.0])
def test_masked_weights_stay_zero(ops: Ops, dtype: Any, kept: float) -> None:
    weight, H = quantize_problem("correlated", 35 if ops.on_gpu else 70, dtype)
    keep = np.random.default_rng(0).random(weight.shape) < kept
    grid = sbc.fit_grid(weight, 4, mask=keep)
    answer = ops.obs_quantize(np.where(keep, weight, 0), H, grid, mask=keep)
    assert answer.mask is None
    assert_swept(np.where(keep, weight, 0), H, answer, grid, True, keep)
    if dtype == np.float64:
        codes, q, _ = reference.obs_quantize(np.where(keep, weight, 0), H, grid, mask=keep)
        assert np.array_equal(answer.codes, codes)
        assert_close(answer.weight, q, 2 * eps(np.float64) * np.abs(q), "weight")


@pytest.mark.parametrize("dtype", DTYPES)
def test_halves_go_to_the_even_code(ops: Ops, dtype: Any) -> None:
    """A diagonal Hessian rounds each weight by itself; ties are decided as np.rint decides them."""
    grid = sbc.Grid(3, np.full((1, 1), 0.5, np.float32), np.full((1, 1), 3, np.float32), -1)
    weight = (np.arange(-9, 12, dtype=dtype)[None, :] / 4).astype(dtype)
    answer = ops.obs_quantize(weight, np.eye(21, dtype=dtype), grid)
    wanted = np.rint(np.clip(weight / 0.5 + 3, 0, 7))
    assert np.array_equal(answer.codes, wanted)
    assert np.array_equal(answer.codes, grid.round(weight)[0])


@pytest.mark.parametrize("bits", [2, 3, 4])
@pytest.mark.parametrize("kind", ["correlated", "duplicate"])
def test_better_than_rounding_to_nearest(bits: int, kind: str) -> None:
    weight, H = quantize_problem(kind, 80, np.float64, rows=40)
    grid = sbc.fit_grid(weight, bits)
    answer = sbc.obs_quantize(weight, H, grid)
    nearest = _quadratic(weight, grid.round(weight)[1], H)
    assert answer.loss.sum() < 0.7 * nearest.sum()
    assert (answer.loss <= nearest).mean() > 0.9


def test_block_size_changes_nothing_without_a_pattern(ops: Ops) -> None:
    weight, H = quantize_problem("correlated", 20 if ops.on_gpu else 90, np.float32)
    grid = sbc.fit_grid(weight, 4)
    codes = [
        ops.obs_quantize(weight, H, grid, block_size=size).codes
        for size in ops.several((1, 3, 32, 90, 1000), (1, 7, 1000))
    ]
    assert all(np.array_equal(part, codes[0]) for part in codes)


# ---- pruning -----------------------------------------------------------------------------------


def sparse_gpt(
    weight: np.ndarray,
    H: np.ndarray,
    pattern: Pattern,
    block_size: int,
    act_order: bool,
    grid: sbc.Grid | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """SparseGPT as published, in float64: each block of columns chooses its mask on its turn."""
    rows, d = weight.shape
    perm = _sweep_order(H, act_order)
    U = np.linalg.cholesky(np.linalg.inv(H.astype(np.float64)[np.ix_(perm, perm)])).T
    w = weight.astype(np.float64)[:, perm]
    keep, q = np.ones((rows, d), dtype=bool), np.zeros((rows, d))
    for first in range(0, d, block_size):
        last = min(first + block_size, d)
        score = (w[:, first:last] / np.diagonal(U)[first:last]) ** 2
        chosen = keep[:, first:last]
        if pattern.of_m:
            grouped = score.reshape(rows, -1, pattern.of_m)
            least = np.argsort(grouped, axis=2, kind="stable")[..., : pattern.of_m - pattern.keep_n]
            np.put_along_axis(chosen.reshape(grouped.shape), least, False, axis=2)
        else:
            total = pattern.num_pruned(rows * d)
            due = int(total * last / d + 0.5) - int(total * first / d + 0.5)
            flat = np.argsort(score, axis=None, kind="stable")[:due]
            chosen[np.unravel_index(flat, score.shape)] = False
        for j in range(first, last):
            value = w[:, j]
            if grid is not None:
                value = grid_round(grid, value, int(perm[j]), d)
            q[:, j] = np.where(keep[:, j], value, 0)
            w[:, j:] -= np.outer((w[:, j] - q[:, j]) / U[j, j], U[j, j:])
    back = np.argsort(perm)
    return keep[:, back], q[:, back]


def grid_round(grid: sbc.Grid, value: np.ndarray, column: int, d: int) -> np.ndarray:
    group = grid.group_of_column(d)[column]
    scale = grid.scale[:, group].astype(np.float64)
    zero = grid.zero_point[:, group].astype(np.float64)
    return (np.rint(np.clip(value / scale + zero, 0, 2**grid.bits - 1)) - zero) * scale


@pytest.mark.parametrize("sparsity", ["2:4", "1:4", "3:4", "0:4", "4:4", 0.0, 0.3, 0.5, 0.9, 1.0])
def test_float64_pruning_is_sparse_gpts(ops: Ops, sparsity: float | str) -> None:
    """On a GPU: blocks of less than a panel of columns, of one and a quarter, and of everything."""
    pattern = parse_sparsity(sparsity)
    d, rows = (40, 3) if ops.on_gpu else (60, 9)
    weight, H = quantize_problem("correlated", d, np.float64, rows=rows)
    levels = sbc.fit_grid(weight, 4)
    orders = (False,) if pattern.of_m else (False, True)
    few = 1 if sparsity in ("1:4", "3:4", "0:4", 0.5) else 3
    for block_size, act_order, grid in ops.several(
        [*itertools.product((4, 24, 128), orders, (None, levels))],
        [(12, orders[-1], levels), (20, False, None), (128, orders[-1], levels)][:few],
    ):
        answer = ops.obs_quantize(
            weight, H, grid, block_size=block_size, act_order=act_order, pattern=pattern
        )
        keep, q = sparse_gpt(weight, H, pattern, block_size, act_order, grid)
        assert answer.mask.dtype == np.bool_
        assert np.array_equal(answer.mask, keep)
        bound = eps(np.float64) * 10 * scaled_condition(H) * np.abs(q).max()
        assert_close(answer.weight, q, bound, "weight")
        assert_swept(weight, H, answer, grid, act_order, answer.mask)


@pytest.mark.parametrize("sparsity", ["2:4", "1:3", 0.5, 0.83])
@pytest.mark.parametrize("dtype", DTYPES)
def test_quotas_of_patterns(ops: Ops, sparsity: float | str, dtype: Any) -> None:
    pattern = parse_sparsity(sparsity)
    for d in ops.several((12, 48, 132), (36 if dtype == np.float32 else 12,)):
        rows = 5 if ops.on_gpu else 11
        weight, H = quantize_problem("duplicate", d, dtype, rows=rows)
        answer = ops.obs_quantize(weight, H, None, block_size=24, act_order=False, pattern=pattern)
        if pattern.of_m:
            kept = answer.mask.reshape(rows, -1, pattern.of_m).sum(axis=2)
            assert (kept == pattern.keep_n).all()
        else:
            assert (~answer.mask).sum() == pattern.num_pruned(weight.size)
        assert_swept(weight, H, answer, None, False, answer.mask)


@settings(max_examples=60)
@given(st.data())
def test_any_sweep(data: st.DataObject) -> None:
    d, rows = data.draw(st.integers(1, 50), "d"), data.draw(st.integers(1, 60), "rows")
    dtype = data.draw(st.sampled_from(DTYPES), "dtype")
    weight, H = quantize_problem(data.draw(st.sampled_from(HESSIAN_KINDS)), d, dtype, rows)
    bits = data.draw(st.integers(1, 8), "bits")
    group_size = data.draw(st.sampled_from([-1, 1, (d + 1) // 2]), "group_size")
    keep = pattern = None
    match data.draw(st.sampled_from(["all", "mask", "pattern"])):
        case "mask":
            keep = np.random.default_rng(d).random((rows, d)) < data.draw(st.floats(0, 1))
            weight = np.where(keep, weight, 0).astype(dtype)
        case "pattern":
            pattern = parse_sparsity(data.draw(st.floats(0, 1)))
    grid = sbc.fit_grid(
        weight, bits, sym=data.draw(st.booleans()), group_size=group_size, mask=keep
    )
    act_order = data.draw(st.booleans(), "act_order")
    backend = data.draw(st.sampled_from(sbc.available_backends("cpu")), "backend")
    answer = BACKENDS[backend].obs_quantize(
        weight,
        H,
        grid,
        block_size=data.draw(st.integers(1, 60), "block_size"),
        act_order=act_order,
        mask=keep,
        pattern=pattern,
    )
    assert_swept(weight, H, answer, grid, act_order, keep if pattern is None else answer.mask)


# ---- the rest ----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
def test_threads_and_repetition_change_nothing(
    backend: str, dtype: Any, set_threads: Callable[[int], None]
) -> None:
    weight, H = quantize_problem("correlated", 100, dtype, rows=130)
    grid = sbc.fit_grid(weight, 3)
    for pattern in (None, parse_sparsity(0.6), parse_sparsity("2:4")):
        answers = []
        for threads in (1, 2, 2):
            set_threads(threads)
            answers.append(
                sbc.obs_quantize(
                    weight,
                    H,
                    grid,
                    block_size=20,
                    act_order=False,
                    pattern=pattern,
                    backend=backend,
                )
            )
        for answer in answers[1:]:
            for part, first in zip(answer, answers[0], strict=True):
                assert (part is None and first is None) or np.array_equal(part, first)


def test_dead_inputs_are_rounded_to_nearest() -> None:
    """An input with no influence takes the nearest level, whatever was done to the others."""
    weight, H = quantize_problem("dead", 40, np.float64)
    dead = (H - np.diag(np.diagonal(H)) == 0).all(axis=1)
    assert dead.sum() == 13
    grid = sbc.fit_grid(weight, 3)
    answer = sbc.obs_quantize(weight, H, grid)
    assert np.array_equal(answer.codes[:, dead], grid.round(weight)[0][:, dead])


@pytest.mark.parametrize("matrix", ["indefinite", "singular"])
def test_not_positive_definite(matrix: str) -> None:
    H = np.array([[1.0, 2.0], [2.0, 1.0 if matrix == "indefinite" else 4.0]])
    with pytest.raises(np.linalg.LinAlgError, match="the Hessian is not positive definite"):
        sbc.obs_quantize(np.ones((1, 2)), H, sbc.fit_grid(np.ones((1, 2)), 4))


def test_torch() -> None:
    weight, H = quantize_problem("correlated", 20, np.float64)
    grid = sbc.fit_grid(weight, 4)
    wanted = sbc.obs_quantize(weight, H, grid)
    answer = sbc.obs_quantize(torch.tensor(weight, requires_grad=True), torch.tensor(H), grid)
    assert answer.mask is None
    for part, true in zip(answer[:3], wanted[:3], strict=True):
        assert isinstance(part, torch.Tensor)
        assert np.array_equal(part.numpy(), true)
    assert answer.codes.dtype == torch.uint8


def test_grids_of_any_kind_of_array(ops: Ops) -> None:
    """A grid may be of another library than the weight, if its arrays lie where the weight lies."""
    weight, H = quantize_problem("correlated", 20, np.float64)
    grid = sbc.fit_grid(weight, 4)
    wanted = ops.obs_quantize(weight, H, grid)
    as_torch = replace(
        grid, scale=torch.tensor(grid.scale), zero_point=torch.tensor(grid.zero_point)
    )
    if BACKENDS[ops.name].device == "cpu":
        answer = sbc.obs_quantize(weight, H, as_torch, backend=ops.name)
        assert np.array_equal(answer.codes, wanted.codes)
    else:
        with pytest.raises(sbc.ParameterError, match="grid lies in CPU memory"):
            sbc.obs_quantize(ops.put(weight), ops.put(H), grid, backend=ops.name)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bits": 9}, "grid is one whose bits is 9; accepted is bits 1..8"),
        ({"group_size": 0}, "grid is one whose group_size is 0"),
        ({"zero_point": np.full((7, 1), np.nan, np.float32)}, "zero points that are not finite"),
        ({"scale": "wide"}, "grid is a str"),
    ],
)
def test_grids_that_are_none(change: dict[str, Any], message: str) -> None:
    weight, H = quantize_problem("correlated", 20, np.float64)
    with pytest.raises(sbc.ParameterError, match=message):
        sbc.obs_quantize(weight, H, replace(sbc.fit_grid(weight, 4), **change))


@pytest.mark.parametrize(("rows", "d"), [(0, 4), (3, 0), (0, 0), (1, 1)])
def test_small_shapes(ops: Ops, rows: int, d: int) -> None:
    for sparsity in (1.0, "0:1"):
        pattern = parse_sparsity(sparsity)
        pruned = ops.obs_quantize(
            np.ones((rows, d)), np.eye(d), None, act_order=False, pattern=pattern
        )
        assert pruned.weight.shape == pruned.mask.shape == (rows, d)
        assert (pruned.weight == 0).all()
    grid = sbc.fit_grid(np.ones((rows, d)), 4)
    rounded = ops.obs_quantize(np.ones((rows, d)), np.eye(d), grid)
    assert rounded.codes.shape == (rows, d)
    assert rounded.loss.shape == (rows,)
    assert_close(rounded.weight, np.ones((rows, d)), 2 * eps(np.float32), "weight")


@pytest.mark.parametrize("pattern", ["2:4", 0.5, 0.1, 0.0])
def test_zeros_beforehand_go_first(ops: Ops, pattern: float | str) -> None:
    """They count among what the sweep prunes, and stay zero beyond its quota."""
    weight, H = quantize_problem("correlated", 16, np.float32, rows=6)
    mask = np.random.default_rng(2).random(weight.shape) < 0.7
    weight[~mask] = 0
    chosen = parse_sparsity(pattern)
    for grid in (None, sbc.fit_grid(weight, 1, sym=True)):
        out = ops.obs_quantize(
            weight, H, grid, act_order=False, block_size=16, mask=mask, pattern=chosen
        )
        assert not out.mask[~mask].any()
        assert (out.weight[~out.mask] == 0).all()
        if chosen.of_m:
            kept = out.mask.reshape(-1, 4).sum(axis=1)
            assert np.array_equal(kept, np.minimum(mask.reshape(-1, 4).sum(axis=1), 2))
        else:
            assert (~out.mask).sum() == max(chosen.num_pruned(96), (~mask).sum())
