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
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..arrays import NumpyArray, to_numpy
from ..errors import ParameterError, inside
from ..layer import CompressedLayer
from ..weights import CompressedWeight, Pruned, Quantized
from .atomic import write_atomic
from .header import FLOATS, Record, parse_json, readable_as
from .parts import pack, unpack

__all__ = [
    "CodedTensors",
    "PackedTensor",
    "code_tensors",
    "dense_values",
    "load_packed",
    "packed_tensor",
    "read_metadata",
    "read_packed",
    "read_stored",
    "require_modest",
    "save_packed",
    "unpacked",
]

VERSION = 1
HEADER = "sbc_kernels.packed"
KIND = "a packed file"
# Weights that a file may claim for each of its bytes. Rice codes of emptier masks are shorter than
# that: such a file, of more than SMALL weights, is padded, by a byte for 1024 weights at most.
LARGEST_RATIO = 1 << 10
SMALL = 1 << 18  # weights that a file of any size may claim to hold

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
        weights = sum(Record.from_json(record).size for record in self.records.values())
        if weights > SMALL:
            data = data.ljust(-(-weights // LARGEST_RATIO) - sum(self.sizes.values()) - 8)
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
            records[name], parts = pack(tensor)
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
    ValueError : not a packed file, of a version this release does not know, or damaged; or one that
        claims more than 2**18 weights and more than 1024 for each of its bytes.
    """
    stored, records, metadata = read_stored(path, with_tensors=True)
    with readable_as(KIND, path):
        require_modest(records, Path(path).stat().st_size)
        return unpacked(stored, records), metadata


def require_modest(records: Mapping[str, Record], size: int) -> None:
    """Raises ValueError where tensors claim more weights than a file of `size` bytes can hold."""
    most = max(SMALL, LARGEST_RATIO * size)
    if (claimed := sum(record.size for record in records.values())) > most:
        raise ValueError(
            f"its header claims {claimed} weights; accepted are {most} of {size} bytes"
        )


def unpacked(
    stored: Mapping[str, NumpyArray], records: Mapping[str, Record]
) -> dict[str, PackedTensor | NumpyArray]:
    """Returns the tensors that the arrays of a file describe.

    Memory is allocated for the weights that the records claim: look at these first.

    Parameters
    ----------
    stored, records : of `read_stored`.

    Raises
    ------
    ValueError : parts are missing, left over, or do not fit; the message names the tensor.
    """
    rest = dict(stored)
    tensors: dict[str, PackedTensor | NumpyArray] = {}
    parts: dict[str, dict[str, NumpyArray]] = {name: {} for name in records}
    for key in stored:
        name, colon, part = key.rpartition(":")
        if name in parts and colon:
            parts[name][part] = rest.pop(key)
    for name, record in records.items():
        try:
            tensors[name] = unpack(record, parts[name])
        except (LookupError, TypeError, ValueError) as error:
            raise ValueError(f"tensor {name!r}: {error}") from error
    if strange := [name for name in rest if name in tensors or ":" in name]:
        raise ValueError(f"it holds {strange[0]!r}, which belongs to no tensor")
    return tensors | rest


def load_packed(path: str | Path) -> dict[str, NumpyArray]:
    """Reads a file as dense arrays by name, zeros and all. Raises what `read_packed` raises."""
    tensors, _ = read_packed(path)
    with readable_as(KIND, path):
        return {name: dense_values(name, tensor) for name, tensor in tensors.items()}


def dense_values(name: str, tensor: PackedTensor | NumpyArray) -> NumpyArray:
    """Returns a tensor of a file as an array. Raises ValueError where codes exceed its dtype."""
    if not isinstance(tensor, (Pruned, Quantized)):
        return tensor
    with np.errstate(over="ignore"):
        values: NumpyArray = tensor.to_dense()
    if isinstance(tensor, Quantized) and not np.isfinite(values).all():
        raise ValueError(f"tensor {name!r}: its codes stand for numbers beyond {tensor.dtype}")
    return values


def read_metadata(path: str | Path) -> dict[str, Any]:
    """Reads the metadata alone, and no tensor. Raises what `read_packed` raises."""
    return read_stored(path, with_tensors=False)[2]


def read_stored(
    path: str | Path, with_tensors: bool
) -> tuple[dict[str, NumpyArray], dict[str, Record], dict[str, Any]]:
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
        with readable_as(KIND, path), safe_open(path, framework="numpy") as file:
            text = (file.metadata() or {}).get(HEADER)
            keys = file.keys() if with_tensors and text is not None else ()
            stored = {key: file.get_tensor(key) for key in keys}
    except SafetensorError as error:
        raise ValueError(f"{path} is not a whole safetensors file: {error}") from error
    if text is None:
        raise ValueError(f"{path} has no {HEADER!r} metadata; accepted are files of save_packed")
    with readable_as(KIND, path):
        header = parse_json(text)
        version, records, metadata = (header[key] for key in ("version", "tensors", "metadata"))
        if version != VERSION:
            raise ValueError(f"its format version is {version!r:.80}; accepted is {VERSION}")
        if not isinstance(metadata, dict) or not isinstance(records, dict):
            raise TypeError("its header is not made of dictionaries")
        if with_tensors and header["checksum"] != checksum(stored):
            raise ValueError("its tensors are not those that were written: a checksum differs")
        checked = {}
        for name, record in records.items():
            with inside("tensors", name):
                checked[name] = Record.from_json(record)
    return stored, checked, metadata
