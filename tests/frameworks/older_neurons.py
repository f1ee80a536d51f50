"""Neurons in the style of SpikingJelly up to 0.0.0.0.12, as repositories keep copies of them."""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import Tensor, nn


class _Surrogate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return (x >= 0).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return grad / (1 + x.abs()) ** 2


def surrogate(x: Tensor) -> Tensor:
    out: Tensor = _Surrogate.apply(x)
    return out


class MemoryModule(nn.Module):
    """Keeps states in a dictionary, and what they are reset to in another."""

    def __init__(self) -> None:
        super().__init__()
        self._memories: dict[str, Any] = {}
        self._memories_rv: dict[str, Any] = {}

    def register_memory(self, name: str, value: Any) -> None:
        self._memories[name] = value
        self._memories_rv[name] = copy.deepcopy(value)

    def reset(self) -> None:
        for name, value in self._memories_rv.items():
            self._memories[name] = copy.deepcopy(value)

    def __getattr__(self, name: str) -> Any:
        memories = self.__dict__.get("_memories", {})
        return memories[name] if name in memories else super().__getattr__(name)

    def __setattr__(self, name: str, value: Any) -> None:
        memories = self.__dict__.get("_memories", {})
        if name in memories:
            memories[name] = value
        else:
            super().__setattr__(name, value)


class BaseNode(MemoryModule):
    def __init__(self, v_threshold: float = 1.0, v_reset: float | None = 0.0) -> None:
        super().__init__()
        self.register_memory("v", 0.0 if v_reset is None else v_reset)
        self.register_memory("v_threshold", v_threshold)
        self.register_memory("v_reset", v_reset)
        self.surrogate_function = surrogate

    def neuronal_charge(self, x: Tensor) -> None:
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        self.neuronal_charge(x)
        spike = self.surrogate_function(self.v - self.v_threshold)
        if self.v_reset is None:
            self.v = self.v - spike * self.v_threshold
        else:
            self.v = (1.0 - spike) * self.v + spike * self.v_reset
        return spike


class IFNode(BaseNode):
    def neuronal_charge(self, x: Tensor) -> None:
        self.v = self.v + x


class LIFNode(BaseNode):
    def __init__(self, tau: float = 2.0, decay_input: bool = True, **options: Any) -> None:
        super().__init__(**options)
        self.tau, self.decay_input = tau, decay_input

    def neuronal_charge(self, x: Tensor) -> None:
        rest = self.v_reset or 0.0
        if self.decay_input:
            self.v = self.v + (x - (self.v - rest)) / self.tau
        else:
            self.v = self.v - (self.v - rest) / self.tau + x


class ParametricLIFNode(BaseNode):
    """As before 0.0.0.0.9: without the option `decay_input`."""

    def __init__(self, init_tau: float = 2.0, **options: Any) -> None:
        super().__init__(**options)
        self.w = nn.Parameter(torch.tensor(-math.log(init_tau - 1.0)))

    def neuronal_charge(self, x: Tensor) -> None:
        self.v = self.v + (x - self.v) * self.w.sigmoid()


class QIFNode(BaseNode):
    def neuronal_charge(self, x: Tensor) -> None:
        self.v = self.v + (x + self.v * (self.v - 0.8)) / 2.0


class _AllSteps:
    """[T, N, ...] a call; keeps the potentials of all steps."""

    def forward(self, x: Tensor) -> Tensor:
        spikes, potentials = [], []
        for step in x:
            spikes.append(super().forward(step))  # type: ignore[misc]
            potentials.append(self.v)  # type: ignore[attr-defined]
        self.v_seq = torch.stack(potentials)
        return torch.stack(spikes)


class MultiStepIFNode(_AllSteps, IFNode):
    pass


class MultiStepLIFNode(_AllSteps, LIFNode):
    pass


class MultiStepParametricLIFNode(_AllSteps, ParametricLIFNode):
    pass


class MultiStepQIFNode(_AllSteps, QIFNode):
    pass
