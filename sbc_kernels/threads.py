"""How many threads the native kernels use."""

from __future__ import annotations

import os
import sys


def thread_count() -> int:
    """``torch.get_num_threads()`` where torch is in use, else the processors this process may use."""
    torch = sys.modules.get("torch")
    if torch is not None and hasattr(torch, "get_num_threads"):
        return int(torch.get_num_threads())
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
