"""The memory that a run may use, and the memory that it used."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import torch

from ..memory import available_memory

logger = logging.getLogger("sbc_kernels")


def half_of_memory(device: torch.device) -> int:
    """Half of the bytes that the system has, or of those that are free on a GPU.

    No more than this process can still take.
    """
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0]) // 2  # others use the card too
    try:
        half = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    except (AttributeError, OSError, ValueError):  # a system that does not tell
        half = 4 << 30
    available = available_memory(device)
    return half if available is None else max(min(half, available), 1)


class PeakMemory:
    """The most memory in use since this object was made, in bytes.

    That is the process's resident size, which only Linux tells, or on a GPU what torch has allocated.

    Parameters
    ----------
    device : the device whose memory is watched.

    Attributes
    ----------
    start : bytes in use when the object was made; None where the system does not tell.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            self.start: int | None = torch.cuda.memory_allocated(device)
            return
        try:
            Path("/proc/self/clear_refs").write_text("5")  # VmHWM starts anew
        except OSError:
            logger.debug("the peak memory counts from the start of the process")
        self.start = _status("VmRSS")

    @property
    def peak(self) -> int | None:
        """The most bytes so far; None where the system does not tell."""
        if self.device.type == "cuda":
            return int(torch.cuda.max_memory_allocated(self.device))
        return _status("VmHWM")


def _status(field: str) -> int | None:
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(field + ":"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        return None
    return None
