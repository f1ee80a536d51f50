"""A two-layer spiking network in plain torch: events -> fc1 -> LIF -> fc2 -> LIF -> spike counts.

No biases. The neuron is SpikingJelly's LIF with ``decay_input``, threshold 1 and hard reset to 0.
Both layers feed one, so ``sbc_kernels.LIF(TAU)`` describes the consumer of either.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..metrics import layer_synaptic_operations
from .data import Labels
from .events import Events

TAU = 2.0
THRESHOLD = 1.0
TIE_BREAK = 1e-3  # of the mean current: decides between classes whose neurons fired equally often
BATCH = 256


class Activity(NamedTuple):
    """hidden: spikes [T, N, d_hidden], the input of fc2; scores: [N, classes]."""

    hidden: Tensor
    scores: Tensor


class Quality(NamedTuple):
    """accuracy in percent; synaptic operations a sample, over both layers and all time steps."""

    accuracy: float
    synops: float


@dataclass(frozen=True)
class Network:
    """fc1: float32 [d_hidden, d_in]; fc2: float32 [classes, d_hidden]."""

    fc1: Tensor
    fc2: Tensor

    def run(self, events: Tensor) -> Activity:
        """Events float [T, N, d_in] in, spikes of the hidden layer and scores out."""
        hidden = lif(events @ self.fc1.T)
        current = hidden @ self.fc2.T
        return Activity(hidden, lif(current).sum(dim=0) + TIE_BREAK * current.mean(dim=0))


def lif(current: Tensor) -> Tensor:
    """Spikes [T, ...] of LIF neurons that start at rest, for input currents [T, ...].

    Forward a step function. Backward the derivative of ``atan(pi u) / pi`` in its place, u the
    distance to the threshold, and no gradient through the reset.
    """
    v = torch.zeros_like(current[0])
    spikes = []
    for x in current:
        v = v + (x - v) / TAU
        above = v - THRESHOLD
        soft = torch.atan(torch.pi * above) / torch.pi
        spike = (above >= 0).to(v.dtype)
        v = v * (1 - spike)
        spikes.append(spike + (soft - soft.detach()))  # adds an exact zero
    return torch.stack(spikes)


def as_input(events: Events) -> Tensor:
    """Events [T, N, ...] as the network's input, float32 [T, N, d_in]."""
    return torch.from_numpy(events).flatten(2).float()


def measure(network: Network, events: Events, labels: Labels) -> Quality:
    """How often the network is right, and what it costs: events uint8 [T, N, ...], labels [N]."""
    right = operations = 0
    fc1, fc2 = network.fc1.numpy(), network.fc2.numpy()
    for start in range(0, len(labels), BATCH):
        batch = np.ascontiguousarray(events[:, start : start + BATCH])
        with torch.no_grad():
            hidden, scores = network.run(as_input(batch))
        right += int((scores.argmax(dim=1).numpy() == labels[start : start + BATCH]).sum())
        operations += int(layer_synaptic_operations(fc1, batch.reshape(*batch.shape[:2], -1)))
        operations += int(layer_synaptic_operations(fc2, hidden.numpy()))
    return Quality(100 * right / len(labels), operations / len(labels))
