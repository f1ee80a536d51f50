"""One tensor of the packed file, and the arrays that it is stored in."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..arrays import NumpyArray
from ..errors import ParameterError
from ..grid import Grid
from ..weights import CompressedWeight, Pruned, Quantized
from .bits import decode_mask, encode_mask, pack_bits, unpack_bits
from .header import FLOATS, Record

__all__ = ["PRUNABLE", "pack", "unpack"]

PRUNABLE = (*FLOATS, "uint16")  # uint16: the bits of a bfloat16


def pack(tensor: CompressedWeight) -> tuple[dict[str, Any], dict[str, NumpyArray]]:
    """Returns a tensor as its record in the header and its parts."""
    accepted = PRUNABLE if isinstance(tensor, Pruned) else FLOATS
    if tensor.dtype not in accepted:
        raise ParameterError("dtype", tensor.dtype, ", ".join(accepted))
    array = tensor.weight if isinstance(tensor, Pruned) else tensor.codes
    record: dict[str, Any] = {"shape": list(array.shape)}
    parts: dict[str, NumpyArray] = {}
    values = array.ravel()
    if tensor.mask is not None:
        record["rice"], parts["mask"], parts["mask_low"] = encode_mask(tensor.mask)
        values = values[tensor.mask.ravel()]
    if isinstance(tensor, Pruned):
        parts["values"] = values
        return record, parts
    grid = tensor.grid
    record |= {"bits": grid.bits, "group_size": grid.group_size, "dtype": tensor.dtype}
    parts["codes"] = pack_bits(values, grid.bits)
    parts["scale"] = np.ascontiguousarray(grid.scale)
    code = np.clip(np.nan_to_num(grid.zero_point), 0, 2**grid.bits - 1).astype(np.uint8)
    if code.astype(np.float32).tobytes() == grid.zero_point.tobytes():  # from 2 bits on: a level
        parts["zero_code"] = pack_bits(code.ravel(), grid.bits)
    else:
        parts["zero_point"] = np.ascontiguousarray(grid.zero_point)
    return record, parts


def unpack(record: Record, parts: dict[str, NumpyArray]) -> CompressedWeight:
    """Returns the tensor. Raises ValueError, LookupError or TypeError if the parts do not fit."""
    zeros = [part for part in ("zero_code", "zero_point") if part in parts]
    if parts.keys() != record.parts | set(zeros) or len(zeros) != (record.bits is not None):
        raise ValueError(f"its parts are {', '.join(sorted(parts)) or 'none'}")
    shape, size = record.shape, record.size
    if record.rice is not None:
        mask = decode_mask(record.rice, parts["mask"], parts["mask_low"], size)
        count = int(np.count_nonzero(mask))
    elif record.bits is not None:
        if parts["codes"].size != -(-size * record.bits // 8):  # before the mask of ones
            raise ValueError(f"{parts['codes'].size} bytes of codes for {size} weights")
        mask, count = np.ones(size, bool), size
    if record.bits is None:
        values = parts["values"]
        if values.shape != (count,) or values.dtype.name not in PRUNABLE:
            raise ValueError(f"{count} survivors are {values.dtype} of shape {list(values.shape)}")
        weight = np.zeros(size, values.dtype)
        weight[mask] = values
        return Pruned(weight.reshape(shape), mask.reshape(shape))
    assert record.group_size is not None
    assert record.dtype is not None
    bits, scale = record.bits, parts["scale"]
    codes = np.zeros(size, np.uint8)
    codes[mask] = unpack_bits(parts["codes"], count, bits)
    if "zero_code" in parts:
        zero = unpack_bits(parts["zero_code"], scale.size, bits).reshape(scale.shape)
    else:
        zero = parts["zero_point"]
        if zero.dtype != np.float32:
            raise ValueError(f"its zero points are {zero.dtype}; accepted are float32")
    return Quantized(
        codes.reshape(shape),
        Grid(bits, scale, zero.astype(np.float32), record.group_size),
        mask.reshape(shape) if record.rice is not None else None,
        record.dtype,
    )
