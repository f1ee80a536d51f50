"""Synaptic operations against SpikingJelly's counter; figures a sample; spike rates."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from networks_of_metrics import NETS, SAMPLES, STEPS, as_neurobench, inputs, linear_net, prune
from torch import Tensor, nn

from sbc_kernels.metrics import (
    LayerOperations,
    SynapticOperations,
    accuracy,
    compare,
    spike_rates,
    synaptic_operations,
)

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from four_frameworks import FRAMEWORKS, T, network, same, snapshot, spikes
    from neurobench.metrics.workload import SynapticOperations as NeuroBenchOperations
    from neurobench.models import TorchModel
    from spikingjelly.activation_based import base, functional, neuron
    from spikingjelly.activation_based.op_counter import DispatchCounterMode, SynOpCounter


# ---- SpikingJelly's counter --------------------------------------------------------------------


@pytest.mark.parametrize("name", ["linear", "conv"])
def test_dense_acs_is_spikingjellys_count(name: str) -> None:
    build, shape = NETS[name]
    net, x = build(), inputs("binary", STEPS, SAMPLES, *shape)
    counter = SynOpCounter()
    with torch.no_grad(), DispatchCounterMode([counter]):
        net(x)
    functional.reset_net(net)
    found = synaptic_operations(net, x)
    assert found.dense_acs * SAMPLES == pytest.approx(counter.get_total(), rel=1e-14)
    assert found.effective_acs < 0.5 * found.dense_acs < found.dense
    whole = synaptic_operations(prune(net, 1.1), x)  # the same weights, as zeros stay
    assert whole == found


def test_unlike_spikingjelly() -> None:
    """Its counter leaves out a -1, and takes a weight of zeros and ones for spikes."""
    module = prune(nn.Linear(9, 5, bias=False))

    def count(x: Tensor) -> int:
        counter = SynOpCounter()
        with torch.no_grad(), DispatchCounterMode([counter]):
            module(x)
        return counter.get_total()

    def told(x: Tensor) -> LayerOperations:
        return synaptic_operations(module, [(x, [0])]).layers[""]

    signed, unsigned = inputs("ternary", 7, 9), inputs("binary", 7, 9)
    assert count(unsigned) == told(unsigned).dense_acs == 5 * int(unsigned.sum())
    assert count(signed) == 0
    assert told(signed).dense_acs == 5 * int(signed.abs().sum())
    with torch.no_grad():
        module.weight.copy_(module.weight != 0)
    assert count(unsigned) == told(unsigned).acs < told(unsigned).dense_acs


@pytest.mark.parametrize("name", ["vgg11_bn", "sew_resnet18_ADD", "sdt"])
def test_real_networks(name: str) -> None:
    """Two time steps of a zoo's network: both counters, layers that multiply and layers that do not."""
    import zoo

    case = next(case for case in zoo.CASES if case.name == name)
    net, x = case.build(), case.inputs(2)
    found = synaptic_operations(net, x)
    functional.reset_net(net)
    counter, metric, wrapped = SynOpCounter(), NeuroBenchOperations(), TorchModel(net)
    wrapped.register_hooks()
    with torch.no_grad():
        with DispatchCounterMode([counter]):
            output = wrapped(x)
        metric(wrapped, output, (torch.zeros(2), None))
    assert found.samples == 2
    assert as_neurobench(found) == pytest.approx(metric.compute(), rel=1e-7)  # adds up in float32
    assert 2 * found.dense_acs == pytest.approx(counter.get_total(), rel=1e-14)
    assert min(found.effective_macs, found.effective_acs) > 0


# ---- figures a sample, energy ------------------------------------------------------------------


def test_energy() -> None:
    layers = {"a": LayerOperations(1e6, 2e6, 0, 9e9, 0), "b": LayerOperations(0, 3e6, 0, 9e9, 0)}
    found = SynapticOperations(7, layers)
    assert found.energy() == pytest.approx((5e6 * 0.9 + 1e6 * 4.6) * 1e-12, rel=1e-15)
    assert found.energy(pj_per_ac=0.1, pj_per_mac=0) == pytest.approx(5e-7, rel=1e-15)
    for name in ("pj_per_ac", "pj_per_mac"):
        for price in (-1, math.nan, math.inf, "1"):
            with pytest.raises(ValueError, match=rf"{name} is .*; accepted is a number"):
                found.energy(**{name: price})


@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize("samples", [1, 3, T])
def test_samples_are_told_by_neurons_or_labels(framework: str, samples: int) -> None:
    net, x = network(framework), spikes(samples=samples)
    told = synaptic_operations(net, x)
    labelled = synaptic_operations(net, [(x, torch.zeros(samples, dtype=torch.long))])
    assert told.samples == labelled.samples == samples
    assert told == labelled
    assert set(told.layers) == {"conv", "fc", "head"}
    twice = synaptic_operations(net, [x, x])
    assert twice.samples == 2 * samples
    assert twice.layers["conv"] == told.layers["conv"]


