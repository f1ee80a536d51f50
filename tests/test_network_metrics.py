"""Metrics of whole networks: against NeuroBench, SpikingJelly's counter and brute force in float64."""

from __future__ import annotations

import copy
import itertools
import json
import math
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import sbc_kernels as sbc
from sbc_kernels.metrics import (
    Comparison,
    LayerOperations,
    SynapticOperations,
    accuracy,
    compare,
    connection_sparsity,
    layer_synaptic_operations,
    spike_rates,
    synaptic_operations,
)

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import snntorch as snn
    from four_frameworks import FRAMEWORKS, T, network, same, snapshot, spikes
    from neurobench.metrics.static import ConnectionSparsity
    from neurobench.metrics.utils.layers import single_layer_MACs
    from neurobench.metrics.workload import SynapticOperations as NeuroBenchOperations
    from neurobench.models import NeuroBenchModel, SNNTorchModel, TorchModel
    from spikingjelly.activation_based import base, functional, layer, neuron
    from spikingjelly.activation_based.op_counter import DispatchCounterMode, SynOpCounter

pytestmark = pytest.mark.filterwarnings("ignore")

STEPS, SAMPLES = 5, 4


# ---- networks and inputs -----------------------------------------------------------------------


def prune(model: nn.Module, density: float = 0.3, seed: int = 0) -> nn.Module:
    """Zeros among all weights of layers; no bias is zero."""
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, (nn.Linear, nn.modules.conv._ConvNd)):
                module.weight.mul_(torch.rand(module.weight.shape, generator=draw) < density)
    return model


def multi_step(*layers: nn.Module) -> nn.Module:
    """SpikingJelly, [T, N, ...]."""
    torch.manual_seed(1)
    net = nn.Sequential(*layers)
    for module in net.modules():
        if isinstance(module, (nn.Linear, nn.modules.conv._ConvNd)):
            module.reset_parameters()
            with torch.no_grad():
                module.weight.mul_(8)
    functional.set_step_mode(net, "m")
    return prune(net)


def linear_net() -> nn.Module:
    lif = neuron.LIFNode(tau=2.0)
    return multi_step(layer.Linear(12, 20), lif, layer.Linear(20, 6, bias=False), neuron.IFNode())


def conv_net() -> nn.Module:
    return multi_step(
        layer.Conv2d(2, 6, 3, padding=1),
        neuron.LIFNode(tau=2.0),
        layer.Conv2d(6, 4, (3, 2), stride=2, padding=(2, 1), groups=2, dilation=(1, 2)),
        neuron.LIFNode(tau=2.0),
        layer.AvgPool2d(2),  # no longer integers
        layer.Flatten(),
        layer.Linear(8, 10),
        neuron.LIFNode(tau=2.0),
        layer.Linear(10, 3),
    )


def other_convs() -> nn.Module:
    """Padding that wraps and reflects, "same", and other numbers of axes."""

    class Net(base.MemoryModule):
        def __init__(self) -> None:
            super().__init__()
            self.one = nn.Conv1d(2, 4, 3, padding=2, stride=2, padding_mode="circular")
            self.two = nn.Conv2d(4, 4, (2, 3), padding="same", groups=4)
            self.three = nn.Conv3d(4, 2, 2, padding=1)
            self.mirror = nn.Conv2d(2, 3, 3, padding=1, padding_mode="reflect")
            self.lif = neuron.LIFNode(tau=2.0, step_mode="m")

        def forward(self, x: Tensor) -> Tensor:
            y = self.one(x.flatten(0, 1).flatten(2))
            y = self.lif(y.unflatten(0, x.shape[:2])).flatten(0, 1)
            y = self.two(y.unflatten(2, (2, -1)))
            y = self.three((y > 0).float().unsqueeze(2))
            y = self.mirror((y[:, :, 0] > 0).float())
            return y.flatten(1).unflatten(0, x.shape[:2])

    torch.manual_seed(2)
    return prune(Net())


NETS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (linear_net, (12,)),
    "conv": (conv_net, (2, 7, 6)),
    "other convs": (other_convs, (2, 6, 7)),
}
INPUTS = ("binary", "ternary", "integer", "analog")


