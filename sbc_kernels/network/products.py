"""Products of activations with a weight of the model, wherever a forward computes them.

A layer is more often a call of its module; but a forward may also take a weight out of a module
(``F.linear(x, self.fc.weight)``, ``spikes @ self.recurrent.t()``) or call ``self.fc.forward(x)``, where
no hook runs. Every such product goes through a torch function, which `ProductMode` sees.
"""

from __future__ import annotations

import string
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from ..conv import Conv
from .tensors import is_transformed, tensors_in
from .weight_table import Found, WeightTable

Kind = Literal["Linear", "Conv1d", "Conv2d"]


@dataclass(frozen=True)
class ProductForm:
    """How a product uses a weight.

    Attributes
    ----------
    kind : of the layer that it amounts to.
    transposed : whether the weight is [d_in, d_out], as in ``x @ weight``.
    conv : the geometry of a convolution.
    """

    kind: Kind
    transposed: bool = False
    conv: Conv | None = None


@dataclass(frozen=True)
class Product:
    """A product of activations with one weight.

    Attributes
    ----------
    entry : of the weight in the model's state.
    form : how the weight is used.
    features : the activations, [..., d_in] or [..., C, *map].
    bias : a vector that the same function adds, or None.
    compute : returns the product, [..., d_out] or [..., C, *map], with its autograd graph.
    finish : makes of it what the function returns.
    """

    entry: str
    form: ProductForm
    features: Tensor
    bias: Tensor | None
    compute: Callable[[], Tensor]
    finish: Callable[[Tensor], Tensor]


def function_name(func: Any) -> str:
    """Returns a torch function's name; ``x.T`` is "T", ``x @ y`` "matmul", ``x.add_(y)`` "add_"."""
    name = str(getattr(func, "__name__", func))
    if name == "__get__":
        name = str(func.__self__.__name__)
    return {"__matmul__": "matmul", "__rmatmul__": "rmatmul"}.get(name, name)


def product_of(
    name: str, args: tuple[Any, ...], kwargs: dict[str, Any], table: WeightTable
) -> Product | None:
    """Returns the product that a torch function computes.

    None where it is no product with a weight of the table, with that weight in one piece.
    """
    maker = _MAKERS.get(name)
    if maker is None or kwargs.get("out") is not None:
        return None
    if any(isinstance(a, Tensor) and is_transformed(a) for a in (*args, *kwargs.values())):
        return None
    try:
        given = {key: value for key, value in kwargs.items() if key != "out"}
        return maker(table, *args, **given)
    except TypeError:  # arguments that torch itself will refuse, or a signature not known here
        return None


def _linear(
    table: WeightTable, input: Tensor, weight: Tensor, bias: Tensor | None = None
) -> Product | None:
    """``F.linear``: [..., d_in] with a weight [d_out, d_in]."""
    found = _factor(table, weight, input)
    if found is None:
        return None
    return Product(
        found.entry,
        ProductForm("Linear", found.form == "transposed"),
        input,
        bias,
        lambda: F.linear(input, weight, bias),
        _as_it_is,
    )


def _matmul(table: WeightTable, input: Tensor, other: Tensor) -> Product | None:
    """``input @ other``, where either is the weight."""
    if table.find(other) is not None:
        return None if other.ndim != 2 else _linear(table, input, other.mT)
    if input.ndim != 2 or table.find(input) is None:
        return None
    if other.ndim == 1:
        return _linear(table, other, input)
    product = _linear(table, other.mT, input)
    if product is None:
        return None
    # Features lie on the last axis but one: the same layer between two transpositions.
    return _with_finish(product, lambda result: result.mT)


def _rmatmul(table: WeightTable, other: Tensor, input: Tensor) -> Product | None:
    return _matmul(table, input, other)


def _addmm(
    table: WeightTable,
    input: Tensor,
    mat1: Tensor,
    mat2: Tensor,
    *,
    beta: float = 1,
    alpha: float = 1,
) -> Product | None:
    """``input + mat1 @ mat2``."""
    product = _matmul(table, mat1, mat2) if beta == alpha == 1 else None
    if product is None:
        return None
    finish = product.finish
    return _with_finish(product, lambda result: input + finish(result))


def _einsum(table: WeightTable, equation: Any, *operands: Any) -> Product | None:
    """``torch.einsum`` of activations with a weight, over one axis."""
    if len(operands) == 1 and isinstance(operands[0], (tuple, list)):
        operands = tuple(operands[0])
    if not isinstance(equation, str) or len(operands) != 2:
        return None
    left, arrow, out = equation.replace(" ", "").partition("->")
    labels = left.split(",")
    if not arrow or len(labels) != 2:
        return None
    at = next((at for at in (1, 0) if table.find(operands[at]) is not None), None)
    if at is None:
        return None
    weight, features = operands[at], operands[1 - at]
    own, rest = labels[at], labels[1 - at]
    if "." in left + out:
        rest, out = _spelt_out(rest, out, features.ndim, taken=left + out)
    kept = [label for label in own if label in out and label not in rest]
    summed = [label for label in own if label in rest and label not in out]
    lead = "".join(label for label in rest if label not in summed)
    ordered = len(set(rest)) == len(rest) == features.ndim and len(own) == weight.ndim == 2
    if not ordered or len(kept) != 1 or len(summed) != 1 or sorted(out) != sorted(lead + kept[0]):
        return None
    product = _linear(
        table,
        features.movedim(rest.index(summed[0]), -1),
        weight if own[0] == kept[0] else weight.mT,
    )
    order = [(lead + kept[0]).index(label) for label in out]
    return None if product is None else _with_finish(product, lambda r: r.permute(order))


