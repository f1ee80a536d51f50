"""Files that are either whole or not there."""

from __future__ import annotations

import os
import re
import secrets
from pathlib import Path

__all__ = ["remove_leftovers", "write_atomic"]

_SCRATCH = re.compile(r"\..+\.[0-9a-f]{16}\.tmp")


def write_atomic(path: str | Path, data: bytes) -> int:
    """Writes a file in one step, and returns its number of bytes.

    `data` is written beside `path` and then renamed into place.

    A reader sees the old file or the new one, never half of either. The folder must exist.

    Raises
    ------
    OSError : it cannot be written, the disk is full, say. The error names `path`; nothing of the new
        file is left.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"there is no folder {path.parent} for {path.name}")
    scratch = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        # Without a buffer: one that cannot be written would be tried once more by close().
        with open(scratch, "xb", buffering=0) as file:
            rest = memoryview(data)
            while rest:
                rest = rest[file.write(rest) :]
            os.fsync(file.fileno())
        os.replace(scratch, path)
    except BaseException as error:
        scratch.unlink(missing_ok=True)
        if isinstance(error, OSError):  # of a full disk it names no file, else the one beside
            raise OSError(error.errno, error.strerror or str(error), str(path)) from error
        raise
    return len(data)


def remove_leftovers(folder: Path) -> list[str]:
    """Removes what `write_atomic` left in a folder when its process was killed.

    Call it only where no other process writes to this folder. Returns the names.
    """
    names = sorted(path.name for path in folder.iterdir() if _SCRATCH.fullmatch(path.name))
    for name in names:
        (folder / name).unlink(missing_ok=True)
    return names
