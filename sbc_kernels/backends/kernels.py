"""A record of the kernels that ran: a backend notes each where it calls it.

A note is made beside the call of the kernel, so the record names the kernel that ran even if a backend
chooses it by the sizes and types of its input.
"""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from contextvars import ContextVar

Kernels = MutableMapping[str, str]  # op: its kernels, joined by " + " in the order of first use

_listeners: ContextVar[tuple[Kernels, ...]] = ContextVar("_listeners", default=())


def note_kernel(op: str, kernel: str) -> None:
    """Adds the kernel of `op`, or several joined by " + ", to every open record of this thread."""
    for kernels in _listeners.get():
        names = kernels[op].split(" + ") if op in kernels else []
        kernels[op] = " + ".join(dict.fromkeys([*names, *kernel.split(" + ")]))


@contextmanager
def recorded_kernels(into: Kernels | None = None) -> Iterator[Kernels]:
    """Collects the kernels that run inside the block, by op, and adds them to `into` if that is given.

    Blocks may be nested; each of them records everything that runs inside it.
    """
    kernels: Kernels = {} if into is None else into
    token = _listeners.set((*_listeners.get(), kernels))
    try:
        yield kernels
    finally:
        _listeners.reset(token)