def _spelt_out(rest: str, out: str, ndim: int, taken: str) -> tuple[str, str]:
    """Returns an einsum's labels with letters for the axes of an ellipsis."""
    count = max(ndim - len(rest.replace("...", "")), 0)
    free = "".join(letter for letter in string.ascii_letters if letter not in taken)[:count]
    return rest.replace("...", free), out.replace("...", free)


def _tensordot(table: WeightTable, a: Tensor, b: Tensor, dims: Any = 2) -> Product | None:
    """``torch.tensordot`` over one axis."""
    if isinstance(dims, int):
        if dims != 1:
            return None
        dims = ([-1], [0])
    first, second = ([int(n) for n in part] for part in dims)
    if len(first) != 1 or len(second) != 1:
        return None
    if table.find(b) is not None and b.ndim == 2:
        return _linear(table, a.movedim(first[0], -1), b if second[0] % 2 == 1 else b.mT)
    if table.find(a) is None or a.ndim != 2:
        return None
    product = _linear(table, b.movedim(second[0], -1), a if first[0] % 2 == 1 else a.mT)
    return None if product is None else _with_finish(product, lambda r: r.movedim(-1, 0))


def _conv(dims: Literal[1, 2]) -> Callable[..., Product | None]:
    """Returns the maker of ``F.conv1d`` or ``F.conv2d``."""
    function: Callable[..., Tensor] = F.conv1d if dims == 1 else F.conv2d
    kind: Kind = "Conv1d" if dims == 1 else "Conv2d"

    def spread(value: Any) -> tuple[int, ...]:
        values = tuple(value) if isinstance(value, (tuple, list)) else (value,)
        return tuple(int(n) for n in values) * (dims if len(values) == 1 else 1)

    def maker(
        table: WeightTable,
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
    ) -> Product | None:
        found = _factor(table, weight, input)
        if found is None or found.form != "whole" or weight.ndim != dims + 2:
            return None
        conv = Conv(
            tuple(weight.shape[2:]),
            spread(stride),
            padding if isinstance(padding, str) else spread(padding),
            spread(dilation),
            int(groups),
        )
        return Product(
            found.entry,
            ProductForm(kind, False, conv),
            input,
            bias,
            lambda: function(input, weight, bias, stride, padding, dilation, groups),
            _as_it_is,
        )

    return maker


def _factor(table: WeightTable, weight: Tensor, features: Tensor) -> Found | None:
    """Returns the weight that a factor is in one piece; None where the other is a weight, too."""
    found = table.find(weight)
    if found is None or found.form == "other" or table.find(features) is not None:
        return None
    return found


def _with_finish(product: Product, finish: Callable[[Tensor], Tensor]) -> Product:
    return Product(
        product.entry, product.form, product.features, product.bias, product.compute, finish
    )


def _as_it_is(result: Tensor) -> Tensor:
    return result


_MAKERS: dict[str, Callable[..., Product | None]] = {
    "linear": _linear,
    "inner": _linear,
    "matmul": _matmul,
    "rmatmul": _rmatmul,
    "mm": _matmul,
    "mv": _matmul,
    "addmm": _addmm,
    "einsum": _einsum,
    "tensordot": _tensordot,
    "conv1d": _conv(1),
    "conv2d": _conv(2),
}

# Functions that multiply by all or some of a weight in a way that no layer does.
MULTIPLIES = frozenset(_MAKERS) | {
    "bmm", "baddbmm", "addbmm", "addmv", "bilinear", "conv3d",
    "conv_transpose1d", "conv_transpose2d", "conv_transpose3d",
}  # fmt: skip

# Functions that read no values of a tensor: its shape and kind, or an empty one like it.
_BLANK = ("zeros_like", "ones_like", "empty_like", "full_like", "rand_like", "randn_like",
          "new_zeros", "new_ones", "new_empty", "new_full", "data_ptr", "register_hook",
          "requires_grad_", "record_stream", "backward")  # fmt: skip

# Functions whose result has the values that they are given.
SAME_VALUES = ("clone", "contiguous", "to", "type", "type_as", "float", "double", "half", "bfloat16",
               "cpu", "cuda")  # fmt: skip


class ProductMode(TorchFunctionMode):  # type: ignore[misc]
    """While this mode is on, products with a model's weights are seen wherever they are computed.

    Parameters
    ----------
    table : the weights.
    """

    def __init__(self, table: WeightTable) -> None:
        super().__init__()
        self.table = table

    def multiply(self, product: Product, call: Callable[[], Any]) -> Any:
        """Called in place of a product. Returns the result of `call`, the function itself."""
        return call()

    def read(self, entry: str, name: str) -> None:
        """Called with a weight that a function `name` read which is no product with all of it."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        name = function_name(func)
        product = product_of(name, args, kwargs, self.table)
        if product is not None:
            return self.multiply(product, lambda: func(*args, **kwargs))
        result = func(*args, **kwargs)
        if name not in _BLANK:
            self._note_reads(name, args, kwargs, result)
        return result

    def _note_reads(
        self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any
    ) -> None:
        found = [f for t in tensors_in((args, kwargs)) if (f := self.table.find(t)) is not None]
        if not found:
            return
        results = tensors_in(result)
        in_place = name.endswith("_") and not name.endswith("__")
        writes = in_place or name in ("__setitem__", "__set__")
        views = results and all(self.table.find(tensor) is not None for tensor in results)
        if not writes and (views or not results):
            return  # a shape, a number of axes; or a view, which is found when it is used
        for entry in dict.fromkeys(f.entry for f in found):
            self.read(entry, name)
