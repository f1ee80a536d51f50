"""Neurons in NIR graphs: parameters and equations."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nets import Net
from nir_networks import (
    HARD,
    SOURCES,
    Chain,
    assert_same,
    each,
    fired,
    inputs,
    interpret,
    layers,
    quantized,
    read_back,
    seeded,
    sinabs_hard,
    written,
)
from torch import Tensor, nn

import sbc_kernels as sbc
from sbc_kernels.export.nir.graph import nir_graph

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import nir
    import norse.torch as norse
    import sinabs.activation as sa
    import sinabs.layers as sl
    import snntorch as snn
    from norse.torch.functional.reset import reset_subtract
    from spikingjelly.activation_based import neuron


# ---- integer weights ---------------------------------------------------------------------------


def test_each_neuron_has_parameters_of_its_own(tmp_path: Path) -> None:
    """Decays and thresholds a channel, which Norse's reader takes."""
    draw = torch.Generator().manual_seed(2)

    def make(*shape: int) -> nn.Module:
        beta = torch.randint(1, 4, shape, generator=draw) / 4
        return snn.Leaky(
            beta=beta, threshold=torch.randint(3, 9, shape, generator=draw) / 4, **HARD
        )

    def build() -> nn.Module:
        net = Chain(lambda: nn.Identity())
        net.n1, net.n2, net.n3 = make(4, 1, 1), make(20), make(5)
        return net

    net, x = seeded(build, 3.0), inputs()
    weights = quantized(net)
    expected = fired(net, x, ["n1", "n2", "n3"])
    for integer_weights in (False, True):
        written(net, x, tmp_path / "net.nir", weights=weights, integer_weights=integer_weights)
        assert_same(interpret(nir.read(tmp_path / "net.nir"), x), expected, "NIR's equations")
        assert_same(read_back("norse", tmp_path / "net.nir", x), expected, "norse")


SAYS: dict[str, tuple[Callable[[], nn.Module], str, str | None]] = {  # neuron, node, what is lost
    "SimpleIFNode": (neuron.SimpleIFNode, "IF", None),
    "SimpleLIFNode": (lambda: neuron.SimpleLIFNode(tau=2.0, decay_input=False), "LIF", None),
    "IFNode that subtracts": (lambda: neuron.IFNode(v_reset=None), "IF", "it subtracts"),
    "CUBALIFNode above rest": (lambda: neuron.CUBALIFNode(v_reset=0.25), "CubaLIF", "it starts at"),
    "Lapicque": (lambda: snn.Lapicque(R=2.0, C=2.0, init_hidden=True), "LIF", "it subtracts"),
    "Leaky": (lambda: snn.Leaky(beta=0.5, init_hidden=True), "LIF", "it subtracts"),
    "Leaky with beta 1": (
        lambda: snn.Leaky(beta=1.0, init_hidden=True, reset_mechanism="zero"),
        "IF",
        None,
    ),
    "Norse LIF": (norse.LIF, "CubaLIF", None),
    "Norse IAF": (norse.IAF, "IF", None),
    "Norse LI": (norse.LI, "CubaLI", None),
    "Norse LIBoxCell": (norse.LIBoxCell, "LI", None),
    "Norse LIFBoxCell that subtracts": (
        lambda: norse.LIFBoxCell(norse.LIFBoxParameters(reset_method=reset_subtract)),
        "LIF",
        "it subtracts",
    ),
    "sinabs LIF": (lambda: sl.LIF(tau_mem=3.0, spike_fn=sa.MaxSpike(2)), "LIF", "several spikes"),
    "sinabs LIF with a synapse": (
        lambda: sl.LIF(
            tau_mem=3.0, tau_syn=2.0, spike_fn=sa.SingleSpike, reset_fn=sa.MembraneReset()
        ),
        "CubaLIF",
        None,
    ),
    "sinabs IAF": (
        lambda: sl.IAF(reset_fn=sa.MembraneSubtract(0.5), spike_fn=sa.SingleSpike),
        "IF",
        "it subtracts",
    ),
}


