"""Quantized layers, their integers, and where the scales of integers go in a NIR graph."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ...errors import ParameterError
from ...weights import CompressedWeight, Quantized
from .edges import Edges
from .refusals import INPUT, ModelRefused
from .tracking import module_label

__all__ = ["Integers", "Scales", "integers_of", "quantized_layers"]

Vector = NDArray[np.float64]


@dataclass(frozen=True)
class Integers:
    """A weight as integers.

    Attributes
    ----------
    weight : float32, as readers need, the weight's shape.
    row_scale : float64 [d_out], what each row has to be multiplied by.
    """

    weight: NDArray[np.float32]
    row_scale: Vector


def quantized_layers(
    model: nn.Module, weights: Mapping[str, CompressedWeight]
) -> dict[str, Quantized]:
    """Returns the quantized weights in NumPy, under every name that a layer's weight has.

    Parameters
    ----------
    model : the network that is exported.
    weights : by layer name; those that are not quantized are left out.

    Raises
    ------
    ValueError : a name is no module's, or codes do not decode to the module's weight, bit for bit.
    """
    modules = dict(model.named_modules(remove_duplicate=False))
    unknown = sorted(set(weights) - set(modules))
    parameters = dict(model.named_parameters(remove_duplicate=False))
    if unknown and unknown[0] in parameters:
        raise ModelRefused(
            f"model multiplies by {unknown[0]!r}, a parameter of no Linear layer or convolution, which "
            "NIR cannot hold; accepted are weights of modules that are called"
        )
    if unknown:
        raise ValueError(
            f"weights has {unknown[0]!r}, which no module of the model is called; accepted are "
            "those of the compression that made the model"
        )
    layers: dict[str, Quantized] = {}
    for name, compressed in weights.items():
        if not isinstance(compressed, Quantized):
            continue
        if not isinstance(getattr(modules[name], "weight", None), torch.Tensor):
            raise ValueError(
                f"weights has codes of {module_label(name, modules[name])}, which has no weight; "
                "accepted are those of the compression that made the model"
            )
        weight = modules[name].weight.detach()
        dtype = str(weight.dtype).removeprefix("torch.")
        quantized = replace(compressed.converted(torch.as_tensor), dtype=dtype)
        if not torch.equal(quantized.to_dense(), weight):
            raise ValueError(
                f"weights has codes of {name!r} that are not its weight; accepted are those of the "
                "compression that made the model, with its weights as they were then"
            )
        arrays = replace(quantized, dtype="float32").converted(lambda tensor: tensor.numpy())
        for other, module in modules.items():
            if getattr(module, "weight", None) is modules[name].weight:
                layers[other] = arrays
    return layers


def integers_of(layers: Mapping[str, Quantized]) -> dict[str, Integers]:
    """Returns quantized layers as integers.

    Raises
    ------
    ParameterError : a ValueError; there are none, or one has no integers.
    """
    if not layers:
        raise ParameterError(
            "integer_weights",
            True,
            "False, or a model compressed with bits=",
            shown="True, but no layer has codes",
        )
    integers: dict[str, Integers] = {}
    for name, quantized in layers.items():
        try:
            integers[name] = Integers(*quantized.integers())
        except ParameterError as error:
            raise ParameterError(
                "integer_weights", True, "False", shown=f"True, but of {name!r} {error}"
            ) from error
    return integers


class Scales:
    """The factor of each node's output, carried on until a neuron takes it.

    Parameters
    ----------
    nir : the package.
    edges : the nodes and what feeds each.
    integers : by layer name, the weights that are written as integers.
    """

    def __init__(self, nir: ModuleType, edges: Edges, integers: Mapping[str, Integers]) -> None:
        self._nir, self._edges, self._integers = nir, edges, integers
        self._scales: dict[str, Vector | None] = {INPUT: None}  # of each node's output

    def into(self, name: str) -> Vector | None:
        """Returns the scale of a node's input, in the input's shape; None where it is 1.

        Raises
        ------
        ValueError : the node adds up inputs of different scales.
        """
        node = self._edges.nodes[name]
        first = self._scales[node.sources[0]]
        for source in node.sources[1:]:
            other = self._scales[source]
            alike = first is None and other is None
            if first is not None and other is not None:
                alike = np.array_equal(first.ravel(), other.ravel())
            if not alike:
                raise ValueError(
                    f"integer_weights is True, but {module_label(name, node.module)} adds up the "
                    f"outputs of {node.sources[0]} and {source}, which are in units of different "
                    "scales; accepted are layers of the same scales, or integer_weights=False"
                )
        return None if first is None else first.reshape(node.input_shape)

    def record(self, name: str, nir_node: Any, scale: Vector | None) -> None:
        """Keeps the scale of a node's output, given that of its input.

        Raises
        ------
        ValueError : the node is a weight layer, whose input must have no scale.
        """
        node, nir = self._edges.nodes[name], self._nir
        is_layer = isinstance(nir_node, (nir.Affine, nir.Conv1d, nir.Conv2d))
        if is_layer and scale is not None:
            raise ValueError(
                f"integer_weights is True, but {module_label(name, node.module)} is fed with integers "
                "whose scales no neuron has taken: they differ between its inputs; accepted are "
                "neurons between quantized layers, or integer_weights=False"
            )
        after: Vector | None = None
        if is_layer and name in self._integers:
            rows = self._integers[name].row_scale
            column = rows.reshape(-1, *[1] * (len(node.output_shape) - 1))
            after = np.broadcast_to(column, node.output_shape)
        elif scale is not None and isinstance(nir_node, (nir.AvgPool2d, nir.SumPool2d)):
            after = np.broadcast_to(scale[:, :1, :1], node.output_shape)  # one a channel
        elif scale is not None and isinstance(nir_node, (nir.I, nir.LI, nir.CubaLI)):
            after = scale
        self._scales[name] = after

    def require_none_left(self) -> None:
        """Raises ValueError where a scale reaches the model's output."""
        for name in self._edges.outputs:
            if self._scales[name] is not None:
                what = module_label(name, self._edges.nodes[name].module)
                raise ValueError(
                    f"integer_weights is True, but the output of {what} reaches the model's output "
                    "without a neuron that could take its scale; accepted are "
                    "heads that are not quantized (overrides={name: {'skip': True}}), or "
                    "integer_weights=False"
                )
