"""Membranes found by their spike functions, where no adapter knows the neuron.

Every evaluation of a spike function has an operand. Walked back from there, the autograd graph ends at
what was cut at spikes; the first outputs of weight layers or norms that it meets are the currents.
Evaluations at one place in the code whose graphs meet are the time steps of one membrane. What the
membranes are fed is noted as calls of neurons, as if an adapter had described them.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

from torch.autograd.graph import Node

from ..frameworks import NeuronFacts
from .graph_walk import TaggedGraph
from .membrane_steps import MembraneSteps
from .provenance import NeuronCall, Provenance, Reach
from .response_measure import Measured, measure
from .saved_tensors import SavedTensors
from .spike_functions import Site, SpikeEvent, same_state
from .spike_watch import SpikeWatch

MANY = 4  # events back at which a potential that is read again is looked for


@dataclass
class Membrane:
    """The evaluations of one spike function on one state.

    Attributes
    ----------
    events : one a time step.
    fresh : for each event, the currents that reach it otherwise than through earlier events.
    reached : for each event, the calls of weight layers behind these.
    layers : names of the layers whose output is a current.
    passed : ids of the currents, and of the nodes between them and the potentials.
    """

    events: list[SpikeEvent] = field(default_factory=list)
    fresh: list[list[Node]] = field(default_factory=list)
    reached: list[list[Reach]] = field(default_factory=list)
    layers: set[str] = field(default_factory=set)
    passed: set[int] = field(default_factory=set)
    linked: bool = False  # whether it has a state: its events meet

    @property
    def site(self) -> Site:
        return self.events[0].site


def note_membranes(
    watch: SpikeWatch, graph: TaggedGraph, provenance: Provenance, saved: SavedTensors
) -> None:
    """Adds the membranes that were seen to ``provenance.neuron_calls``, and their steps to the calls.

    Parameters
    ----------
    watch : after the forward pass, with the graph still there.
    graph : of the pass.
    provenance : of the pass; calls of neurons are added, and time steps of calls of layers.
    saved : of the pass.
    """
    events = [e for e in watch.events if not (e.plain and e.site in watch.checked)]
    events.sort(key=lambda event: event.order)
    membranes = [m for m in _grouped(events, graph) if m.linked or not m.events[0].plain]
    again = {id(m): other for m in membranes for other in membranes if _rereads(m, other)}
    for membrane in membranes:
        own = {m.site for m in membranes if again.get(id(m)) is membrane} | {membrane.site}
        _find_currents(membrane, graph)
        passed: set[int] = set()
        membrane.reached = [
            graph.walk(e.edge.node, passed=passed, own=own) for e in membrane.events
        ]
    membranes = [m for m in membranes if id(m) not in again]
    known = set(provenance.neuron_calls)
    names = _names(membranes, known)
    found: list[tuple[str, Membrane, MembraneSteps, list[Measured]]] = []
    for name, membrane in zip(names, membranes, strict=True):
        steps = MembraneSteps(
            membrane.events, membrane.fresh, membrane.reached, provenance, graph, saved
        )
        found.append((name, membrane, steps, measure(steps, graph, saved)))
    for name, membrane, steps, measured in found:
        if membrane.events[0].plain and _is_doubled(membrane, measured, found):
            continue
        steps.mark()
        plain = membrane.events[0].plain and membrane.site not in watch.bridged
        cut = (f"no gradient passes the spikes of {name}",) if plain else ()
        for part in measured:
            facts = NeuronFacts(part.neuron, 1, steps.count, part.threshold, part.notes + cut)
            reached = [
                reach
                for reaches in membrane.reached
                for reach in reaches
                # Behind a bend, the layers on the way are not known.
                if reach.bent_by or (reach.via[-1] if reach.via else reach.layer) in part.layers
            ]
            shape = membrane.events[0].shape
            provenance.neuron_calls[name].append(
                NeuronCall(
                    facts,
                    list(dict.fromkeys(reached)),
                    steps.batch_first,
                    shape[0] if len(shape) > 1 else 1,
                )
            )


def _grouped(events: list[SpikeEvent], graph: TaggedGraph) -> list[Membrane]:
    """Returns the membranes whose potentials were computed from the outputs of weight layers."""
    at_site: dict[Site, list[Membrane]] = defaultdict(list)
    owners: dict[Site, dict[int, Membrane]] = defaultdict(dict)  # of nodes that a membrane passed
    membranes: list[Membrane] = []
    for event in events:
        node = event.edge.node
        here = at_site[event.site]
        owner = owners[event.site]
        currents, met, passed = _currents(node, graph, owner)
        layers = {name for current in currents for name in graph.layers_behind(current)}
        if not currents and not met:
            continue
        candidates = met or [m for m in here if m.layers & layers]
        # A helper called for several neurons: of those whose graphs meet, the one fed by these layers.
        fitting = [m for m in candidates if not layers or m.layers & layers]
        membrane = min(fitting, key=lambda m: len(m.events), default=None)
        if membrane is None:
            membrane = Membrane()
            here.append(membrane)
            membranes.append(membrane)
        elif met:
            membrane.linked = True
        owner.update(dict.fromkeys(passed, membrane))
        membrane.passed |= passed | {id(current) for current in currents}
        membrane.layers |= layers
        same = next((e for e in reversed(membrane.events[-MANY:]) if same_state(e, event)), None)
        if same is None:
            membrane.events.append(event)
        else:
            same.fired = same.fired | event.fired.to(same.fired.device)
    return _joined(membranes, graph)


def _joined(membranes: list[Membrane], graph: TaggedGraph) -> list[Membrane]:
    """Returns the membranes, with those joined whose first steps are written apart from the others.

    One that begins where another of the same layers has ended, from its last potential and with a new
    current, is the same.
    """
    joined: list[Membrane] = []
    for membrane in membranes:
        first = membrane.events[0]
        for before in joined:
            last = before.events[-1]
            if (
                last.order < first.order
                and (last.kind, last.owner, last.plain, last.shape)
                == (first.kind, first.owner, first.plain, first.shape)
                and before.layers == membrane.layers
            ):
                currents, met, _ = _currents(
                    first.edge.node, graph, dict.fromkeys(before.passed, before)
                )
                new = [current for current in currents if id(current) not in before.passed]
                if new and (met or len(new) < len(currents)) and not same_state(last, first):
                    before.events += membrane.events
                    before.passed |= membrane.passed
                    before.linked = True
                    break
        else:
            joined.append(membrane)
    return joined


def _find_currents(membrane: Membrane, graph: TaggedGraph) -> None:
    """Finds what reaches each event otherwise than through the membrane's own earlier events."""
    owner: dict[int, Membrane] = {}
    membrane.fresh = []
    for event in membrane.events:
        currents, _, passed = _currents(event.edge.node, graph, owner)
        owner.update(dict.fromkeys(passed, membrane))
        membrane.fresh.append(currents)
        membrane.layers |= {name for node in currents for name in graph.layers_behind(node)}


