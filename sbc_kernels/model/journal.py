"""Measurements on disk, one a line, so that a run that was stopped need not repeat them."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["TRIALS", "Journal"]

TRIALS = "trials.jsonl"  # name of the file in a checkpoint's folder


class Journal:
    """A file of measured numbers by key, each line with its own checksum.

    Lines are appended, and not forced to the disk: what a failure of power takes is measured again.

    Parameters
    ----------
    path : the file. None keeps nothing.
    run : the run's name; lines of another run are damage.
    damaged : is told of a line that does not hold what was written.
    """

    def __init__(self, path: Path | None, run: str, damaged: Callable[[str], None]) -> None:
        self.path, self.run, self.damaged = path, run, damaged
        self._values: dict[str, float] | None = None

    def known(self, key: Any, measure: Callable[[], float]) -> float:
        """Returns a measurement: that of an earlier run, or what `measure` gives, which is kept.

        Parameters
        ----------
        key : what is measured, as JSON has it.
        measure : measures it.

        Raises
        ------
        OSError : it cannot be written, which the message says of which file.
        """
        if self.path is None:
            return measure()
        values = self._read(self.path)
        text = json.dumps(key, sort_keys=True)
        if text not in values:
            value = measure()
            self._append(self.path, self._line(text, value.hex()))
            values[text] = value
        return values[text]

    def _line(self, key: str, value: str) -> bytes:
        code = zlib.crc32(f"{self.run} {key} {value}".encode())
        return json.dumps([key, value, code]).encode() + b"\n"

    def _read(self, path: Path) -> dict[str, float]:
        """Returns the values that are there, once read."""
        if self._values is not None:
            return self._values
        self._values = {}
        data = path.read_bytes() if path.exists() else b""
        *lines, torn = data.split(b"\n")
        if torn:  # the run was killed while it wrote this line
            os.truncate(path, len(data) - len(torn))
        for number, line in enumerate(lines, start=1):
            try:
                key, value, _ = json.loads(line)
                if self._line(key, value) != line + b"\n":
                    raise ValueError
                self._values[key] = float.fromhex(value)
            except (ValueError, TypeError, OverflowError, RecursionError):
                self.damaged(f"line {number} of {path.name} is damaged; its trial is repeated")
        return self._values

    @staticmethod
    def _append(path: Path, line: bytes) -> None:
        """Writes a line, whole or not at all."""
        try:
            with open(path, "ab", buffering=0) as file:
                size = file.tell()
                if file.write(line) != len(line):
                    os.ftruncate(file.fileno(), size)
                    raise OSError(28, "No space left on device")
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(path)) from error
