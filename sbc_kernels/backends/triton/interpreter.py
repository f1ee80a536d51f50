"""Triton's interpreter, in which the kernels run on CPU tensors: so they are tested without a GPU."""

from __future__ import annotations

import os


def interpreted() -> bool:
    """Returns whether Triton's kernels run in its interpreter, on CPU tensors."""
    return os.environ.get("TRITON_INTERPRET", "0") not in ("", "0")
