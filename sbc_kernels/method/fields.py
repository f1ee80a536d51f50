"""Fields of a record of options: each carries its default, its check and its line of help.

A check is called with the option's name and a value. It returns the value in its canonical type, or
raises `ParameterError`. What a check accepts are attributes of it, from which the command line derives
its types and choices.
"""

from __future__ import annotations

import math
import os
from collections.abc import Collection, Iterable, Mapping
from dataclasses import Field, dataclass, field, fields
from pathlib import Path
from typing import Any, Protocol, TypeVar

from ..errors import ParameterError, ParameterTypeError
from ..scalars import as_flag, as_integer, as_number
from ..sparsity import parse_sparsity

__all__ = [
    "Bytes",
    "Check",
    "Choice",
    "Flag",
    "Folder",
    "Function",
    "Integer",
    "Names",
    "Number",
    "Sparsity",
    "Table",
    "check_fields",
    "checked",
    "from_arguments",
    "option",
    "option_names",
]


Record = TypeVar("Record")


class Check(Protocol):
    """Decides whether a value is accepted for an option."""

    def __call__(self, name: str, value: Any) -> Any:
        """Returns `value` in its canonical type. Raises ParameterError where it is not accepted."""


def option(default: Any, check: Check, doc: str, *, outcome: bool = True) -> Any:
    """A field of a record of options.

    Parameters
    ----------
    default : its default. None where the default depends on other options.
    check : decides which values are accepted.
    doc : what the option does, for the help of the command line.
    outcome : whether it decides the result of a run, so that a run may only be resumed with the same.
    """
    return field(default=default, metadata={"check": check, "doc": doc, "outcome": outcome})


def option_names(record: Any) -> tuple[str, ...]:
    """The names of a record's options, in their order."""
    return tuple(option.name for option in fields(record))


def from_arguments(record: type[Record], arguments: Mapping[str, Any]) -> Record:
    """A record of those arguments of a function that are its options, such as ``locals()``."""
    return record(**{name: arguments[name] for name in option_names(record)})


def check_fields(record: Any) -> None:
    """Checks every field of a frozen record; values take their canonical types."""
    for entry in fields(record):
        object.__setattr__(record, entry.name, checked(entry, getattr(record, entry.name)))


def checked(entry: Field[Any], value: Any) -> Any:
    """The value of one option in its canonical type."""
    return entry.metadata["check"](entry.name, value)


# ---- checks ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sparsity:
    """A fraction 0..1, "N:M", or None."""

    def __call__(self, name: str, value: Any) -> float | str | None:
        if value is None:
            return None
        try:
            pattern = parse_sparsity(value)
        except ParameterError as error:
            error.parameter = name
            raise
        return value if isinstance(value, str) else pattern.sparsity


@dataclass(frozen=True)
class Integer:
    """An integer of at least `low`, at most `high`; also `special`, and None if `optional`."""

    low: int
    high: int | None = None
    special: int | None = None
    optional: bool = False

    def __call__(self, name: str, value: Any) -> int | None:
        if value is None and self.optional:
            return None
        integer = as_integer(value)
        if integer is not None and integer == self.special:
            return integer
        if integer is None or integer < self.low or (self.high is not None and integer > self.high):
            span = f"of at least {self.low}" if self.high is None else f"in {self.low}..{self.high}"
            special = "" if self.special is None else f"{self.special} or "
            none = ", or None" if self.optional else ""
            raise ParameterError(name, value, f"{special}an integer {span}{none}")
        return integer


@dataclass(frozen=True)
class Number:
    """A finite number of at least 0, or above 0 if `positive`."""

    positive: bool = False

    def __call__(self, name: str, value: Any) -> float:
        number = as_number(value)
        if number is None or not 0.0 <= number < math.inf or (self.positive and number == 0):
            kind = "a positive number" if self.positive else "a number of at least 0"
            raise ParameterError(name, value, kind)
        return float(number)


@dataclass(frozen=True)
class Flag:
    """True or False; also None if `optional`."""

    optional: bool = False

    def __call__(self, name: str, value: Any) -> bool | None:
        if value is None and self.optional:
            return None
        flag = as_flag(value)
        if flag is None:
            accepted = "True, False and None" if self.optional else "True and False"
            raise ParameterTypeError(name, value, f"accepted are {accepted}")
        return flag


@dataclass(frozen=True)
class Choice:
    """One of `names`, which may be a registry: it is looked into when a value is checked.

    `mapping` says in words which dictionary is accepted as well.
    """

    names: Collection[str]
    optional: bool = False
    mapping: str = ""

    @property
    def is_registry(self) -> bool:
        """Whether users may add names."""
        return isinstance(self.names, Mapping)

    def __call__(self, name: str, value: Any) -> Any:
        if value is None and self.optional:
            return None
        if self.mapping and isinstance(value, Mapping):
            return value
        if not isinstance(value, str) or value not in self.names:
            names = [repr(name) for name in self.names]
            *most, last = [*names, self.mapping] if self.mapping else names
            raise ParameterError(name, value, f"accepted are {', '.join(most)} and {last}")
        return value


@dataclass(frozen=True)
class Bytes:
    """A number of bytes, or None."""

    def __call__(self, name: str, value: Any) -> int | None:
        if value is None:
            return None
        size = as_integer(value)
        if size is None or size < 1:
            raise ParameterError(name, value, "a number of bytes, or None")
        return size


@dataclass(frozen=True)
class Function:
    """A function with the arguments `arguments`, or None."""

    arguments: str

    def __call__(self, name: str, value: Any) -> Any:
        if value is not None and not callable(value):
            raise ParameterTypeError(name, value, f"a function {self.arguments}, or None")
        return value


@dataclass(frozen=True)
class Table:
    """A dictionary by layer name or regular expression, or None.

    Its entries are checked against the layers when a model is traced.
    """

    def __call__(self, name: str, value: Any) -> Any:
        if value is not None and not isinstance(value, Mapping):
            kind = f"a {type(value).__name__}"
            raise ParameterTypeError(name, value, "a dictionary by layer name", shown=kind)
        return value


@dataclass(frozen=True)
class Names:
    """A sequence of layers' names or regular expressions."""

    def __call__(self, name: str, value: Any) -> tuple[Any, ...]:
        if isinstance(value, str):
            raise ParameterTypeError(
                name, value, "a list of names or expressions", shown=f"the string {value!r}"
            )
        if not isinstance(value, Iterable):
            kind = f"a {type(value).__name__}"
            raise ParameterTypeError(name, value, "a list of names or expressions", shown=kind)
        return tuple(value)


@dataclass(frozen=True)
class Folder:
    """A path, or None."""

    def __call__(self, name: str, value: Any) -> Path | None:
        if value is not None and not isinstance(value, (str, os.PathLike)):
            kind = f"a {type(value).__name__}"
            raise ParameterTypeError(name, value, "the path of a folder, or None", shown=kind)
        return None if value is None else Path(value)
