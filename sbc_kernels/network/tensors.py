"""Tensors in nested values, and the kinds of layers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..hessian import one_byte

WEIGHT_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d)
WeightLayer: TypeAlias = nn.Linear | nn.Conv1d | nn.Conv2d
Shape = tuple[int, ...]


def leading_axes(module: WeightLayer, shape: Shape) -> Shape:
    """Returns the axes of a weight layer's input or output before its features or its map."""
    own = 1 if isinstance(module, nn.Linear) else len(module.kernel_size) + 1
    return tuple(shape[: len(shape) - own])


def is_norm(module: nn.Module) -> bool:
    """Whether this is a BatchNorm of any class: it keeps running statistics of its own and an epsilon.

    A wrapper that hands the attributes of a BatchNorm inside it on is none.
    """
    return {"running_mean", "running_var"} <= module._buffers.keys() and hasattr(module, "eps")


def map_tensors(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """Returns nested tuples, lists and dictionaries with every tensor replaced by `change` of it."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, tuple):
        items = [map_tensors(item, change) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    if isinstance(value, list):
        return [map_tensors(item, change) for item in value]
    if isinstance(value, Mapping):
        return {key: map_tensors(item, change) for key, item in value.items()}
    return value


def tensors_in(value: Any) -> list[Tensor]:
    """Returns the tensors in nested tuples, lists and dictionaries, in order."""
    tensors: list[Tensor] = []

    def note(tensor: Tensor) -> Tensor:
        tensors.append(tensor)
        return tensor

    map_tensors(value, note)
    return tensors


def first_tensor(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
    """Returns the first tensor among a call's arguments, which is taken as the module's input."""
    return next(iter(tensors_in((args, kwargs))), None)


def is_plain(module: WeightLayer, features: Tensor, output: Tensor) -> bool:
    """Whether a weight layer returned its input times its weight, plus its bias, and no more.

    The bound is 1 % of the largest output: half precision passes, another formula does not.
    """
    lead = leading_axes(module, tuple(features.shape))
    flat = features.reshape(-1, *features.shape[len(lead) :])
    with torch.no_grad():
        if isinstance(module, nn.Linear):
            expected = F.linear(flat, module.weight, module.bias)
        else:
            expected = module._conv_forward(flat, module.weight, module.bias)
    if expected.numel() != output.numel():
        return False
    error = (expected.reshape(output.shape).float() - output.float()).abs().max()
    return bool(error <= 1e-2 * expected.float().abs().max() + 1e-6)


def narrow(values: Tensor) -> Tensor:
    """Returns integers in -128..127 in one byte, and other values as they are.

    Spikes of 0 and 1 become bools, whose range a Hessian knows without looking through them again.
    """
    if values.dtype in (torch.bool, torch.uint8, torch.int8):
        return values
    return one_byte(values)


def plain(tensor: Tensor) -> Tensor:
    """Returns a tensor's values in CPU memory, dense and in row-major order, without a graph.

    Its strides are those of a fresh tensor: a single number may have any and count as contiguous, but
    is then refused as a view of bytes.
    """
    dense = tensor.detach().cpu()
    if dense.is_quantized:
        dense = dense.dequantize()
    if dense.layout is not torch.strided:
        dense = dense.to_dense()
    dense = dense.resolve_conj().resolve_neg().contiguous()
    strides = torch.empty(dense.shape, device="meta").stride()
    return dense if dense.stride() == strides else dense.as_strided(dense.shape, strides)


def is_transformed(tensor: Tensor) -> bool:
    """Whether a tensor stands for others inside ``torch.vmap`` or another transform of torch.func."""
    return bool(torch._C._functorch.is_functorch_wrapped_tensor(tensor))
