"""What a forward leaves behind in modules: found, named, and put back before each batch."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from nets import Net
from torch import Tensor, nn

import sbc_kernels as sbc
from sbc_kernels.network.kept import KeptStates

pytestmark = pytest.mark.filterwarnings("ignore:no input spiked in calibration:RuntimeWarning")


class Spike(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, v: Tensor) -> Tensor:
        return (v >= 1).to(v.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad


class Kept:
    """An object that is no module."""

    def __init__(self) -> None:
        self.v: Any = 0.0


class OwnLIF(nn.Module):
    """A neuron of nobody's, [T, N, d], which keeps its potential where it is told to."""

    def __init__(self, where: str) -> None:
        super().__init__()
        self.where = where
        self.v: Any = 0.0
        self.history: list[Tensor] = []
        self.memory: dict[str, Any] = {}
        self.cell = Kept()
        self.register_buffer("potential", torch.zeros(16, 40))

    def read(self) -> Any:
        return {
            "attribute": lambda: self.v,
            "list": lambda: self.history[-1] if self.history else 0.0,
            "dictionary": lambda: self.memory.get("v", 0.0),
            "object": lambda: self.cell.v,
            "buffer": lambda: self.potential.clone(),
            "new attribute": lambda: getattr(self, "u", 0.0),
        }[self.where]()

    def keep(self, v: Tensor) -> None:
        if self.where == "attribute":
            self.v = v
        elif self.where == "list":
            self.history.append(v)
        elif self.where == "dictionary":
            self.memory["v"] = v
        elif self.where == "object":
            self.cell.v = v
        elif self.where == "buffer":
            self.potential.data.copy_(v)
        else:
            self.u = v

    def forward(self, x: Tensor) -> Tensor:
        out = []
        v = self.read()
        for step in x:
            v = 0.95 * v + step
            spike = Spike.apply(v)
            v = v * (1 - spike.detach())
            out.append(spike)
        self.keep(v.detach())
        return torch.stack(out)


NAMES = {
    "attribute": "1.v",
    "list": "1.history",
    "dictionary": "1.memory.v",
    "object": "1.cell.v",
    "buffer": "1.potential",
    "new attribute": "1.u",
}


@pytest.mark.parametrize("where", NAMES)
@pytest.mark.parametrize("mode", ["parallel", "sequential"])
def test_potentials_do_not_pass_from_batch_to_batch(where: str, mode: str) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(30, 40), OwnLIF(where), nn.Linear(40, 5))
    with torch.no_grad():
        net[0].weight.abs_().mul_(0.5)
        net[0].bias.zero_()
    rates: dict[int, list[float]] = {}

    def run(model: Any, x: Tensor) -> Tensor:
        y = model[1](model[0](x))
        rates.setdefault(id(model), []).append(float(y.mean()))
        return model[2](y)

    batches = [(torch.rand(6, 16, 30) < 0.2).float()] * 4
    result = sbc.compress_model(
        net, batches, sparsity=0.0, forward=run, calibration_mode=mode, bias_correction=False
    )
    assert result.plan.states == (NAMES[where],)
    assert f"state kept in {NAMES[where]}: put back before each batch" in result.log
    assert "put back before each batch" in str(result.plan)
    dense = next(iter(rates.values()))
    assert dense[0] > 0
    assert len(dense) > 4
    assert len(set(dense)) == 1
    assert KeptStates(net).changed() == ()
    assert isinstance(net[1].v, float)  # the user's own neuron never ran


def test_a_model_with_the_state_of_an_earlier_forward_is_named() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(30, 40), OwnLIF("attribute"), nn.Linear(40, 5))
    x = (torch.rand(6, 16, 30) < 0.2).float()
    net(x)
    with pytest.warns(RuntimeWarning, match=r"state of an earlier forward in 1\.v, .* reset it"):
        assert sbc.trace(net, x).states == ("1.v",)
    labelled = [(x, torch.zeros(16, dtype=torch.long))]
    with pytest.warns(RuntimeWarning, match=r"state of an earlier forward in 1\.v"):
        sbc.metrics.accuracy(net, labelled, forward=lambda model, x: model(x).mean(0))
    net[1].v = torch.zeros(16, 40)
    assert sbc.trace(net, x).states == ("1.v",)


