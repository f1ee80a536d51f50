"""Synaptic operations of a whole model, counted as NeuroBench and as SpikingJelly count them."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ParameterError
from ..network.copies import Forward
from ..network.products import Product, ProductForm, ProductMode
from ..network.tensors import WEIGHT_LAYERS, first_tensor, leading_axes
from ..network.weight_table import WeightTable, layer_name
from .passes import Hook, Model, Pass, each_batch, module_of

__all__ = ["LayerOperations", "SynapticOperations", "synaptic_operations"]

COUNTED = (*WEIGHT_LAYERS, nn.Conv3d)  # the layers without a state that NeuroBench counts


@dataclass(frozen=True)
class LayerOperations:
    """Synaptic operations of one layer per sample: summed over time steps, averaged over samples.

    A call whose inputs are all -1, 0 or 1 accumulates. Any other call multiplies and accumulates.

    Attributes
    ----------
    macs : non-zero weights met by non-zero inputs, over the calls that multiply.
    acs : non-zero weights met by non-zero inputs, over the calls that accumulate.
    weighted_acs : non-zero weights met by inputs, over the calls whose inputs are integers; an input of
        value v counts ``|v|`` times, as on a chip that sends an integer as that many unit spikes.
    dense : weights met by inputs, zeros included.
    dense_acs : weights, zeros included, met by non-zero inputs, over the calls that accumulate.
    """

    macs: float
    acs: float
    weighted_acs: float
    dense: float
    dense_acs: float


@dataclass(frozen=True)
class SynapticOperations:
    """The result of `synaptic_operations`. All counts are per sample.

    Attributes
    ----------
    samples : number of samples over which the counts were averaged.
    layers : the layers that were called, by module name.
    """

    samples: int
    layers: dict[str, LayerOperations]

    @property
    def effective_macs(self) -> float:
        """NeuroBench's Effective_MACs."""
        return self._sum("macs")

    @property
    def effective_acs(self) -> float:
        """NeuroBench's Effective_ACs."""
        return self._sum("acs")

    @property
    def weighted_acs(self) -> float:
        """Accumulates on a chip that sends an integer as that many unit spikes."""
        return self._sum("weighted_acs")

    @property
    def dense(self) -> float:
        """NeuroBench's Dense."""
        return self._sum("dense")

    @property
    def dense_acs(self) -> float:
        """SpikingJelly's SynOpCounter, which counts zero weights, too."""
        return self._sum("dense_acs")

    def _sum(self, field: str) -> float:
        return math.fsum(getattr(layer, field) for layer in self.layers.values())

    def energy(self, pj_per_ac: float = 0.9, pj_per_mac: float = 4.6) -> float:
        """Returns an estimate of the energy of one sample in joules: ACs and MACs times their prices.

        The energy of memory, neurons and communication is not included. Integers are priced as MACs;
        on a chip that sends them as unit spikes, use `weighted_acs` times the price of an accumulate.

        Parameters
        ----------
        pj_per_ac, pj_per_mac : picojoules per accumulate and per multiply-accumulate. The defaults are
            for float32 at 45 nm: 0.9 for an addition and 3.7 for a multiplication (Horowitz, ISSCC
            2014, "Computing's energy problem (and what we can do about it)").

        Raises
        ------
        ParameterError : a price is negative, infinite or no number.
        """
        for name, price in (("pj_per_ac", pj_per_ac), ("pj_per_mac", pj_per_mac)):
            if not isinstance(price, (int, float)) or not 0 <= price < math.inf:
                raise ParameterError(name, price, "a number of at least 0")
        return (self.effective_acs * pj_per_ac + self.effective_macs * pj_per_mac) * 1e-12

    def to_dict(self) -> dict[str, Any]:
        """Returns a dictionary that JSON can hold."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> SynapticOperations:
        """Returns the object of which `values` is the `to_dict`."""
        layers = {name: LayerOperations(**layer) for name, layer in values["layers"].items()}
        return cls(values["samples"], layers)


def synaptic_operations(
    model: Model, data: object, *, forward: Forward | None = None
) -> SynapticOperations:
    """Counts the synaptic operations of every Linear, Conv1d, Conv2d and Conv3d layer on data.

    Effective MACs, effective ACs and Dense are those of NeuroBench (arXiv 2304.04640): every non-zero
    input counts the non-zero weights that it meets, without those beyond the border of the map and
    without biases. A call accumulates if all of its inputs are -1, 0 or 1, and multiplies otherwise;
    this is decided for each call, that is for each batch, and in a loop over time for each step.

    Differences from NeuroBench 2.3.0: sums are exact, where NeuroBench adds in float32; a module with
    several names counts once; a model that is a weight layer itself counts; RNN, LSTM
    and GRU cells do not count.

    `dense_acs` equals SpikingJelly 2.0's SynOpCounter for inputs of 0 and 1. SynOpCounter leaves out
    calls with an input of -1, takes a weight of only zeros and ones for spikes, and counts products
    outside of layers (attention). Transposed convolutions and other modules with weights do not count
    here.

    Parameters
    ----------
    model : a torch model in CPU memory or on one GPU, or a `CompressedModel`. Its mode, states, hooks
        and gradients are left unchanged.
    data : a tensor (one batch), or a list or DataLoader of batches. A batch that is a tuple or list is
        (inputs, labels). The number of samples is that of the labels; without labels it is that of the
        neurons' inputs, which then has to be the same for all neurons.
    forward : ``forward(model, batch)`` runs one whole sequence. Default: that of the `CompressedModel`,
        otherwise ``model(batch)``. States are reset before each batch.

    Raises
    ------
    ParameterTypeError, ParameterError : `model`, `data` or `forward` is not accepted.
    """
    counter = OperationCounter()
    run = Pass(model, forward, counter)
    each_batch(data, run.run_counted)
    return counter.result(run.samples)


def weights_in(model: object) -> list[Tensor] | None:
    """Returns the weights of a model's layers in CPU memory, each once; None if it is no model."""
    model = module_of(model)
    if not isinstance(model, nn.Module):
        return None
    weights = [module.weight for module in model.modules() if isinstance(module, COUNTED)]
    return [weight.detach().cpu() for weight in {id(weight): weight for weight in weights}.values()]


