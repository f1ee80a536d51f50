"""Impulse responses of membranes, measured: the gradient of the potential with respect to the currents.

The gradient of v[t] with respect to the current at step s is k[t - s] where nothing fired from s to
t - 1: spikes are cut from the graph, and a reset that multiplies would make it zero. Each lag is the
consensus of all sampled positions that were silent in between. Where the last lags have none, the
response is extended by the linear recurrence that its start follows, if it follows one.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd.graph import Node

from ..neurons import IF, LIF, Kernel, Leaky, Neuron, StateSpace
from .graph_walk import TaggedGraph
from .membrane_steps import MembraneSteps, indicator
from .saved_tensors import SavedTensors, positions
from .spike_functions import LEVELS

Values = NDArray[np.float64]
Found = tuple[Values | None, tuple[str, ...]]  # a response, and notes

SAME = 1e-5  # of the largest value of the response: float32 gradients of a chain of steps
USUAL = 0.75  # of the positions that pass a gradient have the neuron's response
MANY = 8  # positions that lose a memory at the same time do not do so by chance
RARE = 0.02  # of the positions at least pass one
CLOSE = 0.1  # a response that is not that of a linear neuron is used where it varies by no more


@dataclass(frozen=True)
class Measured:
    """The response of a membrane to some of its currents.

    Attributes
    ----------
    layers : whose outputs these currents are.
    neuron : the response; None where there is none, and `notes` says why.
    threshold : potential above rest at which it fires, in the unit of the response.
    notes : for people.
    """

    layers: frozenset[str]
    neuron: Neuron | None
    threshold: float
    notes: tuple[str, ...]


@dataclass
class _Lag:
    """Gradients at one lag: of each position (or summed), for one pair of steps."""

    event: int
    values: Values
    at: Values  # the positions
    ended: bool = False  # whether no gradient came at all


def measure(steps: MembraneSteps, graph: TaggedGraph, saved: SavedTensors) -> list[Measured]:
    """Returns the response to each group of currents, those with the same response together."""
    kind = steps.events[0].kind
    if any(event.hidden for event in steps.events):
        why = f"the potential inside autograd function {kind} is not seen"
        return [Measured(frozenset().union(*steps.groups), None, 1.0, (why,))]
    parts = {
        layers: _Response(steps, layers, nodes).measured() for layers, nodes in steps.groups.items()
    }
    threshold, unknown = threshold_of(steps, parts, graph)
    found: dict[tuple[bytes, tuple[str, ...]], Measured] = {}
    for layers, (k, notes) in parts.items():
        key = (b"" if k is None else k.tobytes(), notes)
        if key in found:
            layers |= found[key].layers
        neuron = None if k is None else named(k if k.sum() >= 0 else -k)
        more = () if k is None else unknown
        found[key] = Measured(layers, neuron, threshold, (*notes, *more))
    return list(found.values())


class _Response:
    """The measurement of one group of currents."""

    def __init__(self, steps: MembraneSteps, layers: frozenset[str], nodes: list[Node]) -> None:
        self.steps = steps
        self.late = steps.delays[layers]  # so many steps the response starts with zeros
        self.nodes = nodes
        self.shape = steps.events[0].shape
        self.at = positions(self.shape.numel())
        self.fired = [event.fired.cpu() for event in steps.events]
        self.spikes: Tensor | None = None  # [events + 1, positions], how many fired before each
        self.lags: dict[int, list[_Lag]] = defaultdict(list)

    def measured(self) -> Found:
        """Returns the response, and notes."""
        if any(event.shape != self.shape for event in self.steps.events):
            return self._without("potentials change their shape")
        if self.steps.parallel:
            return self._parallel()
        last = len(self.fired) - 1
        mixing, cancels = self._mixing(last)
        if cancels:
            return self._without("its potential mixes channels")
        self._take(0)
        if self._sign() < 0 and self.steps.events[0].plain:
            self.fired = [~fired for fired in self.fired]
            self.spikes = None
            self.lags.clear()
            self._take(0)
        for event in dict.fromkeys((last, last // 2, *self._more())):
            if event:
                self._take(event)
        T = self.steps.count
        for lag in range(self.late):
            self.lags[lag] = [_Lag(0, np.zeros(1), np.zeros(1))]
        tables = [t for n in self.nodes if (t := self.steps.tables.get(id(n))) is not None]
        if any(bool((table == -2).any()) for table in tables):
            return self._without("the same current at every time step")
        known = [lag for lag in range(T) if self.lags.get(lag)]
        if not known or known[0] != 0:
            return self._without("its response could not be measured")
        start = next((lag for lag in range(T) if not self.lags.get(lag)), T)
        if any(self._interrupted(self.lags[lag]) for lag in known):
            return self._without("no gradient passes between some of its time steps")
        k, notes, spread = self._consensus(known)
        if spread > CLOSE and notes:
            return self._without(notes[0])
        response = np.array([k[lag] for lag in range(start)])
        if start < T:
            longer = extended(response, T)
            if longer is None or any(
                abs(longer[lag] - k[lag]) > 1e-3 * abs(response).max() for lag in known
            ):
                if float(torch.stack(self.fired).double().mean()) > 0.5:
                    return self._without("it fires so often that its response is not seen")
                if start == 1:
                    return self._without("no gradient passes from one time step to the next")
                return self._without(f"its response is known for {start} of {T} steps")
            response = longer
        if mixing:
            notes = (*notes, "its potential mixes channels: rows are taken as independent")
        return response, notes

    def _parallel(self) -> Found:
        """Returns the response of a neuron that computes all steps at once, from its last element."""
        node = self.nodes[0]
        axis = self.steps.parallel[id(node)]
        gradient = self.steps.last_gradient(node)
        if axis < 0 or gradient is None:
            return self._without("its potential mixes more than time steps")
        at = [slice(None) if a == axis else -1 for a in range(gradient.ndim)]
        k = gradient[tuple(at)].flip(0).double().cpu()
        # Summed over all steps, the gradient at step s is k[0] + ... + k[T - 1 - s], in every channel.
        sums = self.steps.gradients(0, [node], True, torch.ones(self.shape))[0]
        assert sums is not None
        expected = k.cumsum(0).flip(0)
        off = sums.double().cpu().movedim(axis, -1) - expected
        if float(off.abs().max()) > 10 * SAME * float(k.abs().sum()):
            return self._without("its response differs between time steps or channels")
        return k.numpy(), ()

    def _mixing(self, event: int) -> tuple[bool, bool]:
        """Returns whether one potential is made of several channels, and whether they cancel."""
        weights = torch.zeros(self.shape)
        weights.view(-1)[-1:] = 1.0
        nodes = self.nodes[-3:]
        mixing = cancels = False
        for node, gradient in zip(
            nodes, self.steps.gradients(event, nodes, True, weights), strict=True
        ):
            if gradient is None:
                continue
            for _, values in self._by_step(node, gradient.detach().reshape(-1)):
                size = values.abs()
                if values.numel() != self.shape.numel() or not bool(size.any()):
                    continue
                if int((size > SAME * size.max()).sum()) > 1:
                    mixing = True
                    cancels = cancels or float(values.sum().abs()) < 0.9 * float(size.sum())
        return mixing, cancels

    def _without(self, why: str) -> Found:
        kind = self.steps.events[0].kind
        return None, (f"neuron with spike function {kind}: {why}",)

    def _more(self) -> list[int]:
        """Returns further events where spikes, or a long sequence, leave lags open."""
        count = len(self.fired)
        return [1, 2, 3, *range(4, min(count, 16), 4)] if count > 4 else list(range(1, count))

    def _sign(self) -> float:
        return float(sum(lag.values.sum() for lags in self.lags.values() for lag in lags))

    def _take(self, event: int) -> None:
        """Reads the gradients of the potential at one event."""
        nodes = [n for n in self.nodes if self.steps.first[id(n)] <= event]
        if not nodes:
            return
        each = torch.ones_like(self.at, dtype=torch.bool)
        weights = indicator(self.shape, each)
        gradients = self.steps.gradients(event, nodes, True, weights)
        now = event + self.steps.delay
        summed: list[tuple[int, Node]] = []
        both = list(zip(nodes, gradients, strict=True))
        for node, gradient in reversed(both):
            if gradient is None:  # a memory that has ended, unless it never began
                step = self.steps.whole.get(id(node), now)
                if step < now and any(self.lags.get(lag) for lag in range(1, now - step)):
                    self.lags[now - step].append(_Lag(event, np.zeros(1), np.zeros(1), True))
                continue
            for step, values in self._by_step(node, gradient.detach().reshape(-1)):
                lag = now - step
                if lag < 0:
                    continue
                if values.numel() != self.shape.numel():
                    summed.append((step, node))
                    continue
                silent = self._silent(step, event)
                chosen = values.cpu()[self.at][silent].double().numpy()
                if chosen.size:
                    self.lags[lag].append(_Lag(event, chosen, self.at[silent].numpy()))
        if summed:
            self._take_sums(event, summed)

    def _take_sums(self, event: int, currents: list[tuple[int, Node]]) -> None:
        """The same where currents have another shape (a pooling between): sums."""
        for part in range(2):  # which must agree
            silent = self._silent(0, event)
            silent = silent & (torch.arange(silent.numel()) % 2 == part)
            number = int(silent.sum())
            if not number:
                continue
            nodes = list({id(node): node for _, node in currents}.values())
            weights = indicator(self.shape, silent)
            for node, gradient in zip(
                nodes, self.steps.gradients(event, nodes, True, weights), strict=True
            ):
                if gradient is None:
                    continue
                for step, values in self._by_step(node, gradient.detach().reshape(-1)):
                    lag = event + self.steps.delay - step
                    if lag >= 0:
                        mean = float(values.double().sum()) / number
                        self.lags[lag].append(_Lag(event, np.array([mean]), np.array([part])))

    def _by_step(self, node: Node, gradient: Tensor) -> list[tuple[int, Tensor]]:
        """Returns the gradient of each step that a current holds."""
        if id(node) in self.steps.whole:
            return [(self.steps.whole[id(node)], gradient)]
        table = self.steps.tables.get(id(node))
        if table is None:
            return []
        if bool((table == -2).any()):
            return []
        return [(int(s), gradient[table == s]) for s in torch.unique(table) if s >= 0]

    def _silent(self, step: int, event: int) -> Tensor:
        """Returns where nothing fired from a step to before an event."""
        if self.spikes is None:
            total = torch.stack(self.fired).int().cumsum(0, dtype=torch.int32)
            self.spikes = torch.cat([torch.zeros_like(total[:1]), total])
        return self.spikes[event] == self.spikes[min(max(step - self.steps.delay, 0), event)]

    def _consensus(self, known: list[int]) -> tuple[dict[int, float], tuple[str, ...], float]:
        """Returns the response, notes where positions or times differ, and by how much they do."""
        k: dict[int, float] = {}
        middle = {
            lag: float(np.median(np.concatenate([x.values for x in self.lags[lag]])))
            for lag in known
        }
        scale = max(abs(v) for v in middle.values()) or 1.0
        spread, moving, uneven, bounded = 0.0, 0.0, False, False
        low, high = np.inf, -np.inf
        for lag in known:
            values = np.concatenate([x.values for x in self.lags[lag]])
            agree = abs(values - middle[lag]) <= SAME * scale
            if agree.mean() < USUAL and (values == 0).mean() <= 1 - RARE:
                # A potential that met a bound passes no gradient on.
                inside = values[values != 0]
                agree = abs(values - np.median(inside)) <= SAME * scale
                agree &= agree.sum() >= USUAL * inside.size
            if agree.any() and agree.sum() >= USUAL * max((values != 0).sum(), RARE * values.size):
                k[lag] = float(values[agree].mean())
                bounded = bounded or agree.mean() < USUAL
                continue
            uneven = True
            k[lag] = float(values.mean())
            spread = max(spread, float(abs(values - k[lag]).max()) / scale)
            low, high = min(low, float(values.min())), max(high, float(values.max()))
            moving = max(moving, self._moves(lag) / scale)
        if not uneven:
            note = "its potential is bounded: its response within the bounds is used"
            return k, (note,) if bounded else (), 0.0
        if moving > 1e-4:
            return k, ("it is not linear below threshold: its response changes",), spread
        return (
            k,
            (f"its response differs between channels, {low:g} to {high:g}: its mean is used",),
            0.0,
        )

    @staticmethod
    def _interrupted(lags: list[_Lag]) -> bool:
        """Whether all of a memory is gone at one time and there at another: detached, or begun anew."""
        gone = [not x.values.any() for x in lags if x.values.size >= MANY or x.ended]
        there = [np.median(abs(x.values)) > 0 for x in lags]
        return any(gone) and any(there)

    def _moves(self, lag: int) -> float:
        """Returns how much the response of single positions changes over time."""
        most = 0.0
        seen: dict[int, float] = {}
        for entry in self.lags[lag]:
            for at, value in zip(entry.at.tolist(), entry.values.tolist(), strict=True):
                most = max(most, abs(seen.setdefault(at, value) - value))
        return most


def threshold_of(
    steps: MembraneSteps, parts: dict[frozenset[str], Found], graph: TaggedGraph
) -> tuple[float, tuple[str, ...]]:
    """Returns the potential from rest to where it fires, positive, and a note where it is not known.

    The potential at the first event, less the responses to the currents so far, is that at rest.
    """
    event = steps.events[0]
    unknown = (1.0, ("its threshold is not known: 1 is used",))
    if event.kind in LEVELS:
        return LEVELS[event.kind], ()
    if event.boundary is None or event.potential is None:
        return unknown
    rest = event.potential.double().cpu()
    at = torch.arange(rest.numel())  # of the sample, where all currents are known
    if steps.parallel:
        return unknown
    for layers, nodes in steps.groups.items():
        k = parts[layers][0]
        for node in nodes:
            if steps.first[id(node)] > 0:
                continue
            here, values = _first_step(node, steps, graph)
            if k is None or values is None:
                return unknown
            lag = steps.delay - steps.whole.get(id(node), 0)
            common = torch.isin(here, at)
            here, values = here[common], values[common]
            rest[here] -= float(k[lag]) * values.double().cpu()
            at = here
    if not at.numel():
        return unknown
    middle = float(rest[at].median())
    distance = abs(event.boundary - middle)
    if distance < 1e-6 or float((rest[at] - middle).abs().median()) > 1e-4 * distance:
        return unknown
    return _shortest(distance), ()


def _first_step(
    node: Node, steps: MembraneSteps, graph: TaggedGraph
) -> tuple[Tensor, Tensor | None]:
    """Returns which of the sampled potentials a current's first step feeds, and its values there."""
    values = graph.samples[id(node)]
    size = steps.events[0].shape.numel()
    own = positions(size)
    table = steps.tables.get(id(node))
    if table is None or id(node) in steps.whole:
        return torch.arange(own.numel()), values if values.numel() == own.numel() else None
    table = table.cpu()
    sampled = positions(table.numel())
    rank = torch.cumsum((table == 0).long(), 0) - 1
    if int(rank[-1]) + 1 != size:
        return own, None
    first = table[sampled] == 0
    place = rank[sampled][first]
    found = torch.isin(place, own)
    return torch.searchsorted(own, place[found]), values.cpu()[first][found]


