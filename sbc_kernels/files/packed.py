"""The packed file: a safetensors file in which a compressed weight costs what it holds.

    what the weight is    what is stored, as tensors `<name>:<part>`
    pruned                mask, values (the survivors alone, in row-major order, their own dtype)
    quantized             codes (`bits` bits each, one little-endian bit stream), scale, zero_point
    both                  mask, codes of the survivors alone, scale, zero_point
    anything else         the array itself, as `<name>`

A mask is the Rice code of the gaps between survivors. Gap g is g >> k zeros and a one in the stream
`mask`, and the k low bits of g in the stream `mask_low`. For k = 0 that is the plain bitmap, bit
for bit; at 99 % sparsity k = 6 takes 8.1 bits a survivor where the bitmap takes 100 and the entropy
is 8.08. The k that gives the fewest bytes is stored beside the shape.

The header's one metadata entry, `sbc_kernels.packed`, is JSON: the format version, a checksum of the
tensors, a record for each compressed one, and the caller's own metadata. Equal input gives equal bytes.
"""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..arrays import Array, to_numpy
from ..errors import ParameterError
from ..grid import Grid
from ..layer import CompressedLayer
from ..weights import CompressedWeight, Pruned, Quantized
from .atomic import write_atomic

__all__ = [
    "Footprint",
    "PackedTensor",
    "Pruned",
    "Quantized",
    "load_packed",
    "packed_tensor",
    "read_packed",
    "save_packed",
]

VERSION = 1
HEADER = "sbc_kernels.packed"
FLOATS = ("float16", "float32", "float64")
SMALL = 1 << 28  # weights that a file of any size may claim to hold
LARGEST_RATIO = 1 << 12  # and for each of its bytes: a mask cannot be much emptier
CHUNK = 1 << 16  # values spread out into bits at a time; a multiple of 8: chunks end on bytes

Bytes = NDArray[np.uint8]
Mask = NDArray[np.bool_]


PackedTensor = CompressedWeight


@dataclass(frozen=True)
class Footprint:
    """What a compressed model takes on disk.

    Attributes
    ----------
    bytes : of the packed file, header and all.
    dense_bytes : of all its tensors, stored as they are.
    layers : by name of each compressed layer, its weight's bytes packed and dense.
    """

    bytes: int
    dense_bytes: int
    layers: dict[str, tuple[int, int]]


def packed_tensor(layer: CompressedLayer) -> PackedTensor:
    """Returns what `compress_layer` returned in the form that `save_packed` takes.

    The arrays become NumPy. A dtype that no file holds is widened: bfloat16 to float32, more than
    64 bits are rounded to float64.
    """
    compressed, weight = layer.compressed, _on_host(layer.weight)
    dtype = compressed.dtype if compressed.dtype in FLOATS else weight.dtype.name
    if isinstance(compressed, Pruned):  # to_numpy widens float16, which a file does hold
        return Pruned(weight.astype(dtype, copy=False), _on_host(compressed.mask))
    return replace(compressed, dtype=dtype).converted(_on_host)


def _on_host(array: Any) -> Array:
    return to_numpy(array, "weight")[0]


def save_packed(
    path: str | Path,
    tensors: Mapping[str, PackedTensor | Array],
    metadata: Mapping[str, Any] | None = None,
) -> int:
    """Writes tensors to one file, in one step, and returns its size in bytes.

    Parameters
    ----------
    path : the file; its folder must exist.
    tensors : by name. `Pruned` and `Quantized` are packed, arrays are stored as they are.
    metadata : anything that JSON can hold; `read_packed` returns it.

    Raises
    ------
    ValueError : a name has a colon in it, which sets a tensor's parts apart.
    """
    return write_atomic(path, packed_file_of(tensors, metadata))


def packed_file_of(
    tensors: Mapping[str, PackedTensor | Array], metadata: Mapping[str, Any] | None = None
) -> bytes:
    """What `save_packed` writes. Raises what it raises."""
    from safetensors.numpy import save

    stored: dict[str, Array] = {}
    records: dict[str, dict[str, Any]] = {}
    for name, tensor in tensors.items():
        if ":" in name:
            raise ValueError(f"a tensor is called {name!r}; accepted are names without a colon")
        if isinstance(tensor, (Pruned, Quantized)):
            records[name], parts = _pack(tensor)
            stored |= {f"{name}:{part}": array for part, array in parts.items()}
        else:
            stored[name] = np.asarray(tensor, order="C")  # ascontiguousarray makes axes
    header = {
        "version": VERSION,
        "checksum": checksum(stored),
        "tensors": records,
        "metadata": dict(metadata or {}),
    }
    text = json.dumps(header, separators=(",", ":"), sort_keys=True)
    data: bytes = save(stored, {HEADER: text})
    return data


