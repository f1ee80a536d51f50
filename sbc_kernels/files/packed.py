"""The packed file: a safetensors file in which a compressed weight takes no more than it holds.

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
tensors, a record for each compressed one, and the caller's own metadata. Equal input gives equal bytes,
those that safetensors' own `save` writes for the same parts.
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

from ..arrays import NumpyArray, to_numpy
from ..errors import ParameterError
from ..grid import Grid
from ..layer import CompressedLayer
from ..weights import CompressedWeight, Pruned, Quantized
from .atomic import write_atomic
from .bits import decode_mask, encode_mask, pack_bits, unpack_bits

__all__ = [
    "CodedTensors",
    "PackedTensor",
    "code_tensors",
    "load_packed",
    "packed_tensor",
    "read_metadata",
    "read_packed",
    "read_stored",
    "save_packed",
]

VERSION = 1
HEADER = "sbc_kernels.packed"
FLOATS = ("float16", "float32", "float64")
PRUNABLE = (*FLOATS, "uint16")  # uint16: the bits of a bfloat16
SMALL = 1 << 28  # weights that a file of any size may claim to hold
LARGEST_RATIO = 1 << 12  # and for each of its bytes: a mask cannot be much emptier

PackedTensor = CompressedWeight

# safetensors' names of NumPy's dtypes, in its order: arrays of the last ones lie first in a file, so
# that each begins at a multiple of its item size.
_DTYPES = {
    "bool": "BOOL",
    "uint8": "U8",
    "int8": "I8",
    "int16": "I16",
    "uint16": "U16",
    "float16": "F16",
    "int32": "I32",
    "uint32": "U32",
    "float32": "F32",
    "complex64": "C64",
    "float64": "F64",
    "int64": "I64",
    "uint64": "U64",
}
_RANK = {name: rank for rank, name in enumerate(_DTYPES)}


# ---- writing -----------------------------------------------------------------------------------


def packed_tensor(layer: CompressedLayer) -> PackedTensor:
    """Returns what `compress_layer` returned in the form that `save_packed` takes.

    The arrays become NumPy arrays. A dtype that no file holds is converted: bfloat16 is widened to
    float32, and more than 64 bits are rounded to float64.
    """
    compressed, weight = layer.compressed, _on_host(layer.weight)
    dtype = compressed.dtype if compressed.dtype in FLOATS else weight.dtype.name
    if isinstance(compressed, Pruned):  # to_numpy widens float16, which a file does hold
        return Pruned(weight.astype(dtype, copy=False), _on_host(compressed.mask))
    return replace(compressed, dtype=dtype).converted(_on_host)


def save_packed(
    path: str | Path,
    tensors: Mapping[str, PackedTensor | NumpyArray],
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
    ValueError : a name contains a colon, which separates a tensor's name from its parts' names.
    """
    return write_atomic(path, code_tensors(tensors).file(metadata or {}))


@dataclass(frozen=True, eq=False)
class CodedTensors:
    """Tensors coded for the packed file, each once; files with any metadata are made from it.

    Attributes
    ----------
    stored : the arrays of the file by their names there, in row-major order, little-endian.
    records : by name of each `Pruned` or `Quantized`, what the header says of it.
    sizes : by name of each tensor, the bytes of all its parts.
    checksum : of `stored`.
    """

    stored: dict[str, NumpyArray]
    records: dict[str, dict[str, Any]]
    sizes: dict[str, int]
    checksum: int

    def file(self, metadata: Mapping[str, Any]) -> bytes:
        """Returns the bytes of the file."""
        buffers = (_bytes_of(self.stored[name]) for name in self._order())
        return b"".join((self.header(metadata), *buffers))

    def file_size(self, metadata: Mapping[str, Any]) -> int:
        """Returns the number of bytes of the file, which only its header depends on."""
        return len(self.header(metadata)) + sum(self.sizes.values())

    def header(self, metadata: Mapping[str, Any]) -> bytes:
        """Returns all that comes before the arrays in the file."""
        about = {
            "version": VERSION,
            "checksum": self.checksum,
            "tensors": self.records,
            "metadata": dict(metadata),
        }
        text = json.dumps(about, separators=(",", ":"), sort_keys=True)
        entries: dict[str, Any] = {"__metadata__": {HEADER: text}}
        start = 0
        for name in self._order():
            array = self.stored[name]
            end = start + array.nbytes
            entries[name] = {
                "dtype": _DTYPES[array.dtype.name],
                "shape": array.shape,
                "data_offsets": (start, end),
            }
            start = end
        data = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
        data += b" " * (-len(data) % 8)  # arrays start at a multiple of 8 bytes
        return len(data).to_bytes(8, "little") + data

    def _order(self) -> list[str]:
        """Names of the arrays as they lie in the file."""
        return sorted(self.stored, key=lambda name: (-_RANK[self.stored[name].dtype.name], name))


