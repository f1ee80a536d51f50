"""What a plan says about a network is true, and short enough to be read."""

from __future__ import annotations

import json
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from helpers import assert_close
from nets import Net
from torch import Tensor, nn

import sbc_kernels as sbc
from sbc_kernels.model.grouped_names import grouped, pattern_of
from sbc_kernels.model.plan_text import plan_table
from sbc_kernels.model.planned_layer import PlannedLayer

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from spikingjelly.activation_based import neuron

pytestmark = pytest.mark.usefixtures("seed")
T = 4


def lif(mode: str = "m") -> nn.Module:
    return neuron.LIFNode(2.0, v_threshold=0.3, step_mode=mode)


# ---- a first layer that is computed once -------------------------------------------------------


def in_loop(m: Any, x: Tensor) -> Tensor:
    current = m.c(x)
    return torch.stack([m.n(current) for _ in range(T)])


STATIC: dict[str, Any] = {
    "repeated": lambda: Net(lambda m, x: m.n(m.c(x).unsqueeze(0).repeat(T, 1, 1)), n=lif()),
    "expanded behind a norm": lambda: Net(
        lambda m, x: m.n(m.bn(m.c(x)).expand(T, -1, -1)), bn=nn.BatchNorm1d(6), n=lif()
    ),
    "in a loop": lambda: Net(in_loop, n=lif("s")),
}
CONSTANT = (
    "computed once for all time steps: its current is constant, for which the current Hessian is "
    "exact up to a factor"
)


@pytest.mark.parametrize("name", STATIC)
def test_a_static_layer_is_said_to_be_exact(name: str) -> None:
    net = STATIC[name]()
    net.c = nn.Linear(5, 6)
    planned = sbc.trace(net.eval(), torch.rand(8, 5))["c"]
    assert planned.notes == (CONSTANT,)
    assert planned.neurons == (None,)


def test_the_current_hessian_of_a_static_layer_is_exact_up_to_a_factor() -> None:
    """What the note says: the same as that of the repeated input under the neuron's response."""
    x = torch.rand(8, 5)
    current = sbc.SpikeHessian(None, in_features=5)
    current.update(x[None].clone())
    whole = sbc.SpikeHessian(sbc.LIF(2.0), in_features=5)
    whole.update(x.expand(T, -1, -1).clone())
    a, b = (np.asarray(h.stacked()[0]) for h in (current, whole))
    assert_close(b / b[0, 0], a / a[0, 0], 1e-12)


MIXED: dict[str, Any] = {
    "mean over time": (lambda m, x: m.n(m.c(x).mean(0).expand(T, -1, -1)), (T, 8, 5)),
    "mean over tokens": (lambda m, x: m.n(m.c(x).mean(1).expand(T, -1, -1)), (8, 3, 5)),
    "sum of two steps": (lambda m, x: m.n(m.c(x) + m.c(x).roll(1, 0)), (T, 8, 5)),
}


@pytest.mark.parametrize("name", MIXED)
def test_a_layer_that_mixes_steps_is_not(name: str) -> None:
    run, shape = MIXED[name]
    planned = sbc.trace(Net(run, c=nn.Linear(5, 6), n=lif()), torch.rand(shape))["c"]
    assert CONSTANT not in planned.notes
    assert planned.notes


# ---- names -------------------------------------------------------------------------------------


def test_a_layer_named_head_is_no_head() -> None:
    """Its neuron is what it ends in; the layer before it reaches the neuron through a layer."""
    net = Net(lambda m, x: m.n(m.head(m.fc(x))), fc=nn.Linear(5, 6), head=nn.Linear(6, 4), n=lif())
    plan = sbc.trace(net, torch.rand(T, 8, 5))
    assert plan["head"].role == "spiking"
    assert "fc: reaches its neuron through layer 'head': rows taken as independent" in str(plan)
    net = Net(lambda m, x: m.head(m.fc(m.n(x))), fc=nn.Linear(5, 6), head=nn.Linear(6, 4), n=lif())
    plan = sbc.trace(net, torch.rand(T, 8, 5))
    assert plan["head"].role == "head"
    text = str(plan)
    assert "fc: reaches the output through layer 'head': rows taken as independent" in text
    assert "its neuron" not in text
    (row,) = [line for line in text.splitlines() if line.startswith("head ")]
    assert row.split()[-3:] == ["the", "output", "current"]


