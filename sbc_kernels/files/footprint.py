"""Size of the packed form, on disk and dense. Needs no torch, and reads no tensor."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ParameterTypeError
from .header import readable_as
from .packed import KIND, read_stored

__all__ = ["Footprint", "footprint"]


@dataclass(frozen=True)
class Footprint:
    """The size of a compressed model on disk.

    Attributes
    ----------
    bytes : size of the packed file, header and all.
    dense_bytes : size of all its tensors, stored as they are.
    layers : by name of each compressed layer, the bytes of its weight, packed and dense.
    """

    bytes: int
    dense_bytes: int
    layers: dict[str, tuple[int, int]]


def footprint(what: Any) -> Footprint:
    """Returns the size of a compressed model as it is stored, and the size of the dense one.

    Parameters
    ----------
    what : a `CompressedModel` (what its `save` would write), or the path of a packed file. Unless
        `CompressedModel.save` wrote it, its layers are the tensors that are stored in parts, by
        their names without ".weight" at the end.

    Raises
    ------
    FileNotFoundError : no such file.
    TypeError, ValueError : neither of the two, or not a packed file.
    """
    if isinstance(what, (str, Path)):
        return _of_file(Path(what))
    if callable(getattr(what, "footprint", None)):
        size: Footprint = what.footprint()
        return size
    raise ParameterTypeError(
        "what",
        what,
        "a CompressedModel or a packed file's path",
        shown=f"a {type(what).__name__}",
    )


def _of_file(path: Path) -> Footprint:
    from safetensors import safe_open

    _, records, metadata = read_stored(path, with_tensors=False)
    stored: dict[str, int] = {}
    dense: dict[str, int] = {}
    with readable_as(KIND, path), safe_open(path, framework="numpy") as file:
        dtypes: dict[str, str] = {}
        layers_named = {
            name: "" if name == "weight" else name.removesuffix(".weight") for name in records
        }
        if {"report", "casts"} <= metadata.keys():  # a whole model's file
            dtypes = dict(metadata["casts"])  # of floats that NumPy does not know, stored as others
            layers_named = {}
            for layer in metadata["report"]["layers"]:
                name = layer["name"]
                weight = layer.get("weight_entry") or (f"{name}.weight" if name else "weight")
                layers_named[weight] = name
        for key in file.keys():  # noqa: SIM118 - not a dictionary
            part = file.get_slice(key)
            each = _item_bytes(part.get_dtype())
            name, _, which = key.partition(":")
            stored[name] = stored.get(name, 0) + each * math.prod(part.get_shape())
            if which == "values":
                dtypes[name] = part.get_dtype()
        for name, size in stored.items():
            dense[name] = size
            if name in records:
                dtype = dtypes.get(name) or str(records[name].dtype)
                dense[name] = _item_bytes(dtype) * records[name].size
        layers = {
            layer: (stored[name], dense[name])
            for name, layer in layers_named.items()
            if name in stored
        }
    return Footprint(path.stat().st_size, sum(dense.values()), layers)


def _item_bytes(dtype: str) -> int:
    """Bytes of one number, by safetensors' name (F32, U8, BOOL) or NumPy's or torch's (bfloat16,
    float8_e4m3fn) of its dtype."""
    bits = re.search(r"\d+", dtype)
    return int(bits[0]) // 8 if bits else 1
