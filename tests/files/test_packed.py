"""The packed file: bit-identical round trips, honest sizes, and errors for what is not one."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load, save

import sbc_kernels as sbc
from sbc_kernels.files import (
    Pruned,
    Quantized,
    load_packed,
    packed_tensor,
    read_packed,
    save_packed,
)
from sbc_kernels.files.bits import CHUNK, decode_mask, encode_mask, pack_bits, unpack_bits
from sbc_kernels.files.packed import HEADER, checksum, code_tensors
from sbc_kernels.grid import Grid


def same_bits(a: Any, b: Any) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def random_mask(rng: np.random.Generator, shape: tuple[int, ...], density: float) -> np.ndarray:
    return rng.random(shape) < density


def a_quantized(
    rng: np.random.Generator,
    bits: int,
    shape: tuple[int, ...],
    group_size: int = -1,
    density: float | None = None,
    dtype: str = "float32",
    integral_zero: bool = True,
) -> Quantized:
    d_out, d_in = shape[0], math.prod(shape[1:])
    groups = 1 if group_size == -1 else -(-d_in // group_size)
    scale = rng.random((d_out, groups), np.float32) + np.float32(0.1)
    zero = rng.integers(0, 2**bits, (d_out, groups)).astype(np.float32)
    if not integral_zero:
        zero += np.float32(0.5)
    return Quantized(
        rng.integers(0, 2**bits, shape).astype(np.uint8),
        Grid(bits, scale, zero, group_size),
        None if density is None else random_mask(rng, shape, density),
        dtype,
    )


# ---- streams -----------------------------------------------------------------------------------


@given(bits=st.integers(0, 32), data=st.data())
def test_bit_stream_round_trip(bits: int, data: st.DataObject) -> None:
    values = data.draw(hnp.arrays(np.uint32, st.integers(0, 70)))
    values = (values & np.uint32((1 << bits) - 1)).astype(np.uint32)
    stream = pack_bits(values, bits)
    assert stream.size == -(-values.size * bits // 8)
    assert same_bits(unpack_bits(stream, values.size, bits), values)
    whole = sum(int(v) << (i * bits) for i, v in enumerate(values))  # the stream as one integer
    assert int.from_bytes(stream.tobytes(), "little") == whole


@pytest.mark.parametrize("bits", [1, 3, 5, 8])
def test_bit_stream_over_several_chunks(bits: int) -> None:
    values = np.random.default_rng(bits).integers(0, 2**bits, 2 * CHUNK + 11).astype(np.uint32)
    assert same_bits(unpack_bits(pack_bits(values, bits), values.size, bits), values)


@given(hnp.arrays(np.bool_, hnp.array_shapes(max_dims=2, min_side=0, max_side=60)))
def test_mask_round_trip(mask: np.ndarray) -> None:
    rice, unary, low = encode_mask(mask)
    assert same_bits(decode_mask(rice, unary, low, mask.size), mask.ravel())
    assert unary.size + low.size <= -(-mask.size // 8) + 1  # never more than the bitmap


@pytest.mark.parametrize("density", [0.5, 0.1, 0.03, 0.01, 0.001])
def test_mask_costs_little_more_than_its_entropy(density: float) -> None:
    mask = random_mask(np.random.default_rng(0), (512, 800), density)
    p = mask.mean()
    entropy = -mask.size * (p * math.log2(p) + (1 - p) * math.log2(1 - p)) / 8
    _, unary, low = encode_mask(mask)
    assert unary.size + low.size < 1.04 * entropy + 2


# ---- files -------------------------------------------------------------------------------------


@given(
    bits=st.integers(1, 8),
    shape=hnp.array_shapes(min_dims=2, max_dims=4, max_side=6),
    group_size=st.sampled_from([-1, 1, 2, 5]),
    density=st.sampled_from([None, 0.0, 0.02, 0.5, 1.0]),
    dtype=st.sampled_from(["float16", "float32", "float64"]),
    integral_zero=st.booleans(),
    seed=st.integers(0, 99),
)
def test_quantized_round_trip(
    tmp_path_factory: pytest.TempPathFactory,
    bits: int,
    shape: tuple[int, ...],
    group_size: int,
    density: float | None,
    dtype: str,
    integral_zero: bool,
    seed: int,
) -> None:
    rng = np.random.default_rng(seed)
    tensor = a_quantized(rng, bits, shape, group_size, density, dtype, integral_zero)
    path = tmp_path_factory.mktemp("q") / "w.safetensors"
    save_packed(path, {"w": tensor})
    back, _ = read_packed(path)
    other = back["w"]
    assert isinstance(other, Quantized)
    keep = np.ones(shape, bool) if tensor.mask is None else tensor.mask
    assert (other.mask is None) == (tensor.mask is None)
    assert other.mask is None or same_bits(other.mask, keep)
    assert same_bits(other.codes, np.where(keep, tensor.codes, 0).astype(np.uint8))
    assert (other.grid.bits, other.grid.group_size) == (bits, group_size)
    assert same_bits(other.grid.scale, tensor.grid.scale)
    assert same_bits(other.grid.zero_point, tensor.grid.zero_point)
    assert same_bits(load_packed(path)["w"], tensor.to_dense())


@given(
    weight=hnp.arrays(
        st.sampled_from([np.float16, np.float32, np.float64]),
        hnp.array_shapes(min_dims=1, max_dims=4, min_side=0, max_side=7),
    ),
    data=st.data(),
)
def test_pruned_round_trip(
    tmp_path_factory: pytest.TempPathFactory, weight: np.ndarray, data: st.DataObject
) -> None:
    mask = data.draw(hnp.arrays(np.bool_, weight.shape))
    path = tmp_path_factory.mktemp("p") / "w.safetensors"
    save_packed(path, {"layer.weight": Pruned(weight, mask), "bias": weight})
    back = load_packed(path)
    assert same_bits(back["bias"], weight)  # NaN, -0.0 and all
    assert same_bits(back["layer.weight"], np.where(mask, weight, weight.dtype.type(0)))


@pytest.mark.parametrize("kind", ["numpy", "torch"])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize(
    "how",
    [
        {"sparsity": 0.7},
        {"bits": 2},
        {"bits": 1},
        {"bits": 3, "group_size": 5},
        {"sparsity": "2:4", "bits": 4},
        {"sparsity": 0.5, "bits": 8, "sym": True},
    ],
    ids=str,
)
def test_what_compress_layer_answers(
    tmp_path: Path, how: dict[str, Any], dtype: type, kind: str
) -> None:
    rng = np.random.default_rng(3)
    weight = rng.normal(size=(6, 16)).astype(dtype)
    spikes = (rng.random((4, 40, 16)) < 0.3).astype(np.uint8)
    if kind == "torch":
        out = sbc.compress_layer(torch.from_numpy(weight), torch.from_numpy(spikes), **how)
    else:
        out = sbc.compress_layer(weight, spikes, **how)
    path = tmp_path / "w.safetensors"
    save_packed(path, {"w": packed_tensor(out)})
    dense, expected = load_packed(path)["w"], np.asarray(out.weight)
    assert dense.dtype == expected.dtype
    np.testing.assert_array_equal(dense, expected)


def test_convolution_and_metadata(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    weight = rng.normal(size=(8, 4, 3, 3)).astype(np.float32)
    spikes = (rng.random((3, 5, 4, 6, 6)) < 0.3).astype(np.uint8)
    out = sbc.compress_layer(weight, spikes, sparsity=0.5, bits=4, padding=1)
    path = tmp_path / "conv.safetensors"
    about = {"method": "sbc", "nested": {"list": [1, 2.5, None]}}
    size = save_packed(path, {"conv": packed_tensor(out)}, about)
    tensors, metadata = read_packed(path)
    assert metadata == about
    assert size == path.stat().st_size
    assert list(tensors) == ["conv"]
    np.testing.assert_array_equal(load_packed(path)["conv"], out.weight)


def test_equal_input_gives_equal_bytes(tmp_path: Path) -> None:
    tensor = a_quantized(np.random.default_rng(5), 3, (4, 9), density=0.4)
    for name in ("a", "b"):
        save_packed(tmp_path / name, {"x": tensor, "y": np.arange(3)}, {"q": 1, "p": 2})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_file_is_what_safetensors_writes() -> None:
    """Header, padding and the order of the arrays are those of safetensors' own `save`."""
    rng = np.random.default_rng(8)
    kinds = [bool, np.complex64, *(f"{kind}{8 << i}" for kind in ("int", "uint") for i in range(4))]
    arrays = {
        f'{name}.\u00fc"': rng.integers(0, 2, shape).astype(kind)
        for name, kind in zip("kjihgfedcb", kinds, strict=True)
        for shape in [(3, 5) if name != "j" else ()]
    }
    arrays |= {kind: rng.normal(size=(2, 0, 3)).astype(kind) for kind in ("f2", "f4", "f8")}
    arrays |= {"big": np.arange(5, dtype=">f4"), "strided": np.arange(12.0).reshape(3, 4).T}
    mixed = {"q": a_quantized(rng, 3, (4, 9), density=0.4), **arrays}
    for length in range(9):  # every padding
        coded = code_tensors(mixed)
        metadata = {"text": "x" * length, "more": {"\u00e9": [1, None]}}
        data = coded.file(metadata)
        text = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"][HEADER]
        assert json.loads(text)["metadata"] == metadata
        assert data == save(coded.stored, {HEADER: text})
        assert coded.file_size(metadata) == len(data)
        assert coded.sizes["big"] == 20


