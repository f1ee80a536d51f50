"""Which weight layers feed which neurons, read off the autograd graph of one forward pass.

Symbolic tracing fails on real spiking networks (data-dependent shapes, loops over time, states). The
graph that autograd records does not: a hook on every neuron cuts its output, so that what reaches a
neuron's input backwards was computed since the last neurons fired. Walking back from there names the
weight layers, and the normalisations on the way.

Which leading position of a layer's output belongs to which time step is found in the same graph: the
gradient of a neuron's input at step t is non-zero exactly where the layer's output belongs to step t.
No activation is kept for that: what autograd would save is replaced by ones of the same shape, which
leaves the gradient's pattern (and with it, zero-initialised BatchNorms still let it through).
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge, saved_tensors_hooks

from ..frameworks import Adapter, NeuronFacts
from ..network.tensors import (
    WEIGHT_LAYERS,
    first_tensor,
    is_norm,
    is_plain,
    leading_axes,
    map_tensors,
    tensors_in,
)
from . import norms

# Between a layer and its neuron these bend the current: the layer's output is not what is integrated.
# MaxPool is not among them: it picks one of the currents.
_NONLINEAR = (
    "Relu", "Gelu", "Elu", "Celu", "Selu", "Silu", "Sigmoid", "Tanh", "Softmax", "LogSoftmax",
    "Hardtanh", "Hardswish", "Hardsigmoid", "LeakyRelu", "Prelu", "Softplus", "Mish", "Clamp", "Pow",
    "Exp", "Log", "Sqrt", "Rsqrt", "Abs", "Sign", "Reciprocal", "NativeLayerNorm", "NativeGroupNorm",
)  # fmt: skip


@dataclass(frozen=True)
class Reach:
    """A call of a weight layer that reaches a neuron's input (or the output) without another neuron.

    ``norms`` stand between it and the next weight layer or the neuron, nearest first; ``via`` are the
    weight layers between it and the neuron; ``bent_by`` names what is not linear on the way.
    """

    layer: str
    call: int
    norms: tuple[str, ...]
    via: tuple[str, ...]
    bent_by: tuple[str, ...]


@dataclass
class NeuronCall:
    """``batch_first``: whether more samples would make `facts.outer` larger; ``samples``: how many."""

    facts: NeuronFacts
    reached: list[Reach]
    batch_first: bool
    samples: int


@dataclass
class LayerCall:
    """``lead`` are the output's leading axes; ``step_of`` is the time step within the forward of each
    position of these, -1 where nothing told, -2 where it belongs to several."""

    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    lead: tuple[int, ...]
    inside: tuple[str, int] | None  # a neuron and the number of its call
    edge: GradientEdge | None
    step_of: NDArray[np.int64]


@dataclass
class InputKind:
    """What a layer was fed, over all calls."""

    integral: bool = True
    low: float = 0.0
    high: float = 0.0
    nonzero: int = 0
    size: int = 0

    def see(self, values: Tensor) -> None:
        values = values.detach()
        if values.numel() == 0:
            return
        if values.is_floating_point():
            self.integral = self.integral and bool((values == values.round()).all())
        self.low = min(self.low, float(values.min()))
        self.high = max(self.high, float(values.max()))
        self.nonzero += int(torch.count_nonzero(values))
        self.size += values.numel()

    @property
    def name(self) -> str:
        if not self.integral or self.low < -128 or self.high > 127:
            return "analog"
        return "binary" if self.low >= 0 and self.high <= 1 else "integer"

    @property
    def rate(self) -> float:
        return self.nonzero / self.size if self.size else 0.0


@dataclass
class Provenance:
    """What one forward pass of a model told.

    ``norm_inputs`` names, for each BatchNorm, the layers whose very output it was fed; None stands for
    anything else.
    """

    layer_calls: dict[str, list[LayerCall]] = field(default_factory=lambda: defaultdict(list))
    neuron_calls: dict[str, list[NeuronCall]] = field(default_factory=lambda: defaultdict(list))
    kinds: dict[str, InputKind] = field(default_factory=lambda: defaultdict(InputKind))
    heads: list[Reach] = field(default_factory=list)
    unusual: set[str] = field(
        default_factory=set
    )  # layers that do more than multiply by their weight
    norm_inputs: dict[str, set[str | None]] = field(default_factory=lambda: defaultdict(set))
    norm_channels: dict[str, int] = field(default_factory=dict)
    plain_norms: dict[str, bool] = field(
        default_factory=dict
    )  # what `affine_of` says is what it does


def record(
    model: nn.Module,
    neurons: dict[str, tuple[nn.Module, Adapter]],
    forward: Callable[[], Any],
) -> Provenance:
    """Runs ``forward()`` on a model whose states are fresh and says what fed what.

    The model's parameters all require gradients afterwards: give a copy.
    """
    recorder = _Recorder(neurons)
    for parameter in model.parameters():
        if parameter.is_floating_point():
            parameter.requires_grad_(True)
    with ExitStack() as stack:
        stack.enter_context(recorder.hooked(model))
        stack.enter_context(torch.enable_grad())
        stack.enter_context(saved_tensors_hooks(_forget, _ones))
        output = forward()
        for tensor in tensors_in(output):
            if tensor.grad_fn is not None:
                recorder.found.heads += recorder.walk(tensor.grad_fn)
    for calls in recorder.found.layer_calls.values():
        _mark_inner(calls, recorder.found)
        for call in calls:
            call.edge = None  # lets go of the graph
    return recorder.found


def _mark_inner(calls: list[LayerCall], found: Provenance) -> None:
    """Time steps of the calls that a neuron makes of a weight layer inside it.

    One for each step of the neuron's loop over time (some make it twice, some not at the end), or one
    on the whole sequence.
    """
    by_neuron: dict[tuple[str, int], list[LayerCall]] = defaultdict(list)
    for call in calls:
        if call.inside is not None:
            by_neuron[call.inside].append(call)
    for (name, index), group in by_neuron.items():
        steps = found.neuron_calls[name][index].facts.steps
        for at, call in enumerate(group):
            if steps == 1:
                call.step_of[:] = index
            elif len(group) == 1:
                if call.step_of.size % steps == 0:
                    call.step_of[:] = np.repeat(np.arange(steps), call.step_of.size // steps)
            elif len(group) < steps:
                call.step_of[:] = at + steps - len(group)
            else:
                call.step_of[:] = at * steps // len(group)


# ---- autograd without activations --------------------------------------------------------------

_Saved = tuple[torch.Size, torch.dtype, torch.device]


def _forget(tensor: Tensor) -> _Saved:
    return tensor.shape, tensor.dtype, tensor.device


def _ones(saved: _Saved) -> Tensor:
    shape, dtype, device = saved
    if dtype.is_floating_point or dtype.is_complex or dtype == torch.bool:
        return torch.ones(shape, dtype=dtype, device=device)
    return torch.zeros(shape, dtype=dtype, device=device)  # an index: 0 is always one


class _Recorder:
    def __init__(self, neurons: dict[str, tuple[nn.Module, Adapter]]) -> None:
        self.found = Provenance()
        self.neurons = neurons
        self.tags: dict[int, list[tuple[str, str, int]]] = {}  # of graph nodes, innermost first
        self.kept: list[Any] = []  # nodes, lest their addresses are used again
        self.active: list[str] = []  # neurons whose forward runs
        self.recent: deque[tuple[str, Tensor, int]] = deque(maxlen=8)  # layers' outputs, versions
        self.draw = torch.Generator().manual_seed(0)

    @contextmanager
    def hooked(self, model: nn.Module) -> Iterator[None]:
        handles = []
        for name, module in model.named_modules():
            if name in self.neurons:
                handles += [
                    module.register_forward_pre_hook(self._enter(name), with_kwargs=True),
                    module.register_forward_hook(self._leave(name)),
                ]
            elif isinstance(module, WEIGHT_LAYERS):
                handles.append(
                    module.register_forward_hook(self._layer_done(name), with_kwargs=True)
                )
            elif is_norm(module):
                handles += [
                    module.register_forward_pre_hook(self._norm_fed(name), with_kwargs=True),
                    module.register_forward_hook(self._norm_done(name), with_kwargs=True),
                ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    # ---- hooks

    def _enter(self, name: str) -> Callable[..., None]:
        module, adapter = self.neurons[name]

        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            outermost = not self.active
            self.active.append(name)
            current = first_tensor(args, kwargs)
            if not outermost or current is None:
                return
            facts = adapter.describe(module, tuple(current.shape))
            reached = [] if current.grad_fn is None else self.walk(current.grad_fn)
            earlier = self.found.neuron_calls[name]
            self._probe(current, facts, reached, earlier)
            batch_first = _batch_first(module, adapter, current, facts)
            after_time = 1 if facts.steps > 1 and current.ndim > 1 else 0
            samples = facts.outer if batch_first else current.shape[after_time]
            earlier.append(NeuronCall(facts, reached, batch_first, samples))

        return hook

    def _leave(self, name: str) -> Callable[..., Any]:
        def cut(tensor: Tensor) -> Tensor:
            if not tensor.is_floating_point():
                return tensor
            return tensor.detach().requires_grad_(True).clone()  # no leaf: += must be allowed

        def hook(_: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
            assert self.active.pop() == name
            return output if self.active else map_tensors(output, cut)

        return hook

    def _layer_done(self, name: str) -> Callable[..., Any]:
        def hook(
            module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
        ) -> Any:
            given = first_tensor(args, kwargs)
            if given is None or not isinstance(output, Tensor):
                return None
            if not self.found.layer_calls[name]:
                _require_finite(name, module, given)
                if not is_plain(module, given, output):
                    self.found.unusual.add(name)
            output = _own_node(output)
            self.recent.append((name, output.detach(), output._version))
            self.found.kinds[name].see(given)
            lead = leading_axes(module, tuple(output.shape))
            step_of = np.full(int(np.prod(lead, dtype=np.int64)), -1, dtype=np.int64)
            inside = None
            if self.active:
                outer = self.active[0]
                inside = (outer, len(self.found.neuron_calls[outer]) - 1)
            calls = self.found.layer_calls[name]
            edge = None
            if output.grad_fn is not None and inside is None:
                edge = get_gradient_edge(output)
                self._tag(output.grad_fn, "layer", name, len(calls))
            calls.append(
                LayerCall(tuple(given.shape), tuple(output.shape), lead, inside, edge, step_of)
            )
            return output

        return hook

    def _norm_fed(self, name: str) -> Callable[..., None]:
        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            given = first_tensor(args, kwargs)
            source = None
            if given is not None:
                for layer, output, version in self.recent:
                    here = (output.data_ptr(), output.numel()) == (given.data_ptr(), given.numel())
                    if here and given._version == version:
                        source = layer
            self.found.norm_inputs[name].add(source)

        return hook

    def _norm_done(self, name: str) -> Callable[..., Any]:
        def hook(
            module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
        ) -> Any:
            given = first_tensor(args, kwargs)
            if not isinstance(output, Tensor) or given is None:
                return None
            self.found.norm_channels[name] = int(getattr(module, "num_features", 0))
            same = norms.answers_as_said(module, given, output)
            self.found.plain_norms[name] = self.found.plain_norms.get(name, True) and same
            if output.grad_fn is None or self.active:
                return None
            output = _own_node(output)
            self._tag(output.grad_fn, "norm", name, 0)
            return output

        return hook

    def _tag(self, node: Any, kind: str, name: str, call: int) -> None:
        self.tags.setdefault(id(node), []).append((kind, name, call))
        self.kept.append(node)

    # ---- the walk

    def walk(self, start: Any) -> list[Reach]:
        """Calls of weight layers that `start` was computed from, since the last neurons fired."""
        found: list[Reach] = []
        Path = tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]
        stack: list[tuple[Any, Path]] = [(start, ((), (), ()))]
        seen: set[tuple[int, Path]] = set()
        while stack:
            node, path = stack.pop()
            if node is None or (id(node), path) in seen:
                continue
            seen.add((id(node), path))
            self.kept.append(node)
            between, via, bent = path
            for kind, name, call in reversed(self.tags.get(id(node), [])):
                if kind == "norm":
                    between = (name, *between)
                else:
                    found.append(Reach(name, call, between, via, bent))
                    between, via = (), (name, *via)
            if bent:  # nothing of this is used, and on a residual stream paths double a block
                between, via = (), ()
            bend = _bends(node)
            if bend is not None and bend not in bent:
                bent = (*bent, bend)
                bent = tuple(sorted(bent))
            stack += [(following, (between, via, bent)) for following, _ in node.next_functions]
        return list(dict.fromkeys(found))

    # ---- time steps

    def _probe(
        self, current: Tensor, facts: NeuronFacts, reached: list[Reach], earlier: list[NeuronCall]
    ) -> None:
        """Marks in each layer call's `step_of` which positions this neuron call reads at which step."""
        calls = {(r.layer, r.call): self.found.layer_calls[r.layer][r.call] for r in reached}
        keys = [key for key, call in calls.items() if call.edge is not None]
        if not keys:
            return
        # A neuron that takes one step a call: the step is the number of its calls that this layer fed.
        first = {
            key: sum(any(r.layer == key[0] for r in call.reached) for call in earlier)
            if facts.steps == 1
            else 0
            for key in keys
        }
        split = current.reshape(facts.outer, facts.steps, -1)
        # Weights all different, so that nothing cancels (a mean taken off, say).
        weights = torch.rand(split.shape[::2], generator=self.draw).to(split) + 0.5
        for step in range(facts.steps):
            gradients = torch.autograd.grad(
                split[:, step],
                [calls[key].edge for key in keys],
                grad_outputs=weights,  # a product with them would be saved, and replaced by ones
                retain_graph=True,
                allow_unused=True,
            )
            for key, gradient in zip(keys, gradients, strict=True):
                if gradient is None:
                    continue
                mark = calls[key].step_of
                touched = (gradient.reshape(mark.size, -1) != 0).any(dim=1).cpu().numpy()
                now = first[key] + step
                mark[touched & (mark != -1) & (mark != now)] = -2
                mark[touched & (mark == -1)] = now


