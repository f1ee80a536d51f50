"""Calls of a weight layer during one forward as sequences over time."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ..errors import naming_layer
from ..network.tensors import narrow
from .planned_layer import PlannedLayer

Take = Callable[[Tensor], None]


class SequenceAssembler:
    """Puts the calls of one module during one forward together to sequences [T, N, ...].

    Parameters
    ----------
    layer : of the plan; its layout says where the calls hold time and samples.
    name : of the module, the layer's own or another with the same weight.
    take : called with each sequence.

    Attributes
    ----------
    calls, expected : how often the module was called so far, and how often in the traced example.
    held : inputs of a loop over time whose last step is still to come.
    """

    def __init__(self, layer: PlannedLayer, name: str, take: Take) -> None:
        self.name = name
        self.expected = layer.calls  # the same at each place of a weight that is tied
        self.layout = layer.layout
        self.axes = 1 if layer.conv is None else layer.conv.dims + 1  # of one position's features
        self.take = take
        self.calls = 0
        self.held: list[Tensor] = []
        self.steps: list[int] = []

    def add(self, features: Tensor) -> None:
        """Adds the input of one call."""
        spikes = narrow(features)
        lead = tuple(spikes.shape[: spikes.ndim - self.axes])
        own = spikes.shape[len(lead) :]
        steps = self.layout.step_of_call
        if steps is None:
            with naming_layer(self.name):
                outer, T, inner = self.layout.split(lead)
            timed = spikes.reshape(outer, T, inner, *own).transpose(0, 1)
            self.take(timed.reshape(T, outer * inner, *own))
        else:
            self.held.append(spikes.reshape(math.prod(lead), *own))
            self.steps.append(steps[self.calls % len(steps)])
            if len(self.held) == len(steps):
                self._flush()
        self.calls += 1

    def _flush(self) -> None:
        """Hands on a whole loop over time: a sequence for each use of the layer within a step."""
        T = self.layout.steps
        by_step: list[list[Tensor]] = [[] for _ in range(T)]
        for step, spikes in zip(self.steps, self.held, strict=True):
            if step >= 0:
                by_step[step].append(spikes)
        self.held, self.steps = [], []
        # A step at which the layer was not called (it reads the step before) has an input of zeros.
        uses = max(len(calls) for calls in by_step)
        example = next(calls[0] for calls in by_step if calls)
        by_step = [[] for _ in range(self.layout.delay)] + by_step[: T - self.layout.delay]
        for use in range(uses):
            sequence = [
                calls[use] if use < len(calls) else torch.zeros_like(example) for calls in by_step
            ]
            self.take(torch.stack([s.to(_widest(sequence)) for s in sequence]))


def _widest(tensors: list[Tensor]) -> torch.dtype:
    """Returns a dtype that holds the values of all tensors."""
    dtype = tensors[0].dtype
    for tensor in tensors[1:]:
        dtype = torch.promote_types(dtype, tensor.dtype)
    return dtype