def _currents(
    start: Node, graph: TaggedGraph, owner: dict[int, Membrane]
) -> tuple[list[Node], list[Membrane], set[int]]:
    """Returns the first marked nodes behind a node, the membranes it meets, and what it passes."""
    currents: dict[int, Node] = {}
    met: dict[int, Membrane] = {}
    seen: set[int] = set()
    stack: list[Node | None] = [start]
    while stack:
        node = stack.pop()
        if node is None or id(node) in seen or graph.is_cut(node):
            continue
        seen.add(id(node))
        if graph.tags(node):
            currents[id(node)] = node
            continue
        if id(node) in owner:
            met[id(owner[id(node)])] = owner[id(node)]
            continue
        stack += [following for following, _ in node.next_functions]
        graph.keep(node)
    return list(currents.values()), list(met.values()), seen - set(currents)


def _rereads(membrane: Membrane, other: Membrane) -> bool:
    """Whether a membrane is the potentials of another once more, after that fired or not (a reset)."""
    if membrane is other or not membrane.layers <= other.layers:
        return False
    plain, other_plain = membrane.events[0].plain, other.events[0].plain
    if plain and not other_plain:  # a reset that compares for itself
        bases = {id(event.base) for event in other.events}
        return all(id(event.base) in bases for event in membrane.events)
    first = {id(event.base): event.order for event in reversed(other.events)}
    return plain == other_plain and all(
        first.get(id(event.base), event.order + 1) <= event.order for event in membrane.events
    )


def _names(membranes: list[Membrane], taken: set[str]) -> list[str]:
    """Returns readable names: ``forward of cell: Spike``, numbered where there are several."""
    plain = [f"forward of {m.events[0].owner}: {m.events[0].kind}" for m in membranes]
    names: list[str] = []
    for at, name in enumerate(plain):
        several = plain.count(name) > 1
        names.append(f"{name} {plain[: at + 1].count(name)}" if several else name)
    return names


def _is_doubled(
    membrane: Membrane,
    measured: list[Measured],
    found: list[tuple[str, Membrane, MembraneSteps, list[Measured]]],
) -> bool:
    """Whether a comparison reads the state of another membrane: a bound, or a reset of its own."""
    neurons = [part.neuron for part in measured]
    for _, other, _, same in found:
        if other is membrane or other.events[0].owner != membrane.events[0].owner:
            continue
        if neurons != [part.neuron for part in same]:
            continue
        first = other.events[0].plain is False or _order(other) < _order(membrane)
        if first and membrane.layers <= other.layers and len(membrane.events) <= len(other.events):
            return True
    return False


def _order(membrane: Membrane) -> float:
    return membrane.events[0].order
