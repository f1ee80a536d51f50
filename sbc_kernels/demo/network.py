"""A two-layer spiking network in plain torch: events -> fc1 -> LIF -> fc2 -> LIF -> spike counts.

There are no biases. The neuron is SpikingJelly's LIF with ``decay_input``, threshold 1 and hard reset
to 0. It follows both layers, so ``sbc_kernels.LIF(TAU)`` is the `neuron` of either.
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
TIE_BREAK = 1e-3  # weight of the mean current, which decides between equal spike counts
BATCH = 256


class Activity(NamedTuple):
    """Spikes of the hidden layer [T, N, d_hidden], which are the input of fc2; scores [N, classes]."""

    hidden: Tensor
    scores: Tensor


class Quality(NamedTuple):
    """Accuracy in percent; synaptic operations per sample, over both layers and all time steps."""

    accuracy: float
    synops: float


@dataclass(frozen=True)
class Network:
    """Weights of the two layers: fc1 float32 [d_hidden, d_in], fc2 float32 [classes, d_hidden]."""

    fc1: Tensor
    fc2: Tensor

    def run(self, events: Tensor) -> Activity:
        """Returns the hidden layer's spikes and the scores for events, float [T, N, d_in]."""
        hidden = lif(events @ self.fc1.T)
        current = hidden @ self.fc2.T
        return Activity(hidden, lif(current).sum(dim=0) + TIE_BREAK * current.mean(dim=0))


def lif(current: Tensor) -> Tensor:
    """Returns the spikes [T, ...] of LIF neurons that start at rest, for input currents [T, ...].

    The backward pass replaces the step function by ``atan(pi u) / pi``, where u is the distance to the
    threshold. No gradient flows through the reset.
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
    """Returns events [T, N, ...] as the network's input, float32 [T, N, d_in]."""
    return torch.from_numpy(events).flatten(2).float()


def measure(network: Network, events: Events, labels: Labels) -> Quality:
    """Measures accuracy and synaptic operations on events, uint8 [T, N, ...], with labels [N]."""
    hits = operations = 0
    fc1, fc2 = network.fc1.numpy(), network.fc2.numpy()
    for start in range(0, len(labels), BATCH):
        batch = np.ascontiguousarray(events[:, start : start + BATCH])
        with torch.no_grad():
            hidden, scores = network.run(as_input(batch))
        hits += int((scores.argmax(dim=1).numpy() == labels[start : start + BATCH]).sum())
        operations += int(layer_synaptic_operations(fc1, batch.reshape(*batch.shape[:2], -1)))
        operations += int(layer_synaptic_operations(fc2, hidden.numpy()))
    return Quality(100 * hits / len(labels), operations / len(labels))