def test_frameworks_agree() -> None:
    """The same network in four frameworks."""
    x = spikes()
    first, *others = [synaptic_operations(network(name), [x]) for name in FRAMEWORKS]
    assert first.effective_acs > 0
    for other in others:
        assert other.layers["conv"] == first.layers["conv"]
        assert other.effective_acs == pytest.approx(first.effective_acs, rel=1e-9)
    one_step = [synaptic_operations(network(name), x[:1, :3]) for name in list(FRAMEWORKS)[:6]]
    assert all(told == one_step[0] for told in one_step)
    assert one_step[0].samples == 3


def test_samples_that_cannot_be_told() -> None:
    class Flattened(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.lif = nn.Linear(6, 4), neuron.LIFNode()

        def forward(self, x: Tensor) -> Tensor:
            return self.lif(self.fc(x.flatten(0, 1))).sum(0)

    hint = r"of unknown size.*accepted is batches \(inputs, labels\)"
    with pytest.raises(ValueError, match=hint):  # positions taken for samples
        synaptic_operations(Flattened(), torch.rand(2, 7, 6))
    with pytest.raises(ValueError, match=r"inputs: none"):
        synaptic_operations(nn.Linear(6, 2), torch.rand(3, 6))
    two = nn.Sequential(
        nn.Linear(6, 4),
        neuron.LIFNode(),
        nn.Unflatten(1, (2, 2)),
        nn.Flatten(0, 1),
        neuron.LIFNode(),
    )
    with pytest.raises(ValueError, match=r"inputs: 3, 6"):
        synaptic_operations(two, torch.rand(3, 6))
    assert synaptic_operations(two, [(torch.rand(3, 6), np.zeros(3))]).samples == 3
    assert set(spike_rates(two, torch.rand(3, 6))) == {"1", "4"}  # which needs no samples


def test_the_model_stays_as_it_is() -> None:
    net = network("spikingjelly multi-step").train()
    x = spikes()
    net.fc.weight.grad = torch.ones_like(net.fc.weight)
    net.n1(torch.rand(T, 2, 6, 8, 8))  # a state that hangs on a graph
    before = snapshot(net)
    data = [(x, torch.zeros(6, dtype=torch.long))]
    synaptic_operations(net, data)
    spike_rates(net, data)
    accuracy(net, data)
    compare(net, net, data)
    assert same(snapshot(net), before)
    assert bool((net.fc.weight.grad == 1).all())
    assert net.training
    with pytest.raises(RuntimeError):
        spike_rates(net, torch.ones(T, 2, 3))
    assert same(snapshot(net), before)


# ---- spike rates -------------------------------------------------------------------------------


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_spike_rates(framework: str) -> None:
    net, data = network(framework), [spikes(0, 6), spikes(1, 2)]
    expected = {"n1": [0, 0], "n2": [0, 0]}

    def hook(name: str) -> Callable[..., None]:
        def add(module: nn.Module, args: Any, output: Any) -> None:
            fired = output[0] if isinstance(output, tuple) else output
            expected[name][0] += int((fired != 0).sum())
            expected[name][1] += fired.numel()

        return add

    found = spike_rates(net, data)
    work = copy.deepcopy(network(framework))
    work.n1.register_forward_hook(hook("n1"))
    work.n2.register_forward_hook(hook("n2"))
    with torch.no_grad():
        for x in data:
            for module in work.modules():
                if isinstance(module, base.MemoryModule):
                    module.reset()
                elif hasattr(module, "reset_states"):
                    module.reset_states()
            work(x)
    assert found == {name: fired / size for name, (fired, size) in expected.items()}
    assert all(0 < rate < 1 for rate in found.values())


def test_in_training_mode_it_is_measured_in_eval_mode() -> None:
    net, x = network(), spikes()
    net.pool = nn.Sequential(net.pool, nn.Dropout(0.9))
    expected = compare(net.eval(), net.eval(), x)
    assert compare(net.train(), net.train(), x) == expected
    assert net.pool[1].training


def test_rates_of_a_network_that_is_silent_or_never_called() -> None:
    net = linear_net()
    net.append(nn.ModuleList())  # holds a neuron that nobody calls
    net.register_module("5", nn.Identity())
    net[5].idle = neuron.IFNode()
    with torch.no_grad():
        net[0].weight.zero_()
        net[0].bias.zero_()
    del net[4]
    assert spike_rates(net, torch.ones(STEPS, SAMPLES, 12)) == {"1": 0.0, "3": 0.0}
