"""Files that are either whole or not there."""

from __future__ import annotations

import os
import secrets
from pathlib import Path


def write_atomic(path: str | Path, data: bytes) -> int:
    """Writes a file in one step, and returns its number of bytes.

    `data` is written beside `path` and then renamed into place.

    A reader sees the old file or the new one, never half of either. The folder must exist.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"there is no folder {path.parent} for {path.name}")
    scratch = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    with open(scratch, "xb") as file:
        try:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
            os.replace(scratch, path)
        except BaseException:
            scratch.unlink(missing_ok=True)
            raise
    return len(data)