@pytest.mark.parametrize("bits", [None, 4, 2])
@pytest.mark.parametrize("density", [None, 0.1, 0.01])
def test_file_costs_what_it_holds(tmp_path: Path, bits: int | None, density: float | None) -> None:
    shape, rng = (128, 800), np.random.default_rng(6)
    mask = np.ones(shape, bool) if density is None else random_mask(rng, shape, density)
    if bits is None:
        size = save_packed(
            tmp_path / "w", {"w": Pruned(rng.normal(size=shape).astype(np.float32), mask)}
        )
    else:
        size = save_packed(tmp_path / "w", {"w": a_quantized(rng, bits, shape, density=density)})
    p = mask.mean()
    places = 0 if p == 1 else -mask.size * (p * math.log2(p) + (1 - p) * math.log2(1 - p)) / 8
    grid = 0 if bits is None else shape[0] * (4 + bits / 8)
    information = mask.sum() * (bits or 32) / 8 + places + grid
    header = 700 if density is None or bits is None else 800
    # A mask of ones costs nothing as None; as Pruned it is a bitmap.
    bitmap = mask.size / 8 if bits is None and density is None else 0
    assert information <= size < 1.02 * information + bitmap + header


# ---- what is refused ---------------------------------------------------------------------------


@pytest.fixture
def packed(tmp_path: Path) -> Path:
    path = tmp_path / "w.safetensors"
    rng = np.random.default_rng(7)
    save_packed(
        path,
        {
            "both": a_quantized(rng, 3, (6, 20), density=0.3),
            "pruned": Pruned(rng.normal(size=(5, 9)), random_mask(rng, (5, 9), 0.2)),
            "bias": np.arange(4.0),
        },
    )
    return path


