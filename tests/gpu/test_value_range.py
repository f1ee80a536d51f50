"""Whether values are integers, and between what: against torch."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from interpreted import DEVICE, needs_triton
from torch import Tensor

from sbc_kernels.backends.triton.value_range import _BLOCK, _TYPES, value_range

pytestmark = needs_triton


def drawn(shape: tuple[int, ...], dtype: torch.dtype, seed: int, whole: bool) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    low = 0 if dtype == torch.uint8 else -100
    values = torch.randint(low, 101, shape, generator=draw).to(dtype)
    if dtype.is_floating_point and not whole:
        values = values + torch.rand(shape, generator=draw, dtype=dtype)
    return values


def expected(values: Tensor) -> tuple[bool, float, float]:
    low, high = values.aminmax()
    whole = not values.is_floating_point() or bool((values == values.round()).all())
    return whole, float(low), float(high)


@settings(max_examples=60, deadline=None)
@given(
    shape=st.lists(st.integers(1, 9), min_size=1, max_size=4),
    dtype=st.sampled_from(list(_TYPES)),
    seed=st.integers(0, 99),
    whole=st.booleans(),
    turn=st.booleans(),
)
def test_as_torch_has_it(
    shape: list[int], dtype: torch.dtype, seed: int, whole: bool, turn: bool
) -> None:
    values = drawn(tuple(shape), dtype, seed, whole)
    there = values.to(DEVICE)
    if turn:
        there = there.transpose(0, -1)
    assert value_range(there) == expected(values)


@pytest.mark.parametrize("count", [1, _BLOCK - 1, _BLOCK, _BLOCK + 1, 5 * _BLOCK + 7])
def test_blocks(count: int) -> None:
    values = drawn((count,), torch.float32, count, True)
    assert value_range(values.to(DEVICE)) == expected(values)
    values[-1] = 1000.5  # the last one counts
    assert value_range(values.to(DEVICE)) == (False, float(values.min()), 1000.5)


def test_more_blocks_than_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sbc_kernels.backends.triton.value_range._MOST_PROGRAMS", 3)
    for at in range(0, 10 * _BLOCK, _BLOCK // 2):
        values = drawn((10 * _BLOCK,), torch.float32, 5, True)
        values[at] = -300.25
        assert value_range(values.to(DEVICE)) == (False, -300.25, float(values.max()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("at", [0, 1, _BLOCK, 3 * _BLOCK - 1])
def test_what_is_not_finite_is_seen(
    dtype: torch.dtype, at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sbc_kernels.backends.triton.value_range._MOST_PROGRAMS", 1)
    values = torch.ones(3 * _BLOCK, dtype=dtype)
    values[at] = math.nan
    whole, low, _ = value_range(values.to(DEVICE))
    assert math.isnan(low)
    assert not whole
    for infinite in (math.inf, -math.inf):
        values[at] = infinite
        _, low, high = value_range(values.to(DEVICE))
        assert (low, high) == (min(1.0, infinite), max(1.0, infinite))


def test_an_expanded_axis_is_read_once() -> None:
    values = drawn((1, 5, 7), torch.float32, 0, False)
    assert value_range(values.to(DEVICE).expand(4, 5, 7)) == expected(values)


def test_a_slice_is_read_alone() -> None:
    values = torch.full((9, 40), 1e9)
    values[2:5, 3:9] = drawn((3, 6), torch.float32, 1, True)
    assert value_range(values.to(DEVICE)[2:5, 3:9]) == expected(values[2:5, 3:9])


def test_types_that_are_not_taken() -> None:
    with pytest.raises(TypeError, match=r"values is torch.complex64; accepted are torch.int8, "):
        value_range(torch.zeros(3, dtype=torch.complex64, device=DEVICE))
