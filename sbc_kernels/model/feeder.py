"""Runs a batch through a model and hands each weight layer's input on as spikes [T, N, ...]."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ParameterError
from ..frameworks import Adapter, adapter_of
from ..network.copies import Forward, reset_states, run_forward, undisturbed
from ..network.kept import KeptStates
from ..network.products import Product, ProductMode
from ..network.tensors import first_tensor
from ..network.watch import Seen
from ..network.weight_table import WeightTable
from .planned_layer import PlannedLayer
from .sequences import SequenceAssembler, Take


class Feeder:
    """Runs batches through a model and hands the inputs of its weight layers on.

    Parameters
    ----------
    model : a copy; it is put into eval mode, and its states are reset.
    forward : as in `trace`.
    neuron_steps : of the plan; a batch whose neurons take another number of time steps is refused.
    states : of the plan: what a forward leaves behind in modules, which is put back around each batch.
    """

    def __init__(
        self,
        model: nn.Module,
        forward: Forward | None,
        neuron_steps: Mapping[str, int],
        states: Collection[str] = (),
    ) -> None:
        self.model = model.eval()
        self.kept = KeptStates(model, states)
        self.forward = forward
        self.neuron_steps = neuron_steps
        self.modules = dict(model.named_modules())
        self.products: dict[str, Callable[[Tensor], None]] = {}  # of this batch, by weight
        self.open: list[str] = []

    def feed(
        self,
        index: int,
        batch: Any,
        takes: Mapping[str, Take],
        layers: Mapping[str, PlannedLayer],
        on_output: Callable[[Any], None] | None = None,
    ) -> None:
        """Runs one batch of a pass, from fresh states to fresh states.

        Parameters
        ----------
        index : of the batch, which is the seed of its random numbers.
        takes : by layer name, called with its input of the batch: [T, samples, d_in] or
            [T, samples, C, *map], integers in one byte where the values are such. Positions that
            share a Linear layer (tokens) are samples.
        layers : of the plan, by name.
        on_output : called with the model's output. Without it a forward ends when the last of `takes`
            has its input.

        Raises
        ------
        ValueError : the batch has another length than the traced example, or makes a layer an input
            that is empty, NaN or infinite.
        """
        self._put_back()
        ended = False
        with ExitStack() as stack, torch.no_grad(), undisturbed(index):
            waiting = set(takes)
            self.products.clear()
            self.open.clear()
            self._watch_steps(stack, index)
            assemblers = [
                sequences
                for name, take in takes.items()
                for sequences in self._hook(
                    stack,
                    layers[name],
                    _naming(take, layers[name], index),
                    None if on_output else waiting,
                )
            ]
            if self.products:
                stack.enter_context(_Products(self.model, self.products, self.open))
            try:
                output = run_forward(self.model, batch, self.forward)
            except Seen:
                output, ended = None, True
            except ParameterError:
                raise
            except Exception as error:
                error.add_note(f"in the forward pass of calibration batch {index}, counted from 0")
                raise
        self._put_back()
        for sequences in assemblers:
            if sequences.held or (not ended and sequences.calls != sequences.expected):
                raise ParameterError(
                    "calibration",
                    batch,
                    f"accepted are {sequences.expected}, as in the example",
                    verb="has",
                    shown=f"a batch, {index}, that calls {sequences.name!r} {sequences.calls} times",
                )
        if on_output is not None and output is not None:
            on_output(output)

    def _put_back(self) -> None:
        """Resets the neurons, and gives all other states the values that they started from."""
        reset_states(self.model)
        self.kept.put_back()

    def _watch_steps(self, stack: ExitStack, index: int) -> None:
        """Refuses batches of another length where neurons take whole sequences."""
        for name, steps in self.neuron_steps.items():
            module = self.modules[name]
            adapter = adapter_of(module)
            if steps == 1 or adapter is None:
                continue

            def hook(
                module: nn.Module,
                args: tuple[Any, ...],
                kwargs: dict[str, Any],
                adapter: Adapter = adapter,
                steps: int = steps,
                name: str = name,
            ) -> None:
                features = first_tensor(args, kwargs)
                if features is not None:
                    length = adapter.describe(module, tuple(features.shape)).steps
                    if length != steps:
                        raise ParameterError(
                            "calibration",
                            features,
                            f"accepted are {steps}, as in the example",
                            verb="has",
                            shown=f"a batch, number {index} counted from 0, of {length} time steps "
                            f"at {name!r}",
                        )

            stack.callback(module.register_forward_pre_hook(hook, with_kwargs=True).remove)

    def _hook(
        self, stack: ExitStack, layer: PlannedLayer, take: Take, waiting: set[str] | None
    ) -> Iterator[SequenceAssembler]:
        """Hooks the layer's modules to `take`; raises Seen once no layer is left in `waiting`."""
        for name in (layer.name, *layer.also):
            sequences = SequenceAssembler(layer, name, take)

            def add(features: Tensor, sequences: SequenceAssembler = sequences) -> None:
                sequences.add(features.detach())
                # A loop over time is nearly over by its last call: let it show its true length.
                whole = layer.layout.step_of_call is None and not layer.also
                if whole and sequences.calls == layer.calls and waiting is not None:
                    waiting.discard(layer.name)
                    if not waiting:
                        raise Seen

            if layer.functional:
                self.products[layer.weight_entry] = add
            if name in self.modules:
                self._hook_module(stack, self.modules[name], layer, add)
            yield sequences

    def _hook_module(
        self,
        stack: ExitStack,
        module: nn.Module,
        layer: PlannedLayer,
        add: Callable[[Tensor], None],
    ) -> None:
        """Hands each input of a module on."""

        def fed(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            features = first_tensor(args, kwargs)
            assert features is not None
            add(features)
            if layer.functional:
                self.open.append(layer.weight_entry)

        def done(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            self.open.pop()

        stack.callback(module.register_forward_pre_hook(fed, with_kwargs=True).remove)
        if layer.functional:
            stack.callback(module.register_forward_hook(done).remove)


class _Products(ProductMode):
    """Hands on the inputs of products outside of modules.

    Parameters
    ----------
    model : that runs.
    takes : by entry of the weight, called with the features.
    open : weights of the modules whose forward runs, innermost last: their inputs are known.
    """

    def __init__(
        self, model: nn.Module, takes: Mapping[str, Callable[[Tensor], None]], open: list[str]
    ) -> None:
        super().__init__(WeightTable(model))
        self.takes = {self.table.same(entry)[0]: take for entry, take in takes.items()}
        self.open = open

    def multiply(self, product: Product, call: Callable[[], Any]) -> Any:
        take = self.takes.get(product.entry)
        if take is not None and not (self.open and self._first(self.open[-1]) == product.entry):
            take(product.features)
        return call()

    def _first(self, entry: str) -> str:
        return self.table.same(entry)[0]


def _naming(take: Take, layer: PlannedLayer, index: int) -> Take:
    """Returns `take`, whose errors about an input that is not accepted name the layer and the batch."""

    def named(spikes: Tensor) -> None:
        try:
            take(spikes)
        except ParameterError as error:
            wrong, channels = 0, layer.in_features
            if layer.conv is not None:
                channels = layer.in_features // layer.conv.taps * layer.groups
            found = spikes.shape[-1 if layer.conv is None else 2]
            if spikes.is_floating_point():
                wrong = int((~spikes.isfinite()).sum())
            if wrong:
                accepted = "accepted are finite values"
                what = f"with {wrong} values that are NaN or infinite"
            elif spikes.numel() == 0:
                accepted = "accepted are at least one sample and one time step"
                what = f"that is empty, {list(spikes.shape)}"
            elif found != channels:
                accepted, what = f"accepted are {channels}", f"of {found} features or channels"
            else:
                error.layer = error.layer or layer.name
                raise
            which = f"a batch, number {index} counted from 0,"
            shown = f"{which} that makes {layer.name!r} an input {what}"
            raise ParameterError(
                "calibration", spikes, accepted, verb="has", shown=shown
            ) from error

    return named
