"""A walk from a neuron's input back to the weight layers that it was computed from."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.autograd.graph import Node

from .provenance import Bend, Reach
from .saved_tensors import sample

# Operations that put the elements of a tensor elsewhere and change none of them.
_MOVES = frozenset((
    "View", "UnsafeView", "ReshapeAlias", "Alias", "AsStrided", "Clone", "ToCopy", "Permute",
    "Transpose", "T", "Mt", "Squeeze", "Unsqueeze", "Expand", "Repeat", "Select", "Slice", "Unbind",
    "Split", "SplitWithSizes", "Index", "IndexSelect", "Stack", "Cat", "Flip", "Roll", "Unfold",
))  # fmt: skip

# Operations that are not linear: behind them, a neuron does not integrate the layer's output.
# MaxPool is not among them: it picks one of the currents.
_NONLINEAR = (
    "Relu", "Gelu", "Elu", "Celu", "Selu", "Silu", "Sigmoid", "Tanh", "Softmax", "LogSoftmax",
    "Hardtanh", "Hardswish", "Hardsigmoid", "LeakyRelu", "Prelu", "Softplus", "Mish", "Clamp", "Pow",
    "Exp", "Log", "Sqrt", "Rsqrt", "Abs", "Sign", "Reciprocal", "NativeLayerNorm", "NativeGroupNorm",
)  # fmt: skip


class Tag(NamedTuple):
    """Marks a graph node as the output of a module.

    "inner" is a weight layer that a neuron calls; the walk from another neuron's input ignores it.
    """

    kind: Literal["layer", "inner", "norm"]
    name: str
    call: int


class TaggedGraph:
    """The autograd graph of a forward pass, with the outputs of weight layers and norms marked."""

    def __init__(self) -> None:
        self._tags: dict[int, list[Tag]] = {}  # by id of a node, innermost module first
        self._kept: list[Node] = []  # nodes, lest their ids are used again
        self._products: dict[int, list[frozenset[Any]]] = {}  # what the factors depend on
        self._cuts: set[int] = set()  # spikes whose tensor could not be cut
        self.samples: dict[int, Tensor] = {}  # of the tensors of tagged nodes
        self.times: dict[int, int] = {}  # of tagged nodes, in units of `clock`
        self.clock = 0  # number of tags so far

    def tag(self, node: Node, tag: Tag, values: Tensor) -> None:
        """Marks the node of a tensor, of which a sample is kept."""
        self._tags.setdefault(id(node), []).append(tag)
        self._kept.append(node)
        self.clock += 1
        self.times.setdefault(id(node), self.clock)
        self.samples[id(node)] = sample(values)

    def mark_product(self, node: Node, factors: list[frozenset[Any]]) -> None:
        """Marks a node as the product of things that depend on the data, and on what of it."""
        self._products[id(node)] = factors
        self._kept.append(node)

    def cut(self, node: Node) -> None:
        """Lets every way back end at a node."""
        self._cuts.add(id(node))
        self._kept.append(node)

    def is_cut(self, node: Node) -> bool:
        """Whether every way back ends at a node."""
        return id(node) in self._cuts

    def keep(self, node: Node) -> None:
        """Keeps a node, so that its id stays its own."""
        self._kept.append(node)

    def tags(self, node: Node) -> list[Tag]:
        """Returns the marks of a node, innermost module first."""
        return self._tags.get(id(node), [])

    def layers_behind(self, current: Node) -> set[str]:
        """Returns the names of the layers that a node was computed from, perhaps behind norms."""
        names: set[str] = set()
        seen: set[int] = set()
        stack: list[Node | None] = [current]
        while stack:
            node = stack.pop()
            if node is None or id(node) in seen or self.is_cut(node):
                continue
            seen.add(id(node))
            self._kept.append(node)
            layers = [tag.name for tag in self.tags(node) if tag.kind != "norm"]
            if layers:
                names.add(layers[-1])
            else:
                stack += [following for following, _ in node.next_functions]
        return names

    def walk(
        self,
        start: Node,
        *,
        inner: bool = False,
        passed: set[int] | None = None,
        own: Collection[Any] = (),
    ) -> list[Reach]:
        """Returns the calls of weight layers that the node `start` was computed from.

        The way back ends where a neuron's output was cut from its graph.

        Parameters
        ----------
        start : a node.
        inner : of the layers that the neuron itself calls, and no others.
        passed : ids of nodes at which the way ends, too; those that the walk passes are added.
        own : the spikes of the neuron that reads `start`: a product with them is its reset.
        """
        ends = passed if passed is not None else set()
        reaches: list[Reach] = []
        Path = tuple[tuple[str, ...], tuple[str, ...], tuple[Bend, ...]]
        stack: list[tuple[Node | None, Path]] = [(start, ((), (), ()))]
        seen: set[tuple[int, Path]] = set()
        while stack:
            node, path = stack.pop()
            if node is None or (id(node), path) in seen or id(node) in ends or self.is_cut(node):
                continue
            seen.add((id(node), path))
            self._kept.append(node)
            between, via, bent = path
            for kind, name, call in reversed(self._tags.get(id(node), [])):
                if kind == "norm":
                    between = (name, *between)
                elif (kind == "inner") == inner:
                    reaches.append(Reach(name, call, between, via, bent))
                    # A neuron's own loop over time would make a way of its own of every step.
                    between, via = (), (name,) if inner else (name, *via)
            if bent:  # the nearest norm is enough, and on a residual stream paths double a block
                between, via = between[:1], ()
            bend = _bend_of(node) or self._product_at(node, own)
            if bend is not None and bend not in bent:
                bent = tuple(sorted((*bent, bend)))
            stack += [(following, (between, via, bent)) for following, _ in node.next_functions]
        if passed is not None:
            passed |= {at for at, _ in seen if at not in self._tags}
        return list(dict.fromkeys(reaches))

    def moved_from(self, start: Node) -> set[Tag] | None:
        """Returns the outputs of weight layers and norms that a tensor is made of, in any order.

        None where it has any other part: a sum, a constant, another module's output.
        """
        outputs: set[Tag] = set()
        stack: list[Node | None] = [start]
        seen: set[int] = set()
        while stack:
            node = stack.pop()
            if node is None:
                return None
            if id(node) in seen:
                continue
            seen.add(id(node))
            self._kept.append(node)
            tags = self._tags.get(id(node), [])
            if tags:
                outputs.add(tags[-1])
            elif _operation(node) in _MOVES:
                stack += [following for following, _ in node.next_functions]
            else:
                return None
        return outputs

    def _product_at(self, node: Node, own: Collection[Any]) -> Bend | None:
        factors = [f for f in self._products.get(id(node), []) if not f <= set(own)]
        return Bend(False, "a product with what depends on the data") if len(factors) > 1 else None


def own_node(output: Tensor) -> Tensor:
    """Returns a view as a copy: changed in place (``out += identity``), a view loses its graph node."""
    return output.clone() if output.grad_fn is not None and output._is_view() else output


def _bend_of(node: Node) -> Bend | None:
    """Returns what a graph node does if that is not linear in its input, as far as is known."""
    if isinstance(node, torch.autograd.function.BackwardCFunction):
        return Bend(True, type(node).__name__.removesuffix("Backward"))
    name = _operation(node)
    return Bend(False, name) if name in _NONLINEAR else None


def _operation(node: Node) -> str:
    """Returns the name of the operation that made a graph node: "Relu" of ReluBackward0."""
    return str(node.name()).rstrip("0123456789").removesuffix("Backward")
