"""Errors that know which parameter they are about."""

from __future__ import annotations

from typing import Any


class ParameterError(ValueError):
    """A parameter was given something that is not accepted.

    Parameters
    ----------
    parameter : name of the parameter, as the user wrote it.
    given : what came.
    accepted : what is accepted, in words.
    shown : how to write `given` in the message. Default: its `repr`.

    Attributes
    ----------
    parameter, given, accepted : as above.
    """

    def __init__(
        self, parameter: str, given: Any, accepted: str, *, shown: str | None = None
    ) -> None:
        self.parameter = parameter
        self.given = given
        self.accepted = accepted
        shown = repr(given) if shown is None else shown
        super().__init__(f"{parameter} is {shown}; accepted is {accepted}")


class ParameterTypeError(ParameterError, TypeError):
    """A parameter was given something of a type that is not accepted."""
