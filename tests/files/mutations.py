"""Damage to files, deterministic by seed: of bytes, of JSON by its structure, of arrays."""

from __future__ import annotations

import copy
import json
import random
from typing import Any

import numpy as np

HOSTILE: tuple[Any, ...] = (
    0,
    -1,
    1,
    3,
    2**31,
    2**63,
    -(2**70),
    10**400,
    2.0,
    0.5,
    -0.0,
    1e308,
    -1e300,
    5e-324,
    float("nan"),
    float("inf"),
    True,
    None,
    "",
    "x",
    "float32",
    "\ud800\x00\u202e",
    "9" * 5000,
    [],
    {},
    [1 << 17, 1 << 17],
    [-1, 1 << 34],
    [[]],
    {"a": {"b": [None]}},
)


def nested(draw: random.Random) -> Any:
    """Lists or dictionaries in one another, up to what the parser itself refuses."""
    value: Any = 0
    for _ in range(draw.choice((5, 60, 70, 200, 600))):
        value = [value] if draw.random() < 0.5 else {"a": value}
    return value


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Returns the paths of all entries of nested lists and dictionaries."""
    found = []
    if isinstance(value, dict):
        items = list(value.items())
    else:
        items = list(enumerate(value)) if isinstance(value, list) else []
    for key, item in items:
        found += [(*path, key), *places(item, (*path, key))]
    return found


def mutated(text: str, draw: random.Random, all_places: list[tuple[Any, ...]]) -> Any:
    """Returns the value of a JSON text with one to three changes of its structure.

    `all_places` are those of the value: finding them takes longer than all the rest.
    """
    value = json.loads(text)
    for _ in range(draw.choice((1, 1, 1, 2, 3))):
        *path, key = draw.choice(all_places)
        owner = value
        try:
            for step in path:
                owner = owner[step]
            old = owner[key]
        except (KeyError, IndexError, TypeError):
            continue  # an earlier change took it away
        if not isinstance(owner, (dict, list)):
            continue
        kind = draw.randrange(8)
        if kind == 0:
            del owner[key]
        elif kind == 1:
            owner[key] = nested(draw)
        elif kind == 2 and isinstance(owner, dict):  # under another's name
            owner[draw.choice([*owner, "", "y", "a:b"])] = owner.pop(key)
        elif kind == 3 and isinstance(owner, list):
            owner.extend([old] * draw.choice((1, 3, 40)))
        elif kind == 4 and isinstance(old, (int, float)) and not isinstance(old, bool):
            owner[key] = draw.choice((old + 1, -old, old * 2**40, float(old), str(old)))
        elif kind == 5:
            owner[key] = [old]
        else:
            owner[key] = copy.deepcopy(draw.choice(HOSTILE))
    return value


def damaged_arrays(arrays: dict[str, np.ndarray], draw: random.Random) -> dict[str, np.ndarray]:
    """Returns the arrays with one to three changes: of bits, length, dtype, shape, name, values."""
    arrays = dict(arrays)
    for _ in range(draw.choice((1, 1, 2, 3))):
        if not arrays:
            break
        name = draw.choice(list(arrays))
        array = arrays[name]
        kind = draw.randrange(9)
        if kind == 0:
            arrays.pop(name)
        elif kind == 1:
            arrays[draw.choice([*arrays, "z", f"{name}x", f"{name}:mask"])] = array
        elif kind == 2:
            arrays[name] = array.reshape(-1)[: draw.randrange(array.size + 1)]
        elif kind == 3:
            arrays[name] = np.concatenate([array.reshape(-1)] * 2)
        elif kind == 4:
            dtype = draw.choice(("u1", "i1", "u2", "f2", "f4", "f8", "i8", "?"))
            with np.errstate(all="ignore"):
                arrays[name] = array.astype(dtype)
        elif kind == 5 and array.dtype.kind == "f" and array.size:
            arrays[name] = array.copy()
            value = draw.choice((np.nan, np.inf, -np.inf, 0.0, -1.0, 3e38, 1e-45))
            with np.errstate(over="ignore"):
                arrays[name].reshape(-1)[draw.randrange(array.size)] = value
        elif kind == 6:
            arrays[name] = array.reshape(1, *array.shape)
        elif array.nbytes:
            data = bytearray(array.tobytes())
            for _ in range(draw.choice((1, 1, 5))):
                data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
            arrays[name] = np.frombuffer(data, array.dtype).reshape(array.shape)
    return arrays


def damaged_bytes(data: bytes, draw: random.Random) -> bytes:
    """Returns the bytes with bits flipped, a piece cut out, doubled or overwritten."""
    changed = bytearray(data)
    at = draw.randrange(len(data)) if draw.random() < 0.5 else draw.randrange(min(len(data), 200))
    length = draw.choice((1, 2, 8, 40))
    kind = draw.randrange(6)
    if kind == 0:
        del changed[at:]
    elif kind == 1:
        del changed[at : at + length]
    elif kind == 2:
        changed[at:at] = changed[at : at + length]
    elif kind == 3:
        changed[at : at + length] = draw.randbytes(length)
    elif kind == 4:
        changed[:8] = draw.choice((0, 1, 2**20, 2**31, 2**63, len(data))).to_bytes(8, "little")
    else:
        for _ in range(draw.choice((1, 1, 4))):
            changed[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    return bytes(changed)