def rewrite(path: Path, change: Any) -> None:
    """Write the file again after `change(parts, header)`."""
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(json.loads(data[8 : 8 + length])["__metadata__"][HEADER])
    parts = load(data)
    change(parts, header)
    header["checksum"] = checksum(parts)
    path.write_bytes(save(parts, {HEADER: json.dumps(header)}))


def test_every_truncation_is_refused(packed: Path) -> None:
    data = packed.read_bytes()
    for length in range(len(data)):
        packed.write_bytes(data[:length])
        with pytest.raises(ValueError, match="not a whole safetensors file"):
            read_packed(packed)


CHANGES = {
    "version": lambda parts, header: header.update(version=2),
    "no version": lambda parts, header: header.pop("version"),
    "a part is missing": lambda parts, header: parts.pop("both:codes"),
    "codes too short": lambda p, h: p.update({"both:codes": p["both:codes"][:-1]}),
    "values too short": lambda p, h: p.update({"pruned:values": p["pruned:values"][:-1]}),
    "mask too short": lambda p, h: p.update({"pruned:mask": p["pruned:mask"][:-1]}),
    "mask too long": lambda p, h: h["tensors"]["pruned"].update(shape=[1, 9]),
    "bits": lambda p, h: h["tensors"]["both"].update(bits=2),
    "bits of a wrong type": lambda p, h: h["tensors"]["both"].update(bits="3"),
    "rice": lambda p, h: h["tensors"]["pruned"].update(rice=9),
    "negative rice": lambda p, h: h["tensors"]["pruned"].update(rice=-1),
    "group size": lambda p, h: h["tensors"]["both"].update(group_size=7),
    "zero group size": lambda p, h: h["tensors"]["both"].update(group_size=0),
    "shape": lambda p, h: h["tensors"]["both"].update(shape=[6]),
    "negative shape": lambda p, h: h["tensors"]["both"].update(shape=[-6, -20]),
    "dtype": lambda p, h: h["tensors"]["both"].update(dtype="object"),
    "scale dtype": lambda p, h: p.update({"both:scale": p["both:scale"].astype(np.float64)}),
    "records are a list": lambda p, h: h.update(tensors=[]),
    "metadata is a list": lambda p, h: h.update(metadata=[]),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_damage_is_refused(packed: Path, change: Any) -> None:
    rewrite(packed, lambda parts, header: None)
    read_packed(packed)  # the rewriting itself does no harm
    rewrite(packed, change)
    with pytest.raises(ValueError, match=r"w\.safetensors cannot be read as a packed file"):
        read_packed(packed)


def test_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "plain.safetensors"
    path.write_bytes(save({"w": np.zeros(3)}))
    with pytest.raises(ValueError, match=r"no 'sbc_kernels\.packed' metadata"):
        load_packed(path)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        load_packed(tmp_path / "nowhere")


def test_dtypes_that_no_file_holds(tmp_path: Path) -> None:
    wide = np.ones((2, 3), np.longdouble)
    for tensor in (wide, Pruned(wide, wide > 0), np.array(["text"])):
        with pytest.raises(ValueError, match=r"dtype is .*; accepted is .*float64"):
            save_packed(tmp_path / "w", {"w": tensor})
    assert not list(tmp_path.iterdir())


def test_names_with_a_colon(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"'w:mask'; accepted are names without a colon"):
        save_packed(tmp_path / "w", {"w:mask": np.ones(2)})
    assert not list(tmp_path.iterdir())


def test_nothing_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "w.safetensors"
    save_packed(path, {"w": np.ones(3)})
    before = path.read_bytes()

    def full(*_: Any) -> None:
        raise OSError("no space left")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="no space left"):
        save_packed(path, {"w": np.zeros(3)})
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_older_names_are_the_same_objects() -> None:
    import sbc_kernels.io.nir
    import sbc_kernels.io.packed
    from sbc_kernels.export.nir import graph

    for older, newer in (
        (sbc_kernels.io, sbc_kernels.files),
        (sbc_kernels.io.packed, sbc_kernels.files),
        (sbc_kernels.io.nir, graph),
    ):
        assert older.__all__
        assert all(getattr(older, name) is getattr(newer, name) for name in older.__all__)
