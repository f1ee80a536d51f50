"""Ctrl-C that is heard while a kernel runs."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

GRACE = 2.0  # seconds for an interrupt to be raised in the ordinary way


@contextmanager
def prompt_interrupts(last_words: Callable[[], str]) -> Iterator[None]:
    """Python raises KeyboardInterrupt between two of its own instructions, and a kernel is one that may
    take minutes. Where it has not been raised after `GRACE` the process says its last words and ends
    with 130, from another thread. For code that leaves nothing half written behind.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    left, (heard, told) = threading.Event(), os.pipe()
    os.set_blocking(told, False)

    def listen() -> None:
        while (number := os.read(heard, 1)) not in (b"", b"\0"):
            if number[0] == signal.SIGINT and not left.wait(GRACE):
                show_cursor = "\x1b[?25h" if os.isatty(2) else ""  # bars hide it
                os.write(2, f"\n{show_cursor}{last_words()}\n".encode())
                os._exit(130)

    listener = threading.Thread(target=listen, daemon=True)
    before = signal.set_wakeup_fd(told, warn_on_full_buffer=False)
    listener.start()
    try:
        yield
    finally:
        left.set()
        signal.set_wakeup_fd(before)
        os.write(told, b"\0")
        listener.join()
        os.close(heard)
        os.close(told)