def test_comparisons_put_states_back() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(30, 40), OwnLIF("attribute"), nn.Linear(40, 5))
    rates: list[float] = []

    def run(model: Any, x: Tensor) -> Tensor:
        y = model[1](4 * model[0](x))
        rates.append(float(y.mean()))
        return model[2](y)

    batch = ((torch.rand(6, 16, 30) < 0.2).float(), torch.zeros(16, dtype=torch.long))
    sbc.metrics.accuracy(net, [batch] * 3, forward=run)
    assert rates[0] > 0
    assert len(set(rates)) == 1


def count(m: Any) -> None:
    m.steps += 1


def draw(m: Any) -> None:
    torch.rand(1, generator=m.generator)
    m.dice.random()
    m.numpy.random()


def append_inside(m: Any) -> None:
    m.pair[1].append(m.steps)


def resize(m: Any) -> None:
    m.past = torch.cat([m.past, torch.ones(1)])


def hide(m: Any) -> None:
    m.parts[0].v = 1.0


CHANGES: dict[str, tuple[Callable[[Any], None], tuple[str, ...]]] = {
    "nothing": (lambda m: None, ()),
    "an equal value": (lambda m: setattr(m, "past", m.past.clone()), ()),
    "a counter": (count, ("steps",)),
    "generators": (draw, ("generator", "dice", "numpy")),
    "a list in a tuple": (append_inside, ("pair",)),
    "another size": (resize, ("past",)),
    "a module in a plain list": (hide, ("parts.0.v",)),
    "gone": (lambda m: delattr(m, "steps"), ("steps",)),
    "an array": (lambda m: m.array.__setitem__(0, 7), ("array",)),
}


@pytest.mark.parametrize("name", CHANGES)
def test_all_kinds_of_states_are_found_and_put_back(name: str) -> None:
    change, names = CHANGES[name]
    m: Any = nn.Module()
    m.steps, m.past, m.pair = 3, torch.tensor([1.0, float("nan")]), ("a", [1, 2])
    m.generator = torch.Generator().manual_seed(1)
    m.dice, m.numpy = random.Random(2), np.random.default_rng(3)
    m.parts, m.array = [OwnLIF("attribute")], np.arange(3)
    kept = KeptStates(m)
    change(m)
    assert kept.changed() == names
    kept.put_back(names)
    assert kept.changed() == ()
    change(m)  # and again, as the next batch does
    kept.put_back()
    assert kept.changed() == ()
    assert m.steps == 3


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_weights_made_from_others_are_no_states() -> None:
    net = Net(
        lambda m, x: m.b(m.a(m.r(x)[0])),
        r=nn.LSTM(6, 6),
        a=nn.utils.spectral_norm(nn.Linear(6, 6)),
        b=nn.Linear(6, 6),
    )
    assert sbc.trace(net, torch.rand(3, 4, 6)).states == ()


def test_a_subclass_of_a_known_neuron_may_keep_more() -> None:
    from spikingjelly.activation_based import neuron

    class Counting(neuron.LIFNode):  # type: ignore[misc]
        calls = 0

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            return super().forward(x)

    net = Net(lambda m, x: m.n(m.fc(x)), fc=nn.Linear(6, 6), n=Counting(step_mode="m"))
    assert sbc.trace(net, torch.rand(3, 4, 6)).states == ("n.calls",)
    net.n = neuron.LIFNode(step_mode="m")
    assert sbc.trace(net, torch.rand(3, 4, 6)).states == ()


_potential: dict[str, Tensor] = {}  # where no module has it


class StateInAGlobal(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        _potential["v"] = 0.5 * _potential.get("v", torch.zeros(4)) + self.fc(x).detach()
        return _potential["v"]


def test_a_state_outside_of_the_modules_is_warned_of() -> None:
    x = torch.rand(3, 6)
    with pytest.warns(UserWarning, match="another output when the same example is run again"):
        sbc.trace(StateInAGlobal(), x)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sbc.trace(nn.Sequential(nn.Linear(6, 4), nn.Dropout(), nn.Linear(4, 2)), x)
        sbc.trace(nn.Linear(6, 4), x, forward=lambda m, b: m((torch.rand_like(b) < b).float()))
