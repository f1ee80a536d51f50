"""Files whose header claims what they do not hold: refused, and nothing is allocated for the claim."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save
from torch import nn

import sbc_kernels as sbc
from sbc_kernels.files import Pruned, load_packed, read_packed, save_packed
from sbc_kernels.files.header import parse_json, require_shallow
from sbc_kernels.files.packed import HEADER, LARGEST_RATIO, SMALL, checksum

NOTHING, ONE = np.zeros(0, np.uint8), np.ones((1, 1), np.float32)
CODES = {"w:codes": np.zeros(1, np.uint8), "w:scale": np.ones((2, 1), np.float32)}
GRID = {"shape": [2, 2], "bits": 1, "group_size": -1, "dtype": "float32"}
EMPTY_MASK = {"w:mask": NOTHING, "w:mask_low": NOTHING}


def written(
    path: Path,
    stored: dict[str, np.ndarray],
    records: Any,
    about: dict[str, Any] | None = None,
    raw: str | None = None,
) -> Path:
    metadata = {"report": {}, "casts": {}, "aliases": {}, "folded": {}} | (about or {})
    header = {
        "version": 1,
        "checksum": checksum(stored),
        "tensors": records,
        "metadata": metadata,
    }
    path.write_bytes(save(stored, {HEADER: raw or json.dumps(header)}))
    return path


def zero_points(value: float) -> dict[str, np.ndarray]:
    return {**CODES, "w:zero_point": np.full((2, 1), value, np.float32)}


BIG = {**EMPTY_MASK, "w:codes": NOTHING, "w:scale": ONE, "w:zero_point": 0 * ONE}
CLAIMS: dict[str, tuple[dict[str, np.ndarray], Any, dict[str, Any] | None, str]] = {
    "two shapes that cancel": (
        {},
        {"a": {"shape": [1 << 17, 1 << 17], "rice": 0}, "b": {"shape": [-1, 1 << 34], "rice": 0}},
        None,
        r"tensors\['b'\]\['shape'\] is \[-1, 17179869184\]",
    ),
    "a mask that is empty": (
        BIG,
        {"w": {"shape": [1, 1 << 28], "rice": 0, "bits": 1, "group_size": -1, "dtype": "float64"}},
        None,
        "its header claims 268435456 weights",
    ),
    "no mask": ({**BIG}, {"w": GRID | {"shape": [1 << 9, 1 << 9]}}, None, "its parts are"),
    "codes of no mask": (
        zero_points(0.0),
        {"w": GRID | {"shape": [1 << 9, 1 << 9]}},
        None,
        "1 bytes of codes for 262144 weights",
    ),
    "zero points are nan": (zero_points(np.nan), {"w": GRID}, None, "finite zero points"),
    "zero points are infinite": (zero_points(-np.inf), {"w": GRID}, None, "finite zero points"),
    "scales are nan": (
        {**zero_points(0.0), "w:scale": np.full((2, 1), np.nan, np.float32)},
        {"w": GRID},
        None,
        "positive scales",
    ),
    "weights beyond float32": (
        {**zero_points(9.0), "w:scale": np.full((2, 1), 3e38, np.float32)},
        {"w": GRID},
        None,
        "codes stand for numbers beyond float32",
    ),
    "group size": (zero_points(0.0), {"w": GRID | {"group_size": 2**70}}, None, "group_size"),
    "float group size": (zero_points(0.0), {"w": GRID | {"group_size": 2.0}}, None, "group_size"),
    "true bits": (zero_points(0.0), {"w": GRID | {"bits": True}}, None, "bits"),
    "rice": (
        {**EMPTY_MASK, "w:values": np.zeros(0)},
        {"w": {"shape": [4], "rice": 2**70}},
        None,
        "rice",
    ),
    "gaps": (
        {
            "w:mask": np.full(4, 128, np.uint8),
            "w:mask_low": np.full(16, 255, np.uint8),
            "w:values": np.zeros(4),
        },
        {"w": {"shape": [9], "rice": 31}},
        None,
        "no mask of 9 weights",
    ),
    "cast to what is no float": (
        {"w": np.zeros(4, np.uint8)},
        {},
        {"casts": {"w": "qint8"}},
        "qint8",
    ),
    "cast of other size": (
        {"w": np.zeros(4, np.uint8)},
        {},
        {"casts": {"w": "bfloat16"}},
        "which holds no torch.bfloat16",
    ),
    "cast of nothing": ({}, {}, {"casts": {"w": "bfloat16"}}, "KeyError: 'w'"),
    "alias of itself": (
        {"w": np.zeros(4, np.uint8)},
        {},
        {"aliases": {"w": "w"}},
        "both a tensor and another's name",
    ),
    "twice": (
        {**EMPTY_MASK, "w:values": np.zeros(0), "w": ONE},
        {"w": {"shape": [4], "rice": 0}},
        None,
        "two tensors 'w'",
    ),
    "deep": ({}, {"w": json.loads("[" * 70 + "]" * 70)}, None, "nested deeper than 64"),
}


@pytest.mark.parametrize("claim", CLAIMS)
def test_a_claim_is_refused_before_memory_is_taken(claim: str, tmp_path: Path) -> None:
    stored, records, about, match = CLAIMS[claim]
    path = written(tmp_path / "w.safetensors", stored, records, about)
    sbc.load_compressed(written(tmp_path / "fine", {"b": ONE}, {}))  # modules are imported by then
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=match):
            sbc.load_compressed(path)
        assert tracemalloc.get_traced_memory()[1] < 16 << 20  # what is left to import takes 5
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("raw", ["[" * 100_000, '{"a":' * 100_000, "1" * 5000, "[NaN", '"\\ud800"'])
def test_headers_that_are_no_header(raw: str, tmp_path: Path) -> None:
    path = written(tmp_path / "w.safetensors", {}, {}, raw=raw)
    for read in (sbc.load_compressed, load_packed, sbc.metrics.footprint):
        with pytest.raises(ValueError, match="cannot be read as a packed file"):
            read(path)


def test_a_models_own_shapes_bound_what_is_decoded(tmp_path: Path) -> None:
    """Also in a file that is large enough for the claim."""
    size = 1 << 22
    stored = {"pad": np.zeros(size // LARGEST_RATIO, np.uint8), **EMPTY_MASK}
    stored |= {"weight:mask": NOTHING, "weight:mask_low": NOTHING}
    stored |= {"weight:values": np.zeros(0, np.float32)}
    stored = {name: array for name, array in stored.items() if not name.startswith("w:")}
    path = written(tmp_path / "net", stored, {"weight": {"shape": [size], "rice": 0}})
    assert sbc.load_compressed(path)["weight"].shape == (size,)
    model = nn.Linear(4, 1, bias=False)
    sbc.load_compressed(path)
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="is of another model"):
            sbc.load_compressed(model, path)
        assert tracemalloc.get_traced_memory()[1] < 3 << 20
    finally:
        tracemalloc.stop()


def test_an_empty_weight_of_any_size_is_written_and_read(tmp_path: Path) -> None:
    """Its mask takes no byte: the file is padded by as many as its reader asks for."""
    for rows in (1, 4, 64, 1024):
        weight = np.zeros((rows, 4096), np.float32)
        path = tmp_path / f"{rows}"
        size = save_packed(path, {"w": Pruned(weight, weight != 0)})
        assert size == path.stat().st_size
        assert size < 400 + weight.size / LARGEST_RATIO
        assert weight.size <= max(SMALL, LARGEST_RATIO * size)
        assert np.array_equal(load_packed(path)["w"], weight)
    assert read_packed(path)[1] == {}


def test_folded_names_that_fit_no_layer(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(4, 2), nn.ReLU(), nn.Identity())
    stored = {"0.weight": np.ones((2, 4), np.float32), "0.bias": np.ones(2, np.float32)}
    for folded in ({"1": "2"}, {"": "2"}, {"2": "2"}, {"0": "0"}, {"0": "1"}, {"0": ""}):
        path = written(tmp_path / "net", stored, {}, {"folded": folded})
        with pytest.raises(ValueError, match="is of another model"):
            sbc.load_compressed(model, path)
        assert isinstance(model[0], nn.Linear)
    for wrong in ({"0": 1}, [["0", "1"]], {"0": ["1"]}, None):
        path = written(tmp_path / "net", stored, {}, {"folded": wrong})
        with pytest.raises(ValueError, match="no table of names"):
            sbc.load_compressed(model, path)
    path = written(tmp_path / "net", stored, {}, {"folded": {"0": "2"}})
    assert torch.equal(sbc.load_compressed(model, path)[0].weight, torch.ones(2, 4))


def test_a_model_that_cannot_be_written_is_left_as_it_was(tmp_path: Path) -> None:
    def build(wide: torch.Tensor) -> nn.Module:
        model = nn.Linear(4, 2)
        model.register_buffer("wide", wide)
        return model

    path = written(
        tmp_path / "net",
        {"weight": np.ones((2, 4), "f"), "bias": np.ones(2, "f"), "wide": np.ones(5, "f")},
        {},
    )
    model = build(torch.zeros(1).expand(5))
    before = model.weight.clone()
    with pytest.raises(ValueError, match="'wide' of this model is expanded"):
        sbc.load_compressed(model, path)
    assert torch.equal(model.weight, before)
    assert sbc.load_compressed(build(torch.zeros(5)), path).wide.sum() == 5


def test_values_that_hold_themselves_are_deep() -> None:
    ring: list[Any] = []
    ring.extend([ring, ring])
    shared: Any = 0
    for _ in range(60):
        shared = [shared, shared]
    require_shallow(shared, "it")
    for value in (ring, {"a": ({"b": shared}, [[[[shared]]]])}):
        with pytest.raises(ValueError, match="it is nested deeper"):
            require_shallow(value, "it")
    assert parse_json('{"a": [1, {"b": null}]}') == {"a": [1, {"b": None}]}
