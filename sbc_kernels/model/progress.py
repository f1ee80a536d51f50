"""Progress of a run: bars on the terminal, lines in the log."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from importlib.util import find_spec
from types import TracebackType
from typing import Any

logger = logging.getLogger("sbc_kernels")


class Progress:
    """Progress bars with the time left.

    Parameters
    ----------
    show : whether to show them. None shows them on a terminal where rich is installed.

    Raises
    ------
    ModuleNotFoundError : `show` is True and rich is not installed.
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
        """Starts a bar. Call the result with `advance` (default 1) and a new `description`."""
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
