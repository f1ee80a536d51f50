"""Ending the process on Ctrl-C even while a kernel runs."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

GRACE = 2.0  # seconds for Python to raise KeyboardInterrupt by itself


@contextmanager
def prompt_interrupts(last_words: Callable[[], str]) -> Iterator[None]:
    """Inside the context, Ctrl-C ends the process within `GRACE` seconds.

    Python raises KeyboardInterrupt between two of its own instructions, and a kernel is one instruction
    that may take minutes. If it has not been raised after `GRACE`, another thread prints the message
    that `last_words` returns and ends the process with exit code 130. Files must be written atomically
    inside, as nothing is cleaned up.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    finished, (reader, writer) = threading.Event(), os.pipe()
    os.set_blocking(writer, False)

    def listen() -> None:
        while (number := os.read(reader, 1)) not in (b"", b"\0"):
            if number[0] == signal.SIGINT and not finished.wait(GRACE):
                show_cursor = "\x1b[?25h" if os.isatty(2) else ""  # progress bars hide it
                os.write(2, f"\n{show_cursor}{last_words()}\n".encode())
                os._exit(130)

    listener = threading.Thread(target=listen, daemon=True)
    before = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    listener.start()
    try:
        yield
    finally:
        finished.set()
        signal.set_wakeup_fd(before)
        os.write(writer, b"\0")
        listener.join()
        os.close(reader)
        os.close(writer)
