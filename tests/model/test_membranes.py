"""Membranes that a forward keeps itself: how they are told apart, timed, noted, and compressed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from own_neurons import Cell, InForward, Spike, hard_reset, soft_reset
from torch import Tensor, nn

import sbc_kernels as sbc
from sbc_kernels.frameworks import registered
from sbc_kernels.neurons import impulse_response

pytestmark = pytest.mark.usefixtures("seed")
T = 6


def spikes(width: int = 30) -> Tensor:
    return (torch.rand(T, 4, width) < 0.3).float()


def response(layer: Any) -> Any:
    (neuron,) = layer.neurons
    assert neuron is not None, layer.notes
    return impulse_response(neuron, T)


class Net(nn.Module):
    """Layers by name; `run` is the forward."""

    def __init__(self, run: Any, **layers: nn.Module) -> None:
        super().__init__()
        self.run = run
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.run(self, x)
        return out


def lin(outputs: int = 20, inputs: int = 30) -> nn.Linear:
    return nn.Linear(inputs, outputs)


# ---- forms of networks


def test_a_norm_for_each_time_step() -> None:
    def run(m: Any, x: Tensor) -> Tensor:
        v, out = 0.0, 0.0
        for now, norm in zip(x, m.bn, strict=True):
            v = 0.9 * v + norm(m.fc(now))
            s = Spike.apply(v - 1.0)
            v = v - s
            out = out + m.out(s)
        return out  # type: ignore[return-value]

    norms = nn.ModuleList(nn.BatchNorm1d(20) for _ in range(T))
    for norm in norms:
        norm.weight.data.uniform_(0.5, 2.0)
        norm.running_var.uniform_(0.5, 2.0)
    layer = sbc.trace(Net(run, fc=lin(), bn=norms, out=lin(5, 20)), spikes())["fc"]
    assert layer.neurons == (sbc.Leaky(0.9),)
    assert layer.step_norms == tuple(f"bn.{t}" for t in range(T))
    assert layer.layout.step_of_call == tuple(range(T))
    assert not layer.notes


@pytest.mark.parametrize("whole", [False, True])
def test_recurrent_layers_have_their_own_gain(whole: bool) -> None:
    def run(m: Any, x: Tensor) -> Tensor:
        v = s = torch.zeros(x.shape[1], 20)
        currents = m.fc(x) if whole else None
        out = []
        for t in range(T):
            current = m.fc(x[t]) if currents is None else currents[t]
            v = 0.9 * (v - s) + 0.1 * current + 0.3 * m.V(s)
            s = Spike.apply(v - 0.2)
            out.append(s)
        return torch.stack(out)

    plan = sbc.trace(Net(run, fc=lin(), V=nn.Linear(20, 20, bias=False)), spikes())
    np.testing.assert_allclose(response(plan["fc"]), 0.1 * 0.9 ** np.arange(T), atol=1e-6)
    np.testing.assert_allclose(response(plan["V"]), 0.3 * 0.9 ** np.arange(T), atol=1e-6)
    assert plan["fc"].threshold == plan["V"].threshold == pytest.approx(0.2)
    assert plan["V"].layout.step_of_call == tuple(range(T))
    assert plan["fc"].layout.step_of_call == (None if whole else tuple(range(T)))


def test_a_recurrent_layer_called_after_the_spikes_belongs_to_the_next_step() -> None:
    def run(m: Any, x: Tensor) -> Tensor:
        v, back, out = 0.0, 0.0, []
        for now in x:
            v = 0.9 * v + m.fc(now) + back
            s = Spike.apply(v - 1.0)
            v = v - s
            back = m.V(s)
            out.append(s)
        return torch.stack(out)

    plan = sbc.trace(Net(run, fc=lin(), V=lin(20, 20)), spikes())
    assert plan["V"].neurons == (sbc.Leaky(0.9),)
    assert plan["V"].layout.step_of_call == (1, 2, 3, 4, 5, -1)
    result = sbc.compress_model(Net(run, fc=lin(), V=lin(20, 20)), spikes(), sparsity=0.5)
    assert {layer.name for layer in result.layers} == {"fc", "V"}


def test_one_helper_for_all_neurons_of_a_residual_stream() -> None:
    def neuron(v: Any, current: Tensor) -> tuple[Tensor, Tensor]:
        v = 0.8 * v + current
        s = Spike.apply(v - 1.0)
        return v * (1 - s), s

    def run(m: Any, x: Tensor) -> Tensor:
        states: list[Any] = [0.0] * 3
        out = []
        for s in x:
            stream: Any = 0.0
            for i, layer in enumerate(m.layers):
                stream = stream + layer(s)
                states[i], s = neuron(states[i], stream)
            out.append(s)
        return torch.stack(out)

    layers = nn.ModuleList(lin(30) for _ in range(3))
    plan = sbc.trace(Net(run, layers=layers), spikes())
    for i in range(3):
        layer = plan[f"layers.{i}"]
        assert layer.consumers == tuple(f"forward of Net: Spike {n + 1}" for n in range(i, 3))
        assert layer.neurons == (sbc.Leaky(0.8),)
        assert layer.layout.step_of_call == tuple(range(T))


def test_pooling_between_layer_and_membrane() -> None:
    def run(m: Any, x: Tensor) -> Tensor:
        v, out = 0.0, []
        for now in x:
            v = 0.5 * v + 0.5 * F.avg_pool2d(m.bn(m.conv(now)), 2)
            out.append(Spike.apply(v - 0.2))
            v = v - 0.2 * out[-1].detach()
        return torch.stack(out)

    net = Net(run, conv=nn.Conv2d(2, 80, 3, padding=1), bn=nn.BatchNorm2d(80))
    layer = sbc.trace(net, (torch.rand(T, 2, 2, 16, 16) < 0.4).float())["conv"]
    assert layer.neurons == (sbc.LIF(2.0),)
    assert layer.norms == ("bn",)


def test_a_parallel_neuron_computes_all_steps_at_once() -> None:
    lag = torch.arange(T)[:, None] - torch.arange(T)
    weights = torch.tril(0.5 ** lag.clamp(min=0).float())

    def run(m: Any, x: Tensor) -> Tensor:
        return Spike.apply(torch.einsum("ts,snd->tnd", weights, m.fc(x)) - 1.0)

    layer = sbc.trace(Net(run, fc=lin()), spikes())["fc"]
    assert layer.neurons == (sbc.Leaky(0.5),)
    assert layer.layout.axis == 0


def test_a_long_loop_whose_neurons_fire_all_the_time() -> None:
    net = InForward(hard_reset)
    with torch.no_grad():
        net.fc1.weight.fill_(
            0.035
        )  # a spike every third step or so: no silence as long as the loop
    x = (torch.rand(40, 3, 30) < 0.4).float()
    assert sbc.trace(net, x)["fc1"].neurons == (sbc.Leaky(0.75),)
    with torch.no_grad():
        net.fc1.weight.fill_(0.2)  # at every step
    layer = sbc.trace(net, x)["fc1"]
    assert layer.neurons == (None,)
    assert "fires" in layer.notes[0]


# ---- what is noted


def stepwise(update: Any) -> Any:
    def run(m: Any, x: Tensor) -> Tensor:
        v, out = torch.zeros(x.shape[1], 20), []
        for now in x:
            v = update(v, m.fc(now))
            out.append(Spike.apply(v - 1.0))
            v = v * (1 - out[-1])
        return torch.stack(out)

    return run


def test_decays_of_each_channel_are_averaged() -> None:
    decay = torch.sigmoid(torch.linspace(-1, 1, 20))
    net = Net(stepwise(lambda v, current: decay * v + current), fc=lin())
    layer = sbc.trace(net, spikes())["fc"]
    mean = [float((decay.double() ** t).mean()) for t in range(T)]
    # Positions that fired are left out, so that the mean is that of the silent ones.
    np.testing.assert_allclose(response(layer), mean, atol=0.05)
    assert "differs between channels" in layer.notes[0]


def test_a_neuron_that_is_not_linear_has_the_current_hessian() -> None:
    net = Net(stepwise(lambda v, current: v + 0.5 * v * (v - 0.8) + current), fc=lin())
    layer = sbc.trace(net, 3 * spikes())["fc"]
    assert layer.role == "spiking"
    assert layer.neurons == (None,)
    assert "not linear below threshold" in layer.notes[0]


def test_products_of_two_things_that_depend_on_the_data_are_noted() -> None:
    cell = Cell(hard_reset)
    gated = Net(lambda m, x: m.n(m.a(x) * m.b(x)), a=lin(), b=lin(), n=cell)
    mixed = Net(lambda m, x: m.n(m.a(x) @ x.transpose(1, 2) @ x), a=lin(30), n=cell)
    scaled = Net(lambda m, x: m.n(m.a(x) * m.gain), a=lin(), n=cell)
    scaled.gain = nn.Parameter(torch.tensor(2.0))
    for net in (gated, mixed):
        layer = sbc.trace(net, spikes())["a"]
        assert layer.neurons == (None,)
        assert any("product with what depends on the data" in note for note in layer.notes)
    assert not sbc.trace(scaled, spikes())["a"].notes


def test_a_function_that_hides_its_state_is_not_taken_for_a_neuron_without_one() -> None:
    class Fused(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, currents: Tensor) -> Tensor:
            v, out = torch.zeros_like(currents[0]), []
            for current in currents:
                v = 0.9 * v + current
                out.append((v > 1).float())
                v = v * (1 - out[-1])
            return torch.stack(out)

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> Tensor:
            return grad

    layer = sbc.trace(Net(lambda m, x: Fused.apply(m.fc(x)), fc=lin()), 3 * spikes())["fc"]
    assert layer.neurons == (None,)
    assert "is not seen" in layer.notes[0]


# ---- what the user says, and what comes of it


def test_overrides_give_functional_layers_a_neuron() -> None:
    def run(m: Any, x: Tensor) -> Tensor:
        v1: Any = 0.0
        v2: Any = 0.0
        for now in x:
            v1 = 0.9 * v1 + m.fc1(now)
            s = Spike.apply(v1 - 1.0)
            v1 = v1 - s.detach()
            v2 = 0.9 * v2 + m.fc2(s)
        return v2  # type: ignore[no-any-return]

    rule = {"neuron": sbc.Leaky(0.6)}
    net = Net(run, fc1=lin(), fc2=lin(5, 20))
    plan = sbc.trace(net, spikes(), overrides={"fc1": rule, "fc2": rule})
    for name in ("fc1", "fc2"):
        assert plan[name].neurons == (sbc.Leaky(0.6),)
        assert plan[name].layout.step_of_call == tuple(range(T))
    assert "calls are taken as its time steps" in plan["fc2"].notes[-1]


@pytest.fixture
def restored() -> Any:
    before = list(registered)
    yield
    registered[:] = before


class Registered(Cell):
    """The same as a class of its own."""


@pytest.mark.usefixtures("restored")
@pytest.mark.parametrize("step", [hard_reset, soft_reset])
def test_a_functional_network_is_compressed_like_one_of_registered_neurons(step: Any) -> None:
    def run(m: Any, x: Tensor) -> Tensor:
        return m.n2(m.fc2(m.n1(m.fc1(x))))  # type: ignore[no-any-return]

    sbc.register_neuron(Registered, sbc.Leaky(0.75))
    functional = InForward(step)
    with torch.no_grad():
        for parameter in functional.parameters():
            parameter.mul_(4.0)
    known = Net(
        run, fc1=functional.fc1, n1=Registered(step), fc2=functional.fc2, n2=Registered(step)
    )
    data = [spikes() for _ in range(3)]
    options: dict[str, Any] = {"sparsity": 0.5, "bits": 4}
    a = sbc.compress_model(functional, data, **options)
    b = sbc.compress_model(known, data, **options)
    for name in ("fc1", "fc2"):
        assert a.plan[name].neurons == b.plan[name].neurons == (sbc.Leaky(0.75),)
        assert a.plan[name].consumers != b.plan[name].consumers
        assert torch.equal(getattr(a.model, name).weight, getattr(b.model, name).weight)
        assert not torch.equal(getattr(a.model, name).weight, getattr(functional, name).weight)


# ---- several readings of one potential, and steps written apart


LEVELS = (0.3, 0.6, 0.9)
READINGS = {
    "two signs": lambda m, v: Spike.apply(v - 0.5) - Spike.apply(-v - 0.5),
    "learned thresholds": lambda m, v: Spike.apply(v - m.high) - Spike.apply(-v - m.high),
    "comparisons": lambda m, v: ((v > 0.5).float() - (v < -0.5).float() - v).detach() + v,
    "levels": lambda m, v: sum(Spike.apply(v - level) for level in LEVELS),
    "learned levels": lambda m, v: sum(Spike.apply(v - level) for level in m.levels),
}


@pytest.mark.parametrize("kind", READINGS)
def test_a_potential_that_is_read_several_times_a_step(kind: str) -> None:
    def run(m: Any, x: Tensor) -> Tensor:
        v, out = 0.0, 0.0
        for now in x:
            v = 0.9 * v + m.fc(now)
            s = READINGS[kind](m, v)
            v = v - s
            out = out + m.out(s)
        return out  # type: ignore[return-value]

    net = Net(run, fc=lin(), out=lin(5, 20))
    net.high = nn.Parameter(torch.tensor(0.5))
    net.levels = nn.Parameter(torch.tensor(LEVELS))
    layer = sbc.trace(net, spikes())["fc"]
    assert layer.neurons == (sbc.Leaky(0.9),)
    assert layer.layout.step_of_call == tuple(range(T))
    assert layer.threshold == pytest.approx(0.3 if "levels" in kind else 0.5)


def test_steps_without_an_input_are_steps() -> None:
    def run(m: Any, x: Tensor) -> Tensor:
        v, out = 0.0, 0.0
        for t in range(T + 3):
            v = 0.9 * v + (m.fc(x[t]) if t < T else 0.0)
            s = Spike.apply(v - 1.0)
            v = v - s
            out = out + m.out(s)
        return out  # type: ignore[return-value]

    layer = sbc.trace(Net(run, fc=lin(), out=lin(5, 20)), spikes())["fc"]
    assert layer.neurons == (sbc.Leaky(0.9),)
    assert layer.layout.steps == T + 3


@pytest.mark.parametrize("rest", [1, T - 1], ids=["unrolled", "loop"])
def test_a_first_step_that_is_written_apart(rest: int) -> None:
    def run(m: Any, x: Tensor) -> Tensor:
        v = m.fc(x[0])
        s = Spike.apply(v - 1.0)
        v, out = v - s, m.out(s)
        for now in x[1 : 1 + rest]:
            v = 0.9 * v + m.fc(now)
            s = Spike.apply(v - 1.0)
            v, out = v - s, out + m.out(s)
        return out  # type: ignore[no-any-return]

    layer = sbc.trace(Net(run, fc=lin(), out=lin(5, 20)), spikes())["fc"]
    np.testing.assert_allclose(
        impulse_response(layer.neurons[0], rest + 1), 0.9 ** np.arange(rest + 1), atol=1e-6
    )
    assert layer.layout.step_of_call == tuple(range(rest + 1))
    assert not layer.notes


def test_consumers_of_different_lengths_are_noted() -> None:
    def run(m: Any, x: Tensor) -> Tensor:
        current = m.fc(x[0])
        v, out = 0.0, m.out(Spike.apply(current - 1.0))
        for now in x[1:]:
            v = 0.9 * v + m.fc(now)
            s = Spike.apply(v - 1.0)
            v, out = v - s, out + m.out(s)
        return out  # type: ignore[no-any-return]

    layer = sbc.trace(Net(run, fc=lin(), out=lin(5, 20)), spikes())["fc"]
    assert layer.neurons == (None,)
    assert "its consumers have different numbers of time steps" in layer.notes


def test_several_calls_in_a_step_are_noted() -> None:
    def run(m: Any, x: Tensor) -> Tensor:
        v, out = 0.0, 0.0
        for now in x:
            v = 0.9 * v + m.fc(now) + m.fc(1 - now)
            s = Spike.apply(v - 1.0)
            v = v - s
            out = out + m.out(s)
        return out  # type: ignore[return-value]

    layer = sbc.trace(Net(run, fc=lin(), out=lin(5, 20)), spikes())["fc"]
    assert layer.neurons == (sbc.Leaky(0.9),)
    assert any("each call is taken as independent" in note for note in layer.notes)


def test_spikes_that_are_drawn_are_no_linear_neuron() -> None:
    def run(m: Any, x: Tensor) -> Tensor:
        v, out = 0.0, 0.0
        for now in x:
            v = 0.9 * v + m.fc(now)
            s = torch.bernoulli(torch.sigmoid(v - 1.0))  # type: ignore[operator]
            v = v - s
            out = out + m.out(s)
        return out  # type: ignore[return-value]

    layer = sbc.trace(Net(run, fc=lin(), out=lin(5, 20)), spikes())["fc"]
    assert (layer.role, layer.neurons) == ("spiking", (None,))
    assert any("spike function bernoulli: it is not linear" in note for note in layer.notes)


@pytest.mark.parametrize(
    ("inhibition", "note"),
    [
        (1.0, "its potential mixes channels"),
        (0.01, "its potential mixes channels: rows are taken as independent"),
    ],
)
def test_potentials_that_mix_channels_are_noted(inhibition: float, note: str) -> None:
    def run(m: Any, x: Tensor) -> Tensor:
        v, out = 0.0, 0.0
        for now in x:
            current = m.fc(now)
            v = 0.9 * v + current - inhibition * current.mean(1, keepdim=True)
            s = Spike.apply(v - 0.5)
            v = v - s
            out = out + m.out(s)
        return out  # type: ignore[return-value]

    layer = sbc.trace(Net(run, fc=lin(), out=lin(5, 20)), spikes())["fc"]
    assert any(found.endswith(note) for found in layer.notes)
    if inhibition == 1.0:
        assert layer.neurons == (None,)  # its responses to all channels sum to zero
    else:
        np.testing.assert_allclose(response(layer), 0.99 * 0.9 ** np.arange(T), atol=1e-6)


@pytest.mark.parametrize("future", [False, True])
def test_a_parallel_neuron_with_a_response_of_each_step_has_none(future: bool) -> None:
    weights = torch.randn(T, T)
    weights = weights if future else weights.tril()

    def run(m: Any, x: Tensor) -> Tensor:
        return Spike.apply(torch.einsum("ts,snd->tnd", weights, m.fc(x)) - 1.0)

    layer = sbc.trace(Net(run, fc=lin()), spikes())["fc"]
    assert layer.neurons == (None,)
    assert any("differs between time steps or channels" in note for note in layer.notes)


def test_a_current_computed_once_for_all_steps_is_constant() -> None:
    def run(m: Any, x: Tensor) -> Tensor:
        current, v, out = m.fc(x), 0.0, 0.0
        for _ in range(T):
            v = 0.5 * v + current
            s = Spike.apply(v - 1.0)
            v = v - s
            out = out + m.out(s)
        return out  # type: ignore[return-value]

    layer = sbc.trace(Net(run, fc=lin(), out=lin(5, 20)), torch.rand(4, 30))["fc"]
    assert layer.neurons == (None,)
    assert any("the current Hessian is exact up to a factor" in note for note in layer.notes)


@pytest.mark.parametrize("whole", [False, True])
def test_potentials_that_are_detached_on_the_way_are_noted(whole: bool) -> None:
    def run(m: Any, x: Tensor) -> Tensor:
        currents = m.fc(x) if whole else None
        v, out = torch.zeros(x.shape[1], 20), 0.0
        for t in range(T):
            v = v.detach() if t == 3 else v  # truncated backpropagation
            v = 0.9 * v + (m.fc(x[t]) if currents is None else currents[t])
            s = Spike.apply(v - 1.0)
            v = v - s
            out = out + m.out(s)
        return out  # type: ignore[return-value]

    layer = sbc.trace(Net(run, fc=lin(), out=lin(5, 20)), spikes())["fc"]
    assert layer.neurons == (None,)
    assert any("no gradient passes between some" in note for note in layer.notes)
