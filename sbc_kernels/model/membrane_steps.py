"""Which time step of a membrane each of its currents belongs to."""

from __future__ import annotations

from collections import Counter, defaultdict

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd.graph import GradientEdge, Node

from .graph_walk import TaggedGraph
from .provenance import LayerCall, Provenance, Reach
from .saved_tensors import SavedTensors, positions
from .spike_functions import SpikeEvent

ALL_STEPS = 24  # sequences of more steps are looked at in their first and last steps
ENDS = 8


class MembraneSteps:
    """The time steps of a membrane's currents, from the order of the calls and from gradients.

    A current that holds one step (a loop over time) belongs to the first evaluation of the membrane
    that it reaches. In one that holds the sequence, gradients tell the elements of each step apart.
    Where the potential moves before the input joins, the last currents reach nothing, and each belongs
    `delay` steps before the first evaluation that it reaches.

    Parameters
    ----------
    events, fresh, reached : of the membrane.
    provenance, graph, saved : of the forward pass.

    Attributes
    ----------
    count : T.
    constant : layers and calls whose one output is the current of every step.
    parallel : where one evaluation is all steps (parallel neurons), the time axis of each current by
        its id; -1 where more than time steps mix.
    delay : steps before the first event, which could not be seen since nothing had reached it.
    whole : by id of a current that holds one step, this step.
    tables : by id of a current that holds several, the step of each element, int16: -1 where it is not
        known, -2 where an element reaches several steps.
    """

    def __init__(
        self,
        events: list[SpikeEvent],
        fresh: list[list[Node]],
        reached: list[list[Reach]],
        provenance: Provenance,
        graph: TaggedGraph,
        saved: SavedTensors,
    ) -> None:
        self.events = events
        self.fresh = fresh
        self.provenance = provenance
        self.saved = saved
        self.nodes: dict[int, Node] = {id(node): node for nodes in fresh for node in nodes}
        self.first: dict[int, int] = {}
        self.uses: dict[int, int] = defaultdict(int)
        self.calls: dict[tuple[str, int], int] = {}  # first event that each call reaches
        for at, (nodes, reaches) in enumerate(zip(fresh, reached, strict=True)):
            for node in nodes:
                self.first.setdefault(id(node), at)
                self.uses[id(node)] += 1
            for reach in reaches:
                self.calls.setdefault((reach.layer, reach.call), at)
        self.groups: dict[frozenset[str], list[Node]] = defaultdict(list)
        for node in self.nodes.values():
            self.groups[frozenset(graph.layers_behind(node))].append(node)
        self.delays = {layers: self._delay(layers, graph) for layers in self.groups}
        self.delay = max(self.delays.values(), default=0)
        self.whole: dict[int, int] = {}
        self.tables: dict[int, Tensor] = {}
        self.call_tables: dict[tuple[str, int], Tensor] = {}
        self.constant: set[tuple[str, int]] = set()
        self.parallel: dict[int, int] = {}
        self._find()
        self.count = len(events) + self.delay
        if len(events) == 1 and self.delay == 0:
            self._find_axis()

    def gradients(
        self, event: int, nodes: list[Node], values: bool, weights: Tensor
    ) -> list[Tensor | None]:
        """Returns the gradient of the potential at an event, summed with `weights`, at the nodes."""
        return self._gradients(event, [GradientEdge(n, 0) for n in nodes], values, weights)

    def mark(self) -> None:
        """Notes the steps in the calls of the layers."""
        self.batch_first = False
        by_layer: dict[str, list[int]] = defaultdict(list)
        for layer, call in self.calls:
            by_layer[layer].append(call)
        for (layer, call), at in self.calls.items():
            found = self.provenance.layer_calls[layer][call]
            if (layer, call) in self.constant and found.constant is None:
                found.constant = True
            if (layer, call) in self.call_tables:
                self._mark_rows(found, self.call_tables[layer, call])
            else:
                _mark(found, np.full(found.step_of.size, self._step(layer, at)))
        for layers, delay in self.delays.items():
            for layer in layers if delay else ():
                step = 1 + max(self._step(layer, self.calls[layer, c]) for c in by_layer[layer])
                for index in range(max(by_layer[layer]) + 1, step + delay):
                    if index < len(self.provenance.layer_calls[layer]) and step < self.count:
                        found = self.provenance.layer_calls[layer][index]
                        _mark(found, np.full(found.step_of.size, step))
                        step += 1

    # ---- steps

    def _step(self, layer: str, event: int) -> int:
        own = max((d for layers, d in self.delays.items() if layer in layers), default=self.delay)
        return event + self.delay - own

    def _delay(self, layers: frozenset[str], graph: TaggedGraph) -> int:
        nodes = self.groups[layers]
        if len(nodes) < 2:
            return 0
        start = min(self.first[id(node)] for node in nodes)
        made = sum(graph.times[id(node)] <= self.events[start].clock for node in nodes)
        new = sum(self.first[id(node)] == start for node in nodes)
        total = max(len(self.provenance.layer_calls[layer]) for layer in layers)
        unreached = total - max(sum(name == layer for name, _ in self.calls) for layer in layers)
        return max(min(made - new, unreached, self._unseen()), 0)

    def _unseen(self) -> int:
        """Returns how often the spike function ran before anything had reached it."""
        first, last = self.events[0].visit, self.events[-1].visit
        each = (last - first) / max(len(self.events) - 1, 1)
        return round((first - 1) // each) if each else 0

    def _find(self) -> None:
        count = len(self.events)
        sequences: list[Node] = []
        for layers, nodes in self.groups.items():
            for node in nodes:
                at = self.first[id(node)]
                if len(nodes) > 1 or count == 1 or at > 0:
                    self.whole[id(node)] = at + self.delay - self.delays[layers]
                else:
                    sequences.append(node)
        # A layer of one call holds the sequence, also where another layer on the way is called a step.
        counts = Counter(layer for layer, _ in self.calls)
        calls = {
            key: edge
            for key, at in self.calls.items()
            if counts[key[0]] == 1
            and at == 0
            and count > 1
            and (edge := self.provenance.layer_calls[key[0]][key[1]].edge) is not None
        }
        if not sequences and not calls:
            return
        edges = [*(GradientEdge(node, 0) for node in sequences), *calls.values()]
        tables: list[Tensor | None] = [None] * len(edges)
        weights = torch.rand(self.events[0].shape, generator=torch.Generator().manual_seed(0)).add(
            0.5
        )
        picks = self.picks()
        for event in picks:
            known = event == 0 or event - 1 in picks
            for index, gradient in enumerate(self._gradients(event, edges, False, weights)):
                if gradient is None:
                    continue
                touched = gradient.reshape(-1) != 0
                table = tables[index]
                if table is None:
                    table = tables[index] = torch.full(
                        (gradient.numel(),), -1, dtype=torch.int16, device=gradient.device
                    )
                table[touched & (table == -1)] = event if known else -3
        delays = []
        for index, table in enumerate(tables):
            if table is None:
                continue
            steps = table[table >= 0]
            group = int((steps == steps.min()).sum()) if steps.numel() else 0
            rest = int((table == -1).sum())
            if index < len(sequences):
                if group == table.numel() and self.uses[id(sequences[index])] > 1:
                    table[:] = -2  # one current for all steps
                elif group == table.numel():
                    self.whole[id(sequences[index])] = 0
                delays.append(
                    rest // group if group and rest % group == 0 and rest < table.numel() else 0
                )
                self.tables[id(sequences[index])] = table
            else:
                key = list(calls)[index - len(sequences)]
                if group == table.numel() and any(self.uses[id(n)] > 1 for n in sequences):
                    table[:] = -2
                    if all(self.uses[id(n)] == count for n in sequences):
                        self.constant.add(key)
                self.call_tables[key] = table
            table[table == -3] = -1
        late = max(delays, default=0)
        if 0 < late <= self._unseen() and not self.delay:
            self.delay = late
            for layers, nodes in self.groups.items():
                if nodes[0] in sequences:
                    self.delays[layers] = late
                else:
                    for node in nodes:
                        self.whole[id(node)] += late

    def _find_axis(self) -> None:
        """Tells a neuron that computes all steps at once by what one element depends on."""
        size = self.events[0].shape.numel()
        found: dict[int, tuple[int, torch.Size]] = {}
        for key, node in self.nodes.items():
            gradient = self.last_gradient(node)
            if gradient is None or gradient.numel() != size:
                continue
            touched = (gradient != 0).nonzero()
            axes = [a for a in range(gradient.ndim) if len(torch.unique(touched[:, a])) > 1]
            if axes:
                found[key] = (axes[0] if len(axes) == 1 else -1, gradient.shape)
        if not found:
            return
        lengths = {shape[axis] if axis >= 0 else -1 for axis, shape in found.values()}
        self.parallel = {key: axis if len(lengths) == 1 else -1 for key, (axis, _) in found.items()}
        if len(lengths) > 1 or lengths == {-1} or len(found) < len(self.nodes):
            self.parallel = dict.fromkeys(self.nodes, -1)
            return
        self.count = lengths.pop()
        self.whole.clear()
        for key, (axis, shape) in found.items():
            index = torch.arange(self.count, dtype=torch.int16)
            index = index.reshape([-1 if a == axis else 1 for a in range(len(shape))])
            self.tables[key] = index.expand(shape).reshape(-1)
        table = next(iter(self.tables.values()))
        self.call_tables = dict.fromkeys(self.calls, table)

    def last_gradient(self, node: Node) -> Tensor | None:
        """Returns the gradient of the potential's last element at a current."""
        weights = torch.zeros(self.events[0].shape)
        if not weights.numel():
            return None
        weights.view(-1)[-1] = 1.0
        return self.gradients(0, [node], True, weights)[0]

    def picks(self) -> list[int]:
        """Returns the events whose steps are looked at in sequences."""
        count = len(self.events)
        if count <= ALL_STEPS:
            return list(range(count))
        return [*range(ENDS), *range(count - ENDS, count)]

    def _gradients(
        self, event: int, edges: list[GradientEdge], values: bool, weights: Tensor
    ) -> list[Tensor | None]:
        found = self.events[event]
        self.saved.values = values
        try:
            gradients = torch.autograd.grad(
                [found.edge],
                edges,
                grad_outputs=[weights.to(found.like)],
                retain_graph=True,
                allow_unused=True,
            )
        finally:
            self.saved.values = False
        return list(gradients)

    def _mark_rows(self, call: LayerCall, table: Tensor) -> None:
        """Marks a call's leading positions from the steps of its output's elements."""
        if table.numel() % max(call.step_of.size, 1):
            return
        rows = table.reshape(call.step_of.size, -1)
        low, high = rows.amin(dim=1).cpu().numpy(), rows.amax(dim=1).cpu().numpy()
        steps = np.where((low == high) | (low < 0), high, -2).astype(np.int64)
        steps[(low == -2) | (high == -2)] = -2
        _mark(call, steps)
        grid = steps.reshape(call.lead) if call.lead else steps
        axes = [a for a in range(grid.ndim) if (np.diff(grid, axis=a) != 0).any()]
        self.batch_first = self.batch_first or (bool(axes) and min(axes) > 0)


def _mark(call: LayerCall, steps: NDArray[np.int64]) -> None:
    """Notes steps; -2 where another neuron read the position at another step."""
    mark = call.step_of
    seen = steps != -1
    mark[seen & (mark != -1) & (mark != steps)] = -2
    mark[seen & (mark == -1)] = steps[seen & (mark == -1)]


def indicator(shape: torch.Size, at: Tensor) -> Tensor:
    """Returns zeros with ones at those of the sampled positions where `at` holds."""
    weights = torch.zeros(shape.numel())
    weights[positions(shape.numel())[at.cpu()]] = 1.0
    return weights.reshape(shape)