class OperationCounter:
    """A `Watcher` that counts the operations of weight layers, as exact integers."""

    def __init__(self) -> None:
        self.totals: dict[str, dict[str, int]] = {}
        self._products: _Products | None = None  # None once a forward has had none

    def watch(self, model: nn.Module) -> None:
        products = self._products = _Products(model, self._hook)
        for name, module in model.named_modules():
            if isinstance(module, COUNTED):
                module.register_forward_pre_hook(self._hook(name), with_kwargs=True)
                module.register_forward_pre_hook(products.enter)
                module.register_forward_hook(products.leave)

    def running(self) -> AbstractContextManager[object]:
        """Returns the mode that sees products outside of modules, as long as forwards have any."""
        if self._products is not None and self._products.forwards and not self._products.hooks:
            self._products = None
        if self._products is None:
            return nullcontext()
        self._products.forwards += 1
        return self._products

    def result(self, samples: int) -> SynapticOperations:
        """Returns the counts so far, divided by the number of samples."""
        layers = {
            name: LayerOperations(**{field: total / samples for field, total in totals.items()})
            for name, totals in self.totals.items()
        }
        return SynapticOperations(samples, layers)

    def _hook(self, name: str) -> Hook:
        fans: list[Tensor] = []

        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            inputs = first_tensor(args, kwargs)
            if inputs is None:
                return
            if not fans:
                weight = module.weight.detach()
                fans.extend(_fan(module, w) for w in (weight != 0, torch.ones_like(weight)))
            if name not in self.totals:
                self.totals[name] = dict.fromkeys(LayerOperations.__dataclass_fields__, 0)
            for field, count in _count(module, inputs.detach(), *fans).items():
                self.totals[name][field] += count

        return hook


