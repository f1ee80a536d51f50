"""Integer weights and their scales in NIR graphs."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nets import Net
from nir_networks import (
    IF,
    SOURCES,
    BatchFirst,
    assert_same,
    each,
    fired,
    inputs,
    interpret,
    layers,
    quantized,
    read_back,
    seeded,
    written,
)
from torch import nn

from sbc_kernels.export.nir.graph import nir_graph
from sbc_kernels.grid import Grid
from sbc_kernels.weights import Quantized

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import nir
    import sinabs.layers as sl
    from spikingjelly.activation_based import neuron


# ---- integer weights ---------------------------------------------------------------------------


def weights_of(graph: Any) -> dict[str, Any]:
    return {name: node for name, node in graph.nodes.items() if hasattr(node, "weight")}


@pytest.mark.parametrize("source", SOURCES)
def test_integer_weights_fire_alike(source: str, tmp_path: Path) -> None:
    """One scale a row: a threshold for each neuron, which Norse's reader takes."""
    _, build, scale = SOURCES[source]
    net, x = seeded(build, scale), inputs()
    weights = quantized(net)
    assert len({float(s) for s in weights["fc"].scale}) > 1
    graph = written(net, x, tmp_path / "net.nir", weights=weights, integer_weights=True)
    for node in weights_of(graph).values():
        assert node.weight.dtype == np.float32
        assert (node.weight == node.weight.round()).all()
        assert np.abs(node.weight).max() in (7, 8)
    expected = fired(net, x, ["n1", "n2", "n3"])
    back = nir.read(tmp_path / "net.nir")
    assert len(np.unique(back.nodes["n2"].v_threshold)) > 1
    assert_same(interpret(back, x), expected, "NIR's equations")
    if "v_reset" not in source:
        assert_same(read_back("norse", tmp_path / "net.nir", x), expected, "norse")


@pytest.mark.parametrize("source", SOURCES)
def test_integer_weights_of_one_scale_a_layer_fire_alike_in_every_reader(
    source: str, tmp_path: Path
) -> None:
    kind, build, scale = SOURCES[source]
    net, x = seeded(build, scale), inputs()
    weights = quantized(net, alike=True)
    written(net, x, tmp_path / "net.nir", weights=weights, integer_weights=True)
    expected = fired(net, x, ["n1", "n2", "n3"])
    readers = ["spikingjelly", "norse"] if kind == IF else ["spikingjelly", "snntorch", "norse"]
    for reader in ["spikingjelly"] if "v_reset" in source else readers:
        assert_same(read_back(reader, tmp_path / "net.nir", x), expected, reader)


@pytest.mark.parametrize("integer_weights", [False, True])
def test_neurons_that_subtract_fire_alike_in_sinabs(integer_weights: bool, tmp_path: Path) -> None:
    """What NIR cannot hold, and what sinabs makes of an IF: said in a warning and in the metadata."""
    net = seeded(lambda: BatchFirst(lambda: sl.IAF(min_v_mem=-1.0)), 2.0)
    weights, x = quantized(net), inputs()
    with pytest.warns(UserWarning, match=r"n1 \(IAF\): it subtracts") as caught:
        written(net, x, tmp_path / "net.nir", weights=weights, integer_weights=integer_weights)
    (text,) = {str(w.message) for w in caught if "NIR cannot hold" in str(w.message)}
    assert all(part in text for part in ("n3 (IAF)", "several spikes a step", "a lower bound"))
    mine = nir.read(tmp_path / "net.nir").nodes["n1"].metadata["sbc_kernels"]
    assert mine["reset"] == "subtract"
    assert (mine["subtract"] == 1).all()
    assert (mine["floor"] == -1).all()
    assert mine["most_spikes"] == -1
    expected = fired(net, x, ["n1", "n2", "n3"])
    assert expected["n1"].max() > 1
    assert_same(read_back("sinabs", tmp_path / "net.nir", x), expected, "sinabs")


def test_one_bit_has_integers_of_odd_halves(tmp_path: Path) -> None:
    """Zero points of 0.5: the levels are -1 and 1, and the scale is halved."""
    net, x = seeded(SOURCES["spikingjelly IFNode"][1], 1.0), inputs(50)
    weights = {}
    for name, module in net.named_modules():
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            codes = (module.weight > 0).to(torch.uint8)
            scale = torch.full((len(codes), 1), 0.5)
            with torch.no_grad():
                module.weight.copy_((codes - 0.5) * 0.5)
            grid = Grid(1, scale, torch.full_like(scale, 0.5), -1)
            weights[name] = Quantized(codes, grid)
    graph = nir_graph(net, x[:, :3], weights=weights, integer_weights=True)
    assert set(np.unique(graph.nodes["fc"].weight)) == {-1.0, 1.0}
    assert (graph.nodes["fc"].metadata["sbc_kernels"]["row_scale"] == 0.25).all()
    assert_same(interpret(graph, x), fired(net, x, ["n1", "n2", "n3"]), "NIR's equations")


def test_scales_pass_pools_and_reshapes() -> None:
    """A convolution's scales, one a channel, reach its neuron through an average and a flattening."""
    net = Net(
        lambda m, x: torch.stack([m.n2(m.fc(m.n1(m.pool(m.conv(s)).flatten(1)))) for s in x]),
        conv=nn.Conv2d(2, 4, 3, padding=1),
        pool=nn.AvgPool2d(2),
        n1=neuron.IFNode(),
        fc=nn.Linear(64, 20),
        n2=neuron.IFNode(),
    )
    net, x = seeded(lambda: net, 2.0), inputs(100)
    graph = nir_graph(net, x[:, :3], weights=quantized(net), integer_weights=True)
    scale = graph.nodes["conv"].metadata["sbc_kernels"]["row_scale"]
    assert graph.nodes["n1"].v_threshold.shape == (64,)
    np.testing.assert_allclose(graph.nodes["n1"].v_threshold, np.repeat(1 / scale, 16), rtol=1e-6)
    assert_same(interpret(graph, x), fired(net, x, ["n1", "n2"]), "NIR's equations")


# ---- what NIR cannot hold ----------------------------------------------------------------------


def test_integers_need_a_neuron_for_their_scale() -> None:
    x = inputs(3, 16)
    head = Net(each(lambda m, s: m.b(m.n(m.a(s)))), **layers())
    twice = Net(each(lambda m, s: m.n(m.b(m.a(s)))), **layers())
    added = Net(each(lambda m, s: m.n(m.a(s) + m.b(s))), **layers())
    spikes = Net(each(lambda m, s: m.m(m.b(y := m.n(m.a(s))) + y)), **layers())
    for net, message in (
        (head, r"the output of b \(Linear\) reaches the model's output without a neuron.*skip"),
        (twice, r"b \(Linear\) is fed with integers whose scales"),
        (
            added,
            r"n \(IFNode\) adds up the outputs of a and b, which are in units of different",
        ),
        (
            spikes,
            r"m \(IFNode\) adds up the outputs of n and b, which are in units of different",
        ),
    ):
        net = seeded(lambda net=net: net, 2.0)
        weights = quantized(net)
        assert nir_graph(net, x, weights=weights).nodes
        with pytest.raises(ValueError, match="integer_weights is True, but " + message):
            nir_graph(net, x, weights=weights, integer_weights=True)
    kept = seeded(lambda: head, 2.0)
    weights = quantized(kept)
    del weights["b"]  # a head that was not quantized
    assert nir_graph(kept, x, weights=weights, integer_weights=True).nodes
