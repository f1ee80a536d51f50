"""Which weight layers of a network feed which neurons, and when, observed in one forward pass.

Symbolic tracing fails on real spiking networks (data-dependent shapes, loops over time, states). The
graph that autograd records does not: `recording` cuts the output of every neuron, so whatever reaches
a neuron's input backwards was computed since the last neurons fired. `graph_walk` follows that graph
back to the weight layers and the norms on the way; `time_steps` finds in the same graph which leading
position of a layer's output belongs to which time step.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd.graph import GradientEdge

from ..backends.multiples import finer_unit
from ..frameworks import NeuronFacts
from ..hessian import unit_of
from ..network.products import ProductForm
from .planned_layer import KindOfInput


@dataclass(frozen=True, order=True)
class Bend:
    """A step between a layer and its neuron that is not linear.

    Attributes
    ----------
    is_function : whether it is a `torch.autograd.Function`, as a spiking neuron's surrogate gradient.
    name : of the operation or the function.
    """

    is_function: bool
    name: str

    def __str__(self) -> str:
        return f"autograd function {self.name}" if self.is_function else self.name


@dataclass(frozen=True)
class Reach:
    """A call of a weight layer that reaches a neuron's input (or the output) without another neuron.

    Attributes
    ----------
    layer, call : name of the layer, and number of its call.
    norms : between the layer and the next weight layer or the neuron, nearest first.
    via : weight layers between the layer and the neuron.
    bent_by : what is not linear on the way.
    """

    layer: str
    call: int
    norms: tuple[str, ...]
    via: tuple[str, ...]
    bent_by: tuple[Bend, ...]


@dataclass
class NeuronCall:
    """A call of a neuron.

    Attributes
    ----------
    facts : how the neuron reads its input.
    reached : calls of weight layers that the input was computed from.
    batch_first : whether more samples would make `facts.outer` larger.
    samples : number of samples in the input.
    shape : of the input of a known neuron.
    """

    facts: NeuronFacts
    reached: list[Reach]
    batch_first: bool
    samples: int
    shape: tuple[int, ...] = ()


@dataclass
class LayerCall:
    """A call of a weight layer.

    Attributes
    ----------
    input_shape, output_shape : of the call.
    lead : the output's axes before its features or its map.
    inside : the neuron that made the call, and the number of the neuron's call; None outside neurons.
    edge : of the output in the autograd graph, until the forward pass is over; None without a graph.
    step_of : int64 [product of lead], the time step of each position within the forward pass: -1 where
        it is not known, -2 where a position belongs to several.
    constant : whether each time step reads the same positions, and each element of the current one of
        them: a layer that is computed once, and its output repeated. None where one step reads it.
    """

    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    lead: tuple[int, ...]
    inside: tuple[str, int] | None
    edge: GradientEdge | None
    step_of: NDArray[np.int64]
    constant: bool | None = None


@dataclass
class InputKind:
    """Range and rate of a layer's inputs, over all calls."""

    unit: float | None = 1.0
    """What all inputs are multiples of; None if there is nothing."""
    low: float = 0.0
    high: float = 0.0
    nonzero: int = 0
    size: int = 0

    def add(self, values: Tensor) -> None:
        """Adds one input."""
        values = values.detach()
        if values.numel() == 0:
            return
        nonzero = int(torch.count_nonzero(values))
        if nonzero and values.is_floating_point():
            self._join(unit_of(values), values)
        self.low = min(self.low, float(values.min()))
        self.high = max(self.high, float(values.max()))
        self.nonzero += nonzero
        self.size += values.numel()

    def _join(self, unit: float | None, values: Tensor) -> None:
        """Makes the unit one that these values are multiples of, too."""
        if unit is None or self.unit is None:
            self.unit = None
        elif self.nonzero == 0:
            self.unit = unit
        elif unit != self.unit:
            self.unit = finer_unit(self.unit, unit, 2.0**-20 if values.itemsize < 8 else 2.0**-50)

    @property
    def name(self) -> KindOfInput:
        """Whether the inputs are 0 or 1, integers of one byte times the unit, or anything else."""
        if self.unit is None or self.low < -128.5 * self.unit or self.high > 127.5 * self.unit:
            return "analog"
        binary = self.unit == 1.0 and self.low >= 0 and self.high <= 1
        return "binary" if binary else "integer"

    @property
    def rate(self) -> float:
        """Fraction of the inputs that are not 0."""
        return self.nonzero / self.size if self.size else 0.0


@dataclass
class WeightUse:
    """What one forward pass did with one weight outside the module whose weight it is.

    Attributes
    ----------
    forms : of the products with it.
    biases : by product, the entry of the bias that it added, or None.
    readers : functions that read the weight and are no product with all of it.
    """

    forms: list[ProductForm] = field(default_factory=list)
    biases: list[str | None] = field(default_factory=list)
    readers: list[str] = field(default_factory=list)


@dataclass
class Provenance:
    """Observations of one forward pass of a model.

    Attributes
    ----------
    layer_calls, neuron_calls : by module name, in order.
    kinds : of the weight layers' inputs.
    heads : weight layers that reach the model's output without a neuron.
    unusual : weight layers that do more than multiply by their weight and add their bias.
    module_calls : weight layers whose modules were called.
    uses : by entry of a weight, what was done with it outside its module; see `weight_uses`.
    inner_reaches : by weight layer that a neuron calls, how it reaches that neuron's own output.
    norm_inputs : by BatchNorm, the layers or norms whose output is its input, element by element in
        whatever order and channel by channel in the same; None stands for anything else.
    norm_channels : by BatchNorm, its number of channels.
    plain_norms : by BatchNorm, whether it multiplies and adds what `affine_of` returns, and no more.
    """

    layer_calls: dict[str, list[LayerCall]] = field(default_factory=lambda: defaultdict(list))
    neuron_calls: dict[str, list[NeuronCall]] = field(default_factory=lambda: defaultdict(list))
    kinds: dict[str, InputKind] = field(default_factory=lambda: defaultdict(InputKind))
    heads: list[Reach] = field(default_factory=list)
    module_calls: set[str] = field(default_factory=set)
    uses: dict[str, WeightUse] = field(default_factory=lambda: defaultdict(WeightUse))
    inner_reaches: dict[str, list[Reach]] = field(default_factory=lambda: defaultdict(list))
    unusual: set[str] = field(default_factory=set)
    norm_inputs: dict[str, set[str | None]] = field(default_factory=lambda: defaultdict(set))
    norm_channels: dict[str, int] = field(default_factory=dict)
    plain_norms: dict[str, bool] = field(default_factory=dict)
