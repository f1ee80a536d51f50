"""Weight layers and pools as NIR nodes."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ...arrays import NumpyArray
from ...weights import Quantized
from .edges import Node
from .refusals import ModelRefused
from .scales import Integers
from .tracking import module_label

__all__ = ["layer_node"]


def layer_node(
    nir: ModuleType, name: str, node: Node, quantized: Quantized | None, integers: Integers | None
) -> Any:
    """Returns the node of a weight layer or a pool.

    Parameters
    ----------
    nir : the package.
    name : of the module.
    node : the module and its shapes.
    quantized : its codes, which go into the metadata; None where it has none.
    integers : what is written in place of its weight; None for the weight itself.

    Raises
    ------
    ValueError : naming the module, where NIR cannot hold it.
    """
    module, what = node.module, module_label(name, node.module)
    if not isinstance(module, (nn.Linear, nn.Conv1d, nn.Conv2d)):
        return _pool_node(nir, node, what)
    if isinstance(module, (nn.Conv1d, nn.Conv2d)) and module.padding_mode != "zeros":
        raise ModelRefused(
            f"model has {what} with padding_mode {module.padding_mode!r}; accepted is 'zeros'"
        )
    weight = _floats(module.weight)
    bias = np.zeros(len(weight), weight.dtype) if module.bias is None else _floats(module.bias)
    metadata: dict[str, Any] = {
        "module": type(module).__name__,
        "sparsity": float((weight == 0).mean()),
    }
    if integers is not None:
        weight = integers.weight
        bias = (bias / integers.row_scale).astype(bias.dtype)
        metadata |= {"row_scale": integers.row_scale}
    elif quantized is not None:
        metadata |= {
            **quantized.parts(),
            "bits": quantized.bits,
            "group_size": quantized.group_size,
        }
    about = {"metadata": {"sbc_kernels": metadata}}
    if isinstance(module, nn.Linear):
        return nir.Affine(weight, bias, **about)
    is_1d = isinstance(module, nn.Conv1d)
    kind = nir.Conv1d if is_1d else nir.Conv2d

    def plain(value: Any) -> Any:
        """Returns a parameter as NIR stores it: a string, one number in 1-D, a tuple in 2-D."""
        return value if isinstance(value, str) else value[0] if is_1d else tuple(value)

    nir_node = kind(
        input_shape=node.input_shape[1] if is_1d else tuple(node.input_shape[1:]),
        weight=weight,
        stride=plain(module.stride),
        padding=plain(module.padding),
        dilation=plain(module.dilation),
        groups=module.groups,
        bias=bias,
        **about,
    )
    nir_input, nir_output = (
        tuple(int(n) for n in shape)
        for types in (nir_node.input_type, nir_node.output_type)
        for shape in types.values()
    )
    if (nir_input, nir_output) != (node.input_shape, node.output_shape):
        raise ModelRefused(
            f"model has {what}, from {list(node.input_shape)} to {list(node.output_shape)}; nir "
            f"{nir.version} takes it to go from {list(nir_input)} to {list(nir_output)} and could "
            "not be read back: it cannot hold grouped convolutions and kernels that are not square"
        )
    return nir_node


def _pool_node(nir: ModuleType, node: Node, what: str) -> Any:
    """Returns the node of a pool. Raises ValueError where NIR cannot hold it."""
    module = node.module
    if isinstance(module, nn.AdaptiveAvgPool2d):
        (_, height, width), (_, high, wide) = node.input_shape, node.output_shape
        if height % high or width % wide:
            raise ModelRefused(
                f"model has {what} from {[height, width]} to {[high, wide]}, in windows of different "
                "sizes; accepted are whole fractions"
            )
        kernel = np.array([height // high, width // wide])
        return nir.AvgPool2d(kernel, kernel.copy(), np.zeros(2, np.int64))
    kernel = _pair(module.kernel_size)
    stride = kernel.copy() if module.stride is None else _pair(module.stride)
    if isinstance(module, nn.LPPool2d):
        if module.norm_type != 1 or module.ceil_mode:
            raise ModelRefused(
                f"model has {what} with norm_type {module.norm_type} and ceil_mode {module.ceil_mode}; "
                "accepted is norm 1, which is NIR's SumPool2d, without ceil_mode"
            )
        return nir.SumPool2d(kernel, stride, np.zeros(2, np.int64))
    padding = _pair(module.padding)
    uneven = padding.any() and not module.count_include_pad
    if module.ceil_mode or module.divisor_override is not None or uneven:
        raise ModelRefused(
            f"model has {what} with ceil_mode, divisor_override or count_include_pad=False; accepted "
            "are means over whole windows, the padding counted"
        )
    return nir.AvgPool2d(kernel, stride, padding)


def _pair(value: Any) -> NumpyArray:
    """Returns a number or a pair as int64 [2]."""
    pair: NumpyArray = np.broadcast_to(np.array(value, dtype=np.int64), 2).copy()
    return pair


def _floats(tensor: Tensor) -> NumpyArray:
    """Returns a tensor in NumPy: float64 as it is, others as float32."""
    values = tensor.detach()
    array: NumpyArray = (values if values.dtype == torch.float64 else values.float()).numpy()
    return array
