"""What a spike function is: operations by name, their values, and one evaluation."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, Node

Site = tuple[Any, ...]  # code and place of each frame between the model's call and the operation

# Operations as torch names them to a TorchFunctionMode.
ABOVE = {"gt", "ge", "greater", "greater_equal", "__gt__", "__ge__", "gt_", "ge_"}
BELOW = {"lt", "le", "less", "less_equal", "__lt__", "__le__", "lt_", "le_"}
STEPS = {"round", "floor", "ceil", "trunc", "fix", "sign", "sgn", "heaviside",
         "bernoulli"}  # fmt: skip
PRODUCTS = {
    "mul", "multiply", "__mul__", "__rmul__", "mul_", "__imul__", "matmul", "__matmul__", "bmm", "mm",
    "baddbmm", "einsum", "div", "true_divide", "__truediv__",
}  # fmt: skip
SUMS = {"add", "sub", "__add__", "__radd__", "__sub__", "__rsub__", "add_", "sub_", "__iadd__"}
WEIGHTED = {"linear", "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d"}
CONSTANTS = {
    "zeros_like",
    "ones_like",
    "full_like",
    "empty_like",
    "new_zeros",
    "new_ones",
    "new_full",
}
CHECKS = {"any", "all", "__bool__", "item"}
CLAMPS = {"clamp", "clip", "clamp_", "relu", "hardtanh", "clamp_min", "clamp_max"}
LEVELS = {
    "round": 0.5,
    "floor": 1.0,
    "trunc": 1.0,
    "fix": 1.0,
}  # the first that is not rounded to 0
DISCRETE = ABOVE | BELOW | STEPS

# Nodes of the autograd graph.
_BOUNDS = {"Clamp", "ClampMin", "ClampMax", "Hardtanh", "Relu", "Threshold"}
_SHIFTS = {"Add", "Sub", "Rsub", "Neg", "Mul", "Div"}


@dataclass
class SpikeEvent:
    """One evaluation of a spike function.

    Attributes
    ----------
    edge, shape : of the operand, the membrane potential, in the autograd graph.
    fired : bool, at the sampled positions of the operand.
    potential : the operand at these positions.
    boundary : value of the operand at which it fires; None where it is not known.
    kind : the function's name, for people.
    plain : whether it is a comparison or rounding that lets no gradient through.
    hidden : whether the output does not follow from the operand: the function has a state of its own.
    site, owner : where in the code, and the name of the module whose method that is.
    clock : of the graph at that time.
    order : number of the operation.
    visit : how often the place in the code was passed so far, also without gradients.
    like : empty, of the operand's type and device.
    base : the potential that the operand was shifted or scaled from.
    """

    edge: GradientEdge
    shape: torch.Size
    fired: Tensor
    potential: Tensor | None
    boundary: float | None
    kind: str
    plain: bool
    hidden: bool
    site: Site
    owner: str
    clock: int
    order: float
    visit: int
    like: Tensor
    base: Node = field(init=False)  # held, lest its id is used again

    def __post_init__(self) -> None:
        self.base = base_of(self.edge.node)


def level_of(others: list[Any]) -> float | None:
    """Returns what a comparison compares with; the mean where that is a tensor."""
    for other in others:
        if isinstance(other, Tensor):
            return float(other.detach().double().mean())
        if isinstance(other, (int, float)):
            return float(other)
    return None


def unbounded(node: Node, index: int) -> tuple[Node, int]:
    """Returns what a bounded operand was before: spikes of ``clamp(v, 0, D)`` are those of v."""
    while str(node.name()).rstrip("0123456789").removesuffix("Backward") in _BOUNDS:
        following, at = node.next_functions[0]
        if following is None:
            break
        node, index = following, at
    return node, index


def base_of(node: Node) -> Node:
    """Returns the potential that an operand was shifted or scaled from."""
    while str(node.name()).rstrip("0123456789").removesuffix("Backward") in _SHIFTS:
        inputs = [
            following
            for following, _ in node.next_functions
            if following is not None and not _of_a_parameter(following)
        ]
        if len(inputs) != 1:
            break
        node = inputs[0]
    return node


def _of_a_parameter(node: Node) -> bool:
    """Whether a node is a parameter, perhaps an element of it or a function of one argument."""
    while len(node.next_functions) == 1 and node.next_functions[0][0] is not None:
        node = node.next_functions[0][0]
    return isinstance(getattr(node, "variable", None), nn.Parameter)


def same_state(event: SpikeEvent, later: SpikeEvent) -> bool:
    """Whether two evaluations read one potential: two signs, or levels, of the same time step.

    A step without an input also computes its potential from the last one alone. It only decays, which
    shifts nothing, or it takes off what fired, which is no function of the potential alone.
    """
    if event.edge.node is later.edge.node:
        return True
    if event.base is not later.base or event.potential is None or later.potential is None:
        return False
    first, second = event.potential.double().cpu(), later.potential.double().cpu()
    if first.shape != second.shape or not first.numel() or float(first.std(unbiased=False)) == 0:
        return False
    centred = first - first.mean()
    slope = float((centred * second).sum() / (centred**2).sum())
    shift = second - slope * first
    scale = float(second.abs().max())
    if float((shift - shift.mean()).abs().max()) > 1e-5 * scale:
        return False
    if abs(abs(slope) - 1) < 1e-5:
        return slope < 0 or float(shift.mean().abs()) > 1e-5 * scale
    return bool(event.fired.any()) and not bool(event.fired.all())


def is_integral(values: Tensor, tolerance: float = 1e-6) -> bool:
    return bool(((values - values.round()).abs() <= tolerance).all())


def few_values(values: Tensor, tolerance: float = 1e-6) -> bool:
    """Whether values are whole multiples of one of them, as spikes of any height are."""
    size = values.abs()
    if not bool(size.isfinite().all()):
        return False
    least = size[size > tolerance]
    return least.numel() == 0 or is_integral(values / least.min(), tolerance)


def rises(operand: Tensor, spikes: Tensor) -> bool:
    """Whether spikes are a function of the operand that nowhere falls."""
    order = operand.argsort(stable=True)
    values, sorted_spikes = operand[order], spikes[order]
    falls = sorted_spikes[1:] < sorted_spikes[:-1]
    return not bool((falls & (values[1:] > values[:-1])).any())


def bracket(operand: Tensor, fired: Tensor) -> tuple[float, float]:
    """Returns the highest potential that did not fire, and the lowest that did."""
    silent, active = operand[~fired], operand[fired]
    return (
        float(silent.max()) if silent.numel() else -float("inf"),
        float(active.min()) if active.numel() else float("inf"),
    )
