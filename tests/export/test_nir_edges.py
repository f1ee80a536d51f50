"""Nodes and edges of NIR graphs."""

from __future__ import annotations

import itertools
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nets import Net
from nir_networks import (
    HARD,
    SOURCES,
    BatchFirst,
    Chain,
    MultiStep,
    Residual,
    T,
    assert_same,
    fired,
    inputs,
    interpret,
    quantized,
    read_back,
    seeded,
    written,
)
from torch import Tensor, nn

from sbc_kernels.export.nir.graph import nir_graph

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import nir
    import sinabs.activation as sa
    import sinabs.layers as sl
    import snntorch as snn
    from spikingjelly.activation_based import neuron


def test_the_graph_of_a_chain() -> None:
    net, x = seeded(SOURCES["spikingjelly LIFNode"][1], 5.0), inputs(4)
    graph = nir_graph(net, x)
    names = ["input", "conv", "n1", "n1_flatten", "fc", "n2", "head", "n3", "output"]
    kinds = ["Input", "Conv2d", "LIF", "Flatten", "Affine", "LIF", "Affine", "LIF", "Output"]
    assert {name: type(node).__name__ for name, node in graph.nodes.items()} == dict(
        zip(names, kinds, strict=True)
    )
    assert graph.edges == list(itertools.pairwise(names))
    assert graph.nodes["input"].input_type["input"].tolist() == [2, 8, 8]
    assert graph.nodes["n1"].v_threshold.shape == (4, 4, 4)
    conv, fc, lif = (graph.nodes[name] for name in ("conv", "fc", "n2"))
    np.testing.assert_array_equal(conv.weight, net.conv.weight.detach().numpy())
    np.testing.assert_array_equal(conv.bias, net.conv.bias.detach().numpy())
    assert (conv.stride, conv.padding, conv.dilation, conv.groups) == ((2, 2), (1, 1), (1, 1), 1)
    np.testing.assert_array_equal(fc.weight, net.fc.weight.detach().numpy())
    assert fc.weight.dtype == fc.bias.dtype == np.float32
    assert (fc.bias == 0).all()
    np.testing.assert_allclose(lif.tau, 2e-4, rtol=1e-15)
    assert (lif.r == 1).all()
    assert (lif.v_leak == 0).all()
    assert (lif.v_reset == 0).all()
    # between 1 and the float32 before it, nearer to that one
    assert (lif.v_threshold.astype(np.float32) == np.nextafter(np.float32(1), np.float32(0))).all()
    assert (lif.v_threshold > np.nextafter(np.float32(1), np.float32(0))).all()


def test_the_same_edges_however_time_is_held() -> None:
    """A loop, [T, N, ...], [N, T, ...], steps and samples in one axis, and a loop around the model."""

    class Flat(Chain):
        def forward(self, x: Tensor) -> Tensor:
            first = x.shape[:2]

            def fire(name: str, current: Tensor) -> Tensor:
                return getattr(self, name)(current.unflatten(0, first)).flatten(0, 1)

            return self.step(x.flatten(0, 1), fire).unflatten(0, first)

    class Step(Chain):
        def forward(self, x: Tensor) -> Tensor:
            return self.step(x, lambda name, current: getattr(self, name)(current))

    class Buffer(Chain):
        def forward(self, x: Tensor) -> Tensor:
            out = x.new_zeros(*x.shape[:2], 5)
            for t in range(T):
                out[t] = self.step(x[t], lambda name, current: getattr(self, name)(current))
            return out

    class Squeezed(BatchFirst):
        def forward(self, x: Tensor) -> Tensor:
            x = x.transpose(0, 1)
            y = self.fc(self.n1(self.conv(x.flatten(0, 1))).flatten(1))
            return self.n3(self.head(self.n2(y))).unflatten(0, x.shape[:2])

    def multi_step() -> nn.Module:
        return neuron.LIFNode(tau=2.0, step_mode="m")

    x = inputs(3)
    looped = nir_graph(seeded(SOURCES["spikingjelly LIFNode"][1], 5.0), x)
    hard = {"spike_fn": sa.SingleSpike, "reset_fn": sa.MembraneReset(), "num_timesteps": T}
    others = {
        "multi-step": (lambda: MultiStep(multi_step), None),
        "flat": (lambda: Flat(multi_step), None),
        "batch first": (SOURCES["sinabs LIF"][1], None),
        "squeezed": (lambda: Squeezed(lambda: sl.LIFSqueeze(tau_mem=1 / np.log(2), **hard)), None),
        "buffer": (lambda: Buffer(lambda: neuron.LIFNode(tau=2.0)), None),
        "outside": (
            lambda: Step(lambda: neuron.LIFNode(tau=2.0)),
            lambda model, batch: torch.stack([model(step) for step in batch]),
        ),
    }
    for way, (build, forward) in others.items():
        graph = nir_graph(seeded(build, 5.0), x, forward=forward)
        assert graph.edges == looped.edges, way
        for name, node in looped.nodes.items():
            assert list(graph.nodes[name].output_type["output"]) == list(
                node.output_type["output"]
            ), way
            for key in ("weight", "bias", "tau", "v_threshold"):
                if hasattr(node, key):
                    np.testing.assert_allclose(
                        getattr(graph.nodes[name], key), getattr(node, key), rtol=1e-6
                    )


