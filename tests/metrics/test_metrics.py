"""Operations, sparsity and bytes of single weights, against counts by hand and by brute force."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load, save_file
from torch import nn

import sbc_kernels as sbc
from sbc_kernels.files import Pruned, Quantized, save_packed
from sbc_kernels.grid import Grid
from sbc_kernels.metrics import Footprint, connection_sparsity, footprint, layer_synaptic_operations


def brute_force(weight: np.ndarray, spikes: np.ndarray, weighted: bool) -> float:
    """One synapse, one sample, one time step at a time."""
    total = 0.0
    for step in spikes.reshape(-1, spikes.shape[-1]):
        for i, s in enumerate(step):
            for w in weight[:, i]:
                if s != 0 and w != 0:
                    total += abs(float(s)) if weighted else 1
    return total


def test_by_hand() -> None:
    weight = np.array([[1.0, 0.0, 2.0], [0.0, 0.0, -1.0]])
    spikes = np.array([[[1, 1, 1]], [[0, 1, 1]]], np.uint8)
    assert layer_synaptic_operations(weight, spikes) == 3 + 2


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("dtype", [np.bool_, np.uint8, np.int8, np.float32])
def test_brute_force(dtype: type, weighted: bool) -> None:
    rng = np.random.default_rng(1)
    weight = rng.normal(size=(5, 7)) * (rng.random((5, 7)) < 0.4)
    low = 0 if dtype in (np.bool_, np.uint8) else -3
    spikes = rng.integers(low, 4, (4, 3, 7)).astype(dtype)
    counted = layer_synaptic_operations(weight, spikes, weighted=weighted)
    assert counted == brute_force(weight, spikes, weighted)
    assert isinstance(counted, float if weighted and dtype is np.float32 else int)
    as_torch = torch.from_numpy(weight), torch.from_numpy(spikes)
    assert layer_synaptic_operations(*as_torch, weighted=weighted) == counted


def test_int8_extremes_do_not_overflow() -> None:
    spikes = np.full((1000, 1), -128, np.int8)
    assert layer_synaptic_operations(np.ones((2, 1)), spikes, weighted=True) == 2 * 128 * 1000


def test_layout_does_not_matter() -> None:
    rng = np.random.default_rng(2)
    weight, spikes = rng.normal(size=(4, 6)), rng.integers(0, 2, (3, 5, 6))
    assert (
        layer_synaptic_operations(np.asfortranarray(weight), spikes[::-1, ::-1]) == 4 * spikes.sum()
    )


def test_connection_sparsity() -> None:
    a, b = np.array([[0.0, -0.0], [1.0, np.nan]]), torch.zeros(4)
    assert connection_sparsity(a) == 0.5
    assert connection_sparsity(a, b) == 0.75


def test_connection_sparsity_of_models() -> None:
    shared = nn.Linear(4, 2, bias=False)
    model = nn.Sequential(nn.Conv2d(1, 2, 2), nn.BatchNorm2d(2), nn.Sequential(shared), shared)
    tied = nn.Linear(4, 2)
    tied.weight = shared.weight
    model.append(tied)
    with torch.no_grad():
        model[0].weight[0] = 0
        shared.weight[:, 1:] = 0
    assert connection_sparsity(model) == (4 + 6) / (8 + 8)
    assert connection_sparsity(model, np.zeros(4)) == (4 + 6 + 4) / (8 + 8 + 4)
    assert connection_sparsity(nn.Linear(3, 3)) == 0.0


# ---- footprint ---------------------------------------------------------------------------------


def test_footprint_of_a_file(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    mask = rng.random((16, 24)) < 0.2
    codes = rng.integers(0, 8, (16, 24)).astype(np.uint8)
    grid = Grid(3, np.ones((16, 1), np.float32), np.full((16, 1), 4.0, np.float32), -1)
    tensors = {
        "fc1.weight": Pruned(rng.normal(size=(16, 24)).astype(np.float32), mask),
        "half": Pruned(rng.normal(size=(16, 24)).astype(np.float16), mask),
        "fc2.weight": Quantized(codes, grid, None, "float64"),
        "both.weight": Quantized(codes, grid, mask),
        "none.weight": Pruned(np.ones((2, 3), np.float32), np.zeros((2, 3), bool)),
        "bias": rng.normal(size=7),
        "flag": np.array([True, False]),
    }
    path = tmp_path / "packed.safetensors"
    size = save_packed(path, tensors, {"casts": "of somebody else"})
    stored = {name: array.nbytes for name, array in load(path.read_bytes()).items()}
    parts = {
        name: sum(size for key, size in stored.items() if key.partition(":")[0] == name)
        for name in tensors
    }
    dense = {name: t.to_dense().nbytes for name, t in tensors.items() if hasattr(t, "to_dense")}
    found = footprint(path)
    assert found == footprint(str(path))
    assert found.bytes == size == path.stat().st_size
    assert found.dense_bytes == sum(dense.values()) + 7 * 8 + 2
    assert found.layers == {
        name.removesuffix(".weight"): (parts[name], dense[name]) for name in dense
    }
    survivors = np.count_nonzero(mask)
    assert found.layers["fc2"] == (16 * 24 * 3 // 8 + 16 * 4 + 16 * 3 // 8, 16 * 24 * 8)
    assert 4 * survivors < found.layers["fc1"][0] < 4 * survivors + 16 * 24 // 8
    assert found.layers["none"] == (0, 24)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("how", [{"sparsity": 0.5}, {"bits": 4, "sparsity": 0.5}])
def test_footprint_of_a_model_is_that_of_its_file(
    tmp_path: Path, dtype: torch.dtype, how: dict[str, float]
) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(20, 30), nn.Linear(30, 4)).to(dtype)
    result = sbc.compress_model(net, torch.randn(50, 20, dtype=dtype), **how)
    path = tmp_path / "model.safetensors"
    size = result.save(path)
    found = footprint(path)
    assert found.bytes == size
    assert found.dense_bytes == (20 * 30 + 30 + 30 * 4 + 4) * dtype.itemsize
    assert {name: dense for name, (_, dense) in found.layers.items()} == {
        "0": 600 * dtype.itemsize,
        "1": 120 * dtype.itemsize,
    }
    assert footprint(result) == found
    assert isinstance(found, Footprint)
    assert connection_sparsity(result) == pytest.approx(0.5, abs=0.01)


def test_footprint_of_what_is_none(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such file"):
        footprint(tmp_path / "missing")
    plain = tmp_path / "plain.safetensors"
    save_file({"a": np.ones(3)}, plain)
    with pytest.raises(ValueError, match="accepted are files of save_packed"):
        footprint(plain)
    plain.write_bytes(b"something else altogether")
    with pytest.raises(ValueError, match="not a whole safetensors file"):
        footprint(plain)
    with pytest.raises(TypeError, match=r"what is a Linear; accepted is a CompressedModel or"):
        footprint(nn.Linear(2, 2))


# ---- the package -------------------------------------------------------------------------------


def test_no_torch_until_it_is_asked_for() -> None:
    code = (
        "import sys, numpy as np, sbc_kernels as sbc; m = sbc.metrics; "
        "m.connection_sparsity(np.eye(2)); m.layer_synaptic_operations(np.eye(2), np.eye(2)); "
        "m.footprint; assert 'torch' not in sys.modules; "
        "[getattr(m, name) for name in m.__all__]; assert 'torch' in sys.modules; "
        "assert all(callable(getattr(m, name)) for name in m.__all__)"
    )
    subprocess.run([sys.executable, "-P", "-c", code], check=True, timeout=120)
    with pytest.raises(AttributeError, match="no attribute 'synops'"):
        sbc.metrics.synops  # noqa: B018


def test_errors_name_what_is_wrong() -> None:
    with pytest.raises(
        ValueError, match=r"spikes is an array of shape \[2, 4\]; accepted is \[..., 3\]"
    ):
        layer_synaptic_operations(np.ones((2, 3)), np.ones((2, 4)))
    with pytest.raises(ValueError, match=r"weight is an array of shape \[2, 3, 1\]"):
        layer_synaptic_operations(np.ones((2, 3, 1)), np.ones((2, 3)))
    for nothing in (np.zeros((0, 3)), nn.ReLU()):
        with pytest.raises(ValueError, match="weights_or_models is without weights"):
            connection_sparsity(nothing)
    with pytest.raises(TypeError, match="weights_or_models"):
        connection_sparsity("weights")
    with pytest.raises(TypeError, match="spikes"):
        layer_synaptic_operations(np.ones((2, 3)), "spikes")
