"""Spike functions seen while a model runs, whatever they are written as.

A `TorchFunctionMode` sees every operation on tensors, also those inside an `autograd.Function`. A spike
function makes few values of many and has no derivative of its own, so it is one of

- an `autograd.Function`, whose output is discrete and rises with its input (surrogate gradients);
- a comparison or a rounding, whose derivative is zero, alone or within a straight-through form
  ``(hard - soft).detach() + soft``.

Its operand is the membrane potential. Its output is cut from the graph, as a known neuron's is: what
reaches a membrane backwards was then computed since the spikes, and resets do not hide the response.
"""

from __future__ import annotations

import sys
import weakref
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import BackwardCFunction
from torch.autograd.graph import GradientEdge, Node, get_gradient_edge
from torch.overrides import TorchFunctionMode

from ..network.tensors import tensors_in
from .graph_walk import TaggedGraph
from .saved_tensors import positions, sample
from .spike_functions import (
    ABOVE,
    CHECKS,
    CLAMPS,
    CONSTANTS,
    DISCRETE,
    LEVELS,
    PRODUCTS,
    STEPS,
    SUMS,
    WEIGHTED,
    Site,
    SpikeEvent,
    bracket,
    few_values,
    is_integral,
    level_of,
    rises,
    unbounded,
)
from .taint import DATA, NOTHING, Taint, joint_taint, mark, taint_of


@dataclass
class _Inner:
    """The last that was seen of a tensor that an `autograd.Function` is about to return."""

    tensor: weakref.ref[Tensor]
    site: Site
    owner: str
    clock: int
    order: int
    visit: int


