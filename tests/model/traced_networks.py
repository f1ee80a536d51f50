"""Small networks that are traced."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

import sbc_kernels as sbc


class Own(nn.Module):
    """A neuron of nobody's: [T, N, ...], or with time second, or one step a call."""

    def __init__(self, axis: int | None = 0, tau: float = 2.0) -> None:
        super().__init__()
        self.axis, self.tau, self.v = axis, tau, None

    def reset(self) -> None:
        self.v = None

    def step(self, x: Tensor) -> Tensor:
        v = torch.zeros_like(x) if self.v is None else self.v
        v = v + (x - v) / self.tau
        spike = (v >= 1).to(x.dtype) + 0 * v
        self.v = v * (1 - spike)
        return spike

    def forward(self, x: Tensor) -> Tensor:
        if self.axis is None:
            return self.step(x)
        return torch.stack([self.step(s) for s in x.unbind(self.axis)], dim=self.axis)


class Step(torch.autograd.Function):
    """A spike that no registered neuron fires."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return (x >= 1).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad


class First(Own):
    pass


class Second(Own):
    pass


class Single(Own):
    pass


for cls, axis in ((First, 0), (Second, 1), (Single, None)):
    sbc.register_neuron(cls, lambda m: sbc.LIF(m.tau), time_axis=axis)


def lin(d_in: int = 6, d_out: int = 6) -> nn.Linear:
    return nn.Linear(d_in, d_out)


def strong(d_in: int = 6, d_out: int = 6, bias: bool = True) -> nn.Linear:
    """A layer whose neurons fire on a few spikes."""
    layer = nn.Linear(d_in, d_out, bias)
    with torch.no_grad():
        layer.weight.mul_(4)
    return layer