@pytest.mark.parametrize("source", ["spikingjelly LIFNode", "snntorch Leaky"])
def test_edges_meet_where_outputs_are_added(source: str, tmp_path: Path) -> None:
    make = {
        "spikingjelly LIFNode": lambda: neuron.LIFNode(tau=2.0),
        "snntorch Leaky": lambda: snn.Leaky(beta=0.5, **HARD),
    }[source]
    net, x = seeded(lambda: Residual(make), 4.0), inputs()
    quantized(net)
    graph = written(net, x, tmp_path / "net.nir")
    ends: dict[str, set[str]] = {}
    for source_name, target in graph.edges:
        ends.setdefault(target, set()).add(source_name)
    assert ends["n2"] == {"fc", "side"}
    assert ends["head"] == {"n2", "n4"}
    assert ends["fc"] == ends["side"] == {"n1_flatten"}
    expected = fired(net, x, ["n1", "n2", "n3", "n4"])
    assert_same(interpret(nir.read(tmp_path / "net.nir"), x), expected, "NIR's equations")
    for reader in ("spikingjelly", "snntorch"):
        assert_same(read_back(reader, tmp_path / "net.nir", x), expected, reader)


def test_layers_of_other_kinds(tmp_path: Path) -> None:
    """Conv1d, dilation, "same", padded averages, sums, whole windows of an adaptive average."""

    def run(m: Any, x: Tensor) -> Tensor:
        out = []
        for s in x:
            y = m.n1(m.pool(m.conv(s)))
            y = m.n2(m.dropout(m.whole(m.same(m.sums(y)))))
            y = m.n3(m.wave(y.flatten(2)))
            out.append(m.n4(m.fc(y.flatten(1))))
        return torch.stack(out).mean(0)

    def build() -> nn.Module:
        return Net(
            run,
            conv=nn.Conv2d(2, 4, 3, dilation=2, padding=2),
            pool=nn.AvgPool2d(4, stride=2, padding=1),
            n1=neuron.IFNode(),
            sums=sl.SumPool2d(2),
            same=nn.Conv2d(4, 6, 3, padding="same"),
            whole=nn.AdaptiveAvgPool2d((2, 1)),
            dropout=nn.Dropout(0.5),
            n2=neuron.IFNode(),
            wave=nn.Conv1d(6, 5, 2, padding=1),
            n3=neuron.IFNode(),
            fc=nn.Linear(15, 6),
            n4=neuron.IFNode(),
        )

    net, x = seeded(build, 2.0), inputs(100, 2, 16, 16)
    quantized(net)
    graph = written(net, x, tmp_path / "net.nir")
    assert graph.metadata["sbc_kernels"]["readout"] == "mean"
    back = nir.read(tmp_path / "net.nir")
    assert back.nodes["whole"].kernel_size.tolist() == [2, 4]
    assert type(back.nodes["sums"]).__name__ == "SumPool2d"
    assert back.nodes["same"].padding == "same"
    expected = fired(net, x, ["n1", "n2", "n3", "n4"])
    assert_same(interpret(back, x), expected, "NIR's equations")


