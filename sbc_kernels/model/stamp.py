"""The time of a run, as files and reports state it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import UTC, datetime

from ..errors import ParameterError

__all__ = ["Stamp", "current_stamp"]

VARIABLE = "SOURCE_DATE_EPOCH"  # of reproducible-builds.org: seconds since 1970, UTC


@dataclass(frozen=True)
class Stamp:
    """The time of a run.

    Attributes
    ----------
    created : UTC, ISO 8601, to the second.
    reproducible : whether SOURCE_DATE_EPOCH gave the time. Files and reports then leave out measured
        times and memory, so that equal runs give equal bytes.
    """

    created: str
    reproducible: bool


def current_stamp() -> Stamp:
    """Returns the stamp of a run that starts now.

    Raises
    ------
    ParameterError : a ValueError; SOURCE_DATE_EPOCH is set and is not a time.
    """
    text = os.environ.get(VARIABLE)
    try:
        time = datetime.now(UTC) if text is None else datetime.fromtimestamp(int(text), UTC)
    except (ValueError, OverflowError, OSError) as error:
        raise ParameterError(VARIABLE, text, "a whole number of seconds since 1970") from error
    return Stamp(time.isoformat(timespec="seconds"), text is not None)