def test_names_that_differ_in_a_number_are_one() -> None:
    assert grouped([f"h.{i}.fc" for i in (0, 1, 2, 5, 7, 8)]) == "h.0..2,5,7..8.fc"
    assert grouped(["a", "0.W", "2.W", "b.1.c"]) == "a, 0,2.W, b.1.c"
    assert grouped(["b3.0.q.0.w", "b3.1.q.0.w", "b3.2.q.0.w"]) == "b3.0..2.q.0.w"
    assert grouped([f"h.{i}.x.{j}" for i in (0, 1) for j in (0, 1)]) == "h.0.x.0 .. h.1.x.1 (4)"
    assert pattern_of("of h.0.n at 1.5 and 0.W, 3 times") == "of h.#.n at 1.5 and #.W, 3 times"
    names = ", ".join(f"'h.{i}.q'" for i in range(9))
    assert pattern_of(f"layers {names}: x") == "layers 'h.#.q', 'h.#.q', 'h.#.q', and more: x"
    assert pattern_of("layers 'a', 'b', 'c': x") == "layers 'a', 'b', 'c': x"


def test_notes_of_many_layers_stand_once_and_numbers_keep_them_apart() -> None:
    layers = [
        PlannedLayer(f"h.{i}.fc", "Linear", "head", notes=(f"2 of h.{i}.n", f"{i} times"))
        for i in range(3)
    ]
    notes = plan_table(layers, ()).splitlines()[2 + len(layers) :]
    assert notes == [
        "h.0..2.fc: 2 of h.#.n",
        "h.0.fc: 0 times", "h.1.fc: 1 times", "h.2.fc: 2 times",
    ]  # fmt: skip


# ---- a language model that nobody registered ---------------------------------------------------


class Fire(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return (x > 0).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient


class Block(nn.Module):
    def __init__(self, d: int) -> None:
        super().__init__()
        self.q, self.k, self.v, self.proj = (nn.Linear(d, d) for _ in range(4))
        self.fc, self.out = nn.Linear(d, 2 * d), nn.Linear(2 * d, d)
        self.norm = nn.LayerNorm(d)
        self.mask, self.decay = nn.Parameter(torch.ones(5, 5)), nn.Parameter(torch.ones(1, 1, d))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (Fire.apply(layer(self.norm(x))) for layer in (self.q, self.k, self.v))
        x = x + self.proj((q @ k.transpose(-1, -2) * self.mask) @ v * self.decay)
        return x + self.out(Fire.apply(self.fc(x)))


class LanguageModel(nn.Module):
    def __init__(self, blocks: int = 12, d: int = 4) -> None:
        super().__init__()
        self.wte, self.wpe = nn.Embedding(9, d), nn.Parameter(torch.rand(5, d))
        self.h = nn.ModuleList(Block(d) for _ in range(blocks))
        self.lm_head = nn.Linear(d, 9)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.wte(tokens) + self.wpe
        for block in self.h:
            x = block(x)
        return self.lm_head(x)


def test_the_plan_of_a_language_model_is_a_line_a_layer() -> None:
    plan = sbc.trace(LanguageModel().eval(), torch.randint(0, 9, (3, 5)))
    lines = str(plan).splitlines()
    assert len(plan.layers) == 74
    assert len(lines) <= 2 + 74 + 12  # a note stands once for all blocks
    assert "left alone: wpe, h.0..11.mask, h.0..11.decay" in lines
    assert max(len(line) for line in lines) < 300
    whole = json.loads(plan.to_json())
    assert len(whole["left_alone"]) == 25
    for layer, record in zip(plan.layers, whole["layers"], strict=True):
        assert record["notes"] == list(layer.notes)


@pytest.mark.parametrize(("other", "noted"), [(0.5 * (1 + 1e-7), False), (0.4, True)])
def test_thresholds_equal_up_to_rounding_are_one(other: float, noted: bool) -> None:
    nodes = {
        "n": neuron.LIFNode(2.0, v_threshold=0.5, step_mode="m"),
        "k": neuron.LIFNode(2.0, v_threshold=other, step_mode="m"),
    }

    def forward(m: Any, x: Tensor) -> Tensor:
        current = m.c(x)
        return m.n(current) + m.k(current)

    planned = sbc.trace(Net(forward, c=nn.Linear(5, 6), **nodes).eval(), torch.rand(T, 8, 5))["c"]
    assert planned.consumers == ("n", "k")
    assert any("thresholds" in note for note in planned.notes) == noted
    assert planned.threshold == pytest.approx(2 / (1 / 0.5 + 1 / other))