def checksum(stored: Mapping[str, Array]) -> int:
    """CRC-32 of all that lies in a file beside the header, in the order of the names."""
    code = 0
    for name in sorted(stored):
        code = zlib.crc32(f"{name} {stored[name].dtype} {stored[name].shape} ".encode(), code)
        code = zlib.crc32(stored[name].tobytes(), code)
    return code


def stored_bytes(tensor: PackedTensor | Array) -> int:
    """What a tensor takes in the file, its entry in the header not counted."""
    if isinstance(tensor, (Pruned, Quantized)):
        return sum(part.nbytes for part in _pack(tensor)[1].values())
    return tensor.nbytes


def read_packed(path: str | Path) -> tuple[dict[str, PackedTensor | Array], dict[str, Any]]:
    """Reads a file in compressed form: (tensors, metadata) as `save_packed` was given them.

    Raises
    ------
    FileNotFoundError : no such file.
    ValueError : not a packed file, of a version this release does not know, or damaged.
    """
    stored, records, metadata = _read(path, with_tensors=True)
    try:
        most = max(SMALL, LARGEST_RATIO * Path(path).stat().st_size)
        if sum(math.prod(record["shape"]) for record in records.values()) > most:
            raise ValueError(f"its tensors claim more than {most} weights")
        tensors: dict[str, PackedTensor | Array] = {}
        for name, record in records.items():
            keys = [key for key in stored if key.startswith(f"{name}:")]
            tensors[name] = _unpack(record, {k[len(name) + 1 :]: stored.pop(k) for k in keys})
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} cannot be read as a packed file: {error!r}") from error
    return tensors | stored, metadata


def read_metadata(path: str | Path) -> dict[str, Any]:
    """The metadata alone, without reading the tensors. Raises what `read_packed` raises."""
    return _read(path, with_tensors=False)[2]


def _read(
    path: str | Path, with_tensors: bool
) -> tuple[dict[str, Array], dict[str, dict[str, Any]], dict[str, Any]]:
    """What lies in the file, the records of the packed tensors, and the metadata."""
    from safetensors import SafetensorError, safe_open

    if not Path(path).is_file():
        raise FileNotFoundError(f"no such file: {path}")
    try:
        with safe_open(path, framework="numpy") as file:
            text = (file.metadata() or {}).get(HEADER)
            keys = file.keys() if with_tensors else ()
            stored = {key: file.get_tensor(key) for key in keys}
    except SafetensorError as error:
        raise ValueError(f"{path} is not a whole safetensors file: {error}") from error
    if text is None:
        raise ValueError(f"{path} has no {HEADER!r} metadata; accepted are files of save_packed")
    try:
        header = json.loads(text)
        version, records, metadata = (header[key] for key in ("version", "tensors", "metadata"))
        if version != VERSION:
            raise ValueError(f"its format version is {version}; accepted is {VERSION}")
        if not isinstance(metadata, dict) or not isinstance(records, dict):
            raise TypeError("its header is not made of dictionaries")
        if with_tensors and header["checksum"] != checksum(stored):
            raise ValueError("its tensors are not those that were written: a checksum differs")
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} cannot be read as a packed file: {error!r}") from error
    return stored, records, metadata


def load_packed(path: str | Path) -> dict[str, Array]:
    """Reads a file as dense arrays by name, zeros and all. Raises what `read_packed` raises."""
    tensors, _ = read_packed(path)
    return {
        name: tensor.to_dense() if isinstance(tensor, (Pruned, Quantized)) else tensor
        for name, tensor in tensors.items()
    }


# ---- one tensor --------------------------------------------------------------------------------


def _pack(tensor: PackedTensor) -> tuple[dict[str, Any], dict[str, Array]]:
    """A tensor as its record in the header and its parts."""
    array = tensor.weight if isinstance(tensor, Pruned) else tensor.codes
    if tensor.dtype not in (*FLOATS, "uint16"):
        raise ParameterError(
            "dtype", tensor.dtype, f"{', '.join(FLOATS)}, or uint16 for bits of a bfloat16"
        )
    record: dict[str, Any] = {"shape": list(array.shape)}
    parts: dict[str, Array] = {}
    kept = array.ravel()
    if tensor.mask is not None:
        record["rice"], parts["mask"], parts["mask_low"] = encode_mask(tensor.mask)
        kept = kept[tensor.mask.ravel()]
    if isinstance(tensor, Pruned):
        parts["values"] = kept
        return record, parts
    grid = tensor.grid
    record |= {"bits": grid.bits, "group_size": grid.group_size, "dtype": tensor.dtype}
    parts["codes"] = pack_bits(kept, grid.bits)
    parts["scale"] = np.ascontiguousarray(grid.scale)
    code = np.clip(np.nan_to_num(grid.zero_point), 0, 2**grid.bits - 1).astype(np.uint8)
    if code.astype(np.float32).tobytes() == grid.zero_point.tobytes():  # from 2 bits on: a level
        parts["zero_code"] = pack_bits(code.ravel(), grid.bits)
    else:
        parts["zero_point"] = np.ascontiguousarray(grid.zero_point)
    return record, parts


