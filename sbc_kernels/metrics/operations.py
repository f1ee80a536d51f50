"""Synaptic operations of a whole model: what NeuroBench counts, and SpikingJelly's count beside it."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..network.copies import Forward
from ..network.tensors import WEIGHT_LAYERS, first_tensor, leading_axes
from .passes import Pass, each_batch, module_of

__all__ = ["LayerOperations", "SynapticOperations", "synaptic_operations"]

COUNTED = (*WEIGHT_LAYERS, nn.Conv3d)  # NeuroBench's layers without a state


@dataclass(frozen=True)
class LayerOperations:
    """Synaptic operations of one layer a sample: sums over time steps, means over samples.

    A call whose inputs are all -1, 0 or 1 accumulates; any other multiplies and accumulates.

    Attributes
    ----------
    macs : non-zero weights met by non-zero inputs, in calls that multiply.
    acs : the same in calls that accumulate.
    weighted_acs : in all calls whose inputs are integers, with an input of value v as ``|v|``
        operations: what a chip does that sends an integer as so many unit spikes.
    dense : all weights by all inputs, zeros too.
    dense_acs : as `acs`, but with all weights, zeros too.
    """

    macs: float
    acs: float
    weighted_acs: float
    dense: float
    dense_acs: float


@dataclass(frozen=True)
class SynapticOperations:
    """What `synaptic_operations` counted; all figures a sample.

    Attributes
    ----------
    samples : that were counted.
    layers : by name, those that were called.
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
        """Accumulates where an integer is sent as so many unit spikes."""
        return self._sum("weighted_acs")

    @property
    def dense(self) -> float:
        """NeuroBench's Dense."""
        return self._sum("dense")

    @property
    def dense_acs(self) -> float:
        """SpikingJelly's SynOpCounter, which takes no notice of zeros among the weights."""
        return self._sum("dense_acs")

    def _sum(self, field: str) -> float:
        return math.fsum(getattr(layer, field) for layer in self.layers.values())

    def energy(self, pj_per_ac: float = 0.9, pj_per_mac: float = 4.6) -> float:
        """A proxy of the energy in joules a sample: ACs and MACs by their prices.

        Memory, neurons and communication are not in it. Integers are priced as MACs; on a chip that
        sends them as unit spikes, `weighted_acs` times its price is the figure.

        Parameters
        ----------
        pj_per_ac, pj_per_mac : picojoules an accumulate and a multiply-accumulate. Default: float32 at
            45 nm, 0.9 an addition and 3.7 a multiplication (Horowitz, ISSCC 2014, "Computing's energy
            problem (and what we can do about it)").
        """
        for name, price in (("pj_per_ac", pj_per_ac), ("pj_per_mac", pj_per_mac)):
            if not isinstance(price, (int, float)) or not 0 <= price < math.inf:
                raise ValueError(f"{name} is {price!r}; accepted is a number of at least 0")
        return (self.effective_acs * pj_per_ac + self.effective_macs * pj_per_mac) * 1e-12

    def to_dict(self) -> dict[str, Any]:
        """As JSON knows it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, told: dict[str, Any]) -> SynapticOperations:
        """The inverse of `to_dict`."""
        layers = {name: LayerOperations(**layer) for name, layer in told["layers"].items()}
        return cls(told["samples"], layers)


def synaptic_operations(
    model: Any, data: Any, *, forward: Forward | None = None
) -> SynapticOperations:
    """Counts the synaptic operations of every Linear, Conv1d, Conv2d and Conv3d layer on data.

    Effective MACs, effective ACs and Dense are NeuroBench's (arXiv 2304.04640): for each input that is
    not 0, the non-zero weights that it meets, none beyond the map's border, no biases. Whether a layer
    multiplies or only accumulates is decided anew in each call, so batch by batch (and step by step in
    a loop over time), by whether all inputs are -1, 0 or 1.

    It differs from NeuroBench 2.3.0 in that the sums are exact where NeuroBench adds up in float32, a
    module that is registered under several names counts once, a model that is a weight layer itself
    counts, and RNN, LSTM and GRU cells do not. `dense_acs` is SpikingJelly 2.0's SynOpCounter where
    inputs are 0 or 1; SynOpCounter leaves out calls with a -1, takes a weight that is all 0 and 1 for
    spikes, and counts products outside such layers (attention). Transposed convolutions, and whatever
    else has weights, count nowhere here.

    Parameters
    ----------
    model : a torch model in CPU memory or on one GPU, or a `CompressedModel`. It stays as it is: mode,
        states, hooks, gradients.
    data : a tensor (one batch), or a list or DataLoader of batches; of a batch that is a tuple or list
        the first item is the input and the second the labels. There are as many samples as labels;
        without labels, as many as the neurons' inputs hold, if all hold the same.
    forward : ``forward(model, batch)`` runs one whole sequence; default that of the `CompressedModel`,
        ``model(batch)`` otherwise. States are reset before each batch.

    Raises
    ------
    TypeError, ValueError : naming the parameter, what came and what is accepted.
    """
    counter = OperationCounter()
    run = Pass(model, forward, counter)
    each_batch(data, run.run_counted)
    return counter.result(run.samples)


def weights_in(model: Any) -> list[Tensor] | None:
    """Weights of a model's layers, each once; None for what is no model."""
    model = module_of(model)
    if not isinstance(model, nn.Module):
        return None
    weights = [module.weight for module in model.modules() if isinstance(module, COUNTED)]
    return [weight.detach().cpu() for weight in {id(weight): weight for weight in weights}.values()]


