"""What is written down about a small network in the style of a published family."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Fate:
    """What a trace has to find out about one weight.

    Attributes
    ----------
    role : of the plan's layer; "left" stands for any role that is not compressed.
    response : the impulse response of the neuron that integrates the layer's output, up to a factor;
        None for a layer that is compressed with the current Hessian.
    """

    role: str
    response: tuple[float, ...] | None = None


def spiking(response: Sequence[float]) -> Fate:
    return Fate("spiking", tuple(response))


HEAD = Fate("head")
BENT = Fate("spiking")  # what is on the way to the neuron is not linear
left = Fate("left")


@dataclass(frozen=True)
class Style:
    """A network, its calibration batch, and the fate of each of its weights.

    A layer whose fate is None must be in the plan; nothing else is asked of it.
    """

    name: str
    make: Callable[[], nn.Module]
    draw: Callable[[], Any]
    fates: dict[str, Fate | None]

    def build(self) -> nn.Module:
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(0)
            return self.make().eval()

    def batch(self, seed: int = 1) -> Tensor:
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(seed)
            return self.draw()
