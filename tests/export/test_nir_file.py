"""NIR files: metadata, scales and names."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nir_networks import SOURCES, inputs, quantized, seeded, written
from torch import nn

import sbc_kernels as sbc
from sbc_kernels.export.nir.graph import nir_graph, write_nir

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import nir
    from spikingjelly.activation_based import neuron


# ---- the file ----------------------------------------------------------------------------------


def test_metadata_survives_the_file(tmp_path: Path) -> None:
    net, x = seeded(SOURCES["spikingjelly LIFNode"][1], 5.0), inputs(4)
    weights = quantized(net)
    written(net, x, tmp_path / "net.nir", weights=weights)
    back = nir.read(tmp_path / "net.nir")
    for name, quantized_weight in weights.items():
        mine = back.nodes[name].metadata["sbc_kernels"]
        for key, values in quantized_weight.parts().items():
            assert mine[key].dtype == values.numpy().dtype, key
            np.testing.assert_array_equal(mine[key], values.numpy())
        assert (mine["bits"], mine["group_size"]) == (4, -1)
        codes = mine["codes"].reshape(len(mine["codes"]), -1)
        weight = (codes - mine["zero_point"]) * mine["scale"] * mine["mask"].reshape(codes.shape)
        np.testing.assert_array_equal(weight, back.nodes[name].weight.reshape(codes.shape))
    mine = back.metadata["sbc_kernels"]
    assert mine["version"] == sbc.__version__
    assert mine["dt"] == 1e-4
    assert not mine["integer_weights"]
    assert (mine["model"], mine["readout"]) == ("Chain", "")
    neuron_meta = back.nodes["n1"].metadata["sbc_kernels"]
    assert neuron_meta["module"] == "LIFNode"
    assert neuron_meta["reset"] == "value"
    assert neuron_meta["fires_at_threshold"]
    assert (neuron_meta["threshold"] == 1).all()


def test_several_scales_a_row_are_kept_beside_dequantized_weights() -> None:
    net, x = seeded(SOURCES["spikingjelly LIFNode"][1], 5.0), inputs(64)
    result = sbc.compress_model(net, x, sparsity=0.0, bits=4, group_size=7)
    graph = nir_graph(result.model, x[:, :3], weights=result.weights)
    mine = graph.nodes["fc"].metadata["sbc_kernels"]
    group = np.arange(64) // mine["group_size"]
    weight = (mine["codes"] - mine["zero_point"][:, group]) * mine["scale"][:, group]
    np.testing.assert_array_equal(weight.astype(np.float32), graph.nodes["fc"].weight)


def test_the_file_is_whole_or_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = nir_graph(seeded(SOURCES["spikingjelly IFNode"][1], 2.0), inputs(3))
    write_nir(str(tmp_path / "net.nir"), graph)
    before = (tmp_path / "net.nir").read_bytes()

    def full(*_: Any) -> None:
        raise OSError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        with pytest.raises(OSError, match="no space left"):
            write_nir(tmp_path / "net.nir", graph)
    assert (tmp_path / "net.nir").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["net.nir"]
    with pytest.raises(FileNotFoundError):
        write_nir(tmp_path / "nowhere" / "net.nir", graph)
    with pytest.raises(TypeError, match=r"graph is a Chain; accepted is a nir\.NIRGraph"):
        write_nir(tmp_path / "net.nir", seeded(SOURCES["spikingjelly IFNode"][1], 2.0))
    with pytest.raises(TypeError, match="path is a int"):
        write_nir(3, graph)


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "nir", None)
    with pytest.raises(ImportError, match="pip install nir"):
        nir_graph(nn.Linear(2, 2), torch.zeros(2, 2))


# ---- what NIR cannot hold ----------------------------------------------------------------------


def test_bad_parameters() -> None:
    net, x = seeded(SOURCES["spikingjelly LIFNode"][1], 5.0), inputs(64)
    with pytest.raises(TypeError, match="model is a int"):
        nir_graph(3, x)
    with pytest.raises(TypeError, match="example is a dict; accepted is a tensor"):
        nir_graph(net, {"x": x})
    with pytest.raises(TypeError, match="integer_weights is 1; accepted is True or False"):
        nir_graph(net, x, integer_weights=1)
    with pytest.raises(ValueError, match="integer_weights is True, but no layer has codes"):
        nir_graph(net, x, integer_weights=True)
    weights = quantized(net)
    with pytest.raises(ValueError, match="weights has 'nobody', which no module"):
        nir_graph(net, x, weights={"nobody": weights["fc"]})
    changed = seeded(SOURCES["spikingjelly LIFNode"][1], 5.0)
    with pytest.raises(ValueError, match="weights has codes of 'conv' that are not its weight"):
        nir_graph(changed, x, weights=weights)
    odd = quantized(changed)
    grid = replace(odd["fc"].grid, zero_point=odd["fc"].zero_point + 0.25)
    odd["fc"] = replace(odd["fc"], grid=grid)
    with torch.no_grad():
        changed.fc.weight.copy_(odd["fc"].to_dense())
    with pytest.raises(ValueError, match="of 'fc' zero_point is neither integer nor half"):
        nir_graph(changed, x, weights=odd, integer_weights=True)
    grouped = sbc.compress_model(net, x, sparsity=0.0, bits=4, group_size=7)
    with pytest.raises(ValueError, match="of 'conv' group_size is 7; accepted is -1, one scale"):
        nir_graph(grouped.model, x, weights=grouped.weights, integer_weights=True)


def test_a_slash_in_a_name_makes_no_group_of_the_file(tmp_path: Path) -> None:
    net = nn.Sequential()
    net.add_module("a", nn.Linear(6, 5))
    net.add_module("a/b", neuron.LIFNode(tau=2.0, step_mode="m"))
    write_nir(tmp_path / "n.nir", nir_graph(net, (torch.rand(3, 2, 6) < 0.5).float()))
    assert {"a", "a_b"} <= set(nir.read(tmp_path / "n.nir").nodes)