def test_pools_are_read_back(tmp_path: Path) -> None:
    net = Net(
        lambda m, x: torch.stack([m.n2(m.fc(m.pool(m.n1(m.conv(s))).flatten(1))) for s in x]),
        conv=nn.Conv2d(2, 4, 3, padding=1),
        n1=neuron.LIFNode(tau=2.0),
        pool=nn.AvgPool2d(2),
        fc=nn.Linear(64, 20),
        n2=neuron.LIFNode(tau=2.0),
    )
    net, x = seeded(lambda: net, 5.0), inputs()
    quantized(net)
    written(net, x, tmp_path / "net.nir")
    expected = fired(net, x, ["n1", "n2"])
    for reader in ("spikingjelly", "snntorch"):
        assert_same(read_back(reader, tmp_path / "net.nir", x), expected, reader)


def test_one_image_for_every_step() -> None:
    """Direct coding: the first layer is called once, its answer is heard at each step."""

    def run(m: Any, x: Tensor) -> Tensor:
        current = m.conv(x)
        out = sum(m.n2(m.fc(m.n1(current).flatten(1))) for _ in range(T))
        return out / T

    net = Net(
        run,
        conv=nn.Conv2d(2, 4, 3, stride=2),
        n1=neuron.IFNode(),
        fc=nn.Linear(36, 7),
        n2=neuron.IFNode(),
    )
    net, image = seeded(lambda: net, 2.0), inputs(20)[0]
    quantized(net)
    graph = nir_graph(net, image)
    assert graph.nodes["input"].input_type["input"].tolist() == [2, 8, 8]
    assert graph.metadata["sbc_kernels"]["readout"] == "add, div"
    expected = fired(net, image[None].expand(T, *image.shape)[0], ["n1", "n2"])
    assert_same(interpret(graph, image[None].expand(T, *image.shape)), expected, "NIR's equations")


def test_the_input_is_flattened_where_the_first_layer_wants_it() -> None:
    net = Net(
        lambda m, x: torch.stack([m.n(m.fc(s.flatten(1))) for s in x]),
        fc=nn.Linear(128, 9),
        n=neuron.IFNode(),
    )
    graph = nir_graph(seeded(lambda: net, 2.0), inputs(3))
    assert graph.edges[:2] == [("input", "input_flatten"), ("input_flatten", "fc")]
    assert graph.nodes["input"].input_type["input"].tolist() == [2, 8, 8]


def test_names_of_modules_inside_modules(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Linear(6, 8), neuron.IFNode(step_mode="m"), nn.Identity())
    net = nn.Sequential(net, nn.Linear(8, 4, bias=False), neuron.IFNode(step_mode="m"))
    net, x = seeded(lambda: net, 3.0), inputs(100, 6)
    quantized(net)
    graph = written(net, x, tmp_path / "net.nir")
    assert list(graph.nodes) == ["input", "0.0", "0.1", "1", "2", "output"]
    expected = fired(net, x, ["0.1", "2"])
    for reader in ("spikingjelly", "norse"):
        assert_same(read_back(reader, tmp_path / "net.nir", x), expected, reader)


def test_the_model_stays_as_it_is() -> None:
    net, x = seeded(SOURCES["snntorch Leaky, reset late, hidden"][1], 2.0).train(), inputs(4)
    net(x)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    mem = net.n1.mem.clone()
    nir_graph(net, x)
    assert net.training
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert torch.equal(net.n1.mem, mem)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())
    assert all(p.requires_grad for p in net.parameters())
