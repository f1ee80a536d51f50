"""What a packed file's header says, checked before anything is allocated for it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ParameterError

__all__ = ["Record", "parse_json", "readable_as", "require_shallow"]

DEEPEST = 64  # levels of lists and dictionaries in a header; what this package writes has 7
FLOATS = ("float16", "float32", "float64")
MOST_AXES = 32
LARGEST_RICE = 31
# What damage raises, in this code, NumPy and torch. RecursionError is a RuntimeError.
_DAMAGE = (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)


@contextmanager
def readable_as(what: str, path: str | Path) -> Iterator[None]:
    """Errors that a damaged file causes inside become a ValueError that names the file.

    Parameters
    ----------
    what : what the file should be, such as "a packed file".
    path : the file.
    """
    try:
        yield
    except _DAMAGE as error:
        kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
        text = f"{kind}{error}"
        text = text if len(text) <= 300 else f"{text[:300]}..."
        raise ValueError(f"{path} cannot be read as {what}: {text}") from error


def parse_json(text: str | bytes) -> Any:
    """Returns the value of a JSON text.

    Raises
    ------
    ValueError : it is no JSON, or is nested deeper than `DEEPEST` levels.
    """
    try:
        value = json.loads(text)
    except RecursionError:
        raise ValueError(f"its JSON is nested deeper than {DEEPEST} levels") from None
    require_shallow(value, "its JSON")
    return value


def require_shallow(value: Any, what: str) -> None:
    """Raises ValueError where lists and dictionaries are nested deeper than `DEEPEST` levels.

    Parameters
    ----------
    value : nested lists, tuples and dictionaries; one that contains itself is too deep.
    what : its name in the message.
    """
    level = [value]
    for _ in range(DEEPEST + 1):
        inner: dict[
            int, Any
        ] = {}  # each object once: a list of one list, thousands of times, is one
        for item in level:
            if isinstance(item, (str, int, float)):
                continue  # most are
            if isinstance(item, Mapping):
                inner.update((id(part), part) for part in item.values())
            elif isinstance(item, (list, tuple)):
                inner.update((id(part), part) for part in item)
        if not inner:
            return
        level = list(inner.values())
    raise ValueError(f"{what} is nested deeper than {DEEPEST} levels")


@dataclass(frozen=True)
class Record:
    """What the header says of one tensor that is stored in parts.

    Attributes
    ----------
    shape : of the dense weight.
    rice : the parameter k of its mask's code; None where it has no mask.
    bits, group_size, dtype : of a quantized one; None for a pruned one.
    """

    shape: tuple[int, ...]
    rice: int | None = None
    bits: int | None = None
    group_size: int | None = None
    dtype: str | None = None

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Record:
        """Returns the record of a dictionary out of a header.

        Raises
        ------
        ParameterError : a ValueError; an entry is missing, unknown or none of its values.
        """
        if not isinstance(record, Mapping):
            raise ParameterError("entries", record, "a dictionary", shown=f"{record!r:.80}")
        quantized = "bits" in record
        known = {"shape", "rice", *(("bits", "group_size", "dtype") if quantized else ())}
        required = known - {"rice"} if quantized else known
        if not required <= record.keys() <= known:
            raise ParameterError(
                "entries",
                record,
                f"accepted are {', '.join(sorted(known))}",
                shown=f"{sorted(record)!r:.80}",
            )
        shape = record["shape"]
        if (
            not isinstance(shape, list)
            or len(shape) > MOST_AXES
            or not all(_is_int(extent, 0) for extent in shape)
        ):
            raise ParameterError(
                "shape",
                shape,
                f"at most {MOST_AXES} integers of at least 0",
                shown=f"{shape!r:.80}",
            )
        rice = record.get("rice")
        if "rice" in record and not _is_int(rice, 0, LARGEST_RICE):
            raise ParameterError("rice", rice, f"0..{LARGEST_RICE}", shown=f"{rice!r:.80}")
        if not quantized:
            return cls(tuple(shape), rice)
        bits, group_size, dtype = (record[key] for key in ("bits", "group_size", "dtype"))
        if not _is_int(bits, 1, 8):
            raise ParameterError("bits", bits, "1..8", shown=f"{bits!r:.80}")
        if group_size != -1 and not _is_int(group_size, 1, 2**31):
            raise ParameterError(
                "group_size", group_size, "-1 or 1..2**31", shown=f"{group_size!r:.80}"
            )
        if dtype not in FLOATS:
            raise ParameterError("dtype", dtype, ", ".join(FLOATS), shown=f"{dtype!r:.80}")
        return cls(tuple(shape), rice, bits, int(group_size), dtype)

    @property
    def size(self) -> int:
        """Number of weights."""
        return math.prod(self.shape)

    @property
    def parts(self) -> set[str]:
        """Names of its arrays; of a quantized one either a zero_point or a zero_code is beside."""
        mask = set() if self.rice is None else {"mask", "mask_low"}
        return mask | ({"values"} if self.bits is None else {"codes", "scale"})


def _is_int(value: Any, least: int, most: int | None = None) -> bool:
    """Whether a value of JSON is an integer in this range; true and 2.0 are none."""
    if not isinstance(value, int) or isinstance(value, bool):
        return False
    return least <= value and (most is None or value <= most)