def inputs(kind: str, *shape: int, seed: int = 0) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    binary = (torch.rand(shape, generator=draw) < 0.3).float()
    if kind == "binary":
        return binary
    if kind == "ternary":
        return binary * (torch.randint(0, 2, shape, generator=draw) * 2 - 1)
    if kind == "integer":
        return binary * torch.randint(-3, 5, shape, generator=draw)
    return binary * torch.randn(shape, generator=draw)


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


def as_neurobench(found: SynapticOperations) -> dict[str, float]:
    return {
        "Effective_MACs": found.effective_macs,
        "Effective_ACs": found.effective_acs,
        "Dense": found.dense,
    }


# ---- NeuroBench --------------------------------------------------------------------------------


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

    hint = r"number of samples cannot be told.*accepted are batches \(inputs, labels\)"
    with pytest.raises(ValueError, match=hint):  # positions taken for samples
        synaptic_operations(Flattened(), torch.rand(2, 7, 6))
    with pytest.raises(ValueError, match=r"inputs have: none"):
        synaptic_operations(nn.Linear(6, 2), torch.rand(3, 6))
    two = nn.Sequential(
        nn.Linear(6, 4),
        neuron.LIFNode(),
        nn.Unflatten(1, (2, 2)),
        nn.Flatten(0, 1),
        neuron.LIFNode(),
    )
    with pytest.raises(ValueError, match=r"inputs have: 3, 6"):
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


# ---- spike trains of two models ----------------------------------------------------------------


class Given(nn.Module):
    """A neuron that answers what it is fed."""

    def forward(self, x: Tensor) -> Tensor:
        return x


@pytest.fixture
def given_neuron() -> Iterator[Callable[..., None]]:
    from sbc_kernels.frameworks.registered import registered

    before = list(registered)
    yield lambda *args, **named: sbc.register_neuron(Given, *args, **named)
    registered[:] = before


class Trains(nn.Module):
    """Answers its input through a neuron, plus what is added to it."""

    def __init__(self, added: Tensor | float = 0.0, loop: bool = False) -> None:
        super().__init__()
        self.n, self.added, self.loop = Given(), added, loop

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.added
        return torch.stack([self.n(step) for step in x]) if self.loop else self.n(x)


def by_hand(k: np.ndarray[Any, Any], difference: Tensor) -> float:
    """[T, N, units], one train at a time."""
    total = []
    for train in difference.flatten(1).T.double().numpy():
        echo = [sum(k[t - s] * train[s] for s in range(t + 1)) for t in range(len(k))]
        total.append(math.sqrt(sum(e * e for e in echo) / float(k @ k)))
    return sum(total) / len(total)


KERNELS = [sbc.LIF(2.0), sbc.IF(), sbc.Leaky(0.9), sbc.Alpha(0.8, 0.5), sbc.Synaptic(0.6, 0.4)]


@pytest.mark.parametrize("loop", [False, True])
@pytest.mark.parametrize("neuron_", KERNELS, ids=repr)
def test_van_rossum_by_hand(neuron_: Any, loop: bool, given_neuron: Callable[..., None]) -> None:
    given_neuron(neuron_, time_axis=None if loop else 0)
    data = [inputs("integer", 6, n, 5, seed=n) for n in (3, 2)]
    added = inputs("integer", 6, 1, 5, seed=9)
    found = compare(Trains(loop=loop), Trains(added, loop), data)
    k = neuron_.impulse_response(6)
    assert found.van_rossum == {"n": pytest.approx(by_hand(k, added), rel=1e-12)}
    assert compare(Trains(loop=loop), Trains(loop=loop), data).van_rossum == {"n": 0.0}


def test_neurons_inside_neurons(given_neuron: Callable[..., None]) -> None:
    """What they see does not tell the number of samples."""

    class Hollow(Given):
        def __init__(self) -> None:
            super().__init__()
            self.lif = neuron.IFNode()

        def forward(self, x: Tensor) -> Tensor:
            return self.lif(x.flatten(0, 1)).unflatten(0, x.shape[:2])

    given_neuron(sbc.IF())
    x = torch.ones(2, 3, 4)
    for net in (Hollow(), nn.Sequential(Hollow())):
        assert compare(net, net, x).samples == 3
        assert list(spike_rates(net, x).values()) == [1.0, 1.0]