def _batch_first(module: Any, adapter: Adapter, current: Tensor, facts: NeuronFacts) -> bool:
    if facts.outer > 1 or current.ndim == 0:
        return facts.outer > 1
    try:  # a batch of one: ask about two
        return adapter.describe(module, (2 * current.shape[0], *current.shape[1:])).outer > 1
    except ValueError:
        return False


def _require_finite(name: str, module: Any, given: Tensor) -> None:
    """ValueError where nothing could be told from what a layer answers."""
    where = repr(name) if name else "the model itself"
    weight = getattr(module, "weight", None)
    if isinstance(weight, Tensor) and not bool(weight.detach().isfinite().all()):
        raise ValueError(
            f"model has a weight that is NaN or infinite, in {where}; accepted are finite ones"
        )
    if given.is_floating_point() and not bool(given.detach().isfinite().all()):
        raise ValueError(
            f"the example, or first calibration batch, makes {where} an input that is NaN or infinite; "
            "accepted are finite values"
        )


def _own_node(output: Tensor) -> Tensor:
    """A view that is changed in place (``out += identity``) loses its node in the graph; a copy does
    not."""
    return output.clone() if output.grad_fn is not None and output._is_view() else output


def _bends(node: Any) -> str | None:
    """The name of what this graph node does if it is not linear in its input, as far as is known."""
    if isinstance(node, torch.autograd.function.BackwardCFunction):
        return f"autograd function {type(node).__name__.removesuffix('Backward')}"
    name = str(node.name()).rstrip("0123456789").removesuffix("Backward")
    return name if name in _NONLINEAR else None
