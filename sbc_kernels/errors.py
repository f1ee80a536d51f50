"""Errors that know which parameter they are about."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from types import FrameType
from typing import Any

__all__ = [
    "ParameterError",
    "ParameterTypeError",
    "current_layer",
    "inside",
    "naming_layer",
    "warn",
]


class ParameterError(ValueError):
    """A parameter was given something that is not accepted.

    Parameters
    ----------
    parameter : name of the parameter, as the user wrote it.
    given : what came.
    accepted : what is accepted, in words. More than one thing reads "accepted are ...": begin with it.
    shown : how to write `given` in the message. Default: its `repr`.
    verb : "is", or what reads better before `shown`: ``W has dtype int64``.
    keys : where `given` stands inside of the parameter, for one that is a dictionary:
        ``("fc1", "bits")`` is shown as ``overrides['fc1']['bits']``.

    Attributes
    ----------
    parameter, given, accepted, shown, verb, keys : as above.
    layer : name of the layer of a model that the value does not suit; None where it is not one layer's.
    """

    def __init__(
        self,
        parameter: str,
        given: Any,
        accepted: str,
        *,
        shown: str | None = None,
        verb: str = "is",
        keys: tuple[Any, ...] = (),
    ) -> None:
        self.parameter = parameter
        self.given = given
        self.accepted = accepted
        self.shown = repr(given) if shown is None else shown
        self.verb = verb
        self.keys = keys
        self.layer: str | None = None
        super().__init__(parameter, given, accepted)

    def __str__(self) -> str:
        place = self.parameter + "".join(f"[{key!r}]" for key in self.keys)
        head = "" if self.layer is None else f"layer {self.layer!r}: "
        accepted = self.accepted
        if not accepted.startswith("accepted "):
            accepted = f"accepted is {accepted}"
        return f"{head}{place} {self.verb} {self.shown}; {accepted}"


class ParameterTypeError(ParameterError, TypeError):
    """A parameter was given something of a type that is not accepted."""


_layer: ContextVar[str | None] = ContextVar("_layer", default=None)


def current_layer() -> str | None:
    """Returns the name that the innermost open `naming_layer` gives, or None."""
    return _layer.get()


@contextmanager
def naming_layer(name: str) -> Iterator[None]:
    """Parameter errors that leave the block name this layer, unless they name one already.

    Warnings of the package inside the block name it, too.
    """
    token = _layer.set(name)
    try:
        yield
    except ParameterError as error:
        error.layer = name if error.layer is None else error.layer
        raise
    finally:
        _layer.reset(token)


_package = str(Path(__file__).parent) + os.sep


def warn(message: str, category: type[Warning] = RuntimeWarning) -> None:
    """Warns at the user's line, which called into the package, with the name of the layer at work."""
    frame: FrameType | None = sys._getframe()
    depth = user = 0
    while frame is not None:
        depth += 1
        if frame.f_code.co_filename.startswith(_package):
            user = depth + 1
        frame = frame.f_back
    name = current_layer()
    where = "" if name is None else f" (layer {name!r})"
    warnings.warn(message + where, category, stacklevel=user)


@contextmanager
def inside(parameter: str, *keys: Any) -> Iterator[None]:
    """Parameter errors that leave the block are about an entry of the dictionary `parameter`."""
    try:
        yield
    except ParameterError as error:
        error.keys = (*keys, error.parameter, *error.keys)
        error.parameter = parameter
        raise
