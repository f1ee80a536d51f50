"""Which node feeds which in a spiking network, element by element, from one forward pass.

NIR's edges are identities: the output of node A at a time step is the input of node B at that step, or
one of several outputs that B adds up. So for every module that becomes a node, each element of its
input is tracked (`tracking`) to the element of an earlier node's output that it is. The pattern has to
be an edge: all of A's output in order, of the same step and the same sample (`steps`), from the same
nodes in every call.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ...frameworks import Adapter
from ...network.tensors import WEIGHT_LAYERS, first_tensor, is_norm, is_plain, tensors_in
from .refusals import INPUT, ModelRefused, listed, no_edge, node_label
from .steps import RowTimes, StepTracker, has_one_leading_axis
from .tracking import STATE, UNKNOWN, Index, Operation, Origin, Tracker, module_label

__all__ = ["Edges", "Node", "Shape", "find_edges"]

POOLS = (nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.LPPool2d)
WATCHED = 2  # samples of which a neuron's currents and outputs are kept

Shape = tuple[int, ...]

# Functions that may follow the last nodes' outputs; none of them is in the graph.
_READOUTS = {
    *("add", "mean", "sum", "mul", "div", "true_divide", "avg_pool1d", "softmax", "log_softmax"),
    *("argmax", "count_nonzero", "cumsum"),
}


@dataclass
class Node:
    """A module that is a node.

    Attributes
    ----------
    module : a weight layer, a pool or a neuron.
    input_shape, output_shape : of one sample at one time step.
    sources : names of the nodes whose outputs it adds up.
    dtype : of a neuron's input.
    currents, outputs : of a neuron, what the first `WATCHED` samples feed it and what it returns,
        float64 [n, ...] a time step.
    """

    module: nn.Module
    input_shape: Shape
    sources: tuple[str, ...]
    output_shape: Shape = ()
    dtype: torch.dtype = torch.float32
    currents: list[NDArray[np.float64]] = field(default_factory=list)
    outputs: list[NDArray[np.float64]] = field(default_factory=list)


@dataclass(frozen=True)
class Edges:
    """The nodes of a model and what feeds each.

    Attributes
    ----------
    nodes : by module name, in the order of their first calls.
    input_shape : of the model's input, one sample at one time step.
    outputs : names of the nodes that the model's output is made of.
    readout : functions that the model makes its output with, which no node stands for.
    """

    nodes: dict[str, Node]
    input_shape: Shape
    outputs: tuple[str, ...]
    readout: tuple[str, ...]

    def output_shape(self, name: str) -> Shape:
        """Returns the shape of a node's output, or of the model's input for `INPUT`."""
        return self.input_shape if name == INPUT else self.nodes[name].output_shape


def find_edges(
    model: nn.Module,
    neurons: Mapping[str, tuple[nn.Module, Adapter]],
    batch: Tensor,
    forward: Callable[[], Any],
    unfolded: Mapping[str, str] | None = None,
) -> Edges:
    """Runs a model once and returns its edges.

    Parameters
    ----------
    model : its states as before the first time step.
    neurons : by name, with their adapters.
    batch : what `forward` feeds the model.
    forward : runs the model; returns its output.
    unfolded : by name of a BatchNorm, why it was not folded.

    Raises
    ------
    ValueError : naming the module or function that is neither a node nor an edge.
    """
    finder = _EdgeFinder(model, neurons, batch, unfolded or {})
    with ExitStack() as stack:
        stack.enter_context(finder.hooked(model))
        stack.enter_context(torch.no_grad())
        stack.enter_context(finder)
        output = forward()
    return finder.edges(output)


class _EdgeFinder(Tracker):
    """Collects nodes and their sources while a model runs."""

    def __init__(
        self,
        model: nn.Module,
        neurons: Mapping[str, tuple[nn.Module, Adapter]],
        batch: Tensor,
        unfolded: Mapping[str, str],
    ) -> None:
        super().__init__(model)
        self.neurons = neurons
        self.unfolded = unfolded
        self.nodes: dict[str, Node] = {}
        self.times = StepTracker()  # of as many outputs as the tracker has labelled
        self.pending: tuple[RowTimes, Tensor] | None = None  # input of the node that runs
        self.batch_shape = tuple(batch.shape)
        self.input_shape: Shape | None = None  # known once its first node has been seen
        self.label_output(INPUT, batch)

    def output_shape(self, name: str) -> Shape:
        return (self.input_shape or ()) if name == INPUT else self.nodes[name].output_shape

    # ---- modules

    @contextmanager
    def hooked(self, model: nn.Module) -> Iterator[None]:
        """Sees every module's calls."""
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

    def _is_node(self, name: str, module: nn.Module) -> bool:
        return name in self.neurons or isinstance(module, (*WEIGHT_LAYERS, *POOLS))

    def _enter(self, name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            self.active.append((name, module))
            if self.depth == 0 and is_norm(module):
                why = self.unfolded.get(name)
                raise ModelRefused(
                    f"model has {module_label(name, module)}, and NIR has no BatchNorm; accepted are "
                    "models whose BatchNorms are folded into the layers before them: "
                    + (
                        f"this one was not, because {why}"
                        if why
                        else "compress_model(..., fold=True)"
                    )
                )
            if self._is_node(name, module):
                self.depth += 1
                if self.depth == 1:
                    self.pending = self._enter_node(name, module, first_tensor(args, kwargs))

        return hook

    def _leave(self, name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            if self._is_node(name, module):
                if self.depth == 1:
                    self._leave_node(name, module, *tensors_in(output))
                self.depth -= 1
            self.active.pop()

        return hook

    def _leave_node(self, name: str, module: nn.Module, output: Tensor, *states: Tensor) -> None:
        assert self.pending is not None
        (times, node_input), node = self.pending, self.nodes[name]
        rows = times.step.size
        if name in self.neurons:
            node.output_shape = node.input_shape
        elif not node.output_shape:
            node.output_shape = tuple(output.shape[output.ndim - _own_axes(module) :])
        if output.numel() != rows * math.prod(node.output_shape):
            raise ModelRefused(
                f"model has {module_label(name, module)}, whose output is {list(output.shape)} for "
                f"{rows} inputs of {list(node.input_shape)}; accepted is one output "
                "for each, always of one shape"
            )
        if name in self.neurons:
            _keep(node.outputs, output, times, node.output_shape)
        elif isinstance(module, WEIGHT_LAYERS) and not is_plain(module, node_input, output):
            raise ModelRefused(
                f"model has {module_label(name, module)}, whose forward does more than multiply by its "
                "weight and add its bias; accepted are layers that do no more"
            )
        self.times.outputs.append(times)
        self.label_output(name, output)
        for state in (state for state in states if state is not output):
            operation = Operation(STATE, module_label(name, module))
            self.set_origin(state, Origin((), (operation,), (name,)))

    # ---- a node's input

    def _enter_node(
        self, name: str, module: nn.Module, node_input: Tensor | None
    ) -> tuple[RowTimes, Tensor]:
        """Returns the times of a node's input, and the input, once its sources are recorded."""
        what = module_label(name, module)
        origin = self.origin(node_input)
        if node_input is None or origin is None:
            raise ModelRefused(
                f"model has {what}, whose input is no other node's output (a constant, a state, or "
                "something compiled); accepted are chains of modules that start at the model's "
                "input, without recurrence"
            )
        if origin.operations:
            raise ModelRefused(no_edge(origin.operations, origin.sources, what))
        own = self._own_shape(name, module, node_input, origin)
        terms = [self._rows(term, own, what) for term in origin.terms]
        sources = self._sources([outputs for outputs, _ in terms], what)
        node = self.nodes.setdefault(name, Node(module, own, sources))
        if (node.input_shape, node.sources) != (own, sources):
            raise ModelRefused(
                f"model has {what}, fed by {listed(node.sources)} in one call and by "
                f"{listed(sources)} in another; accepted are the same edges at every call: no "
                "recurrence, no module at two places"
            )
        times = self.times.merged(terms, what)
        if name in self.neurons:
            shape = tuple(node_input.shape)
            facts = self.neurons[name][1].describe(module, shape)
            self.times.tell(name, facts, shape, own, times, what)
            node.dtype = node_input.dtype
            _keep(node.currents, node_input, times, own)
        return times, node_input

    def _own_shape(self, name: str, module: nn.Module, node_input: Tensor, origin: Origin) -> Shape:
        """Returns the shape of one sample's input at one time step."""
        shape = tuple(node_input.shape)
        if name not in self.neurons:
            return shape[len(shape) - _own_axes(module) :]
        source = next(iter(self.nodes_of(origin)), INPUT)
        if source == INPUT and self.input_shape is None:  # all but samples and steps
            facts = self.neurons[name][1].describe(module, shape)
            lead = 1 if has_one_leading_axis(facts, shape) else 2
            return shape[min(lead, len(shape) - 1) :]
        expected = self.output_shape(source)
        if shape[max(len(shape) - len(expected), 0) :] == expected:
            return expected
        fitting = _axes_that_hold(shape, math.prod(expected))
        return shape[fitting[-1] :] if fitting else shape[1:]

    def _rows(self, term: Tensor, own: Shape, what: str) -> tuple[Index, Index]:
        """Returns, for each row of a node's input, the output it comes from and its row there."""
        size = max(math.prod(own), 1)
        labels = term.reshape(-1, size).numpy()
        if (labels == UNKNOWN).any():
            raise ModelRefused(
                f"model has {what}, whose input is in part no node's output (a constant, or a state "
                "before the first step); accepted are outputs of nodes at every step, "
                "without recurrence"
            )
        outputs = self.output_of(labels[:, 0])
        there = outputs >= 0
        names = {self.owners[number] for number in np.unique(outputs[there])}
        if INPUT in names and self.input_shape is None:
            self._settle_input(own)
        first = np.array(self.offsets)[np.maximum(outputs, 0)]
        rows, rest = np.divmod(labels[:, 0] - first, size)
        straight = labels == labels[:, :1] + np.where(there, 1, 0)[:, None] * np.arange(size)
        whole = all(math.prod(self.output_shape(name)) == size for name in names)
        if not (whole and straight.all() and (rest[there] == 0).all()):
            numbers = np.unique(self.output_of(labels))
            parts = dict.fromkeys(self.owners[number] for number in numbers if number >= 0)
            raise ModelRefused(
                f"model has {what}, which takes a part of the output of {listed(parts)}, "
                "several at once, or another order; accepted is all of it in order"
            )
        return outputs, rows

    def _settle_input(self, own: Shape) -> None:
        """Finds the model's input's axes of one sample at one step, from its first node's."""
        shape = self.batch_shape
        if shape[max(len(shape) - len(own), 0) :] == own:
            self.input_shape = own
        else:
            fitting = _axes_that_hold(shape, math.prod(own))
            some = [axis for axis in fitting if axis > 0 and len(shape) - axis <= 3] or fitting
            self.input_shape = shape[some[0] :] if some else ()
        self.times.set_input_rows(math.prod(shape) // max(math.prod(self.input_shape), 1))

    def _sources(self, outputs: list[Index], what: str) -> tuple[str, ...]:
        """Returns the nodes whose outputs are added up, which must be the same ones in every row."""
        names = [INPUT, *self.nodes]
        rank = {name: at for at, name in enumerate(names)}
        ranks = np.array([rank[owner] for owner in self.owners])
        order = np.sort([np.where(o < 0, -1, ranks[np.maximum(o, 0)]) for o in outputs], axis=0)
        sources = tuple(names[at] for at in order[:, 0] if at >= 0)
        if (order != order[:, :1]).any():
            some = [names[at] for at in np.unique(order) if at >= 0]
            raise ModelRefused(
                f"model has {what}, fed by {listed(some)}, but not by the same of them at every "
                "step and for every sample; accepted are the same edges for all: no recurrence, no "
                "delay"
            )
        if len(set(sources)) < len(sources):
            twice = next(name for name in sources if sources.count(name) > 1)
            raise ModelRefused(
                f"model has {what}, fed with {node_label(twice)} added to itself, of the same step or "
                "of several; accepted is one edge from a node to another"
            )
        return sources

    # ---- the end

    def edges(self, output: Any) -> Edges:
        """Returns all edges, given the model's output."""
        origins = [o for t in tensors_in(output) if (o := self.origin(t)) is not None]
        if not origins:
            raise ModelRefused(
                "model's output comes from none of its modules that NIR has a node for; accepted are "
                "models that end in one"
            )
        origin = next((o for o in origins if not o.operations), origins[0])
        outputs = tuple(self.nodes_of(origin))
        readout = self._readout(origin, outputs)
        self.times.require_input_in_step()
        reached: set[str] = set()
        stack = list(outputs)
        while stack:
            name = stack.pop()
            if name not in reached and name != INPUT:
                reached.add(name)
                stack += self.nodes[name].sources
        orphans = [
            module_label(n, node.module) for n, node in self.nodes.items() if n not in reached
        ]
        if orphans:
            raise ModelRefused(
                f"model has {', '.join(orphans)}, which nothing leads from to its output, "
                f"{listed(outputs)}; accepted is one output that all nodes lead to"
            )
        assert self.input_shape is not None
        return Edges(self.nodes, self.input_shape, outputs, readout)

    def _readout(self, origin: Origin, names: tuple[str, ...]) -> tuple[str, ...]:
        """Returns the functions that make the model's output from the nodes' outputs.

        Raises
        ------
        ValueError : there are others than read-outs, or they take parts of the nodes' outputs.
        """
        bad = next((o for o in origin.operations if o.function not in _READOUTS), None)
        if bad is not None or (origin.operations and len(names) > 1):
            operations = origin.operations if bad is None else (bad,)
            raise ModelRefused(no_edge(operations, names, "the model's output"))
        if INPUT in names:
            raise ModelRefused(
                "model's output is its input, or has it added; accepted are models that end in a node"
            )
        if origin.operations:
            return tuple(dict.fromkeys(operation.function for operation in origin.operations))
        labels = np.stack([term.flatten().numpy() for term in origin.terms])
        outputs = self.output_of(labels)
        parts: dict[str, set[int]] = {name: set() for name in names}  # elements of one row
        for number in np.unique(outputs[outputs >= 0]):
            name = self.owners[number]
            elements = labels[outputs == number] - self.offsets[number]
            elements %= math.prod(self.nodes[name].output_shape)
            parts[name] |= set(np.unique(elements).tolist())
        sums = [
            [self.owners[number] for number in column if number >= 0]
            for column in np.unique(outputs, axis=1).T
        ]
        some_missing = any(set(summands) != set(names) for summands in sums)
        whole = all(len(parts[n]) == math.prod(self.nodes[n].output_shape) for n in names)
        if some_missing or not whole:
            raise ModelRefused(
                f"model's output is put together from parts of the output of {listed(names)}; "
                "accepted are the whole output of one node, or a sum of nodes"
            )
        return ("add",) if any(len(summands) > len(names) for summands in sums) else ()


def _own_axes(module: nn.Module) -> int:
    """Returns how many of the last axes of a layer's input and output are one sample's at one step."""
    if isinstance(module, nn.Linear):
        return 1
    return 2 if isinstance(module, nn.Conv1d) else 3


def _axes_that_hold(shape: Shape, size: int) -> list[int]:
    """Returns the axes from which on a tensor has this many elements."""
    return [axis for axis in range(len(shape)) if math.prod(shape[axis:]) == size]


def _keep(into: list[NDArray[np.float64]], values: Tensor, times: RowTimes, own: Shape) -> None:
    """Appends the first samples' rows, one array [n, ...] a step."""
    rows = values.detach().reshape(-1, *own)
    for step in np.unique(times.step):
        here = np.flatnonzero((times.step == step) & (times.sample < WATCHED))
        into.append(rows[torch.from_numpy(here)].double().numpy())
