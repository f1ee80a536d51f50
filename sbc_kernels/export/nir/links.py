"""What feeds what in a spiking network, element by element, read off one forward pass.

NIR's edges are identities: what node A answers at a time step is what node B takes at that step, or one
of several things that B adds up. So for every module that becomes a node, each element of its input is
traced (`nir_twins`) to the element of an earlier node's output that it is. The pattern has to be an
edge: all of A's output in order, of the same step and the same sample, the same nodes in every call.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ...frameworks import Adapter
from ...network.tensors import WEIGHT_LAYERS, first_tensor, is_norm, is_plain, tensors_in
from .twins import UNKNOWN, Index, Known, Through, Twins, called

__all__ = ["INPUT", "Links", "Place", "find_links"]

INPUT = "<input>"
POOLS = (nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.LPPool2d)
WATCHED = 2  # samples of which a neuron's currents and answers are kept

Shape = tuple[int, ...]

# What may be made of the last nodes' answers: none of it is in the graph.
_READOUTS = {
    *("add", "mean", "sum", "mul", "div", "true_divide", "avg_pool1d", "softmax", "log_softmax"),
    *("argmax", "count_nonzero", "cumsum"),
}


@dataclass
class Place:
    """A module that is a node. Shapes are those of one sample at one time step."""

    module: Any
    given: Shape
    sources: tuple[str, ...]
    shape: Shape = ()
    dtype: torch.dtype = torch.float32
    currents: list[NDArray[np.float64]] = field(default_factory=list)  # of neurons: a step [n, ...]
    answers: list[NDArray[np.float64]] = field(default_factory=list)


@dataclass(frozen=True)
class Links:
    """The nodes in the order of their first calls, and what the model's output is made of.

    ``readout`` names what the model makes of the output nodes' answers, which no node does.
    """

    places: dict[str, Place]
    input_shape: Shape
    outputs: tuple[str, ...]
    readout: tuple[str, ...]


def find_links(
    model: nn.Module,
    neurons: dict[str, tuple[nn.Module, Adapter]],
    given: Tensor,
    forward: Callable[[], Any],
) -> Links:
    """Runs ``forward()``, which feeds `given` to a model whose states are fresh, and follows it.

    Raises
    ------
    ValueError : naming the module or function that is neither a node nor an edge.
    """
    follower = _Follower(model, neurons, given)
    with ExitStack() as stack:
        stack.enter_context(follower.hooked(model))
        stack.enter_context(torch.no_grad())
        stack.enter_context(follower)
        output = forward()
    return follower.links(output)


@dataclass
class _Call:
    """One answer of a node. Its rows are the positions of its leading axes: samples and steps."""

    step: Index  # [rows], -1 where no neuron has told yet
    sample: Index
    roots: list[Index]  # each [rows]: the row of the model's input it comes from, -1 for none


class _Follower(Twins):
    def __init__(
        self, model: nn.Module, neurons: dict[str, tuple[nn.Module, Adapter]], given: Tensor
    ) -> None:
        super().__init__(model)
        self.neurons = neurons
        self.calls: list[_Call] = []  # as many as there are answers
        self.places: dict[str, Place] = {}
        self.steps: dict[str, int] = {}  # of each neuron so far
        self.pending: tuple[_Call, Tensor] | None = None
        self.whole_input = tuple(given.shape)
        self.input_shape: Shape | None = None  # once its first node has been seen
        self.uses: list[tuple[Index, Index, Index]] = []  # rows of the input, steps, samples
        nothing = np.zeros(0, np.int64)
        self.calls.append(_Call(nothing, nothing, []))
        self.answered(INPUT, given)

    def shape_of(self, node: str) -> Shape:
        return (self.input_shape or ()) if node == INPUT else self.places[node].shape

    # ---- modules

    @contextmanager
    def hooked(self, model: nn.Module) -> Iterator[None]:
        handles = []
        for name, module in model.named_modules():
            handles += [
                module.register_forward_pre_hook(self._enter(name), with_kwargs=True),
                module.register_forward_hook(self._leave(name)),
            ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _is_node(self, name: str, module: Any) -> bool:
        return name in self.neurons or isinstance(module, (*WEIGHT_LAYERS, *POOLS))

    def _enter(self, name: str) -> Callable[..., None]:
        def hook(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            self.active.append((name, module))
            if self.inside == 0 and is_norm(module):
                raise ValueError(
                    f"model has {called(name, module)}, and NIR has no BatchNorm; accepted are "
                    "models whose BatchNorms are folded into the layers before them: "
                    "compress_model(..., fold=True)"
                )
            if self._is_node(name, module):
                self.inside += 1
                if self.inside == 1:
                    self.pending = self._fed(name, module, first_tensor(args, kwargs))

        return hook

    def _leave(self, name: str) -> Callable[..., None]:
        def hook(module: Any, args: tuple[Any, ...], output: Any) -> None:
            if self._is_node(name, module):
                if self.inside == 1:
                    self._leave_node(name, module, *tensors_in(output))
                self.inside -= 1
            self.active.pop()

        return hook

    def _leave_node(self, name: str, module: Any, answer: Tensor, *states: Tensor) -> None:
        assert self.pending is not None
        (call, given), place = self.pending, self.places[name]
        rows = call.step.size
        if name in self.neurons:
            place.shape = place.given
        elif not place.shape:
            place.shape = tuple(answer.shape[answer.ndim - _own_axes(module) :])
        if answer.numel() != rows * math.prod(place.shape):
            raise ValueError(
                f"model has {called(name, module)}, which answers {list(answer.shape)} to {rows} "
                f"inputs of {list(place.given)}; accepted is one answer to each, always of one shape"
            )
        if name in self.neurons:
            _keep(place.answers, answer, call, place.shape)
        elif isinstance(module, WEIGHT_LAYERS) and not is_plain(module, given, answer):
            raise ValueError(
                f"model has {called(name, module)}, whose forward does more than multiply by its "
                "weight and add its bias; accepted are layers that do no more"
            )
        self.calls.append(call)
        self.answered(name, answer)
        for state in (state for state in states if state is not answer):
            self.set(state, Known((), (Through("a state", called(name, module)),), (name,)))

    # ---- what a node is fed with

    def _fed(self, name: str, module: Any, given: Tensor | None) -> tuple[_Call, Tensor]:
        what = called(name, module)
        known = self.get(given)
        if given is None or known is None:
            raise ValueError(
                f"model has {what}, fed with what no other node answered (a constant, a state, or "
                "something compiled); accepted are chains of modules that start at the model's "
                "input, without recurrence"
            )
        if known.through:
            raise ValueError(_no_edge(known.through, known.sources, what))
        own = self._own_shape(name, module, given, known)
        rows = [self._rows(term, own, what) for term in known.terms]
        sources = self._sources([answers for answers, _ in rows], what)
        place = self.places.setdefault(name, Place(module, own, sources))
        if (place.given, place.sources) != (own, sources):
            raise ValueError(
                f"model has {what}, fed by {_listed(place.sources)} in one call and by "
                f"{_listed(sources)} in another; accepted are the same edges at every call: no "
                "recurrence, no module at two places"
            )
        call = self._when(rows, what)
        if name in self.neurons:
            self._when_neuron(name, given, call, what)
            place.dtype = given.dtype
            _keep(place.currents, given, call, own)
        return call, given

    def _own_shape(self, name: str, module: Any, given: Tensor, known: Known) -> Shape:
        """One sample's input at one time step."""
        shape = tuple(given.shape)
        if name not in self.neurons:
            return shape[len(shape) - _own_axes(module) :]
        node = next(iter(self.nodes_of(known)), INPUT)
        if node == INPUT and self.input_shape is None:  # all but samples and steps
            facts = self.neurons[name][1].describe(module, shape)
            lead = 1 if _one_lead(facts.outer, facts.steps, shape) else 2
            return shape[min(lead, len(shape) - 1) :]
        source = self.shape_of(node)
        if shape[max(len(shape) - len(source), 0) :] == source:
            return source
        fitting = _axes_that_hold(shape, math.prod(source))
        return shape[fitting[-1] :] if fitting else shape[1:]

    def _rows(self, term: Tensor, own: Shape, what: str) -> tuple[Index, Index]:
        """For each row of a node's input, the answer it comes from and the row of that answer."""
        size = max(math.prod(own), 1)
        labels = term.reshape(-1, size).numpy()
        if (labels == UNKNOWN).any():
            raise ValueError(
                f"model has {what}, fed in part with what no node answered (a constant, or a state "
                "before the first step); accepted are inputs that nodes answer at every step, "
                "without recurrence"
            )
        answers = self.answer_of(labels[:, 0])
        there = answers >= 0
        nodes = {self.owners[at] for at in np.unique(answers[there])}
        if INPUT in nodes and self.input_shape is None:
            self._settle_input(own)
        at, rest = np.divmod(labels[:, 0] - np.array(self.offsets)[np.maximum(answers, 0)], size)
        straight = labels == labels[:, :1] + np.where(there, 1, 0)[:, None] * np.arange(size)
        whole = all(math.prod(self.shape_of(node)) == size for node in nodes)
        if not (whole and straight.all() and (rest[there] == 0).all()):
            parts = [self.owners[a] for a in np.unique(self.answer_of(labels)) if a >= 0]
            raise ValueError(
                f"model has {what}, which takes a part of what {_listed(dict.fromkeys(parts))} "
                "answered, several at once, or another order; accepted is all of it in order"
            )
        return answers, at

    def _settle_input(self, own: Shape) -> None:
        """The input's axes of one sample at one step, told by its first node's."""
        shape = self.whole_input
        if shape[max(len(shape) - len(own), 0) :] == own:
            self.input_shape = own
        else:
            fitting = _axes_that_hold(shape, math.prod(own))
            some = [at for at in fitting if at > 0 and len(shape) - at <= 3] or fitting
            self.input_shape = shape[some[0] :] if some else ()
        rows = math.prod(shape) // max(math.prod(self.input_shape), 1)
        nowhere = np.full(rows, -1, dtype=np.int64)
        self.calls[0] = _Call(nowhere, nowhere, [np.arange(rows)])

    def _sources(self, answers: list[Index], what: str) -> tuple[str, ...]:
        """The nodes whose outputs are added up, the same ones in every row."""
        names = [INPUT, *self.places]
        rank = {name: at for at, name in enumerate(names)}
        ranks = np.array([rank[owner] for owner in self.owners])
        order = np.sort([np.where(a < 0, -1, ranks[np.maximum(a, 0)]) for a in answers], axis=0)
        found = tuple(names[at] for at in order[:, 0] if at >= 0)
        if (order != order[:, :1]).any():
            some = [names[at] for at in np.unique(order) if at >= 0]
            raise ValueError(
                f"model has {what}, fed by {_listed(some)}, but not by the same of them at every "
                "step and for every sample; accepted are the same edges for all: no recurrence, no "
                "delay"
            )
        if len(set(found)) < len(found):
            twice = next(name for name in found if found.count(name) > 1)
            raise ValueError(
                f"model has {what}, fed with {_shown(twice)} added to itself, of the same step or of "
                "several; accepted is one edge from a node to another"
            )
        return found

    def _when(self, rows: list[tuple[Index, Index]], what: str) -> _Call:
        """Steps and samples of what is fed, as far as neurons told; where it comes from, if not."""
        count = rows[0][0].size
        step, sample = (np.full(count, -1, dtype=np.int64) for _ in range(2))
        roots: dict[bytes, Index] = {}
        for answers, at in rows:
            for number in np.unique(answers[answers >= 0]):
                call, here = self.calls[number], np.flatnonzero(answers == number)
                for into, told in ((step, call.step[at[here]]), (sample, call.sample[at[here]])):
                    both = (into[here] >= 0) & (told >= 0)
                    if (into[here] != told)[both].any():
                        raise ValueError(f"model has {what}, {_OTHER_STEP}")
                    into[here] = np.maximum(into[here], told)
                for root in call.roots:
                    from_input = np.full(count, -1, dtype=np.int64)
                    from_input[here] = root[at[here]]
                    roots[from_input.tobytes()] = from_input
        return _Call(step, sample, list(roots.values()))

    def _when_neuron(self, name: str, given: Tensor, call: _Call, what: str) -> None:
        """A neuron tells the steps and samples of what it is fed with."""
        module, adapter = self.neurons[name]
        shape, own = tuple(given.shape), self.places[name].given
        facts = adapter.describe(module, shape)
        rows = call.step.size
        inner = rows // (facts.outer * facts.steps)
        most = 1 if _one_lead(facts.outer, facts.steps, shape) else 2
        if len(shape) - len(own) > most or inner * facts.outer * facts.steps != rows:
            raise ValueError(
                f"model has {what}, fed with {list(shape)}, of which {list(own)} is one answer of the "
                "node before it; accepted are no axes but time and samples beside it: NIR has no layer "
                "that is applied along another axis"
            )
        at = np.arange(rows)
        step = at // inner % facts.steps + self.steps.get(name, 0)
        sample = at // (inner * facts.steps) * inner + at % inner
        self.steps[name] = self.steps.get(name, 0) + facts.steps
        told = call.step >= 0
        if (call.step != step)[told].any() or (call.sample != sample)[told].any():
            raise ValueError(f"model has {what}, {_OTHER_STEP}")
        for root in call.roots:
            here = root >= 0
            self.uses.append((root[here], step[here], sample[here]))
        call.step, call.sample, call.roots = step, sample, []

    # ---- the end

    def links(self, output: Any) -> Links:
        found = [k for t in tensors_in(output) if (k := self.get(t)) is not None]
        if not found:
            raise ValueError(
                "model's output comes from none of its modules that NIR has a node for; accepted are "
                "models that end in one"
            )
        known = next((k for k in found if not k.through), found[0])
        outputs = tuple(self.nodes_of(known))
        readout = self._readout(known, outputs)
        self._require_input_in_step()
        reached: set[str] = set()
        stack = list(outputs)
        while stack:
            name = stack.pop()
            if name not in reached and name != INPUT:
                reached.add(name)
                stack += self.places[name].sources
        left = [called(name, p.module) for name, p in self.places.items() if name not in reached]
        if left:
            raise ValueError(
                f"model has {', '.join(left)}, which nothing leads from to its output, "
                f"{_listed(outputs)}; accepted is one output that all nodes lead to"
            )
        assert self.input_shape is not None
        return Links(self.places, self.input_shape, outputs, readout)

    def _readout(self, known: Known, names: tuple[str, ...]) -> tuple[str, ...]:
        """Names of what is made of the output nodes' answers. ValueError if it is more than that."""
        bad = next((t for t in known.through if t.function not in _READOUTS), None)
        if bad is not None or (known.through and len(names) > 1):
            through = known.through if bad is None else (bad,)
            raise ValueError(_no_edge(through, names, "the model's output"))
        if INPUT in names:
            raise ValueError(
                "model's output is its input, or has it added; accepted are models that end in a node"
            )
        if known.through:
            return tuple(dict.fromkeys(t.function for t in known.through))
        labels = np.stack([term.flatten().numpy() for term in known.terms])
        answers = self.answer_of(labels)
        parts: dict[str, set[int]] = {name: set() for name in names}
        for number in np.unique(answers[answers >= 0]):
            node = self.owners[number]
            inside = labels[answers == number] - self.offsets[number]
            parts[node] |= set(np.unique(inside % math.prod(self.places[node].shape)).tolist())
        sums = [
            [self.owners[at] for at in column if at >= 0] for column in np.unique(answers, axis=1).T
        ]
        some_missing = any(set(nodes) != set(names) for nodes in sums)
        if some_missing or any(len(parts[n]) < math.prod(self.places[n].shape) for n in names):
            raise ValueError(
                f"model's output is put together from parts of what {_listed(names)} answered; "
                "accepted are all that one node answers, or a sum of nodes"
            )
        return ("add",) if any(len(nodes) > len(names) for nodes in sums) else ()

    def _require_input_in_step(self) -> None:
        """Each row of the input reaches the neurons at one step, or each of them at every step."""
        if not self.uses:
            return
        uses = np.stack([np.concatenate(part) for part in zip(*self.uses, strict=True)])
        of_samples = np.unique(np.unique(uses[[0, 2]], axis=1)[0], return_counts=True)[1]
        times = np.unique(np.unique(uses[:2], axis=1)[0], return_counts=True)[1]
        every = max(self.steps.values())
        if (of_samples > 1).any() or not (set(times) == {1} or set(times) == {every}):
            raise ValueError(
                "model's input reaches its neurons at several time steps, but not at all of them; "
                f"accepted are inputs that hold each of the {every} steps once, or one for all steps"
            )


