"""The number of threads of the native kernels."""

from __future__ import annotations

import os
import sys


def thread_count() -> int:
    """Returns ``torch.get_num_threads()`` if torch is imported, else the processors of this process."""
    torch = sys.modules.get("torch")
    if torch is not None and hasattr(torch, "get_num_threads"):
        return int(torch.get_num_threads())
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
