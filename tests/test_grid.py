"""Quantization grids: what their levels reach, and how well they fit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from helpers import assert_close, eps
from hypothesis import given, settings
from hypothesis import strategies as st

import sbc_kernels as sbc

BITS = [1, 2, 3, 4, 5, 6, 7, 8]


def _weights(seed: int, rows: int, d: int, dtype: Any = np.float32) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((rows, d)).astype(dtype)


def _error(
    weight: np.ndarray, grid: sbc.Grid, importance: Any = 1.0, keep: Any = 1.0
) -> np.ndarray:
    """Weighted squared error of rounding to nearest, [d_out, groups]."""
    change = (grid.round(weight)[1].astype(np.float64) - weight) ** 2 * importance * keep
    size = weight.shape[1] if grid.group_size == -1 else grid.group_size
    return np.add.reduceat(change, np.arange(0, weight.shape[1], size), axis=1)


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("sym", [False, True])
@pytest.mark.parametrize("group_size", [-1, 1, 7, 16])
def test_absmax_reaches_every_weight(bits: int, sym: bool, group_size: int) -> None:
    """No weight is further from a level than half a step."""
    weight = _weights(bits, 9, 33) + np.linspace(-3, 3, 9, dtype=np.float32)[:, None]
    grid = sbc.fit_grid(weight, bits, kind="absmax", sym=sym, group_size=group_size)
    groups = 1 if group_size == -1 else -(-33 // group_size)
    assert grid.scale.shape == grid.zero_point.shape == (9, groups)
    assert grid.scale.dtype == grid.zero_point.dtype == np.float32
    codes, q = grid.round(weight)
    assert codes.dtype == np.uint8
    assert codes.max() <= 2**bits - 1
    scale = grid.scale[:, grid.group_of_column(33)].astype(np.float64)
    bound = scale / 2 * (1 + 2 ** (bits + 1) * eps(np.float32))
    assert_close(q, weight, bound, "nearest level")


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("sym", [False, True])
def test_zero_is_a_level_from_two_bits(bits: int, sym: bool) -> None:
    weight = _weights(1, 20, 15)
    grid = sbc.fit_grid(weight, bits, sym=sym)
    zero = grid.round(np.zeros_like(weight))[1]
    if bits > 1:
        assert (zero == 0).all()
        assert (grid.zero_point == np.rint(grid.zero_point)).all()
        assert ((grid.zero_point >= 0) & (grid.zero_point <= 2**bits - 1)).all()
    else:
        assert (zero != 0).all() or not sym
    if sym:
        assert (grid.zero_point == (0.5 if bits == 1 else 2 ** (bits - 1))).all()


def test_one_bit_has_its_levels_at_the_ends() -> None:
    weight = np.array([[-1.0, 3.0, 0.5], [-2.0, -1.0, -0.5], [1.0, 2.0, 4.0]], np.float32)
    grid = sbc.fit_grid(weight, 1, kind="absmax")
    levels = (np.array([0, 1]) - grid.zero_point) * grid.scale
    assert_close(levels, [[-1, 3], [-2, 0], [0, 4]], 4 * eps(np.float32) * 4, "levels")
    both = sbc.fit_grid(weight, 1, kind="absmax", sym=True)
    levels = (np.array([0, 1]) - both.zero_point) * both.scale
    assert np.array_equal(levels, [[-3, 3], [-2, 2], [-4, 4]])


@settings(max_examples=120)
@given(st.data())
def test_mse_is_never_worse_than_absmax(data: st.DataObject) -> None:
    rows, d = data.draw(st.integers(1, 6), "rows"), data.draw(st.integers(1, 40), "d")
    seed, bits = data.draw(st.integers(0, 999), "seed"), data.draw(st.integers(1, 8), "bits")
    rng = np.random.default_rng(seed)
    weight = rng.standard_t(2, (rows, d)).astype(np.float32)  # heavy tails
    weight *= np.float32(10.0 ** data.draw(st.integers(-6, 6), "size"))
    importance = rng.random(d) ** 4 if data.draw(st.booleans(), "importance") else None
    mask = rng.random((rows, d)) < 0.4 if data.draw(st.booleans(), "mask") else None
    options: dict[str, Any] = {
        "sym": data.draw(st.booleans(), "sym"),
        "group_size": data.draw(st.sampled_from([-1, 1, (d + 1) // 2, d]), "group_size"),
        "importance": importance,
        "mask": mask,
    }
    count = 1.0 if importance is None else importance
    keep = 1.0 if mask is None else mask
    mse = _error(weight, sbc.fit_grid(weight, bits, kind="mse", **options), count, keep)
    absmax = _error(weight, sbc.fit_grid(weight, bits, kind="absmax", **options), count, keep)
    # The search sums float32 squares of differences of float32 numbers.
    slack = 4 * d * eps(np.float32) * (absmax + eps(np.float32) * (weight**2).sum(axis=1)[:, None])
    assert_close(np.maximum(mse - absmax, 0), 0 * mse, slack, "mse beyond absmax")


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_mse_is_much_better_at_few_bits(bits: int) -> None:
    weight = _weights(2, 30, 200)
    mse, absmax = (_error(weight, sbc.fit_grid(weight, bits, kind=k)) for k in ("mse", "absmax"))
    assert mse.sum() < {2: 0.5, 3: 0.7, 4: 0.9}[bits] * absmax.sum()


@pytest.mark.parametrize("bits", [2, 3])
@pytest.mark.parametrize("offset", [0.0, 0.5])
def test_no_grid_is_much_better(bits: int, offset: float) -> None:
    """Against a search over 300 scales and every zero point. The nearer zero point alone has rows with
    1.25 times the least error."""
    weight = _weights(0, 40, 256) + np.float32(offset)
    error, top = _error(weight, sbc.fit_grid(weight, bits))[:, 0], 2**bits - 1
    best = np.full(40, np.inf)
    for share in np.linspace(0.05, 1.2, 300):
        step = (2 * share / top * np.abs(weight).max(axis=1))[:, None]
        for zero in range(top + 1):
            q = (np.clip(np.rint(weight / step + zero), 0, top) - zero) * step
            best = np.minimum(best, ((q - weight) ** 2).sum(axis=1))
    assert error.sum() < 1.005 * best.sum()
    assert (error < 1.03 * best).all()


def test_importance_decides() -> None:
    """An outlier that never spikes does not stretch the grid of those that do."""
    weight = _weights(3, 1, 50)
    weight[0, 7] = 8.0
    importance = np.ones(50)
    importance[7] = 0.0
    grid = sbc.fit_grid(weight, 3, importance=importance)
    assert _error(weight, grid, importance) < 0.6 * _error(
        weight, sbc.fit_grid(weight, 3), importance
    )


def test_mask_decides() -> None:
    """Only survivors count: the grid is that of a row without the others."""
    weight = _weights(4, 5, 30)
    mask = np.random.default_rng(0).random((5, 30)) < 0.5
    loud = np.where(mask, weight, 100)
    for kind in ("mse", "absmax"):
        masked = sbc.fit_grid(loud, 4, kind=kind, mask=mask)
        plain = sbc.fit_grid(np.where(mask, weight, 0), 4, kind=kind, mask=mask)
        assert np.array_equal(masked.scale, plain.scale)
        assert np.array_equal(masked.zero_point, plain.zero_point)


@pytest.mark.parametrize("kind", ["mse", "absmax"])
@pytest.mark.parametrize("group_size", [1, 4, 7, 9, 10])
def test_groups_stand_alone(kind: str, group_size: int) -> None:
    """Each group, also the ragged last one, gets the grid that it would get by itself."""
    weight = _weights(5, 6, 10)
    importance = np.random.default_rng(1).random(10)
    grid = sbc.fit_grid(weight, 3, kind=kind, group_size=group_size, importance=importance)
    for group, first in enumerate(range(0, 10, group_size)):
        part = slice(first, first + group_size)
        alone = sbc.fit_grid(weight[:, part], 3, kind=kind, importance=importance[part])
        bound = 4 * eps(np.float32)
        assert_close(grid.scale[:, group], alone.scale[:, 0], bound * alone.scale[:, 0], "scale")
        assert np.array_equal(grid.zero_point[:, group], alone.zero_point[:, 0])


@pytest.mark.parametrize("bits", [1, 2, 8])
@pytest.mark.parametrize("sym", [False, True])
@pytest.mark.parametrize("kind", ["mse", "absmax"])
def test_rows_of_zeros_and_of_one_value(bits: int, sym: bool, kind: str) -> None:
    weight = np.array([[0.0] * 4, [2.5] * 4, [-1e-30] * 4, [1e-44] * 4, [1e15] * 4], np.float32)
    grid = sbc.fit_grid(weight, bits, kind=kind, sym=sym)
    assert np.isfinite(grid.scale).all()
    assert (grid.scale > 0).all()
    assert np.isfinite(grid.zero_point).all()
    q = grid.round(weight)[1]
    assert np.isfinite(q).all()
    if bits > 1:
        assert (q[0] == 0).all()
    if not sym or bits == 1:
        assert_close(q[1], weight[1], 4 * eps(np.float32) * 2.5, "the one value is a level")


def test_silent_groups_are_weighed_alike() -> None:
    weight = _weights(6, 3, 8)
    importance = np.array([0.0] * 4 + [1.0] * 4)
    grid = sbc.fit_grid(weight, 3, group_size=4, importance=importance)
    alone = sbc.fit_grid(weight[:, :4], 3)
    assert np.array_equal(grid.scale[:, :1], alone.scale)


@pytest.mark.parametrize("power", [-20, 20])
def test_scale_follows_the_weights(power: int) -> None:
    weight = _weights(7, 4, 20)
    grid, scaled = sbc.fit_grid(weight, 4), sbc.fit_grid(np.ldexp(weight, power), 4)
    assert np.array_equal(np.ldexp(grid.scale, power), scaled.scale)
    assert np.array_equal(grid.zero_point, scaled.zero_point)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_round_takes_the_nearest_level(dtype: Any) -> None:
    weight = _weights(8, 10, 40, dtype) * 2
    grid = sbc.fit_grid(weight, 3, group_size=8)
    codes, q = grid.round(weight)
    assert q.dtype == dtype
    group = grid.group_of_column(40)
    scale, zero = (part[:, group].astype(np.float64) for part in (grid.scale, grid.zero_point))
    distances = np.abs((np.arange(8)[:, None, None] - zero) * scale - weight)
    chosen = np.take_along_axis(distances, codes[None].astype(int), axis=0)[0]
    assert_close(chosen, distances.min(axis=0), 16 * eps(np.float32) * scale, "distance")
    assert_close(q, (codes - zero) * scale, eps(np.float32) * np.abs(q), "value")


def test_inputs_are_left_alone() -> None:
    weight, importance = _weights(9, 5, 12), np.ones(12)
    mask = weight > -0.5
    copies = weight.copy(), importance.copy(), mask.copy()
    for kind in ("mse", "absmax"):
        sbc.fit_grid(weight, 4, kind=kind, group_size=5, importance=importance, mask=mask)
    assert np.array_equal(weight, copies[0])
    assert np.array_equal(importance, copies[1])
    assert np.array_equal(mask, copies[2])


def test_zero_size() -> None:
    assert sbc.fit_grid(np.zeros((0, 5)), 4).scale.shape == (0, 1)
    grid = sbc.fit_grid(np.zeros((3, 0)), 4)
    assert grid.scale.shape[0] == 3
    assert grid.round(np.zeros((3, 0)))[0].shape == (3, 0)


def test_torch_weights_fit_like_numpys() -> None:
    weight = _weights(10, 4, 9)
    fitted = sbc.fit_grid(torch.tensor(weight), 3, importance=torch.ones(9))
    assert np.array_equal(np.asarray(fitted.scale), sbc.fit_grid(weight, 3).scale)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bits": 0}, r"bits is 0; accepted is an integer in 1\.\.8"),
        ({"bits": 9}, "bits is 9"),
        ({"bits": 4.0}, r"bits is 4\.0"),
        ({"bits": True}, "bits is True"),
        ({"kind": "minmax"}, "kind is 'minmax'; accepted is 'mse' or 'absmax'"),
        ({"group_size": 0}, r"group_size is 0; accepted is -1 or an integer in 1\.\.6"),
        ({"group_size": 7}, "group_size is 7"),
        ({"group_size": 2.0}, r"group_size is 2\.0"),
        ({"weight": np.ones(6, np.float32)}, "weight"),
        ({"weight": np.full((2, 6), np.nan, np.float32)}, "weight .*NaN"),
        ({"weight": np.ones((2, 6), complex)}, "weight .*complex"),
        ({"importance": np.ones(5)}, "importance"),
        ({"importance": -np.ones(6)}, "importance"),
        ({"importance": np.full(6, np.nan)}, "importance"),
        ({"mask": np.ones((2, 5), bool)}, "mask"),
        ({"mask": np.full((2, 6), 2)}, "mask"),
    ],
)
def test_wrong_parameters(change: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {"weight": np.ones((2, 6), np.float32), "bits": 4} | change
    with pytest.raises((TypeError, ValueError), match=message):
        sbc.fit_grid(**arguments)


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        (
            sbc.Grid(4, np.ones((2, 1), "f"), np.ones((3, 1), "f"), -1),
            r"zero_point has shape \[3, 1\]",
        ),
        (
            sbc.Grid(4, np.ones((2, 2), "f"), np.ones((2, 1), "f"), -1),
            r"scale has shape \[2, 2\]; acc",
        ),
        (
            sbc.Grid(4, np.zeros((2, 1), "f"), np.ones((2, 1), "f"), -1),
            "scales that are not positive",
        ),
        (
            sbc.Grid(4, np.full((2, 1), np.nan, "f"), np.ones((2, 1), "f"), -1),
            "scales that are not",
        ),
    ],
)
def test_grids_that_do_not_fit(grid: sbc.Grid, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sbc.obs_quantize(np.ones((2, 6)), np.eye(6), grid)
