"""Weight layers and pools as NIR nodes, and what is known of quantized weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from .links import Place
from .twins import called

__all__ = ["Codes", "codes_of", "layer_node"]

Array = NDArray[Any]


@dataclass(frozen=True)
class Codes:
    """A quantized weight: ``(codes - zero_point) * scale``, and 0 where it was pruned.

    Attributes
    ----------
    name : of the layer that was quantized.
    codes : uint8, the weight's shape.
    scale, zero_point : float32 [d_out, groups].
    group_size : consecutive inputs that share a scale; -1 is the whole row.
    mask : bool, the weight's shape, or None.
    """

    name: str
    codes: Array
    scale: Array
    zero_point: Array
    group_size: int
    mask: Array | None

    @property
    def half(self) -> bool:
        """Whether levels are halves: 1 bit has its zero point at 0.5."""
        return bool((self.zero_point % 1 != 0).any())

    @property
    def row_scale(self) -> NDArray[np.float64]:
        """What a row of integers has to be multiplied by, float64 [d_out]."""
        if self.group_size != -1:
            raise ValueError(
                f"integer_weights is True, but {self.name} has {self.scale.shape[1]} scales a row "
                f"(group_size {self.group_size}); accepted is group_size=-1, one scale a row"
            )
        found: NDArray[np.float64] = self.scale[:, 0].astype(np.float64)
        return found / 2 if self.half else found

    @property
    def integers(self) -> Array:
        """``codes - zero_point`` (twice that for halves), 0 where pruned; float32, as readers need."""
        zero = self.zero_point[:, :1].reshape(-1, *[1] * (self.codes.ndim - 1))
        found = (self.codes - zero).astype(np.float32) * np.float32(2 if self.half else 1)
        if (found % 1 != 0).any():
            raise ValueError(
                f"integer_weights is True, but {self.name} has zero points that are neither integers "
                "nor halves; accepted is integer_weights=False"
            )
        return found if self.mask is None else np.where(self.mask, found, np.float32(0))

    def metadata(self) -> dict[str, Any]:
        """For the node, as HDF5 can store it."""
        parts = {
            "codes": self.codes,
            "scale": self.scale,
            "zero_point": self.zero_point,
            "group_size": self.group_size,
        }
        return parts if self.mask is None else parts | {"mask": self.mask}


def codes_of(name: str, module: Any, parts: Mapping[str, Tensor]) -> Codes | None:
    """What compression knows of a layer's weight; None if it was not quantized.

    Raises
    ------
    ValueError : the weight is not what its codes say.
    """
    if "codes" not in parts:
        return None
    codes, scale, zero = (parts[key] for key in ("codes", "scale", "zero_point"))
    weight, mask = module.weight.detach(), parts.get("mask")
    wide = torch.float64 if weight.dtype == torch.float64 else torch.float32
    flat = codes.flatten(1).to(wide)
    d_in, groups = flat.shape[1], scale.shape[1]
    sizes = [s for s in range(-(-d_in // groups), d_in) if -(-d_in // s) == groups]
    for size in sizes if groups > 1 else [-1]:
        group = torch.arange(d_in) // size if size > 0 else torch.zeros(d_in, dtype=torch.long)
        dense = ((flat - zero[:, group]) * scale[:, group]).to(weight.dtype).reshape(weight.shape)
        if torch.equal(dense if mask is None else dense * mask, weight):
            arrays = (codes.numpy(), scale.numpy(), zero.numpy())
            return Codes(name, *arrays, size, None if mask is None else mask.numpy())
    raise ValueError(
        f"tensors has codes of {name!r} that are not its weight; accepted are those of the compression "
        "that made the model, with its weights as they were then"
    )


def layer_node(nir: Any, name: str, place: Place, codes: Codes | None, integers: bool) -> Any:
    """The node of a weight layer or a pool."""
    module, what = place.module, called(name, place.module)
    if not isinstance(module, (nn.Linear, nn.Conv1d, nn.Conv2d)):
        return _pool_node(nir, place, what)
    if isinstance(module, (nn.Conv1d, nn.Conv2d)) and module.padding_mode != "zeros":
        raise ValueError(
            f"model has {what} with padding_mode {module.padding_mode!r}; accepted is 'zeros'"
        )
    weight = _floats(module.weight)
    bias = np.zeros(len(weight), weight.dtype) if module.bias is None else _floats(module.bias)
    mine: dict[str, Any] = {
        "module": type(module).__name__,
        "sparsity": float((weight == 0).mean()),
    }
    if codes is not None and integers:
        weight = codes.integers
        bias = (bias / codes.row_scale).astype(bias.dtype)
        mine |= {"row_scale": codes.row_scale}
    elif codes is not None:
        mine |= codes.metadata()
    about = {"metadata": {"sbc_kernels": mine}}
    if isinstance(module, nn.Linear):
        return nir.Affine(weight, bias, **about)
    one = isinstance(module, nn.Conv1d)
    kind = nir.Conv1d if one else nir.Conv2d

    def plain(value: Any) -> Any:
        return value if isinstance(value, str) else value[0] if one else tuple(value)

    node = kind(
        input_shape=place.given[1] if one else tuple(place.given[1:]),
        weight=weight,
        stride=plain(module.stride),
        padding=plain(module.padding),
        dilation=plain(module.dilation),
        groups=module.groups,
        bias=bias,
        **about,
    )
    taken, given = (
        tuple(int(n) for n in t) for t in (*node.input_type.values(), *node.output_type.values())
    )
    if (taken, given) != (place.given, place.shape):
        raise ValueError(
            f"model has {what}, from {list(place.given)} to {list(place.shape)}; nir {nir.version} "
            f"takes it to go from {list(taken)} to {list(given)} and could not be read back: it cannot "
            "hold grouped convolutions and kernels that are not square"
        )
    return node


def _pool_node(nir: Any, place: Place, what: str) -> Any:
    module = place.module
    if isinstance(module, nn.AdaptiveAvgPool2d):
        (_, height, width), (_, high, wide) = place.given, place.shape
        if height % high or width % wide:
            raise ValueError(
                f"model has {what} from {[height, width]} to {[high, wide]}, in windows of different "
                "sizes; accepted are whole fractions"
            )
        kernel = np.array([height // high, width // wide])
        return nir.AvgPool2d(kernel, kernel.copy(), np.zeros(2, np.int64))
    kernel = _pair(module.kernel_size)
    stride = kernel.copy() if module.stride is None else _pair(module.stride)
    if isinstance(module, nn.LPPool2d):
        if module.norm_type != 1 or module.ceil_mode:
            raise ValueError(
                f"model has {what} with norm_type {module.norm_type} and ceil_mode {module.ceil_mode}; "
                "accepted is norm 1, which is NIR's SumPool2d, without ceil_mode"
            )
        return nir.SumPool2d(kernel, stride, np.zeros(2, np.int64))
    padding = _pair(module.padding)
    uneven = padding.any() and not module.count_include_pad
    if module.ceil_mode or module.divisor_override is not None or uneven:
        raise ValueError(
            f"model has {what} with ceil_mode, divisor_override or count_include_pad=False; accepted "
            "are means over whole windows, the padding counted"
        )
    return nir.AvgPool2d(kernel, stride, padding)


def _pair(value: Any) -> Array:
    pair: Array = np.broadcast_to(np.array(value, dtype=np.int64), 2).copy()
    return pair


def _floats(tensor: Tensor) -> Array:
    values = tensor.detach()
    array: Array = (values if values.dtype == torch.float64 else values.float()).numpy()
    return array
