"""Bytes of the packed form. Needs no torch, and no tensor is read."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

from .packed import Footprint, _read

__all__ = ["footprint"]


def footprint(what: Any) -> Footprint:
    """The size of a compressed model as it is stored, and the size of the dense one.

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
        found: Footprint = what.footprint()
        return found
    raise TypeError(
        f"what is a {type(what).__name__}; accepted is a CompressedModel or a packed file's path"
    )


def _of_file(path: Path) -> Footprint:
    from safetensors import safe_open

    _, records, metadata = _read(path, with_tensors=False)
    stored: dict[str, int] = {}
    dense: dict[str, int] = {}
    try:
        dtypes: dict[str, str] = {}
        weights = list(records)
        if {"report", "casts"} <= metadata.keys():  # a whole model's file
            dtypes = dict(metadata["casts"])  # of floats that NumPy does not know, stored as others
            names = [layer["name"] for layer in metadata["report"]["layers"]]
            weights = [f"{name}.weight" if name else "weight" for name in names]
        with safe_open(path, framework="numpy") as file:
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
                dtype = dtypes.get(name) or records[name]["dtype"]
                dense[name] = _item_bytes(dtype) * math.prod(records[name]["shape"])
        layers = {
            "" if name == "weight" else name.removesuffix(".weight"): (stored[name], dense[name])
            for name in weights
            if name in stored
        }
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} cannot be read as a packed file: {error!r}") from error
    return Footprint(path.stat().st_size, sum(dense.values()), layers)


def _item_bytes(dtype: str) -> int:
    """Of safetensors' names (F32, U8, BOOL) and of NumPy's and torch's (bfloat16, float8_e4m3fn)."""
    bits = re.search(r"\d+", dtype)
    return int(bits[0]) // 8 if bits else 1