class SpikeWatch(TorchFunctionMode):  # type: ignore[misc]  # torch gives it no type
    """Records the spike functions that run inside the ``with`` block, outside known neurons.

    Parameters
    ----------
    model : that runs, for the names of its modules.
    graph : of the pass; products of two things that depend on the data are marked in it.
    asleep : whether what runs belongs to a known neuron.

    Attributes
    ----------
    events : spike functions, an autograd function by its first use.
    operations : number of operations so far.
    checked : sites of comparisons that decide what the model does, as in an assertion.
    bridged : sites of comparisons that are part of a straight-through form.
    """

    def __init__(self, model: nn.Module, graph: TaggedGraph, asleep: Callable[[], bool]) -> None:
        super().__init__()
        self.graph = graph
        self.asleep = asleep
        self.events: list[SpikeEvent] = []
        self.operations = 0
        self.checked: set[Any] = set()
        self.bridged: set[Site] = set()  # comparisons that are part of a straight-through form
        self._names = {id(module): name for name, module in model.named_modules()}
        self._root = type(model).__name__
        self._inner: dict[int, _Inner] = {}
        self._decided: dict[int, Node] = {}  # autograd functions that were looked at
        self._samples: dict[int, Tensor] = {}  # of operands, by id of the node
        # Operands that the function itself compares with something, and with what on average.
        self._visits: Counter[Site] = Counter()
        self._compared: dict[int, float | None] = {}
        self._kept: list[Node] = []

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name in ("__get__", "__set__") or self.asleep():
            return func(*args, **kwargs)
        self.operations += 1
        with torch._C.DisableTorchFunction():  # what follows is not the model's
            tensors = _direct((*args, *kwargs.values()) if kwargs else args)
            before = self._before(name, tensors)
        out = func(*args, **kwargs)
        with torch._C.DisableTorchFunction():
            if not torch.is_grad_enabled():
                if isinstance(out, Tensor) and out.grad_fn is None:
                    self._inside(name, args, tensors, out)
                return out
            return self._after(func, name, args, tensors, before, out)

    # ---- operations

    def _before(self, name: str, tensors: list[Tensor]) -> list[tuple[Tensor, GradientEdge]]:
        """Looks at the inputs of an operation; returns the operands that a spike function may have."""
        for tensor in tensors:
            if isinstance(tensor.grad_fn, BackwardCFunction):
                self.function_output(tensor)
        if name in CHECKS:
            self.checked |= {getattr(t, "_sbc_site", None) for t in tensors}
        operands = [t for t in tensors if t.grad_fn is not None and t.is_floating_point()]
        if torch.is_grad_enabled():
            return [(t, get_gradient_edge(t)) for t in operands[:2]] if name in DISCRETE else []
        for tensor in operands:  # perhaps of an autograd function, whose forward runs
            node = tensor.grad_fn
            if node is not None and id(node) not in self._samples:
                self._kept.append(node)
                self._samples[id(node)] = sample(tensor)
        return []

    def _after(
        self,
        func: Any,
        name: str,
        args: tuple[Any, ...],
        tensors: list[Tensor],
        before: list[tuple[Tensor, GradientEdge]],
        out: Any,
    ) -> Any:
        """Notes what an operation did, and returns its output, cut where that is spikes."""
        taint = joint_taint(tensors)
        if name in DISCRETE:
            taint |= self._discrete(name, args, before, out)
            if isinstance(out, Tensor) and out.grad_fn is not None:
                out = out.detach()
        elif name in SUMS and isinstance(out, Tensor):
            out = self._straight_through(out, tensors)
        elif name in PRODUCTS and isinstance(out, Tensor) and out.grad_fn is not None:
            if any(isinstance(a, (int, float)) and a == 0 for a in args):
                out._sbc_zero = True
            taints = [taint_of(t) for t in tensors if taint_of(t)]
            if len(taints) > 1:
                self.graph.mark_product(out.grad_fn, taints)
        elif isinstance(func, torch._ops.OpOverload):
            self._inside_operator(tensors, out)
        if name in WEIGHTED:
            mark(out, DATA)
        elif taint and name not in CONSTANTS:
            mark(out, taint)
        return out

    def _inside(self, name: str, args: tuple[Any, ...], tensors: list[Tensor], out: Tensor) -> None:
        """Notes an operation without gradients, perhaps of the forward of an autograd function."""
        self._compare(name, args, tensors, out)
        site, owner = self._place()
        self._visits[site] += 1
        self._inner[id(out)] = _Inner(
            weakref.ref(out), site, owner, self.graph.clock, self.operations, self._visits[site]
        )
        taint = joint_taint(tensors)
        if taint:
            mark(out, taint)

    def _compare(
        self, name: str, args: tuple[Any, ...], tensors: list[Tensor], out: Tensor
    ) -> None:
        """Follows an operand inside a function to the comparison, through a threshold taken off."""
        sources = [t for t in tensors if t.numel() == out.numel()]
        if len(sources) != 1 or name not in DISCRETE | SUMS | PRODUCTS | CLAMPS:
            return
        node = sources[0].grad_fn
        of, shift = getattr(sources[0], "_sbc_operand", (None, None))
        if node is not None:
            of, shift = id(node), 0.0
        if name in CLAMPS:
            out._sbc_operand = of, shift
            return
        if name in LEVELS and of is not None:
            self._compared[of] = None if shift is None else LEVELS[name] + shift
            return
        level = level_of([a for a in args if a is not sources[0]])
        if level is not None and shift is not None and args[0] is sources[0]:
            level += shift
        else:
            level = None
        if name in DISCRETE - STEPS and of is not None:
            self._compared[of] = level
        else:
            out._sbc_operand = of, level if name in ("sub", "__sub__") else None

    def function_output(self, output: Tensor) -> None:
        """Looks at the output of an autograd function before its first use."""
        node = output.grad_fn
        assert node is not None
        if id(node) in self._decided:
            return
        self._decided[id(node)] = node
        sources = [
            (at, index)
            for at, index in node.next_functions
            if at is not None and "AccumulateGrad" not in at.name()
        ]
        if not sources or not output.is_floating_point():
            return
        source, index = sources[0]
        inner_source, inner_index = unbounded(source, index)
        spikes = sample(output)
        operand = self._samples.get(id(source))
        if operand is not None and operand.numel() != spikes.numel():
            operand = None
        if not few_values(spikes) or (operand is not None and torch.equal(operand, spikes)):
            return
        inner = self._inner.get(id(output))
        if inner is not None and inner.tensor() is output:
            site, owner, clock, order = inner.site, inner.owner, inner.clock, inner.order
            visit = inner.visit
        else:
            (site, owner), clock, order = self._place(), self.graph.clock, self.operations
            visit = 0
        hidden = (
            operand is not None and id(source) not in self._compared and not rises(operand, spikes)
        )
        fired = spikes != 0
        self.events.append(
            SpikeEvent(
                GradientEdge(inner_source, inner_index),
                output.shape,
                fired,
                operand,
                None if operand is None else self._boundary(id(source), operand, fired),
                type(node).__name__.removesuffix("Backward"),
                False,
                hidden,
                site,
                owner,
                clock,
                order,
                visit,
                output.new_empty(0),
            )
        )
        if output._is_view():  # which cannot be detached: no gradient passes
            self._cut(node)
        else:
            output.detach_()
        mark(output, frozenset({site}))

    def _inside_operator(self, inputs: list[Tensor], out: Any) -> None:
        """Finds autograd functions that a custom operator ran, which is all that is seen of it."""
        before = [t.grad_fn for t in inputs if t.grad_fn is not None]
        self._kept += before
        ends = {id(node) for node in before}
        stack: list[Node | None] = [t.grad_fn for t in tensors_in(out)]
        seen: set[int] = set()
        functions: list[Node] = []
        while stack:
            node = stack.pop()
            if node is None or id(node) in seen or id(node) in ends or self.graph.is_cut(node):
                continue
            seen.add(id(node))
            self._kept.append(node)
            if isinstance(node, BackwardCFunction) and node.next_functions[0][0] is not None:
                functions.append(node)
            stack += [following for following, _ in node.next_functions]
        site, owner = self._place()
        for at, node in enumerate(sorted(functions, key=lambda n: int(n._sequence_nr()))):
            source, index = node.next_functions[0]
            shape = torch.Size(source._input_metadata[index].shape)
            self._decided[id(node)] = node
            self._cut(node)
            self.events.append(
                SpikeEvent(
                    GradientEdge(source, index),
                    shape,
                    torch.zeros(positions(shape.numel()).numel(), dtype=torch.bool),
                    None,
                    None,
                    type(node).__name__.removesuffix("Backward"),
                    False,
                    False,
                    site,
                    owner,
                    self.graph.clock,
                    self.operations + at / len(functions),
                    0,
                    inputs[0].new_empty(0),
                )
            )

    def _cut(self, node: Node) -> None:
        """Cuts the graph at a node whose tensor cannot be detached."""
        self.graph.cut(node)
        node.register_hook(
            lambda grads, _: tuple(g if g is None else torch.zeros_like(g) for g in grads)
        )

    def _discrete(
        self, name: str, args: tuple[Any, ...], before: list[tuple[Tensor, GradientEdge]], out: Any
    ) -> Taint:
        """Records a comparison or rounding; returns what its result depends on beside its operands."""
        if not isinstance(out, Tensor):
            return NOTHING
        site, owner = self._place()
        self._visits[site] += 1
        out._sbc_site = site
        for operand, edge in before:
            if operand.shape != out.shape or not out.ndim:
                continue
            other = args[1] if len(args) > 1 and args[0] is operand else args[0]
            boundary = None
            if name in STEPS:
                fired, boundary = sample(out) != 0, None if name in LEVELS else 0.0
            else:
                above = (name in ABOVE) == (args[0] is operand)
                fired = sample(out) if above else ~sample(out)
                boundary = level_of([other])
            self._kept.append(edge.node)
            self.events.append(
                SpikeEvent(
                    GradientEdge(*unbounded(edge.node, edge.output_nr)),
                    operand.shape,
                    fired.bool(),
                    sample(operand),
                    boundary,
                    name if name in STEPS else "comparison",
                    True,
                    False,
                    site,
                    owner,
                    self.graph.clock,
                    self.operations,
                    self._visits[site],
                    operand.new_empty(0),
                )
            )
        return frozenset({site}) if before else NOTHING

    def _boundary(self, source: int, operand: Tensor, fired: Tensor) -> float | None:
        low, high = bracket(operand, fired)
        level = self._compared.get(source)
        # Of channels with thresholds of their own, the mean need not part the potentials.
        if level is not None and (low <= level <= high or low > high):
            return level
        if low < 0.0 <= high:  # a threshold that was taken off before
            return 0.0
        near = high < float("inf") and 0 <= high - low <= 1e-2 * abs(high + low)
        return (low + high) / 2 if near else None

    def _straight_through(self, out: Tensor, tensors: list[Tensor]) -> Tensor:
        """Cuts ``(hard - soft).detach() + soft``, whose values are those of `hard`."""
        if len(tensors) != 2 or out.grad_fn is None or not out.is_floating_point():
            return out
        fixed = [t for t in tensors if not t.requires_grad]
        if len(fixed) != 1 or not fixed[0].is_floating_point():
            return out
        sites = {site for site in joint_taint(tensors) if isinstance(site, tuple)}
        soft = next(t for t in tensors if t is not fixed[0])
        if not sites or soft.grad_fn is None or out.shape != fixed[0].shape:
            return out
        values, before = sample(out), sample(soft)
        if not getattr(soft, "_sbc_zero", False):  # else: hard + 0 * v
            fewer = torch.unique((values * 1e4).round()).numel() < torch.unique(before).numel()
            if is_integral(before, 1e-4) or not (
                is_integral(values, 1e-4) or (fewer and few_values(values, 1e-4))
            ):
                return out
        self.bridged |= sites
        return out.detach()

    def _place(self) -> tuple[Site, str]:
        """Returns where in the model's code an operation is, and the name of the module."""
        frame = sys._getframe(2)
        site: list[Any] = []
        owner = ""
        while frame is not None and frame.f_code.co_name != "run_forward":
            if frame.f_code.co_filename != __file__:
                site.append((frame.f_code, frame.f_lasti))
                module = frame.f_locals.get("self")
                if not owner and isinstance(module, nn.Module) and id(module) in self._names:
                    owner = self._names[id(module)] or self._root
            frame = frame.f_back  # type: ignore[assignment]
        return tuple(site), owner or self._root


def _direct(values: Iterable[Any]) -> list[Tensor]:
    """Returns the tensors among arguments, and those in lists; `tensors_in` takes ten times as long."""
    tensors: list[Tensor] = []
    for value in values:
        if isinstance(value, Tensor):
            tensors.append(value)
        elif isinstance(value, (list, tuple)):
            tensors += [item for item in value if isinstance(item, Tensor)]
    return tensors