def test_van_rossum_in_spikes(given_neuron: Callable[..., None]) -> None:
    given_neuron(sbc.LIF(2.0))
    one, two = torch.zeros(40, 1, 1), torch.zeros(40, 1, 1)
    one[0], two[0], two[20] = 1, 1, 1
    x = torch.zeros(40, 3, 4)
    assert compare(Trains(), Trains(one), x).van_rossum["n"] == pytest.approx(1.0, rel=1e-9)
    assert compare(Trains(two), Trains(), x).van_rossum["n"] == pytest.approx(2**0.5, rel=1e-5)
    given_neuron(lambda module: sbc.Kernel([0.0] * 40))  # no echo within T: trains as they are
    assert compare(Trains(), Trains(two), x).van_rossum["n"] == pytest.approx(2**0.5, rel=1e-12)


def test_van_rossum_with_time_second_and_bytes(given_neuron: Callable[..., None]) -> None:
    """[N, T, ...]; values near the ends of a byte are not lost."""
    given_neuron(sbc.Leaky(0.7), time_axis=1)
    x = torch.full((3, 6, 5), 120.0)
    added = inputs("integer", 1, 6, 5, seed=9).abs() * -60  # down to -120: a difference of 240
    k = sbc.Leaky(0.7).impulse_response(6)
    found = compare(Trains(), Trains(added), x)
    assert found.van_rossum["n"] == pytest.approx(by_hand(k, added.transpose(0, 1)), rel=1e-12)
    assert found.samples == 3
    large = compare(Trains(), Trains(added * 1000 + 0.5), x)
    expected = by_hand(k, (added * 1000 + 0.5).transpose(0, 1))
    assert large.van_rossum["n"] == pytest.approx(expected, rel=1e-6)


def test_van_rossum_agrees_between_frameworks() -> None:
    """Their responses differ in scale, which cancels."""
    found = []
    for name in FRAMEWORKS:
        dense = network(name)
        pruned = prune(copy.deepcopy(dense), 0.5)
        found.append(compare(dense, pruned, [spikes(0, 6), spikes(1, 3)]).van_rossum)
    assert set(found[0]) == {"n1", "n2"}
    assert min(found[0].values()) > 0.1
    for other in found[1:]:
        assert other == pytest.approx(found[0], rel=1e-6)


# ---- predictions -------------------------------------------------------------------------------


