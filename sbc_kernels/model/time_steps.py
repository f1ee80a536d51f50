"""Which position of a layer's output belongs to which time step.

The gradient of a neuron's input at step t is non-zero exactly where the layer's output belongs to step
t. No activation is kept for that (see `saved_tensors`).
"""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..frameworks import NeuronFacts
from .provenance import LayerCall, NeuronCall, Provenance, Reach


class StepProbe:
    """Marks, in each layer call's `step_of`, the positions that a neuron reads at each time step.

    Parameters
    ----------
    provenance : holds the calls; their `step_of` are changed.
    """

    def __init__(self, provenance: Provenance) -> None:
        self.provenance = provenance
        self.draw = torch.Generator().manual_seed(0)

    def mark(
        self, current: Tensor, facts: NeuronFacts, reached: list[Reach], earlier: list[NeuronCall]
    ) -> None:
        """Marks the layer calls that one neuron call reads.

        Parameters
        ----------
        current : the neuron's input, with its graph.
        facts : how the neuron reads it.
        reached : the layer calls that it was computed from.
        earlier : the neuron's calls before this one.
        """
        calls = {(r.layer, r.call): self.provenance.layer_calls[r.layer][r.call] for r in reached}
        keys = [key for key, call in calls.items() if call.edge is not None]
        if not keys:
            return
        # A neuron that takes one step a call: the step is the number of its calls that this layer fed.
        first = {
            key: sum(any(r.layer == key[0] for r in call.reached) for call in earlier)
            if facts.steps == 1
            else 0
            for key in keys
        }
        split = current.reshape(facts.outer, facts.steps, -1)
        # Weights all different, so that nothing cancels (a mean taken off, say).
        weights = torch.rand(split.shape[::2], generator=self.draw).to(split) + 0.5
        for step in range(facts.steps):
            gradients = torch.autograd.grad(
                split[:, step],
                [calls[key].edge for key in keys],
                grad_outputs=weights,  # a product with them would be saved, and replaced by ones
                retain_graph=True,
                allow_unused=True,
            )
            for key, gradient in zip(keys, gradients, strict=True):
                if gradient is None:
                    continue
                mark = calls[key].step_of
                touched = _positions(gradient, mark.size)
                now = first[key] + step
                before = mark != -1
                if before.any() and calls[key].constant is not False:
                    same = np.array_equal(touched, before)
                    calls[key].constant = same and self._reads_one(split[:, step], calls[key])
                mark[touched & (mark != -1) & (mark != now)] = -2
                mark[touched & (mark == -1)] = now

    def _reads_one(self, current: Tensor, call: LayerCall) -> bool:
        """Whether an element of the current, drawn at random, is made of one position of a call."""
        at = int(torch.randint(current.numel(), (), generator=self.draw))
        element = current.reshape(-1)[at]
        (gradient,) = torch.autograd.grad(
            element, [call.edge], retain_graph=True, allow_unused=True
        )
        return gradient is not None and int(_positions(gradient, call.step_of.size).sum()) == 1


def _positions(gradient: Tensor, count: int) -> NDArray[np.bool_]:
    """Returns at which of the leading positions a gradient is not zero, bool [count]."""
    touched: NDArray[np.bool_] = (gradient.reshape(count, -1) != 0).any(dim=1).cpu().numpy()
    return touched


def mark_inner(calls: list[LayerCall], provenance: Provenance) -> None:
    """Sets the time steps of calls that a neuron makes of a weight layer inside it.

    There is one call for each step of the neuron's loop over time (some neurons make two, some leave
    out the last), or one with the whole sequence.
    """
    by_neuron: dict[tuple[str, int], list[LayerCall]] = defaultdict(list)
    for call in calls:
        if call.inside is not None:
            by_neuron[call.inside].append(call)
    for (name, index), group in by_neuron.items():
        facts = provenance.neuron_calls[name][index].facts
        outer, steps = facts.outer, facts.steps
        for at, call in enumerate(group):
            if steps == 1:
                call.step_of[:] = index
            elif len(group) == 1:
                inner, remainder = divmod(call.step_of.size, outer * steps)
                if not remainder:
                    call.step_of[:] = np.tile(np.repeat(np.arange(steps), inner), outer)
            elif len(group) < steps:
                call.step_of[:] = at + steps - len(group)
            else:
                call.step_of[:] = at * steps // len(group)