def extended(response: Values, T: int) -> Values | None:
    """Returns a response continued to T steps by the recurrence that its start follows, or None."""
    size = response.size
    scale = abs(response).max()
    for order in range(1, min(4, size // 2 + 1)):
        rows = np.stack([response[i : size - order + i] for i in range(order)], axis=1)
        taps = np.linalg.lstsq(rows, response[order:], rcond=None)[0]
        if rows.shape[0] <= order:
            continue  # it would always fit
        if abs(rows @ taps - response[order:]).max() <= SAME * scale:
            longer = list(response)
            while len(longer) < T:
                longer.append(float(taps @ np.array(longer[-order:])))
            return np.array(longer)
    return None


def named(response: Values) -> Neuron:
    """Returns the neuron of a measured response, by name where it has one pole.

    A decay that was computed in float32 is taken as the shortest decimal that float32 rounds to it.
    """
    T = response.size
    gain = _shortest(float(response[0]))
    if T < 2 or response[0] == 0.0:
        return Kernel(response)
    decay = _shortest(float(response[1] / response[0]))
    if abs(response - gain * decay ** np.arange(T)).max() > 2 * SAME * abs(response).max():
        return Kernel(response)
    if gain == 1.0 and decay == 1.0:
        return IF()
    if gain == 1.0 and 0.0 <= decay <= 1.0:
        return Leaky(decay)
    if 0.0 < gain <= 1.0 and abs(1.0 - gain - decay) < 1e-6:
        return LIF(_shortest(1.0 / gain))
    return StateSpace(((decay,),), (gain,), (1.0,))


def _shortest(value: float) -> float:
    return float(str(np.float32(value)))
