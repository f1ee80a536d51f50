"""One weight layer of a network, and the facts that its compression rests on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from torch import Tensor, nn

from ..conv import Conv, regions
from ..method import METHODS
from ..network.state import entry, tensor_of
from ..neurons import Neuron
from .layout import Layout

Role = Literal["spiking", "head", "unresolved", "never called", "unsupported", "skipped"]
KindOfInput = Literal["binary", "integer", "analog"]

COMPRESSED: tuple[Role, ...] = ("spiking", "head", "unresolved")


@dataclass(frozen=True)
class PlannedLayer:
    """One weight layer of the model.

    Attributes
    ----------
    name : as in ``model.named_modules()``; of a parameter in no Linear layer, its entry of the state.
    kind : "Linear", "Conv1d" or "Conv2d"; the class's name for what is not supported.
    role : "spiking" (its output is integrated by neurons), "head" (it reaches the output without a
        neuron), "unresolved" (neither; the current Hessian stands in), "never called", "unsupported",
        or "skipped" (by the user). The first three are compressed.
    shape : of the weight.
    conv : its geometry; None for a Linear layer.
    norms : BatchNorms between it and the next layer or neuron, nearest first.
    step_norms : BatchNorms of which each time step goes through its own (BNTT), in order of the steps.
    consumers : the neurons that integrate its output.
    neurons : their distinct impulse responses; (None,) is the current Hessian.
    threshold : of the consumers.
    layout, calls : how it is called in one forward.
    direct : whether the first of `norms` is fed this layer's output as it is, and nothing else.
    read_out : whether the output also reaches the network's output as it is.
    input_kind : "binary", "integer" (in -128..127, times `input_unit`) or "analog".
    input_unit : what integer inputs are multiples of, 1 where they are integers themselves.
    input_rate : fraction of the input that is not 0.
    input_shape, output_shape : of its first call.
    also : names of further modules with the same weight.
    options : what `overrides` set for this layer.
    notes : what was approximated or assumed, for people.
    plain_norms : those of `norms` that are BatchNorms and no more than that.
    weight_entry : the entry of the model's state that is its weight: the module's, or a parameter's
        that is multiplied by without a layer of its own.
    transposed : whether that entry is [d_in, d_out], as in ``x @ weight``; `shape` is [d_out, d_in].
    functional : whether a forward multiplies by the weight outside its module, as in
        ``F.linear(x, self.fc.weight)``.
    bias_entry : the entry of the model's state that takes a change of the bias: its own bias, or the
        mean of a BatchNorm that is fed this layer alone. None where there is neither, or others share
        it.
    """

    name: str
    kind: str
    role: Role
    shape: tuple[int, ...] = ()
    conv: Conv | None = None
    norms: tuple[str, ...] = ()
    step_norms: tuple[str, ...] = ()
    consumers: tuple[str, ...] = ()
    neurons: tuple[Neuron | None, ...] = (None,)
    threshold: float = 1.0
    layout: Layout = field(default_factory=lambda: Layout(1))
    calls: int = 0
    direct: bool = False
    read_out: bool = False
    input_kind: KindOfInput | Literal[""] = ""
    input_rate: float = 0.0
    input_unit: float = 1.0
    input_shape: tuple[int, ...] = ()
    output_shape: tuple[int, ...] = ()
    also: tuple[str, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    plain_norms: tuple[str, ...] = ()
    bias_entry: str | None = None
    weight_entry: str = ""
    transposed: bool = False
    functional: bool = False

    def __post_init__(self) -> None:
        if not self.weight_entry:
            object.__setattr__(self, "weight_entry", entry(self.name, "weight"))

    def weight_in(self, modules: Mapping[str, nn.Module]) -> Tensor:
        """Returns the layer's weight as `shape` says, a view of the model's own where transposed.

        Parameters
        ----------
        modules : of ``model.named_modules()``, by name.
        """
        return self.oriented(tensor_of(modules, self.weight_entry))

    def oriented(self, weight: Tensor) -> Tensor:
        """Returns a weight as the state holds it as `shape` says, or the other way round."""
        return weight.mT if self.transposed else weight

    @property
    def compressed(self) -> bool:
        """Whether `compress_model` compresses this layer."""
        return self.role in COMPRESSED

    @property
    def size(self) -> int:
        """Number of weights."""
        return int(np.prod(self.shape)) if self.shape else 0

    @property
    def in_features(self) -> int:
        """Side of one group's Hessian."""
        return int(np.prod(self.shape[1:])) if self.shape else 0

    @property
    def groups(self) -> int:
        """Groups of a convolution, 1 for any other layer."""
        return 1 if self.conv is None else self.conv.groups

    def hessian_bytes(self) -> int:
        """Returns the bytes of the Hessians' sums, one for each neuron, while they are gathered."""
        d, groups = self.in_features, self.groups
        matrix = 8 * groups * d * d
        if self.conv is None or self.input_kind == "analog":
            return len(self.neurons) * matrix
        channels = d // self.conv.taps
        map_size = tuple(self.input_shape[-self.conv.dims :])
        shifts = sum(len(part.neighbours) for part in regions(self.conv, map_size))
        return len(self.neurons) * 8 * groups * shifts * channels * channels

    def moment_bytes(self) -> int:
        """Returns the bytes of one matrix of moments, float64 for each group."""
        return 8 * self.groups * self.in_features**2

    def work_bytes(self, method: str = "exact") -> int:
        """Returns the bytes that the compression takes with its Hessian, by the layer's own method."""
        chosen = METHODS[self.options.get("method", method)]
        return self.moment_bytes() + chosen.work_bytes(self.shape[0], self.in_features)

    def paired_bytes(self, method: str = "exact") -> int:
        """Returns the bytes that the layer takes in sequential mode.

        Inputs of the dense and of the compressed model lie side by side in one Hessian, four times as
        large, of which there are the sums and the means; two of its blocks are taken out. Then the
        refit needs these two and three more.
        """
        moment = self.moment_bytes()
        gathering = 4 * self.hessian_bytes() + 6 * moment
        refit = 2 * moment + 32 * self.in_features**2 + 24 * self.size
        return max(gathering, refit, self.work_bytes(method))

    def activation_bytes(self) -> int:
        """Returns the bytes of input and output of all calls, float32, for the traced example."""
        calls = len(self.layout.step_of_call or (0,))
        return 4 * int(np.prod(self.output_shape)) + (4 + calls) * int(np.prod(self.input_shape))