class _Products(ProductMode):
    """Counts products with a weight outside of the module that it is the weight of.

    Parameters
    ----------
    model : that runs.
    hook : makes the function that counts the inputs of a layer, by its name.

    Attributes
    ----------
    hooks : by name, the functions of layers that were seen, and modules with their geometry.
    forwards : how many have run.
    """

    def __init__(self, model: nn.Module, hook: Callable[[str], Hook]) -> None:
        super().__init__(WeightTable(model))
        self.modules = dict(model.named_modules())
        self.hook = hook
        self.hooks: dict[tuple[str, ProductForm], tuple[Hook, nn.Module]] = {}
        self.forwards = 0
        self.open: list[nn.Module] = []

    def enter(self, module: nn.Module, args: Any) -> None:
        self.open.append(module)

    def leave(self, module: nn.Module, args: Any, output: Any) -> None:
        self.open.pop()

    def multiply(self, product: Product, call: Callable[[], Any]) -> Any:
        own = self.table.find(self.open[-1].weight) if self.open else None
        if own is None or own.entry != product.entry:
            key = (product.entry, product.form)
            if key not in self.hooks:
                weight = self.table.weights[product.entry]
                name = layer_name(product.entry, self.modules)
                self.hooks[key] = (self.hook(name), _layer_like(product.form, weight))
            hook, layer = self.hooks[key]
            hook(layer, (product.features,), {})
        return call()


def _layer_like(form: ProductForm, weight: Tensor) -> nn.Module:
    """Returns a layer that does what a product does."""
    weight = weight.mT if form.transposed else weight
    layer: nn.Module
    if form.conv is None:
        layer = nn.Linear(1, 1, bias=False, device="meta")
    else:
        conv = form.conv
        kind = nn.Conv1d if conv.dims == 1 else nn.Conv2d
        channels = (weight.shape[1] * conv.groups, weight.shape[0])
        layer = kind(
            *channels,
            conv.kernel_size,
            conv.stride,
            conv.padding,
            conv.dilation,
            conv.groups,
            bias=False,
            device="meta",
        )
    layer.weight = nn.Parameter(weight, requires_grad=False)
    return layer


def _count(module: nn.Module, inputs: Tensor, nonzero: Tensor, whole: Tensor) -> dict[str, int]:
    """Returns the counts of one call, by the fields of `LayerOperations`.

    Every count is linear in the number of events, so events are summed over samples and steps first.

    Parameters
    ----------
    inputs : the input of the layer, with any leading axes.
    nonzero, whole : `_fan` of the non-zero weights, and of all weights.
    """
    flat = inputs.reshape(-1, *inputs.shape[len(leading_axes(module, tuple(inputs.shape))) :])
    if flat.numel() == 0:
        return {}
    events = flat.count_nonzero(dim=0).double()
    size = flat.abs()
    integral = not size.is_floating_point() or bool((size == size.round()).all())
    counts = {"dense": _operations(module, torch.full_like(events, len(flat)), whole)}
    effective = _operations(module, events, nonzero)
    if integral:
        counts["weighted_acs"] = _operations(module, size.sum(dim=0, dtype=torch.float64), nonzero)
    if integral and bool(size.max() <= 1):
        return {**counts, "acs": effective, "dense_acs": _operations(module, events, whole)}
    return {**counts, "macs": effective}


def _fan(module: nn.Module, counts: Tensor) -> Tensor:
    """Returns how many weights read each input, float64: [d_in], or a kernel with one output a group.

    `counts` has the weight's shape and is 1 where a weight counts.
    """
    counts = counts.double()
    if isinstance(module, nn.Linear):
        return counts.sum(dim=0)
    return counts.reshape(module.groups, -1, *counts.shape[1:]).sum(dim=1)


def _operations(module: nn.Module, events: Tensor, fan: Tensor) -> int:
    """Returns the sum over inputs of their events times the weights that read them.

    `events` is float64 of the shape of one input. The sum is exact below 2^53.
    """
    if isinstance(module, nn.Linear):
        return round(float(events @ fan))
    kind = next(kind for kind in COUNTED if isinstance(module, kind))
    return round(float(kind._conv_forward(module, events[None], fan, None).sum()))
