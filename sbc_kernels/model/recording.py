"""Hooks that record the provenance of one forward pass."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.graph import get_gradient_edge

from ..errors import ParameterError
from ..frameworks import Adapter, NeuronFacts
from ..network.tensors import (
    WEIGHT_LAYERS,
    first_tensor,
    is_norm,
    is_plain,
    is_transformed,
    leading_axes,
    map_tensors,
    tensors_in,
)
from ..network.watch import channel_axis
from .graph_walk import Tag, TaggedGraph, own_node
from .membranes import note_membranes
from .norms import Output, is_plain_norm, same_channels
from .provenance import LayerCall, NeuronCall, Provenance
from .saved_tensors import SavedTensors
from .spike_watch import SpikeWatch
from .taint import DATA, mark
from .time_steps import StepProbe, mark_inner
from .weight_uses import WeightUses


def record(
    model: nn.Module,
    neurons: dict[str, tuple[nn.Module, Adapter]],
    forward: Callable[[], Any],
    only_modules: bool = False,
) -> Provenance:
    """Runs ``forward()`` once and returns what fed what.

    Parameters
    ----------
    model : a copy, with fresh states: its parameters all require gradients afterwards.
    neurons : of the model, by name.
    forward : one pass of the model over an example.
    only_modules : take products with weights outside of Linear layers and convolutions for a part of
        the neuron that has them.
    """
    recorder = _Recorder(neurons, model)
    for parameter in model.parameters():
        if parameter.is_floating_point():
            parameter.requires_grad_(True)
    with ExitStack() as stack:
        stack.enter_context(recorder.hooked(model))
        stack.enter_context(torch.enable_grad())
        stack.enter_context(recorder.saved.hooks())
        watch = SpikeWatch(model, recorder.graph, lambda: bool(recorder.active))
        with watch, nullcontext() if only_modules else recorder.uses:
            output = forward()
        for tensor in tensors_in(output):
            if isinstance(tensor.grad_fn, torch.autograd.function.BackwardCFunction):
                watch.function_output(tensor)
        with torch._C.DisableTorchFunction():
            note_membranes(watch, recorder.graph, recorder.provenance, recorder.saved)
        for tensor in tensors_in(output):
            if tensor.grad_fn is not None:
                recorder.provenance.heads += recorder.graph.walk(tensor.grad_fn)
    recorder.check_silent()
    for calls in recorder.provenance.layer_calls.values():
        mark_inner(calls, recorder.provenance)
        for call in calls:
            call.edge = None  # releases the graph
    return recorder.provenance


class _Recorder:
    """Hooks of neurons, weight layers and norms, and the provenance that they fill."""

    def __init__(self, neurons: dict[str, tuple[nn.Module, Adapter]], model: nn.Module) -> None:
        self.provenance = Provenance()
        self.uses = WeightUses(model, self.provenance, self._own(self._note_call))
        self.silent: dict[str, tuple[nn.Module, Tensor]] = {}  # layers fed zeros so far
        self.neurons = neurons
        self.graph = TaggedGraph()
        self.saved = SavedTensors()
        self.probe = StepProbe(self.provenance)
        self.outputs: dict[Tag, Output] = {}  # of weight layers and norms, while the graph is kept
        self.norm_calls: Counter[str] = Counter()
        self.active: list[str] = []  # neurons whose forward runs
        self.inner_layers = False  # whether the neuron whose forward runs has called a weight layer

    @contextmanager
    def hooked(self, model: nn.Module) -> Iterator[None]:
        handles = [model.register_forward_pre_hook(_mark_inputs, with_kwargs=True)]
        for name, module in model.named_modules():
            if name in self.neurons:
                handles.append(self._wrap(name, module))
            elif isinstance(module, WEIGHT_LAYERS):
                handles += [
                    module.register_forward_pre_hook(
                        self._own(self._layer_fed(name)), with_kwargs=True
                    ),
                    module.register_forward_hook(
                        self._own(self._layer_done(name)), with_kwargs=True
                    ),
                ]
            elif is_norm(module):
                handles += [
                    module.register_forward_pre_hook(
                        self._own(self._norm_fed(name)), with_kwargs=True
                    ),
                    module.register_forward_hook(
                        self._own(self._norm_done(name)), with_kwargs=True
                    ),
                ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _wrap(self, name: str, neuron: nn.Module) -> Any:
        """Puts a neuron's forward between two hooks; models may call it as ``neuron.forward(x)``."""
        enter, leave = self._own(self._enter(name)), self._own(self._leave(name))
        before = vars(neuron).get("forward")
        inner = neuron.forward

        def forward(*args: Any, **kwargs: Any) -> Any:
            enter(neuron, args, kwargs)
            return leave(neuron, args, inner(*args, **kwargs))

        neuron.forward = forward
        return _Wrapped(neuron, before)

    @staticmethod
    def _own(hook: Callable[..., Any]) -> Callable[..., Any]:
        """Returns a hook whose operations are not taken as the model's."""

        def quiet(*args: Any) -> Any:
            with torch._C.DisableTorchFunction():
                return hook(*args)

        return quiet

    def check_silent(self) -> None:
        """Runs a copy of each layer that was only fed zeros, to see what it does with other input."""
        for name, (module, zeros) in self.silent.items():
            layer = copy.deepcopy(module)
            draw = torch.Generator().manual_seed(0)
            features = torch.rand(zeros.shape, generator=draw).to(zeros)
            with torch.no_grad():
                output = layer.forward(features)
            if isinstance(output, Tensor) and not is_plain(layer, features, output):
                self.provenance.unusual.add(name)

    # ---- hooks

    def _enter(self, name: str) -> Callable[..., None]:
        module, adapter = self.neurons[name]

        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            outermost = not self.active
            self.active.append(name)
            self.inner_layers = self.inner_layers and not outermost
            self.saved.sampling = False
            current = first_tensor(args, kwargs)
            if not outermost or current is None:
                return
            facts = adapter.describe(module, tuple(current.shape))
            reached = [] if current.grad_fn is None else self.graph.walk(current.grad_fn)
            earlier = self.provenance.neuron_calls[name]
            self.probe.mark(current, facts, reached, earlier)
            batch_first = _batch_first(module, adapter, current, facts)
            after_time = 1 if facts.steps > 1 and current.ndim > 1 else 0
            samples = facts.outer if batch_first else current.shape[after_time]
            shape = tuple(current.shape)
            earlier.append(NeuronCall(facts, reached, batch_first, samples, shape))

        return hook

    def _leave(self, name: str) -> Callable[..., Any]:
        def cut(tensor: Tensor) -> Tensor:
            if not tensor.is_floating_point():
                return tensor
            return tensor.detach().requires_grad_(True).clone()  # no leaf: += must be allowed

        def hook(_: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
            finished = self.active.pop()
            assert finished == name
            self.saved.sampling = not self.active
            if self.active:
                return output
            if self.inner_layers:
                for tensor in tensors_in(output):
                    if tensor.grad_fn is not None:
                        for reach in self.graph.walk(tensor.grad_fn, inner=True):
                            self.provenance.inner_reaches[reach.layer].append(reach)
            output = map_tensors(output, cut)
            mark(output, frozenset({name}))
            return output

        return hook

    def _layer_done(self, name: str) -> Callable[..., Any]:
        def hook(
            module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
        ) -> Any:
            finished = self.uses.open.pop()
            assert finished == name
            features = first_tensor(args, kwargs)
            if features is None or not isinstance(output, Tensor):
                return None
            if is_transformed(features):
                raise ParameterError(
                    "model",
                    module,
                    "accepted are calls with whole batches",
                    verb="calls",
                    shown=f"{name!r} inside torch.vmap or another transform of torch.func",
                )
            if not self.provenance.layer_calls[name]:
                _require_finite(name, module, features)
                self.silent[name] = module, features.detach()
            # Of zeros, whatever a layer does with its weight, the output is its bias.
            if name in self.silent and bool(features.detach().any()):
                del self.silent[name]
                if not is_plain(module, features, output):
                    self.provenance.unusual.add(name)
            self.provenance.module_calls.add(name)
            return self._note_call(
                name, features, output, leading_axes(module, tuple(output.shape))
            )

        return hook

    def _note_call(
        self, name: str, features: Tensor, output: Tensor, lead: tuple[int, ...]
    ) -> Tensor:
        """Notes a call of a weight layer, and returns its output with a graph node of its own."""
        output = own_node(output)
        mark(output, DATA)
        self.provenance.kinds[name].add(features)
        step_of = np.full(int(np.prod(lead, dtype=np.int64)), -1, dtype=np.int64)
        inside = None
        if self.active:
            outer = self.active[0]
            self.inner_layers = True
            inside = (outer, len(self.provenance.neuron_calls[outer]) - 1)
        calls = self.provenance.layer_calls[name]
        edge = None
        if output.grad_fn is not None:
            edge = get_gradient_edge(output)
            tag = Tag("layer" if inside is None else "inner", name, len(calls))
            self.graph.tag(output.grad_fn, tag, output)
            if len(lead) < output.ndim:
                self.outputs[tag] = Output(edge, output.shape[len(lead)], len(lead))
        calls.append(
            LayerCall(tuple(features.shape), tuple(output.shape), lead, inside, edge, step_of)
        )
        return output

    def _layer_fed(self, name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            self.uses.open.append(name)

        return hook

    def _norm_fed(self, name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            features = first_tensor(args, kwargs)
            sources: set[str | None] = {None}
            if features is not None and features.grad_fn is not None:
                outputs = self.graph.moved_from(features.grad_fn)
                if outputs is not None and all(
                    tag in self.outputs and same_channels(module, features, self.outputs[tag])
                    for tag in outputs
                ):
                    sources = {tag.name for tag in outputs}
            self.provenance.norm_inputs[name] |= sources

        return hook

    def _norm_done(self, name: str) -> Callable[..., Any]:
        def hook(
            module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
        ) -> Any:
            features = first_tensor(args, kwargs)
            if not isinstance(output, Tensor) or features is None:
                return None
            self.provenance.norm_channels[name] = int(getattr(module, "num_features", 0))
            same = is_plain_norm(module, features, output)
            self.provenance.plain_norms[name] = self.provenance.plain_norms.get(name, True) and same
            if output.grad_fn is None:
                return None
            output = own_node(output)
            mark(output, DATA)
            tag = Tag("norm", name, self.norm_calls[name])
            self.norm_calls[name] += 1
            self.graph.tag(output.grad_fn, tag, output)
            with suppress(ValueError):  # a shape that no BatchNorm of its class has
                axis = channel_axis(module, output)
                self.outputs[tag] = Output(get_gradient_edge(output), output.shape[axis], axis)
            return output

        return hook


class _Wrapped:
    """A forward that was replaced, and can be put back."""

    def __init__(self, module: nn.Module, before: Any) -> None:
        self.module = module
        self.before = before

    def remove(self) -> None:
        """Puts it back."""
        if self.before is None:
            del self.module.forward
        else:
            self.module.forward = self.before


def _mark_inputs(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    mark((args, kwargs), DATA)


def _batch_first(module: nn.Module, adapter: Adapter, current: Tensor, facts: NeuronFacts) -> bool:
    """Whether more samples would make `facts.outer` larger."""
    if facts.outer > 1 or current.ndim == 0:
        return facts.outer > 1
    try:  # a batch of one: ask about two
        return adapter.describe(module, (2 * current.shape[0], *current.shape[1:])).outer > 1
    except ValueError:
        return False


def _require_finite(name: str, module: nn.Module, features: Tensor) -> None:
    """Raises ParameterError where a weight or an input is not finite, so that outputs show nothing."""
    where = repr(name) if name else "the model itself"
    weight = getattr(module, "weight", None)
    if isinstance(weight, Tensor) and not bool(weight.detach().isfinite().all()):
        raise ParameterError(
            "model",
            module,
            "accepted are finite ones",
            verb="has",
            shown=f"a weight that is NaN or infinite, in {where}",
        )
    if features.is_floating_point() and not bool(features.detach().isfinite().all()):
        raise ParameterError(
            "calibration",
            features,
            "accepted are finite values",
            verb="has",
            shown=f"a first batch, the example, that makes {where} an input that is NaN or infinite",
        )