def code_tensors(tensors: Mapping[str, PackedTensor | NumpyArray]) -> CodedTensors:
    """Codes tensors for the packed file.

    Parameters
    ----------
    tensors : as in `save_packed`.

    Raises
    ------
    ValueError : a name contains a colon, or a dtype is none that a file holds.
    """
    stored: dict[str, NumpyArray] = {}
    records: dict[str, dict[str, Any]] = {}
    sizes: dict[str, int] = {}
    for name, tensor in tensors.items():
        if ":" in name:
            raise ValueError(f"a tensor is called {name!r}; accepted are names without a colon")
        if isinstance(tensor, (Pruned, Quantized)):
            records[name], parts = _pack(tensor)
            arrays = {f"{name}:{part}": array for part, array in parts.items()}
        else:
            arrays = {name: np.asarray(tensor, order="C")}  # ascontiguousarray makes axes
        for key, array in arrays.items():
            if array.dtype.name not in _DTYPES:
                raise ParameterError(
                    "dtype", array.dtype.name, ", ".join(_DTYPES), shown=f"{array.dtype} in {key!r}"
                )
            stored[key] = array.astype(array.dtype.newbyteorder("<"), copy=False)
        sizes[name] = sum(array.nbytes for array in arrays.values())
    return CodedTensors(stored, records, sizes, checksum(stored))


def checksum(stored: Mapping[str, NumpyArray]) -> int:
    """Returns the CRC-32 of all that lies in a file beside the header, in the order of the names."""
    code = 0
    for name in sorted(stored):
        code = zlib.crc32(f"{name} {stored[name].dtype} {stored[name].shape} ".encode(), code)
        code = zlib.crc32(_bytes_of(stored[name]), code)
    return code


def _bytes_of(array: NumpyArray) -> memoryview:
    """Returns the bytes of a row-major array, without a copy."""
    return array.reshape(-1).view(np.uint8).data


def _on_host(array: Any) -> NumpyArray:
    return to_numpy(array, "weight")[0]


# ---- reading -----------------------------------------------------------------------------------


def read_packed(path: str | Path) -> tuple[dict[str, PackedTensor | NumpyArray], dict[str, Any]]:
    """Reads a file in compressed form.

    Returns
    -------
    (tensors, metadata), equal to those that `save_packed` wrote.

    Raises
    ------
    FileNotFoundError : no such file.
    ValueError : not a packed file, of a version this release does not know, or damaged.
    """
    stored, records, metadata = read_stored(path, with_tensors=True)
    try:
        most = max(SMALL, LARGEST_RATIO * Path(path).stat().st_size)
        if sum(math.prod(record["shape"]) for record in records.values()) > most:
            raise ValueError(f"its tensors claim more than {most} weights")
        tensors: dict[str, PackedTensor | NumpyArray] = {}
        for name, record in records.items():
            keys = [key for key in stored if key.startswith(f"{name}:")]
            tensors[name] = _unpack(record, {k[len(name) + 1 :]: stored.pop(k) for k in keys})
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} cannot be read as a packed file: {error!r}") from error
    return tensors | stored, metadata


def load_packed(path: str | Path) -> dict[str, NumpyArray]:
    """Reads a file as dense arrays by name, zeros and all. Raises what `read_packed` raises."""
    tensors, _ = read_packed(path)
    return {
        name: tensor.to_dense() if isinstance(tensor, (Pruned, Quantized)) else tensor
        for name, tensor in tensors.items()
    }


def read_metadata(path: str | Path) -> dict[str, Any]:
    """Reads the metadata alone, and no tensor. Raises what `read_packed` raises."""
    return read_stored(path, with_tensors=False)[2]


def read_stored(
    path: str | Path, with_tensors: bool
) -> tuple[dict[str, NumpyArray], dict[str, dict[str, Any]], dict[str, Any]]:
    """Reads a file without unpacking its tensors.

    Returns
    -------
    (arrays by their names in the file, records of the packed tensors, metadata). The arrays are left
    out unless `with_tensors`, and their checksum is then not checked.

    Raises
    ------
    FileNotFoundError, ValueError : as `read_packed`.
    """
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


# ---- one tensor --------------------------------------------------------------------------------


def _pack(tensor: PackedTensor) -> tuple[dict[str, Any], dict[str, NumpyArray]]:
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


def _unpack(record: dict[str, Any], parts: dict[str, NumpyArray]) -> PackedTensor:
    """Returns the tensor. Raises ValueError, KeyError or TypeError if the parts do not fit."""
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
    if record["dtype"] not in FLOATS:
        raise ParameterError("dtype", record["dtype"], ", ".join(FLOATS))
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