class OperationCounter:
    """Watches weight layers; a `Watcher`."""

    def __init__(self) -> None:
        self.totals: dict[str, dict[str, int]] = {}

    def watch(self, model: nn.Module) -> None:
        for name, module in model.named_modules():
            if isinstance(module, COUNTED):
                module.register_forward_pre_hook(self._hook(name), with_kwargs=True)

    def result(self, samples: int) -> SynapticOperations:
        """All so far, a sample."""
        layers = {
            name: LayerOperations(**{field: total / samples for field, total in totals.items()})
            for name, totals in self.totals.items()
        }
        return SynapticOperations(samples, layers)

    def _hook(self, name: str) -> Any:
        fans: list[Tensor] = []

        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            given = first_tensor(args, kwargs)
            if given is None:
                return
            if not fans:
                weight = module.weight.detach()
                fans.extend(_fan(module, w) for w in (weight != 0, torch.ones_like(weight)))
            if name not in self.totals:
                self.totals[name] = dict.fromkeys(LayerOperations.__dataclass_fields__, 0)
            for field, count in _count(module, given.detach(), *fans).items():
                self.totals[name][field] += count

        return hook


def _count(module: Any, given: Tensor, kept: Tensor, whole: Tensor) -> dict[str, int]:
    """One call. Every count is linear in the events, which are therefore added up over samples and
    steps before they meet a kernel."""
    flat = given.reshape(-1, *given.shape[len(leading_axes(module, tuple(given.shape))) :])
    if flat.numel() == 0:
        return {}
    events = flat.count_nonzero(dim=0).double()
    size = flat.abs()
    integral = not size.is_floating_point() or bool((size == size.round()).all())
    found = {"dense": _met(module, torch.full_like(events, len(flat)), whole)}
    met = _met(module, events, kept)
    if integral:
        found["weighted_acs"] = _met(module, size.sum(dim=0, dtype=torch.float64), kept)
    if integral and bool(size.max() <= 1):
        return {**found, "acs": met, "dense_acs": _met(module, events, whole)}
    return {**found, "macs": met}


def _fan(module: Any, counts: Tensor) -> Tensor:
    """Weights by the input that they read, float64: [d_in], or a kernel with one output a group."""
    counts = counts.double()
    if isinstance(module, nn.Linear):
        return counts.sum(dim=0)
    return counts.reshape(module.groups, -1, *counts.shape[1:]).sum(dim=1)


def _met(module: Any, events: Tensor, fan: Tensor) -> int:
    """Sum over inputs of events by weights that read them. Exact below 2^53."""
    if isinstance(module, nn.Linear):
        return round(float(events @ fan))
    kind = next(kind for kind in COUNTED if isinstance(module, kind))
    return round(float(kind._conv_forward(module, events[None], fan, None).sum()))