@pytest.mark.parametrize("what", SAYS)
def test_equations_are_what_the_neuron_does(what: str) -> None:
    """Every graph that is made has held a neuron's answers against its equations."""
    make, kind, lost = SAYS[what]
    module = make()
    whole = "Norse L" in what or "IAF" in what or "sinabs" in what

    def run(m: Any, x: Tensor) -> Tensor:
        current = m.a(x.transpose(0, 1) if "sinabs" in what else x)
        if whole and "Cell" not in what:
            out = m.k(current)
            return out[0] if isinstance(out, tuple) else out
        out, state = [], None
        for step in current:
            answer = m.k(step) if state is None else m.k(step, state)
            if isinstance(answer, tuple):
                answer, state = answer
            out.append(answer)
        return torch.stack(out)

    net, x = seeded(lambda: Net(run, a=nn.Linear(16, 32), k=module), 4.0), inputs(50, 16)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        graph = nir_graph(net, x)
    said = [str(w.message) for w in caught if "NIR cannot hold" in str(w.message)]
    assert len(said) == (lost is not None)
    assert all(str(lost) in text for text in said)
    assert type(graph.nodes["k"]).__name__ == kind
    if lost is None and kind in ("IF", "LIF", "CubaLIF"):
        with torch.no_grad():
            spikes = net(x).transpose(0, 1) if "sinabs" in what else net(x)
        assert_same(interpret(graph, x), {"k": spikes.numpy()}, "NIR's equations")


# ---- edges -------------------------------------------------------------------------------------


def test_parameters_of_each_kind_of_neuron() -> None:
    """tau = dt / (1 - decay); the gain goes into the threshold; a unit says by how much."""
    after = {
        "spikingjelly LIFNode, input not decayed": (0.5, 0.5, None, 2.0),
        "snntorch Leaky": (0.5, 0.5, None, 2.0),
        "snntorch Leaky, reset late, hidden": (0.75, 0.25, None, 4.0),
        "snntorch Synaptic": (0.75, 1.0, 0.5, 1.0),
        "spikingjelly CUBALIFNode": (0.75, 0.5, 0.5, 1.0),
        "norse LIFCell": (0.5, 2.0, 0.75, 0.5),
        "norse LIFBoxCell": (0.5, 1.0, None, 1.0),
    }
    for source, (decay, threshold, synapse, unit) in after.items():
        node = nir_graph(seeded(*SOURCES[source][1:]), inputs(3)).nodes["n2"]
        tau = node.tau if synapse is None else node.tau_mem
        np.testing.assert_allclose(1 - 1e-4 / tau, decay, rtol=1e-12)
        np.testing.assert_allclose(node.v_threshold, threshold, rtol=2e-7)
        assert np.unique(node.metadata["sbc_kernels"].get("unit", 1.0)) == unit
        if synapse is not None:
            np.testing.assert_allclose(1 - 1e-4 / node.tau_syn, synapse, rtol=1e-12)
            np.testing.assert_allclose(node.w_in, node.tau_syn / 1e-4)
            np.testing.assert_allclose(node.r, tau / 1e-4)


def test_an_integrator_answers_its_potential() -> None:
    net = Net(
        lambda m, x: m.li(m.fc(m.n(m.first(x.transpose(0, 1))))),
        first=nn.Linear(6, 8),
        n=sinabs_hard(None),
        fc=nn.Linear(8, 3),
        li=sl.ExpLeak(tau_mem=4.0),
    )
    graph = nir_graph(seeded(lambda: net, 2.0), inputs(4, 6))
    node = graph.nodes["li"]
    assert type(node).__name__ == "LI"
    np.testing.assert_allclose(1 - 1e-4 / node.tau, np.exp(-0.25), rtol=1e-6)
    np.testing.assert_allclose(node.r * 1e-4 / node.tau, 1.0)  # no norm_input: a gain of 1


# ---- what NIR cannot hold ----------------------------------------------------------------------


class Own(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return (x > 1).float()


def test_a_registered_neuron_has_no_equations() -> None:
    sbc.register_neuron(Own, sbc.IF(), time_axis=None)
    net = Net(each(lambda m, s: m.k(m.a(s))), **layers(k=Own()))
    with pytest.raises(
        ValueError, match=r"k \(Own\), which NIR cannot hold: its equations are not"
    ):
        nir_graph(net, inputs(3, 16))
