"""Synaptic operations against NeuroBench and brute force in float64."""

from __future__ import annotations

import copy
import itertools
import math
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from networks_of_metrics import NETS, SAMPLES, STEPS, as_neurobench, inputs, linear_net, prune
from torch import Tensor, nn

from sbc_kernels.metrics import (
    connection_sparsity,
    layer_synaptic_operations,
    synaptic_operations,
)

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import snntorch as snn
    from neurobench.metrics.static import ConnectionSparsity
    from neurobench.metrics.utils.layers import single_layer_MACs
    from neurobench.metrics.workload import SynapticOperations as NeuroBenchOperations
    from neurobench.models import NeuroBenchModel, SNNTorchModel, TorchModel
    from spikingjelly.activation_based import functional


# ---- networks and inputs -----------------------------------------------------------------------


INPUTS = ("binary", "ternary", "integer", "analog")


class BatchFirst(nn.Module):
    """NeuroBench hands batches [N, T, ...] over."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        functional.reset_net(self.net)
        return self.net(x.transpose(0, 1))


def neurobench(model: NeuroBenchModel, batches: list[Tensor]) -> dict[str, float]:
    """As its Benchmark class runs it, which would answer 0 where a metric fails."""
    metric = NeuroBenchOperations()
    model.register_hooks()
    for batch in batches:
        metric(model, model(batch), (batch, torch.zeros(len(batch))))
        model.reset_hooks()
    model.cleanup_hooks()
    return metric.compute()


# ---- NeuroBench --------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths:UserWarning")
@pytest.mark.parametrize("kind", INPUTS)
@pytest.mark.parametrize("name", NETS)
def test_equal_to_neurobench(name: str, kind: str) -> None:
    build, shape = NETS[name]
    net = build()
    batches = [inputs(kind, SAMPLES, STEPS, *shape, seed=i) for i in range(3)]
    expected = neurobench(TorchModel(BatchFirst(net)), batches)
    functional.reset_net(net)
    found = synaptic_operations(net, [b.transpose(0, 1) for b in batches])
    assert found.samples == 3 * SAMPLES
    assert as_neurobench(found) == pytest.approx(expected, rel=1e-14)
    assert expected["Effective_ACs"] > 0
    assert (expected["Effective_MACs"] > 0) == (kind in ("integer", "analog") or name == "conv")


@pytest.mark.parametrize("kind", INPUTS)
def test_equal_to_neurobench_in_a_loop(kind: str) -> None:
    """Step by step a call that has only 0 and 1 accumulates, whatever the other calls have."""
    torch.manual_seed(3)
    snn.SpikingNeuron.instances.clear()  # NeuroBench's model resets every neuron there ever was
    net = nn.Sequential(
        nn.Conv2d(1, 3, 3, padding=1, stride=2),
        snn.Leaky(beta=0.8, threshold=0.2, init_hidden=True),
        nn.Flatten(),
        nn.Linear(27, 8),
        snn.RLeaky(beta=0.8, threshold=0.2, linear_features=8, init_hidden=True),
        nn.Linear(8, 4),
        snn.Leaky(beta=0.8, threshold=0.2, init_hidden=True, output=True),
    )
    prune(net, 0.6)
    batches = [inputs(kind, SAMPLES, STEPS, 1, 5, 6, seed=i) for i in range(2)]
    for batch in batches:
        batch[:, ::2].abs_().clamp_(max=1).ceil_()
    expected = neurobench(SNNTorchModel(net), batches)
    net.train()

    def forward(model: nn.Module, batch: Tensor) -> Tensor:
        return torch.stack([model(batch[:, t])[0] for t in range(batch.shape[1])])

    found = synaptic_operations(net, batches, forward=forward)
    assert as_neurobench(found) == pytest.approx(expected, rel=1e-14)
    assert set(found.layers) == {"0", "3", "4.recurrent", "5"}
    assert found.layers["4.recurrent"].acs > 0
    assert found.layers["0"].acs > 0
    assert (found.layers["0"].macs > 0) == (kind in ("integer", "analog"))
    assert net.training


def brute_force(module: Any, x: Tensor) -> tuple[int, int, float]:
    """One sample, output and tap at a time: non-zero weights met, all weights, and by value."""
    weight, groups = module.weight.detach().double().numpy(), module.groups
    per_group, fan_in = len(weight) // groups, weight.shape[1]
    met, dense, by_value = 0, 0, 0.0
    own = (len(module.kernel_size),)
    for sample in x.double().numpy():
        sizes = module._conv_forward(torch.zeros(1, *sample.shape), module.weight, None).shape[
            -own[0] :
        ]
        for out, place, channel, tap in itertools.product(
            range(len(weight)),
            itertools.product(*map(range, sizes)),
            range(fan_in),
            itertools.product(*map(range, module.kernel_size)),
        ):
            at = tuple(
                p * s - pad + t * d
                for p, s, pad, t, d in zip(
                    place, module.stride, module.padding, tap, module.dilation, strict=True
                )
            )
            if not all(0 <= a < n for a, n in zip(at, sample.shape[1:], strict=True)):
                continue
            v, w = sample[(out // per_group * fan_in + channel, *at)], weight[(out, channel, *tap)]
            dense += 1
            met += v != 0 and w != 0
            by_value += abs(v) * (w != 0)
    return met, dense, by_value


@st.composite
def convolutions(draw: Any) -> tuple[nn.Module, Tensor]:
    dims, groups = draw(st.integers(1, 2)), draw(st.integers(1, 2))

    def some(low: int, high: int) -> tuple[int, ...]:
        return tuple(draw(st.integers(low, high)) for _ in range(dims))

    kernel, stride, padding, dilation = some(1, 3), some(1, 3), some(0, 2), some(1, 2)
    size = tuple(max(draw(st.integers(1, 5)), d * (k - 1) + 1 - 2 * p)
                 for k, p, d in zip(kernel, padding, dilation, strict=True))  # fmt: skip
    kind = (nn.Conv1d, nn.Conv2d)[dims - 1]
    module = kind(
        groups * draw(st.integers(1, 2)), groups * 2, kernel, stride, padding, dilation, groups
    )
    x = inputs(draw(st.sampled_from(INPUTS)), draw(st.integers(1, 3)), module.in_channels, *size,
               seed=draw(st.integers(0, 99)))  # fmt: skip
    return prune(module, draw(st.sampled_from([0.0, 0.5, 1.0]))), x


@given(convolutions())
@settings(max_examples=60)
def test_convolutions_by_brute_force(case: tuple[nn.Module, Tensor]) -> None:
    module, x = case
    met, dense, by_value = brute_force(module, x)
    found = synaptic_operations(module, [(x, torch.zeros(1))])  # of one sample: the totals
    told = found.layers[""]
    ternary = bool(((x == 0) | (x.abs() == 1)).all())
    assert (told.acs, told.macs) == ((met, 0) if ternary else (0, met))
    assert told.dense == dense
    assert told.weighted_acs == (by_value if bool((x == x.round()).all()) else 0)
    assert (met, ternary) == single_layer_MACs(x, module)
    assert dense == single_layer_MACs(x, module, total=True)[0]
    everything = copy.deepcopy(module)
    nn.init.ones_(everything.weight)
    assert told.dense_acs == (brute_force(everything, x)[0] if ternary else 0)


@given(
    st.integers(1, 5), st.integers(1, 7), st.lists(st.integers(1, 3), max_size=3),
    st.sampled_from(INPUTS), st.integers(0, 99),
)  # fmt: skip
def test_linear_layers(d_out: int, d_in: int, lead: list[int], kind: str, seed: int) -> None:
    module = prune(nn.Linear(d_in, d_out), seed=seed)
    x = inputs(kind, *lead, d_in, seed=seed)
    told = synaptic_operations(module, [(x, [0])]).layers[""]
    assert told.acs + told.macs == layer_synaptic_operations(module.weight, x)
    assert told.dense == math.prod(lead) * d_in * d_out
    met, accumulates = single_layer_MACs(x, module)
    assert (told.acs, told.macs) == ((met, 0) if accumulates else (0, met))
    if kind != "analog":
        assert told.weighted_acs == layer_synaptic_operations(module.weight, x, weighted=True)
    if bool((x.abs() <= 1).all()) and kind != "analog":
        assert told.dense_acs == int(torch.count_nonzero(x)) * d_out


def test_exact_where_float32_is_not() -> None:
    module = nn.Linear(1001, 1001, bias=False)
    nn.init.ones_(module.weight)
    told = synaptic_operations(module, [(torch.ones(19, 1001), [0])]).layers[""]
    assert told.acs == told.dense == 19 * 1001 * 1001
    assert float(np.float32(told.acs)) != told.acs


def test_unlike_neurobench() -> None:
    """A module with two names counts once, a model that is a layer counts, and analog values of a step
    without events are nothing to multiply."""
    shared = nn.Linear(6, 6)
    net = nn.ModuleDict({"a": nn.ModuleList([shared]), "b": nn.ModuleList([shared])})
    x = inputs("binary", 3, 6)
    count = layer_synaptic_operations(shared.weight, x)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.parts = net

        def forward(self, x: Tensor) -> Tensor:
            return self.parts["a"][0](x)

    assert neurobench(TorchModel(Net()), [x])["Effective_ACs"] == 2 * count / 3
    assert synaptic_operations(Net(), [(x, [0, 0, 0])]).effective_acs == pytest.approx(count / 3)
    assert neurobench(TorchModel(shared), [x])["Effective_ACs"] == 0
    assert synaptic_operations(shared, [(x, [0, 0, 0])]).effective_acs == pytest.approx(count / 3)
    silent = synaptic_operations(shared, [(torch.zeros(3, 6), [0, 0, 0])])
    assert (silent.effective_macs, silent.effective_acs, silent.dense) == (0, 0, 36)


def test_connection_sparsity_is_neurobenchs() -> None:
    for build, _ in NETS.values():
        net = build()
        assert round(connection_sparsity(net), 4) == ConnectionSparsity()(
            TorchModel(BatchFirst(net))
        )


def test_integers_by_value() -> None:
    net = linear_net()
    x = inputs("integer", STEPS, SAMPLES, 12)
    found = synaptic_operations(net, x)
    by_value = layer_synaptic_operations(net[0].weight, x, weighted=True)
    assert found.layers["0"].weighted_acs == by_value / SAMPLES
    assert found.layers["0"].acs == 0
    assert found.layers["2"].weighted_acs == found.layers["2"].acs > 0
    assert found.weighted_acs == found.layers["0"].weighted_acs + found.layers["2"].acs