def _unpack(record: dict[str, Any], parts: dict[str, Array]) -> PackedTensor:
    """The inverse of `_pack`. ValueError, KeyError or TypeError if the parts do not fit."""
    shape = tuple(record["shape"])
    size = math.prod(shape)
    mask = np.ones(size, bool)
    if "rice" in record:
        mask = decode_mask(record["rice"], parts["mask"], parts["mask_low"], size)
    count = int(np.count_nonzero(mask))
    if "bits" not in record:
        if parts["values"].shape != (count,):
            raise ValueError(f"{count} survivors have values of shape {parts['values'].shape}")
        weight = np.zeros(size, parts["values"].dtype)
        weight[mask] = parts["values"]
        return Pruned(weight.reshape(shape), mask.reshape(shape))
    bits, scale = record["bits"], parts["scale"]
    codes = np.zeros(size, np.uint8)
    codes[mask] = unpack_bits(parts["codes"], count, bits)
    if "zero_code" in parts:
        zero = unpack_bits(parts["zero_code"], scale.size, bits).reshape(scale.shape)
    else:
        zero = parts["zero_point"]
    return Quantized(
        codes.reshape(shape),
        Grid(bits, scale, zero.astype(np.float32), record["group_size"]),
        mask.reshape(shape) if "rice" in record else None,
        record["dtype"],
    )


# ---- streams -----------------------------------------------------------------------------------


def encode_mask(mask: Mask) -> tuple[int, Bytes, Bytes]:
    """The Rice code of a mask: (k, unary stream, stream of k-bit remainders)."""
    kept = np.flatnonzero(mask)
    gaps = np.diff(kept, prepend=-1) - 1
    cost = [int((gaps >> k).sum()) + kept.size * (1 + k) for k in range(32)]
    k = cost.index(min(cost))
    ends = np.cumsum((gaps >> k) + 1) - 1
    unary = np.zeros(int(ends[-1]) + 1 if kept.size else 0, bool)
    unary[ends] = True
    return k, np.packbits(unary, bitorder="little"), pack_bits(gaps & ((1 << k) - 1), k)


def decode_mask(k: int, unary: Bytes, low: Bytes, size: int) -> Mask:
    """The flat mask, bool [size], that `encode_mask` was given. ValueError if it does not fit."""
    ends = np.flatnonzero(np.unpackbits(unary, bitorder="little"))
    gaps = (np.diff(ends, prepend=-1) - 1 << k) + unpack_bits(low, ends.size, k).astype(np.int64)
    kept = np.cumsum(gaps + 1) - 1
    if kept.size and kept[-1] >= size:
        raise ValueError(f"a mask of {size} weights keeps weight {kept[-1]}")
    mask = np.zeros(size, bool)
    mask[kept] = True
    return mask


def pack_bits(values: NDArray[Any], bits: int) -> Bytes:
    """Unsigned integers below 2**bits as one stream, `bits` (0 to 32) each, lowest bit first."""
    if bits == 0:
        return np.zeros(0, np.uint8)
    chunks = [
        np.packbits(
            np.unpackbits(
                values[i : i + CHUNK].astype("<u4").view(np.uint8).reshape(-1, 4),
                axis=1,
                count=bits,
                bitorder="little",
            ),
            bitorder="little",
        )
        for i in range(0, values.size, CHUNK)
    ]
    return np.concatenate(chunks) if chunks else np.zeros(0, np.uint8)


def unpack_bits(stream: Bytes, count: int, bits: int) -> NDArray[np.uint32]:
    """The inverse of `pack_bits`: uint32 [count]. ValueError if the stream has another length."""
    if stream.dtype != np.uint8 or stream.shape != (-(-count * bits // 8),):
        raise ValueError(f"{count} values of {bits} bits do not fill a stream of {stream.shape}")
    values = np.zeros((count, 4), np.uint8)
    if bits == 0:
        return values.view("<u4").ravel()
    for i in range(0, count, CHUNK):
        part = values[i : i + CHUNK]
        flat = np.unpackbits(
            stream[i * bits // 8 :], count=len(part) * bits, bitorder="little"
        ).reshape(-1, bits)
        packed = np.packbits(flat, axis=1, bitorder="little")
        part[:, : packed.shape[1]] = packed
    return values.view("<u4").ravel()
