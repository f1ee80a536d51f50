"""A walk from a neuron's input back to the weight layers that it was computed from."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.autograd.graph import Node

from .provenance import Bend, Reach

# Operations that are not linear: behind them, a neuron does not integrate the layer's output.
# MaxPool is not among them: it picks one of the currents.
_NONLINEAR = (
    "Relu", "Gelu", "Elu", "Celu", "Selu", "Silu", "Sigmoid", "Tanh", "Softmax", "LogSoftmax",
    "Hardtanh", "Hardswish", "Hardsigmoid", "LeakyRelu", "Prelu", "Softplus", "Mish", "Clamp", "Pow",
    "Exp", "Log", "Sqrt", "Rsqrt", "Abs", "Sign", "Reciprocal", "NativeLayerNorm", "NativeGroupNorm",
)  # fmt: skip


class Tag(NamedTuple):
    """Marks a graph node as the output of a module."""

    kind: Literal["layer", "norm"]
    name: str
    call: int


class TaggedGraph:
    """The autograd graph of a forward pass, with the outputs of weight layers and norms marked."""

    def __init__(self) -> None:
        self._tags: dict[int, list[Tag]] = {}  # by id of a node, innermost module first
        self._kept: list[Node] = []  # nodes, lest their ids are used again

    def tag(self, node: Node, tag: Tag) -> None:
        """Marks a node."""
        self._tags.setdefault(id(node), []).append(tag)
        self._kept.append(node)

    def walk(self, start: Node) -> list[Reach]:
        """Returns the calls of weight layers that the node `start` was computed from.

        The way back ends where a neuron's output was cut from its graph.
        """
        reaches: list[Reach] = []
        Path = tuple[tuple[str, ...], tuple[str, ...], tuple[Bend, ...]]
        stack: list[tuple[Node | None, Path]] = [(start, ((), (), ()))]
        seen: set[tuple[int, Path]] = set()
        while stack:
            node, path = stack.pop()
            if node is None or (id(node), path) in seen:
                continue
            seen.add((id(node), path))
            self._kept.append(node)
            between, via, bent = path
            for kind, name, call in reversed(self._tags.get(id(node), [])):
                if kind == "norm":
                    between = (name, *between)
                else:
                    reaches.append(Reach(name, call, between, via, bent))
                    between, via = (), (name, *via)
            if bent:  # nothing of this is used, and on a residual stream paths double a block
                between, via = (), ()
            bend = _bend_of(node)
            if bend is not None and bend not in bent:
                bent = tuple(sorted((*bent, bend)))
            stack += [(following, (between, via, bent)) for following, _ in node.next_functions]
        return list(dict.fromkeys(reaches))


def own_node(output: Tensor) -> Tensor:
    """Returns a view as a copy: changed in place (``out += identity``), a view loses its graph node."""
    return output.clone() if output.grad_fn is not None and output._is_view() else output


def _bend_of(node: Node) -> Bend | None:
    """Returns what a graph node does if that is not linear in its input, as far as is known."""
    if isinstance(node, torch.autograd.function.BackwardCFunction):
        return Bend(True, type(node).__name__.removesuffix("Backward"))
    name = str(node.name()).rstrip("0123456789").removesuffix("Backward")
    return Bend(False, name) if name in _NONLINEAR else None
