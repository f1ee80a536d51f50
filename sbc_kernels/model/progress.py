"""How far a run is, on the terminal (rich) and in the log; and how much memory it took."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

logger = logging.getLogger("sbc_kernels")


class Progress:
    """Bars with the time left. Shown if `show`; None shows them on a terminal where rich is installed.

    Raises ModuleNotFoundError where `show` is True and rich is not installed.
    """

    def __init__(self, show: bool | None) -> None:
        if show is None:
            show = sys.stderr.isatty() and find_spec("rich") is not None
        self._bars: Any = None
        if show:
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

            self._bars = Progress(
                TextColumn("{task.description:<34}"),
                BarColumn(),
                TextColumn("{task.percentage:>3.0f} %"),
                TimeRemainingColumn(),
                console=Console(stderr=True),
            )

    def __enter__(self) -> Progress:
        if self._bars is not None:
            self._bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bars is not None:
            self._bars.stop()

    def task(self, description: str, total: float | None) -> Callable[..., None]:
        """A bar; call what is returned with `advance` (default 1) and a new `description`."""
        logger.info("%s", description)
        if self._bars is None:
            return _nothing
        bars, task = self._bars, self._bars.add_task(description, total=total)

        def move(advance: float = 1, description: str | None = None) -> None:
            bars.update(task, advance=advance, description=description)

        return move


def _nothing(advance: float = 1, description: str | None = None) -> None:
    if description is not None:
        logger.debug("%s", description)


class PeakMemory:
    """The most memory that was taken since it was made, in bytes: the process's resident size (Linux
    only), or on a GPU what torch allocated there."""

    def __init__(self, place: torch.device) -> None:
        self.place = place
        if place.type == "cuda":
            torch.cuda.reset_peak_memory_stats(place)
            self.start: int | None = torch.cuda.memory_allocated(place)
            return
        try:
            Path("/proc/self/clear_refs").write_text("5")  # VmHWM starts anew
        except OSError:
            logger.debug("the peak memory counts from the start of the process")
        self.start = _status("VmRSS")

    @property
    def peak(self) -> int | None:
        if self.place.type == "cuda":
            return int(torch.cuda.max_memory_allocated(self.place))
        return _status("VmHWM")


def _status(field: str) -> int | None:
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(field + ":"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        return None
    return None