_OTHER_STEP = (
    "fed with what was answered at another time step, or to another sample; accepted is the same step: "
    "NIR's edges have no delay, and recurrence is not exported"
)

_NEXT = {
    "max_pool": "NIR has no MaxPool: train with nn.AvgPool2d or strides instead",
    "matmul": "NIR has no product of two activations, which attention needs",
    "batch_norm": "Fold it first: compress_model(..., fold=True)",
    "avg_pool2d": "Make it a module, nn.AvgPool2d",
    "a state": "NIR's nodes answer spikes: let the model answer those",
}
_NEXT |= dict.fromkeys(("bmm", "baddbmm", "einsum", "softmax", "scaled_dot"), _NEXT["matmul"])


def _no_edge(steps: tuple[Through, ...], sources: Iterable[str], end: str) -> str:
    through = next((step for step in steps if step.function != "add"), steps[0])
    hints = [text for key, text in _NEXT.items() if through.function.startswith(key)]
    return (
        f"model has {through.function} in {through.place}, between {_listed(sources)} and {end}, which "
        f"NIR cannot hold; accepted between nodes are additions and reshapes. {' '.join(hints)}"
    ).rstrip(". ")


def _shown(name: str) -> str:
    return "its input" if name == INPUT else name or "the model itself"


def _listed(names: Iterable[str]) -> str:
    return ", ".join(_shown(name) for name in names) or "nothing"


def _own_axes(module: Any) -> int:
    """The last axes of a layer's input and output that are one sample's at one step."""
    if isinstance(module, nn.Linear):
        return 1
    return 2 if isinstance(module, nn.Conv1d) else 3


def _axes_that_hold(shape: Shape, size: int) -> list[int]:
    """From which axis on a tensor has this many elements."""
    return [at for at in range(len(shape)) if math.prod(shape[at:]) == size]


def _one_lead(outer: int, steps: int, shape: Shape) -> bool:
    """Whether samples and steps of a neuron's input are one axis: one step, or both flattened."""
    one_step = outer == 1 and steps == 1 and shape[0] != 1
    return one_step or (outer > 1 and shape[0] == outer * steps)


def _keep(into: list[NDArray[np.float64]], values: Tensor, call: _Call, own: Shape) -> None:
    """Appends the first samples' rows, one array [n, ...] a step."""
    rows = values.detach().reshape(-1, *own)
    for step in np.unique(call.step):
        here = np.flatnonzero((call.step == step) & (call.sample < WATCHED))
        into.append(rows[torch.from_numpy(here)].double().numpy())
