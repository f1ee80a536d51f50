"""Sparsity as people write it, and masks by score."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import sbc_kernels as sbc
from sbc_kernels.sparsity import prune_least


@pytest.mark.parametrize(
    ("given_", "keep_n", "of_m", "fraction"),
    [
        ("2:4", 2, 4, 0.5),
        (" 1 : 4 ", 1, 4, 0.75),
        ("0:3", 0, 3, 1.0),
        ("5:5", 5, 5, 0.0),
        ("12:16", 12, 16, 0.25),
        (0, 0, 0, 0.0),
        (1, 0, 0, 1.0),
        (0.97, 0, 0, 0.97),
        (np.float32(0.5), 0, 0, 0.5),
        (np.int64(1), 0, 0, 1.0),
    ],
)
def test_what_is_read(given_: Any, keep_n: int, of_m: int, fraction: float) -> None:
    pattern = sbc.parse_sparsity(given_)
    assert (pattern.keep_n, pattern.of_m) == (keep_n, of_m)
    assert pattern.sparsity == fraction
    assert pattern == sbc.Pattern(fraction, keep_n, of_m)


@pytest.mark.parametrize(
    "wrong",
    ["4:2", "2:0", "0:0", "2", "2:4:8", "-1:4", "1.5:4", "half", "", ":", -0.1, 1.1, 97, np.nan],
)
def test_what_is_refused(wrong: Any) -> None:
    with pytest.raises(ValueError, match=r"sparsity is .*; accepted is a number in 0\.\.1"):
        sbc.parse_sparsity(wrong)


@pytest.mark.parametrize("wrong", [True, None, [0.5], 0.5j, b"2:4"])
def test_what_is_not_a_sparsity(wrong: Any) -> None:
    with pytest.raises(TypeError, match=r"sparsity is a \w+; accepted is a number in 0\.\.1"):
        sbc.parse_sparsity(wrong)


def test_how_it_is_written() -> None:
    assert str(sbc.parse_sparsity("2:4")) == "2:4"
    assert str(sbc.parse_sparsity(0.975)) == "97.5 %"


def test_m_must_divide_the_row() -> None:
    sbc.parse_sparsity("2:4").require_fits((3, 8))
    sbc.parse_sparsity(0.5).require_fits((3, 7))
    with pytest.raises(
        ValueError, match="sparsity is '2:4' and d_in is 10; accepted is an M that d"
    ):
        sbc.parse_sparsity("2:4").require_fits((4, 10))


@pytest.mark.parametrize(
    ("sparsity", "size", "count"),
    [
        (0.5, 5, 3),
        (0.9, 10, 9),
        (0.0, 7, 0),
        (1.0, 7, 7),
        (0.25, 2, 1),
        (0.24, 2, 0),
        (0.97, 100, 97),
    ],
)
def test_quota_is_the_nearest_count(sparsity: float, size: int, count: int) -> None:
    assert sbc.parse_sparsity(sparsity).num_pruned(size) == count


@given(st.integers(1, 8), st.integers(1, 30), st.floats(0, 1), st.integers(0, 99))
def test_least_scores_go(rows: int, d: int, sparsity: float, seed: int) -> None:
    scores = np.random.default_rng(seed).integers(0, 9, (rows, d)).astype(float)  # with ties
    pattern = sbc.parse_sparsity(sparsity)
    keep = prune_least(scores, pattern)
    assert keep.shape == scores.shape
    assert (~keep).sum() == pattern.num_pruned(rows * d)
    if keep.any() and not keep.all():
        assert scores[~keep].max() <= scores[keep].min()
        tied = scores.ravel() == scores[keep].min()  # of equal scores the earlier ones go
        assert (np.diff(keep.ravel()[tied].astype(int)) >= 0).all()


@given(
    st.integers(1, 5), st.integers(1, 6), st.integers(0, 6), st.integers(1, 6), st.integers(0, 99)
)
def test_least_scores_of_each_group_go(rows: int, groups: int, n: int, m: int, seed: int) -> None:
    n = min(n, m)
    scores = np.random.default_rng(seed).integers(0, 5, (rows, groups * m)).astype(float)
    keep = prune_least(scores, sbc.parse_sparsity(f"{n}:{m}"))
    for score, kept in zip(scores.reshape(-1, m), keep.reshape(-1, m), strict=True):
        assert kept.sum() == n
        if 0 < n < m:
            assert score[~kept].max() <= score[kept].min()


def test_a_percentage_is_recognised() -> None:
    with pytest.raises(sbc.ParameterError, match=r"did you mean 0\.97\?"):
        sbc.parse_sparsity(97)
