"""`Pruned` and `Quantized`: what they decode to, in NumPy and in torch, and what they refuse."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

import sbc_kernels as sbc
from sbc_kernels.weights import Pruned, Quantized, compressed_weight

SHAPE = (6, 3, 4)


def a_quantized(
    kind: str = "numpy", bits: int = 3, group_size: int = -1, dtype: str = "float32"
) -> Quantized:
    """A convolution's weight, about half of it pruned, its scales powers of two."""
    rng = np.random.default_rng(bits)
    groups = 1 if group_size == -1 else -(-12 // group_size)
    scale = np.exp2(rng.integers(-3, 3, (6, groups))).astype(np.float32)
    zero = rng.integers(0, 2**bits, (6, groups)).astype(np.float32) if bits > 1 else 0.5 + 0 * scale
    codes = rng.integers(0, 2**bits, SHAPE).astype(np.uint8)
    quantized = Quantized(codes, sbc.Grid(bits, scale, zero, group_size), rng.random(SHAPE) < 0.5)
    if kind == "torch":
        quantized = quantized.converted(torch.from_numpy)
    return replace(quantized, dtype=dtype)


def as_float64(array: Any) -> np.ndarray[Any, Any]:
    return array.double().numpy() if isinstance(array, torch.Tensor) else array.astype(np.float64)


def decoded(weight: Quantized) -> np.ndarray[Any, Any]:
    """The formula, element by element."""
    codes, mask = as_float64(weight.codes), np.asarray(weight.mask)
    scale, zero = as_float64(weight.scale), as_float64(weight.zero_point)
    dense = np.zeros(SHAPE)
    for row, a, b in np.ndindex(*SHAPE):
        column = a * SHAPE[2] + b
        group = 0 if weight.group_size == -1 else column // weight.group_size
        value = (codes[row, a, b] - zero[row, group]) * scale[row, group]
        dense[row, a, b] = value if mask[row, a, b] else 0.0
    return dense


KINDS = [("numpy", "float16"), ("numpy", "float64"), ("torch", "bfloat16"), ("torch", "float32")]


@pytest.mark.parametrize("group_size", [-1, 1, 5, 12])
@pytest.mark.parametrize(("kind", "dtype"), KINDS)
def test_dense_weight_is_the_formula(kind: str, dtype: str, group_size: int) -> None:
    weight = a_quantized(kind, 3, group_size, dtype)
    dense = weight.to_dense()
    assert str(dense.dtype).removeprefix("torch.") == dtype
    assert weight.shape == tuple(dense.shape) == SHAPE
    np.testing.assert_array_equal(as_float64(dense), decoded(weight))


@pytest.mark.parametrize(
    "how",
    [
        {"sparsity": 0.7},
        {"bits": 1, "sym": True},
        {"bits": 3, "group_size": 5},
        {"sparsity": "2:4", "bits": 4},
    ],
    ids=str,
)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_compress_layer_gives_the_weight_in_both_forms(how: dict[str, Any], dtype: str) -> None:
    draw = torch.Generator().manual_seed(0)
    weight = torch.randn(8, 16, generator=draw).to(getattr(torch, dtype))
    spikes = (torch.rand(4, 30, 16, generator=draw) < 0.3).to(torch.uint8)
    out = sbc.compress_layer(weight, spikes, **how)
    compressed = out.compressed
    assert isinstance(compressed, Quantized if "bits" in how else Pruned)
    assert compressed.dtype == dtype
    assert torch.equal(compressed.to_dense(), out.weight)
    for name, part in compressed.parts().items():
        assert part is getattr(out, name)
    if isinstance(compressed, Quantized):
        assert (compressed.bits, compressed.group_size) == (out.bits, out.group_size)
    again = compressed_weight(out.weight, compressed.parts(), out.bits, out.group_size)
    assert type(again) is type(compressed)
    assert torch.equal(again.to_dense(), out.weight)
    assert compressed_weight(out.weight, {}, None, None) is None


def test_codes_need_bits_and_a_group_size() -> None:
    out = sbc.compress_layer(np.ones((2, 4), np.float32), np.ones((2, 3, 4), np.uint8), bits=4)
    parts = out.compressed.parts()
    for name, sizes in (("bits", (None, -1)), ("group_size", (4, None))):
        with pytest.raises(ValueError, match=f"{name} is None"):
            compressed_weight(out.weight, parts, *sizes)


@pytest.mark.parametrize("kind", ["numpy", "torch"])
@pytest.mark.parametrize("bits", [1, 3, 8])
def test_rescaled_rows(kind: str, bits: int) -> None:
    """Factors are powers of two, so that nothing is rounded; some are negative."""
    weight = a_quantized(kind, bits, 5)
    factors = np.array([1.0, -1.0, 0.5, -4.0, 2.0, 1.0])
    rescaled = weight.rescaled(factors)
    np.testing.assert_array_equal(
        as_float64(rescaled.to_dense()), as_float64(weight.to_dense()) * factors[:, None, None]
    )
    assert (as_float64(rescaled.scale) > 0).all()
    for nothing in (0.0, 1e-60):
        factors[3] = nothing  # 1e-60 is 0 in float32
        with pytest.raises(sbc.ParameterError, match="row_scale is 0 in a row; accepted is"):
            weight.rescaled(factors)
    with pytest.raises(sbc.ParameterError, match="row_scale is nan in a row; accepted is finite"):
        weight.rescaled(np.full(6, np.nan))
    for wrong in (np.ones(5), np.array(2.0)):
        with pytest.raises(sbc.ParameterError, match=r"row_scale has shape .*; accepted is \[6\]"):
            weight.rescaled(wrong)


@pytest.mark.parametrize("kind", ["numpy", "torch"])
@pytest.mark.parametrize("bits", [1, 3, 8])
def test_integers_times_their_scale_are_the_weight(kind: str, bits: int) -> None:
    weight = a_quantized(kind, bits)
    integers, row_scale = weight.integers()
    values = as_float64(integers)
    assert (values == values.round()).all()
    assert np.abs(values).max() <= 2**bits
    np.testing.assert_array_equal(
        values * as_float64(row_scale)[:, None, None], as_float64(weight.to_dense())
    )
    with pytest.raises(sbc.ParameterError, match="group_size is 5; accepted is -1"):
        a_quantized(kind, bits, 5).integers()
    quarter = replace(weight, grid=replace(weight.grid, zero_point=weight.zero_point + 0.25))
    with pytest.raises(sbc.ParameterError, match="zero_point is neither integer nor half"):
        quarter.integers()


def test_conversion_copies_nothing_of_its_own() -> None:
    pruned = Pruned(np.arange(6.0).reshape(2, 3), np.eye(2, 3, dtype=bool))
    for weight in (a_quantized(), pruned):
        other = weight.converted(torch.from_numpy).converted(lambda tensor: tensor.numpy())
        assert type(other) is type(weight)
        for name, part in other.parts().items():
            assert np.shares_memory(part, weight.parts()[name])
        np.testing.assert_array_equal(other.to_dense(), weight.to_dense())
    assert not np.shares_memory(pruned.to_dense(), pruned.weight)


def test_pruned_weights_hold_anything_where_the_mask_is_false() -> None:
    weight = torch.tensor([[1.0, float("nan"), -2.0], [float("inf"), 3.0, -0.0]])
    mask = torch.tensor([[True, False, True], [False, True, False]])
    dense = Pruned(weight.bfloat16(), mask).to_dense()
    assert dense.dtype == torch.bfloat16
    assert torch.equal(dense.float(), torch.tensor([[1.0, 0.0, -2.0], [0.0, 3.0, 0.0]]))
    assert not torch.signbit(dense[1, 2])


GRID = sbc.Grid(2, np.ones((2, 1), np.float32), np.zeros((2, 1), np.float32), -1)
CODES = np.zeros((2, 3), np.uint8)
MASK = np.ones((2, 3), bool)


@pytest.mark.parametrize(
    ("arguments", "parameter", "message"),
    [
        ((CODES + 4, GRID), "codes", "an array that reaches 4; accepted is 0..3 for 2 bits"),
        ((CODES.astype(int), GRID), "codes", "int64 of shape"),
        ((CODES[0], GRID), "codes", r"uint8 of shape \[3\]"),
        ((CODES[:, :0], GRID), "codes", r"uint8 of shape \[2, 0\]"),
        ((CODES, GRID, MASK[:, :2]), "mask", r"bool of shape \[2, 2\]; accepted is bool \[2, 3\]"),
        ((CODES, GRID, CODES), "mask", "uint8 of shape"),
        ((CODES, GRID, None, "int8"), "dtype", "'int8'"),
        ((CODES, GRID, None, "bfloat16"), "dtype", "'bfloat16'; accepted is the name of a real"),
        ((CODES, replace(GRID, bits=9)), "bits", "9; accepted is 1..8"),
        ((CODES, replace(GRID, group_size=0)), "group_size", "0; accepted is -1 or at least 1"),
        ((CODES, replace(GRID, scale=np.ones((2, 1)))), "grid", "one with scale float64"),
    ],
)
def test_quantized_checks_its_arrays(arguments: Any, parameter: str, message: str) -> None:
    with pytest.raises(sbc.ParameterError, match=f"{parameter} is {message}") as caught:
        Quantized(*arguments)
    assert caught.value.parameter == parameter


def test_pruned_checks_its_arrays() -> None:
    with pytest.raises(sbc.ParameterError, match="weight is an array of int64; accepted is"):
        Pruned(np.zeros((2, 3), np.int64), MASK)
    with pytest.raises(sbc.ParameterError, match=r"mask is bool of shape \[2, 3\]"):
        Pruned(np.zeros((3, 2)), MASK)
    with pytest.raises(
        ValueError, match=r"grid is one whose scale has shape \[2, 1\]; accepted is \[3, 1\]"
    ):
        Quantized(np.zeros((3, 3), np.uint8), GRID)
