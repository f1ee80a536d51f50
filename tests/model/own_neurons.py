"""Spiking neurons as people write them, which no adapter knows, and their impulse responses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import sbc_kernels as sbc

DECAY = 0.75


class Spike(torch.autograd.Function):
    """Fires above 0; the surrogate gradient is a rectangle."""

    @staticmethod
    def forward(ctx: Any, v: Tensor) -> Tensor:
        ctx.save_for_backward(v)
        return (v > 0).float()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (v,) = ctx.saved_tensors
        return grad * (v.abs() < 0.5).float()


class LevelSpike(torch.autograd.Function):
    """Integer spikes of up to four levels (I-LIF)."""

    @staticmethod
    def forward(ctx: Any, v: Tensor) -> Tensor:
        ctx.save_for_backward(v)
        return v.clamp(0, 4).round()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (v,) = ctx.saved_tensors
        return grad * ((v > 0) & (v < 4)).float()


class ThresholdSpike(torch.autograd.Function):
    """Takes the threshold, which may be one of each channel, as an input."""

    @staticmethod
    def forward(ctx: Any, v: Tensor, threshold: Tensor) -> Tensor:
        ctx.save_for_backward(v, threshold)
        return (v >= threshold).float()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad, None


State = dict[str, Any]
Step = Callable[[State, Tensor], Tensor]  # changes the state, returns the spikes


def hard_reset(s: State, current: Tensor) -> Tensor:
    v = DECAY * s.get("v", 0.0) + current
    spikes = Spike.apply(v - 1.0)
    s["v"] = v * (1 - spikes)
    return spikes


def hard_reset_where(s: State, current: Tensor) -> Tensor:
    v = DECAY * s.get("v", 0.0) + current
    spikes = Spike.apply(v - 1.0)
    s["v"] = torch.where(spikes.bool(), torch.zeros_like(v), v)
    return spikes


def hard_reset_masked(s: State, current: Tensor) -> Tensor:
    v = s.get("v", torch.zeros_like(current))
    v = v + (current - v) / 4.0
    spikes = Spike.apply(v - 0.3)
    s["v"] = v.masked_fill(spikes > 0.5, 0.0)
    return spikes


def soft_reset(s: State, current: Tensor) -> Tensor:
    v = DECAY * s.get("v", 0.0) + current
    spikes = Spike.apply(v - 1.0)
    s["v"] = v - spikes
    return spikes


def detached_reset(s: State, current: Tensor) -> Tensor:
    v = DECAY * s.get("v", 0.0) + current
    spikes = Spike.apply(v - 1.0)
    s["v"] = v - v.detach() * spikes.detach()
    return spikes


def reset_before(s: State, current: Tensor) -> Tensor:
    """The spikes of the step before reset, as snnTorch does it by default."""
    v = s.get("v", torch.zeros_like(current))
    reset = Spike.apply(v - 1.0).detach()
    s["v"] = (DECAY * v + current) * (1 - reset)
    return Spike.apply(s["v"] - 1.0)


def refractory(s: State, current: Tensor) -> Tensor:
    v = DECAY * s.get("v", 0.0) + current
    waiting = s.get("waiting", torch.zeros_like(current))
    spikes = Spike.apply(v - 1.0) * (waiting <= 0).float()
    s["waiting"] = torch.where(
        spikes > 0, torch.full_like(waiting, 2.0), (waiting - 1).clamp(min=0)
    )
    s["v"] = v * (1 - spikes)
    return spikes


def adaptive(s: State, current: Tensor) -> Tensor:
    v = DECAY * s.get("v", 0.0) + current
    threshold = 1.0 + 0.5 * s.get("a", torch.zeros_like(current))
    spikes = Spike.apply(v - threshold)
    s["a"] = 0.9 * s.get("a", 0.0) + spikes
    s["v"] = v - spikes * threshold
    return spikes


def synaptic(s: State, current: Tensor) -> Tensor:
    s["i"] = 0.5 * s.get("i", 0.0) + current
    v = DECAY * s.get("v", 0.0) + s["i"]
    spikes = Spike.apply(v - 1.0)
    s["v"] = v * (1 - spikes)
    return spikes


def delayed(s: State, current: Tensor) -> Tensor:
    """The potential moves before the input joins the synaptic current: k[0] = 0."""
    i = s.get("i", torch.zeros_like(current))
    v = DECAY * s.get("v", torch.zeros_like(current)) + i
    s["i"] = 0.5 * i + current
    spikes = Spike.apply(v - 1.0)
    s["v"] = v * (1 - spikes)
    return spikes


def straight_through(s: State, current: Tensor) -> Tensor:
    v = DECAY * s.get("v", 0.0) + current
    soft = torch.sigmoid(4 * (v - 1.0))
    spikes = ((v > 1.0).float() - soft).detach() + soft
    s["v"] = v * (1 - spikes)
    return spikes


def straight_through_apart(s: State, current: Tensor) -> Tensor:
    v = DECAY * s.get("v", 0.0) + current
    soft = torch.clamp(v - 0.5, 0, 1)
    spikes = (v > 1.0).float() + soft - soft.detach()
    s["v"] = v * (1 - spikes.detach())
    return spikes


def heaviside(s: State, current: Tensor) -> Tensor:
    v = DECAY * s.get("v", 0.0) + current
    spikes = torch.heaviside(v - 1.0, torch.zeros(1))
    s["v"] = v * (1 - spikes)
    return spikes


def asserting(s: State, current: Tensor) -> Tensor:
    """Comparisons that decide nothing but whether to go on."""
    v = DECAY * s.get("v", 0.0) + current
    assert not (v > 1e9).any()
    assert v.max() < 1e9
    spikes = (v > 1.0).float()
    s["v"] = v * (1 - spikes)
    return spikes


def comparison(s: State, current: Tensor) -> Tensor:
    v = DECAY * s.get("v", 0.0) + current
    spikes = (v > 1.0).float()
    s["v"] = v * (1 - spikes)
    return spikes


def reversed_comparison(s: State, current: Tensor) -> Tensor:
    v = DECAY * s.get("v", 0.0) + current
    spikes = (1.0 - v < 0).float()
    s["v"] = v - spikes
    return spikes


def bounded(s: State, current: Tensor) -> Tensor:
    v = DECAY * s.get("v", 0.0) + current
    spikes = Spike.apply(v - 1.0)
    s["v"] = (v - spikes).clamp(min=-2.0)
    return spikes


def integer(s: State, current: Tensor) -> Tensor:
    v = DECAY * s.get("v", 0.0) + current
    spikes = LevelSpike.apply(v)
    s["v"] = v - spikes
    return spikes


def rounded(s: State, current: Tensor) -> Tensor:
    v = DECAY * s.get("v", 0.0) + current
    level = v.clamp(0, 4)
    spikes = (level.round() - level).detach() + level
    s["v"] = v - spikes
    return spikes


def channel_thresholds(s: State, current: Tensor) -> Tensor:
    v = DECAY * s.get("v", 0.0) + current
    thresholds = torch.linspace(0.5, 1.5, current.shape[-1])
    spikes = ThresholdSpike.apply(v, thresholds)
    s["v"] = v * (1 - spikes)
    return spikes


def relative(s: State, current: Tensor) -> Tensor:
    """The potential in units of a threshold of 0.5 (DIET-SNN)."""
    v = DECAY * s.get("v", 0.0) + current
    spikes = Spike.apply(v / 0.5 - 1.0)
    s["v"] = v - 0.5 * spikes
    return spikes


def compared_for_reset(s: State, current: Tensor) -> Tensor:
    """The reset compares for itself, without a gradient (DIET-SNN)."""
    v = DECAY * s.get("v", 0.0) + current
    relative = v / 0.5 - 1.0
    reset = 0.5 * (relative > 0).float()
    s["v"] = v - reset
    return Spike.apply(relative)


@dataclass(frozen=True)
class Own:
    """A step, its response, the threshold in the response's unit, and how the plan's note starts."""

    step: Step
    neuron: Any
    threshold: float = 1.0
    note: str = ""


LEAKY = sbc.Leaky(DECAY)
DELAYED = sbc.Kernel([0.0, *sbc.CubaLIF(0.5, DECAY).impulse_response(63)])
OWN: Sequence[Own] = (
    Own(hard_reset, LEAKY),
    Own(hard_reset_where, LEAKY),
    Own(hard_reset_masked, sbc.LIF(4.0), 0.3),
    Own(soft_reset, LEAKY),
    Own(detached_reset, LEAKY),
    Own(reset_before, LEAKY),
    Own(refractory, LEAKY),
    Own(adaptive, LEAKY),
    Own(synaptic, sbc.CubaLIF(0.5, DECAY)),
    Own(delayed, DELAYED),
    Own(straight_through, LEAKY),
    Own(straight_through_apart, LEAKY),
    Own(heaviside, LEAKY, note="no gradient passes the spikes of forward of"),
    Own(asserting, LEAKY, note="no gradient passes the spikes of forward of"),
    Own(comparison, LEAKY, note="no gradient passes the spikes of forward of"),
    Own(reversed_comparison, LEAKY, note="no gradient passes the spikes of forward of"),
    Own(bounded, LEAKY, note="its potential is bounded"),
    Own(integer, LEAKY, 0.5),
    Own(rounded, LEAKY, 0.5),
    Own(channel_thresholds, LEAKY),
    Own(compared_for_reset, sbc.Kernel(2.0 * LEAKY.impulse_response(64))),
    Own(relative, sbc.Kernel(2.0 * sbc.Leaky(DECAY).impulse_response(64))),
)


class InForward(nn.Module):
    """Two layers whose membranes are kept in the forward itself: [T, N, 30] in."""

    def __init__(self, step: Step, bias: bool = False) -> None:
        super().__init__()
        self.step = step
        self.fc1, self.fc2 = nn.Linear(30, 20, bias=bias), nn.Linear(20, 8, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        first: State = {}
        second: State = {}
        out = []
        for now in x:
            spikes = self.step(first, self.fc1(now))
            out.append(self.step(second, self.fc2(spikes)))
        return torch.stack(out)


class Cell(nn.Module):
    """A module that runs a whole sequence [T, N, d], or [N, T, d]."""

    def __init__(self, step: Step, batch_first: bool = False) -> None:
        super().__init__()
        self.step = step
        self.axis = int(batch_first)

    def forward(self, currents: Tensor) -> Tensor:
        state: State = {}
        steps = [self.step(state, current) for current in currents.unbind(self.axis)]
        return torch.stack(steps, self.axis)


def in_cells(step: Step, batch_first: bool = False) -> nn.Module:
    return nn.Sequential(
        nn.Linear(30, 20, bias=False),
        Cell(step, batch_first),
        nn.Linear(20, 8, bias=False),
        Cell(step, batch_first),
    )
