"""Conversion of arguments: NumPy on a CPU, torch on a GPU, and results back in the caller's framework.

Code that runs on both is written in terms of the array API standard: ``xp = array_namespace(array)``.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
from array_api_compat import array_namespace
from array_api_compat import device as device_of
from numpy.typing import NDArray

from . import _native
from .errors import ParameterError, ParameterTypeError
from .threads import thread_count

# An array of any framework: NumPy, torch, or another library of the array API standard. They share no
# type, so the alias only says what is meant; arguments of users are checked where they come in.
Array: TypeAlias = Any
NumpyArray: TypeAlias = NDArray[Any]
# Takes a NumPy result to the framework of the argument it was made from; a torch result stays as it is.
Restore = Callable[[NumpyArray], Array]

_CPU = 1  # DLPack's device type


def to_array(array: Array, name: str, device: str | None = None) -> tuple[Array, Restore]:
    """Returns ``array`` as NumPy, or as a torch tensor if it lies on a GPU, and the way back.

    A tensor's dtype is widened as `to_numpy` widens it.

    Parameters
    ----------
    array, name : as in `to_numpy`.
    device : of the backend that takes it, "cpu" or "cuda"; None: the one that it lies on. With
        "cuda" a tensor stays on its device (Triton's interpreter runs on CPU tensors).

    Raises
    ------
    TypeError, ValueError : as in `to_numpy`, and if the backend needs a tensor and this is none.
    """
    torch = sys.modules.get("torch")
    is_tensor = torch is not None and isinstance(array, torch.Tensor)
    if device == "cuda" and not is_tensor:
        raise ParameterError(name, array, "a CUDA tensor", verb="lies", shown="in CPU memory")
    if device == "cpu" or not (is_tensor and (device == "cuda" or array.is_cuda)):
        return to_numpy(array, name)
    tensor = _plain_torch(array, name)
    if tensor.is_complex() or tensor.is_quantized:
        raise ParameterTypeError(
            name,
            array,
            "accepted are bool, integers and real floats",
            verb="has",
            shown=f"dtype {tensor.dtype}",
        )
    return tensor, lambda result: result


def to_numpy(array: Array, name: str) -> tuple[NumpyArray, Restore]:
    """Returns ``array`` as NumPy, and a function that takes a NumPy result back to its framework.

    Accepts NumPy, torch (any strides, with or without grad, also bfloat16, which is widened to
    float32 and narrowed again on the way back) and whatever exports DLPack from CPU memory. The
    result may share memory with ``array`` and is never written to.

    Raises
    ------
    TypeError : not an array, or a sparse or complex one.
    ValueError : not in CPU memory.
    """
    if isinstance(array, np.ndarray):
        return _plain(array, name), lambda result: result
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(array, torch.Tensor):
        return _from_torch(array, name)
    if isinstance(array, (list, tuple)):
        return _plain(np.asarray(array), name), lambda result: result
    if not hasattr(array, "__dlpack__"):
        raise ParameterTypeError(
            name,
            array,
            "accepted are torch tensors, NumPy arrays and anything that exports DLPack",
            shown=f"a {type(array).__name__}",
        )
    device = array.__dlpack_device__()[0]
    if device != _CPU:
        raise ParameterError(
            name,
            array,
            f"CPU memory (type {_CPU})",
            verb="lies",
            shown=f"on DLPack device type {int(device)}",
        )
    namespace = array.__array_namespace__() if hasattr(array, "__array_namespace__") else None
    try:
        values = np.from_dlpack(array)
    except (BufferError, RuntimeError, TypeError):
        values = np.asarray(array)  # dtypes or layouts that DLPack cannot carry
    if namespace is None:
        return _plain(values, name), lambda result: result
    return _plain(values, name), lambda result: namespace.asarray(result)


def _from_torch(tensor: Array, name: str) -> tuple[NumpyArray, Restore]:
    import torch

    if tensor.device.type != "cpu":
        raise ParameterError(
            name,
            tensor,
            "CPU memory. Move it with .cpu()",
            verb="lies",
            shown=f"on {tensor.device}",
        )
    dense = _plain_torch(tensor, name)

    def restore(result: NumpyArray) -> Array:
        return torch.from_numpy(np.ascontiguousarray(result))

    return _plain(dense.numpy(), name), restore


def _plain_torch(tensor: Array, name: str) -> Array:
    """Returns the tensor dense and without a graph; halves are widened to float32."""
    import torch

    if tensor.layout is not torch.strided:
        raise ParameterTypeError(
            name, tensor, "accepted are dense tensors", shown=f"a {tensor.layout} tensor"
        )
    if tensor.dtype.is_floating_point and tensor.dtype.itemsize < 2:
        raise ParameterTypeError(
            name,
            tensor,
            "accepted are bool, integers and real floats",
            verb="has",
            shown=f"dtype {tensor.dtype}",
        )
    dense = tensor.detach().resolve_conj().resolve_neg()
    return dense.float() if dense.dtype in (torch.bfloat16, torch.float16) else dense


def _plain(values: NumpyArray, name: str) -> NumpyArray:
    if values.dtype.kind not in "biuf":
        raise ParameterTypeError(
            name,
            values,
            "accepted are bool, integers and real floats",
            verb="has",
            shown=f"dtype {values.dtype}",
        )
    values = values.astype(values.dtype.newbyteorder("="), copy=False)
    if values.dtype == np.float16 or values.dtype.itemsize > 8:
        values = values.astype(np.float32 if values.dtype == np.float16 else np.float64)
    return values


def is_numpy(values: Array) -> bool:
    """Returns whether a checked array is NumPy's; otherwise it is a torch tensor."""
    return isinstance(values, np.ndarray)


def contiguous(values: Array) -> Array:
    """Returns a checked array in row-major order, without a copy if it is so already."""
    return np.ascontiguousarray(values) if isinstance(values, np.ndarray) else values.contiguous()


def cast_like(result: Array, array: Array) -> Array:
    """Returns ``result``, of ``array``'s framework, in ``array``'s floating dtype."""
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(array, torch.Tensor):
        return result.to(array.dtype)
    if hasattr(result, "astype") and hasattr(array, "dtype") and result.dtype != array.dtype:
        return result.astype(array.dtype)
    return result


def _framework(array: Array) -> str:
    """Returns the name of the array's framework; a subclass belongs to that of its base."""
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(array, torch.Tensor):
        return "torch"
    return "numpy" if isinstance(array, np.ndarray) else type(array).__module__.split(".")[0]


def require_same_kind(first: Array, second: Array, first_name: str, second_name: str) -> None:
    """Raises TypeError unless both arrays are of one framework."""
    kinds = [_framework(array) for array in (first, second)]
    if "builtins" not in kinds and kinds[0] != kinds[1]:
        raise ParameterTypeError(
            first_name,
            first,
            "accepted are two of one framework",
            shown=f"a {kinds[0]} array and {second_name} a {kinds[1]} array",
        )


def weight_and_matrix(
    weight: Array, matrix: Array, name: str, device: str | None = None
) -> tuple[Array, Array, Restore]:
    """Checks the two arguments of every op on rows: [d_out, d_in] and symmetric [d_in, d_in].

    Returns both, and the way back to their framework. They are finite, row-major, of one framework and
    on one device. The matrix has weight's floating dtype, or is float64.
    """
    require_same_kind(weight, matrix, "weight", name)
    w, restore = floating_matrix(weight, "weight", (None, None), device)
    m, _ = floating_matrix(matrix, name, (w.shape[1], w.shape[1]), device)
    if dtype_name(m) not in (dtype_name(w), "float64"):
        raise ParameterTypeError(
            name, matrix, f"weight's {dtype_name(w)}", shown=f"{dtype_name(m)}"
        )
    require_same_device(m, name, w, "weight")
    require_symmetric(m, name)
    return w, m, restore


def require_same_device(values: Array, name: str, other: Array, other_name: str) -> None:
    """Raises ValueError if two checked arrays lie on different devices."""
    if getattr(values, "device", None) != getattr(other, "device", None):
        raise ParameterError(
            name, values, f"{other_name}'s {other.device}", verb="lies", shown=f"on {values.device}"
        )


def narrowed(matrix: Array, name: str, weight: Array) -> Array:
    """Returns a matrix in weight's dtype, which must hold its entries; no copy if it has that dtype."""
    require_range(matrix, name, weight)
    if matrix.dtype == weight.dtype:
        return matrix
    return array_namespace(matrix).astype(matrix, weight.dtype)


def require_range(matrix: Array, name: str, weight: Array) -> None:
    """Raises ValueError if weight's dtype cannot hold an entry of a positive definite matrix, or holds
    an entry of its diagonal with fewer bits than others."""
    if matrix.dtype == weight.dtype or 0 in matrix.shape:
        return
    xp = array_namespace(matrix)
    limits = xp.finfo(weight.dtype)
    largest = float(xp.max(xp.abs(matrix)))
    diagonal = matrix.diagonal()
    positive = diagonal[diagonal > 0]  # others are refused where the matrix is factored
    smallest = float(xp.min(positive)) if len(positive) else 1.0
    for value, wrong, scale in (
        (largest, largest > float(limits.max), "smaller"),
        (smallest, smallest < float(limits.smallest_normal), "larger"),
    ):
        if wrong:
            raise ParameterError(
                name,
                matrix,
                f"a float64 weight, or a {scale} scale",
                verb="reaches",
                shown=f"{value:.4g}, which weight's {dtype_name(weight)} cannot hold",
            )


def kept_mask(mask: Array, shape: tuple[int, ...], device: str | None = None) -> Array:
    """Returns a checked mask, bool of that shape, True = kept."""
    keep, _ = to_array(mask, "mask", device)
    require_shape(keep, "mask", shape)
    if keep.dtype != array_namespace(keep).bool:
        raise ParameterTypeError(
            "mask", mask, "bool, True = kept", verb="has", shown=f"dtype {dtype_name(keep)}"
        )
    return keep


def floating_matrix(
    array: Array, name: str, shape: tuple[int | None, ...], device: str | None = None
) -> tuple[Array, Restore]:
    """Returns a finite, row-major float32 or float64 array of this shape (None: any extent)."""
    values, restore = to_array(array, name, device)
    if dtype_name(values) not in ("float32", "float64"):
        raise ParameterTypeError(
            name,
            array,
            "accepted are float32 and float64",
            verb="has",
            shown=f"dtype {dtype_name(values)}",
        )
    require_shape(values, name, shape)
    require_finite(values, name)
    return contiguous(values), restore


def row_exponents(values: Array) -> Array:
    """Returns e of each row, int64 [rows]: its largest absolute value is in 2^(e-1) .. 2^e.

    It is 0 for a row of zeros, or without elements.
    """
    xp = array_namespace(values)
    if 0 in values.shape:
        return xp.zeros(len(values), dtype=xp.int64, device=device_of(values))
    return xp.astype(xp.frexp(xp.max(xp.abs(values), axis=1))[1], xp.int64)


def powers_of_two(exponent: Array) -> Array:
    """Returns ``2^exponent`` as float64 for integers, exact in -1022..1023 and clipped to that."""
    xp = array_namespace(exponent)
    if is_numpy(exponent):
        return np.ldexp(1.0, np.minimum(np.maximum(exponent, -1022), 1023))
    biased = xp.astype(xp.clip(exponent, min=-1022, max=1023), xp.int64) + 1023
    return (biased << 52).view(xp.float64)  # no library's pow promises to be exact


def times_power(values: Array, exponent: Array, factors: int = 2) -> Array:
    """Returns ``values * 2^exponent``, exact where the result is a normal number of their dtype.

    Parameters
    ----------
    values : float32 or float64.
    exponent : integers, whose shape fits that of the values.
    factors : the power is multiplied in so many parts, as 2^200 alone is no float32.
    """
    xp = array_namespace(values)
    if is_numpy(values):
        extent = int(np.abs(exponent).max(initial=0))
        if extent == 0:
            return values
        factors = (
            1 if extent < 120 else factors
        )  # one product where the power is a number of any dtype
    for left in range(factors, 0, -1):
        part = exponent // left
        values = values * xp.astype(powers_of_two(part), values.dtype)
        exponent = exponent - part
    return values


def loss_in_units(loss: Array, exponent: Array, dtype: Any) -> Array:
    """Returns the loss of rows whose weights are ``2^exponent`` as large, in a float dtype.

    One beyond that dtype's range is its largest number, one below it 0.
    """
    xp = array_namespace(loss)
    squared = xp.clip(2 * exponent, min=-900, max=900)  # no intermediate result overflows
    wide = times_power(xp.astype(loss, xp.float64), squared)
    return xp.astype(xp.clip(wide, max=float(xp.finfo(dtype).max)), dtype)


def dtype_name(values: Array) -> str:
    """Returns NumPy's name of the dtype."""
    return str(values.dtype).removeprefix("torch.")


def is_float(values: Array) -> bool:
    """Returns whether the dtype is a real float."""
    return "float" in dtype_name(values)


def require_shape(values: Array, name: str, shape: tuple[int | None, ...]) -> None:
    same = values.ndim == len(shape) and all(
        size is None or size == extent for size, extent in zip(shape, values.shape, strict=True)
    )
    if not same:
        accepted = ", ".join("any" if extent is None else str(extent) for extent in shape)
        raise ParameterError(
            name, values, f"[{accepted}]", verb="has", shown=f"shape {list(values.shape)}"
        )


def require_finite(values: Array, name: str) -> None:
    if not is_float(values):
        return
    finite = array_namespace(values).isfinite(values)
    if not bool(finite.all()):
        wrong = np.asarray(~finite if isinstance(finite, np.ndarray) else (~finite).cpu())
        at = tuple(int(i) for i in np.argwhere(wrong)[0])
        raise ParameterError(
            name,
            values,
            "accepted are finite values",
            verb="has",
            shown=f"{int(wrong.sum())} values that are NaN or infinite, the first at {list(at)}",
        )


def require_symmetric(values: Array, name: str) -> None:
    """Raises ValueError unless a matrix is symmetric up to the rounding of a product or an inverse."""
    if isinstance(values, np.ndarray):
        largest, skew = _native.measure_skew(exportable(values), thread_count())
    elif values.numel() == 0:
        return
    else:
        largest, skew = float(values.abs().max()), float((values - values.mT).abs().max())
    xp = array_namespace(values)
    bound = 1e4 * float(xp.finfo(values.dtype).eps) * largest
    if not skew <= bound:
        raise ParameterError(
            name,
            values,
            "a symmetric matrix",
            shown=f"not symmetric: entries differ from their mirror image by up to {skew:.3g} at a "
            f"largest entry of {largest:.3g}",
        )


def exportable(values: NumpyArray) -> NumpyArray:
    """Returns the array, or a copy if it is read-only and NumPy < 2.1 cannot export it by DLPack."""
    if not values.flags.writeable and np.lib.NumpyVersion(np.__version__) < "2.1.0":
        return values.copy()
    return values


def matrix_product(left: Array, right: Array, isa: str = "") -> Array:
    """Returns ``left right`` of two checked arrays of one dtype, float32 or float64.

    NumPy's ``@`` runs on the threads of its BLAS, which follow neither torch's number of threads nor
    the load of the machine: beside one other busy process small layers took a hundred times as long.
    `isa` names the instruction set, "" the best.
    """
    if not isinstance(left, np.ndarray):
        return left @ right
    out = np.empty((left.shape[0], right.shape[1]), dtype=left.dtype)
    _native.product(
        left=exportable(np.ascontiguousarray(left)),
        right=exportable(np.ascontiguousarray(right)),
        out=out,
        isa=isa,
        threads=thread_count(),
    )
    return out
