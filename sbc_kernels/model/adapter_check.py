"""Known neurons, checked: the response that an adapter gives against the one that is measured.

A neuron of each configuration that a model calls is run alone, on a small input, as if nobody knew it.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..frameworks import Adapter, NeuronFacts
from ..network.copies import copy_of
from ..network.tensors import tensors_in
from ..neurons import Kernel, Neuron, impulse_response
from .provenance import NeuronCall, Provenance
from .recording import record

STEPS = 8  # of the run alone, where the neuron takes any number
TOLERANCE = 1e-3  # of the largest value of the response


class _Alone(nn.Module):  # type: ignore[misc]  # torch gives it no type
    """A neuron behind a weight layer that leaves its input as it is.

    Parameters
    ----------
    neuron : of any kind. Its outputs beside the first, or all where it takes so many, are its further
        inputs at the next step.
    """

    def __init__(self, neuron: nn.Module) -> None:
        super().__init__()
        self.current = nn.Linear(1, 1, bias=False)
        nn.init.ones_(self.current.weight)
        self.neuron = neuron
        self.inputs = len(inspect.signature(neuron.forward).parameters)

    def forward(self, calls: Tensor) -> Any:
        """Runs one call after the other, [calls, *input]."""
        state: tuple[Any, ...] = ()
        outputs = []
        for now in calls:
            output = self.neuron(self.current(now.unsqueeze(-1)).squeeze(-1), *state)
            if isinstance(output, tuple):
                state = output if len(output) < self.inputs else output[1:]
                output = output[0]
            outputs.append(output)
        return outputs


def check_neurons(
    neurons: dict[str, tuple[nn.Module, Adapter]], provenance: Provenance
) -> list[str]:
    """Compares what adapters say with what is measured; a difference becomes a note of the neuron.

    Parameters
    ----------
    neurons : of a copy of the model, with fresh states, by name.
    provenance : of its forward pass; notes are added to the calls of neurons.

    Returns
    -------
    The differences, in words.
    """
    checked: dict[tuple[Any, ...], str] = {}
    found: dict[str, None] = {}
    for name, calls in provenance.neuron_calls.items():
        if name not in neurons or not calls or calls[0].facts.neuron is None or not calls[0].shape:
            continue
        module, adapter = neurons[name]
        facts = calls[0].facts
        key = (type(module), repr(facts), _start(facts))
        if key not in checked:
            measured = measured_alone(module, adapter, facts, calls[0])
            checked[key] = "" if measured is None else _difference(module, facts, measured)
        if checked[key]:
            found.setdefault(f"{name}: {checked[key]}")
            for at, call in enumerate(calls):
                notes = (*call.facts.notes, checked[key])
                calls[at] = replace(call, facts=replace(call.facts, notes=notes))
    return list(found)


def measured_alone(
    module: nn.Module, adapter: Adapter, facts: NeuronFacts, call: NeuronCall
) -> NeuronFacts | None:
    """Returns what is measured of a neuron; None where nothing could be seen.

    Parameters
    ----------
    module, adapter : the neuron; it is copied.
    facts, call : of one of its calls.
    """
    calls = 1 if facts.steps > 1 else STEPS
    for shape in _small_shapes(call.shape, facts):
        alone = _Alone(copy_of(module))
        adapter.reset(alone.neuron)
        alone.train()  # in eval mode, some frameworks run code that autograd does not see
        generator = torch.Generator().manual_seed(0)
        values = torch.rand(calls, *shape, generator=generator) * 1e-3  # so that nothing fires
        like = next(iter(tensors_in(list(module.parameters()))), values)
        values = values.to(like.device)
        try:
            provenance = record(alone, {}, lambda: alone(values), only_modules=True)  # noqa: B023
        except Exception:
            continue
        for found in provenance.neuron_calls.values():
            for part in found:
                if any(reach.layer == "current" for reach in part.reached):
                    return part.facts
    return None


def _start(facts: NeuronFacts) -> bytes:
    """Tells neurons apart whose text is the same."""
    T = facts.steps if facts.steps > 1 else 2
    return b"" if facts.neuron is None else impulse_response(facts.neuron, T).tobytes()


def _small_shapes(shape: tuple[int, ...], facts: NeuronFacts) -> Iterable[tuple[int, ...]]:
    """Yields smaller shapes of an input, then its own."""
    small = list(shape)
    if facts.steps > 1:
        time, batch = (1, 0) if facts.outer > 1 else (0, 1)
        if len(shape) > 1 and shape[time] == facts.steps:
            small[batch] = 1
            small[3:] = [1] * len(small[3:])
    elif small:
        small[0] = 1
        small[2:] = [1] * len(small[2:])
    yield tuple(small)
    if tuple(small) != shape:
        yield shape


def _difference(module: nn.Module, facts: NeuronFacts, found: NeuronFacts) -> str:
    """Returns how two responses differ, or "". Another unit of the potential is no difference."""
    neuron = found.neuron
    uneven = any("differs between channels" in note for note in (*facts.notes, *found.notes))
    if facts.neuron is None or neuron is None or uneven:
        return ""  # of channels that differ, either is a mean
    known = not any("threshold is not known" in note for note in found.notes)
    T = found.steps
    said, measured = impulse_response(facts.neuron, T), impulse_response(neuron, T)
    if abs(said - measured).max() <= TOLERANCE * abs(measured).max():
        return ""
    unit = float(said @ measured / (measured @ measured))
    same_unit = not known or abs(facts.threshold / found.threshold - unit) <= 1e-2 * abs(unit)
    if abs(said - unit * measured).max() <= TOLERANCE * abs(said).max() and same_unit:
        return ""
    return (
        f"{type(module).__name__} is said to have the response {_text(facts.neuron, said)}, and "
        f"measured is {_text(neuron, measured)}; the former is used"
    )


def _text(neuron: Neuron, response: Any) -> str:
    values = ", ".join(f"{value:.4g}" for value in np.asarray(response)[:4])
    more = ", ..." if len(response) > 4 else ""
    return f"({values}{more})" if isinstance(neuron, Kernel) else f"{neuron} ({values}{more})"
