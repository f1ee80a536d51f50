"""Which kernels ran: a backend notes them where it calls them, whoever wants to know listens.

A note is made beside the call of the kernel, so that what is named is what ran, also where a backend
chooses by the sizes and types of its input.
"""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from contextvars import ContextVar

Kernels = MutableMapping[str, str]  # op: its kernels, joined by " + " in the order of first use

_listeners: ContextVar[tuple[Kernels, ...]] = ContextVar("_listeners", default=())


def note_kernel(op: str, kernel: str) -> None:
    """Tells all who listen in this thread that `op` runs the kernel, or several joined by " + "."""
    for kernels in _listeners.get():
        names = kernels[op].split(" + ") if op in kernels else []
        kernels[op] = " + ".join(dict.fromkeys([*names, *kernel.split(" + ")]))


@contextmanager
def recorded_kernels(into: Kernels | None = None) -> Iterator[Kernels]:
    """Collects the kernels that run inside the block, by op; `into` what is there already.

    Blocks may be nested: each of them hears everything that runs inside it.
    """
    kernels: Kernels = {} if into is None else into
    token = _listeners.set((*_listeners.get(), kernels))
    try:
        yield kernels
    finally:
        _listeners.reset(token)