class Answers(nn.Module):
    """Makes of scores [N, classes] an output in some shape."""

    def __init__(self, shape: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.shape, self.n = shape, neuron.IFNode()

    def forward(self, x: Tensor) -> Any:
        self.n(x)
        return self.shape(x)


def over_time(x: Tensor) -> Tensor:
    """[7, N, classes] that sum up to x; each step by itself says something else."""
    noise = torch.randn(
        7, *x.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    )
    return noise - noise.mean(0) + x / 7


SHAPES: dict[str, Callable[[Tensor], Any]] = {
    "scores": lambda x: x,
    "time first": over_time,
    "time second": lambda x: over_time(x).transpose(0, 1),
    "list of steps": lambda x: list(over_time(x)),
    "spikes and potentials": lambda x: (over_time(x), -over_time(x)),
    "lists of both": lambda x: (list(over_time(x)), list(-over_time(x))),
    "list of both": lambda x: [over_time(x), -over_time(x)],
}


@pytest.mark.parametrize("shape", SHAPES)
def test_readouts(shape: str) -> None:
    scores = torch.randn(9, 4, generator=torch.Generator().manual_seed(1))
    labels = scores.argmax(1)
    labels[:3] = (labels[:3] + 1) % 4
    data = [(scores[:5], labels[:5]), (scores[5:], labels[5:].numpy())]
    assert accuracy(Answers(SHAPES[shape]), data) == pytest.approx(100 * 6 / 9)
    turned = accuracy(
        Answers(SHAPES[shape]), data, readout=lambda output: scores_of(output).roll(1, 1)
    )
    assert turned == pytest.approx(100 * int((scores.roll(1, 1).argmax(1) == labels).sum()) / 9)


def scores_of(output: Any) -> Tensor:
    if isinstance(output, tuple) or (isinstance(output, list) and output[0].ndim == 3):
        output = output[0]
    if isinstance(output, list):
        output = torch.stack(output)
    return output if output.ndim == 2 else output.sum(0 if output.shape[0] == 7 else 1)


def test_time_that_is_as_long_as_the_batch() -> None:
    scores = torch.randn(13, 4)
    data = [(scores[:6], scores[:6].argmax(1)), (scores[6:], scores[6:].argmax(1))]
    for shape in ("time first", "time second"):
        assert (
            accuracy(Answers(SHAPES[shape]), data) == 100
        )  # the first batch told which axis it is
        with pytest.raises(ValueError, match=r"\[7, 7, 4\] for 7 samples: which axis is time"):
            accuracy(Answers(SHAPES[shape]), data[::-1])
    summed = accuracy(Answers(over_time), data[::-1], readout=lambda output: output.sum(0))
    assert summed == 100


def test_outputs_that_are_no_scores() -> None:
    data = [(torch.rand(3, 4), torch.zeros(3, dtype=torch.long))]

    def refused(shape: Callable[[Tensor], Any], message: str, **named: Any) -> None:
        with pytest.raises((TypeError, ValueError), match=message):
            accuracy(Answers(shape), data, **named)

    refused(lambda x: x * math.nan, "the model answers NaN; accepted are scores")
    refused(lambda x: x[:, :1], r"the model answers \[3, 1\]; accepted is \[3, classes\]")
    refused(lambda x: x[:2], r"the model answers \[2, 4\]")
    refused(lambda x: x[0], r"the model answers \[4\]")
    refused(lambda x: x.expand(2, 2, 3, 4), r"\[2, 2, 3, 4\].*pass readout")
    refused(lambda x: x.expand(5, 3, 4).reshape(5, 4, 3), r"the model answers \[5, 4, 3\]")
    refused(lambda x: {"scores": x}, "the model answers a dict")
    refused(lambda x: (), "the model answers a tuple")
    refused(lambda x: x, r"readout answers \[4, 3\]", readout=lambda output: output.T)
    refused(lambda x: x, "readout answers a list", readout=lambda output: output.tolist())
    refused(lambda x: x, "readout is 3; accepted is a function", readout=3)
    refused(lambda x: x, "forward is 3; accepted is a function", forward=3)


def test_labels_that_are_no_classes() -> None:
    net, x = Answers(SHAPES["scores"]), torch.rand(3, 4)

    def refused(labels: Any, message: str) -> None:
        with pytest.raises((TypeError, ValueError), match=message):
            accuracy(net, [(x, labels)])

    refused(torch.zeros(3), r"labels torch.float32 of shape \[3\]; accepted are class numbers")
    refused(torch.zeros(3, 4, dtype=torch.long), r"of shape \[3, 4\]")
    refused([0, 1, 4], r"labels 0..4; accepted is 0..3")
    refused([0, -1, 1], r"labels -1..1")
    refused(["a", "b", "c"], "labels that are no array")
    refused(torch.tensor(1), "no labels in it")
    refused([], "no labels in it")
    refused("abc", "labels that are a str")
    assert accuracy(net, [(x, x.argmax(1).tolist())]) == 100
    with pytest.raises(ValueError, match=r"a batch \(0\) without labels"):
        accuracy(net, x)
    with pytest.raises(ValueError, match=r"a batch \(1\) without labels"):
        accuracy(net, [(x, [0, 0, 0]), [x]])


@pytest.mark.parametrize("measure", [synaptic_operations, spike_rates, accuracy])
def test_data_and_models_that_are_none(measure: Callable[..., Any]) -> None:
    net, x = linear_net(), torch.ones(2, 3, 12)
    for data, message in (
        ([], "data has no batch"),
        (iter([x]), "data can be iterated only once"),
        ((x, x), "data is a tuple of tensors"),
        ("data", "data is a str"),
    ):
        with pytest.raises((TypeError, ValueError), match=message):
            measure(net, data)
    with pytest.raises(TypeError, match=r"model is a int; accepted is a torch.nn.Module or"):
        measure(3, x)
    with pytest.raises(TypeError, match=r"compressed is a int"):
        compare(net, 3, x)
    with pytest.raises(TypeError, match=r"dense is a function"):
        compare(linear_net, net, x)


# ---- everything together -----------------------------------------------------------------------


@pytest.mark.parametrize("labelled", [True, False])
def test_compare_is_all_of_them(labelled: bool) -> None:
    dense, pruned = network(), prune(network(), 0.4)
    batches: list[Any] = [spikes(i, 5) for i in range(3)]
    if labelled:
        batches = [(x, torch.arange(5)) for x in batches]
    found = compare(dense, pruned, batches)
    assert found.samples == 15
    for model, measured in ((dense, found.dense), (pruned, found.compressed)):
        assert measured.operations == synaptic_operations(model, batches)
        assert measured.spike_rates == spike_rates(model, batches)
        assert measured.accuracy == (accuracy(model, batches) if labelled else None)
    with torch.no_grad():
        answers = []
        for batch in batches:
            for net in (dense, pruned):
                functional.reset_net(net)
                answers.append(net(batch[0] if labelled else batch).sum(0).argmax(1))
    agreed = sum(int((a == b).sum()) for a, b in zip(answers[::2], answers[1::2], strict=True))
    assert found.agreement == 100 * agreed / 15
    assert 0 < found.agreement < 100
    assert found.compressed.operations.effective_acs < found.dense.operations.effective_acs
    text = json.dumps(found.to_dict(), allow_nan=False)
    assert Comparison.from_dict(json.loads(text)) == found
    assert set(found.to_dict()) == {"samples", "dense", "compressed", "van_rossum", "agreement"}
    assert set(found.to_dict()["dense"]) == {"accuracy", "operations", "spike_rates"}
    assert {"macs", "acs", "weighted_acs", "dense"} < set(
        found.to_dict()["dense"]["operations"]["layers"]["fc"]
    )
    itself = compare(dense, dense, batches)
    assert itself.dense == itself.compressed
    assert itself.agreement == 100
    assert set(itself.van_rossum.values()) == {0.0}


def test_a_compressed_model_and_its_forward() -> None:
    """snnTorch, called step by step from outside: the result knows how it was run."""
    torch.manual_seed(5)
    leaky = {"beta": 0.8, "threshold": 0.3, "init_hidden": True}
    net = nn.Sequential(nn.Linear(10, 30), snn.Leaky(**leaky), nn.Linear(30, 4), snn.Leaky(**leaky))

    def forward(model: nn.Module, x: Tensor) -> Tensor:
        return torch.stack([model(step) for step in x])

    x = inputs("binary", 6, 40, 10)
    result = sbc.compress_model(net, x, sparsity=0.6, forward=forward, progress=False)
    found = compare(net, result, [(x, torch.zeros(40, dtype=torch.long))])
    assert found == compare(
        net, result.model, [(x, torch.zeros(40, dtype=torch.long))], forward=forward
    )
    assert set(found.van_rossum) == {"1", "3"}
    assert 0 < found.van_rossum["1"] < 2
    assert synaptic_operations(result, x) == found.compressed.operations
    assert spike_rates(result, x) == found.compressed.spike_rates
    assert found.compressed.operations.effective_acs < 0.8 * found.dense.operations.effective_acs
    assert json.loads(json.dumps(result.report(found)))["comparison"] == found.to_dict()


def test_random_encodings_draw_the_same_for_both() -> None:
    class Poisson(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.n = nn.Linear(8, 5), neuron.IFNode(step_mode="m")

        def forward(self, x: Tensor) -> Tensor:
            return self.n(self.fc((torch.rand(6, *x.shape) < x).float())).sum(0)

    net = Poisson()
    data = [torch.rand(4, 8), torch.rand(3, 8)]
    state = torch.get_rng_state()
    found = compare(net, copy.deepcopy(net), data)
    assert torch.equal(torch.get_rng_state(), state)
    assert found.dense == found.compressed
    assert found.van_rossum == {"n": 0.0}
    assert found == compare(net, net, data)


def test_models_that_do_not_match() -> None:
    dense = linear_net()
    with pytest.raises(ValueError, match=r"compressed calls neuron '3' otherwise than dense does"):
        compare(dense, dense[:3], torch.ones(STEPS, SAMPLES, 12), readout=lambda y: y.sum(0))
    with pytest.raises(ValueError, match=r"compressed calls neuron '3' otherwise than dense does"):
        compare(dense[:3], dense, torch.ones(STEPS, SAMPLES, 12), readout=lambda y: y.sum(0))
    x = torch.ones(STEPS, SAMPLES, 12)
    with pytest.raises(ValueError, match="batches with labels and batches without"):
        compare(dense, dense, [(x, [0] * SAMPLES), x])
    for told in ({}, {"samples": 3}, [], {**compare(dense, dense, x).to_dict(), "dense": None}):
        with pytest.raises(ValueError, match="told is no comparison"):
            Comparison.from_dict(told)
