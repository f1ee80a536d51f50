"""Which backend runs an op.

A backend is one record here and one module of the op's name. A backend asked for by name runs or
raises; nothing falls back in silence. The default is the fastest native one this processor has.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from . import _native

OPS = ("spike_gram", "obs_order", "obs_solve", "obs_quantize", "upper_factor")


@dataclass(frozen=True)
class Backend:
    """``available()`` says whether it runs here; ``load(op)`` gives the op's function on arrays;
    ``gram_skills`` says what its `spike_gram` is fast at: "bytes" and "counts" of gram_plan.plan_gram.
    """

    name: str
    description: str
    available: Callable[[], bool]
    load: Callable[[str], Callable[..., Any]]
    gram_skills: frozenset[str] = frozenset()


def thread_count() -> int:
    """``torch.get_num_threads()`` where torch is in use, else the processors this process may use."""
    torch = sys.modules.get("torch")
    if torch is not None and hasattr(torch, "get_num_threads"):
        return int(torch.get_num_threads())
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _native_backend(isa: str, description: str, *gram_skills: str) -> Backend:
    def load(op: str) -> Callable[..., Any]:
        return partial(getattr(_native, op), isa=isa, threads=thread_count())

    return Backend(
        isa, description, lambda: isa in _native.available_isas(), load, frozenset(gram_skills)
    )


# Fastest first.
BACKENDS: dict[str, Backend] = {
    backend.name: backend
    for backend in (
        _native_backend(
            "amx", "C++ for AMX tiles of bytes (spike_gram), else as avx512", "bytes", "counts"
        ),
        _native_backend(
            "vpopcnt", "C++ for AVX-512 VPOPCNTDQ (spike_gram), else as avx512", "counts"
        ),
        _native_backend("avx512", "C++ for AVX-512 F, BW, DQ, VL"),
        _native_backend("avx2", "C++ for AVX2 and FMA"),
        _native_backend("portable", "C++ for any processor"),
    )
}


def available_backends() -> list[str]:
    """Names of the backends that run here, fastest first."""
    return [name for name, backend in BACKENDS.items() if backend.available()]


def resolve(op: str, backend: str | None) -> Callable[..., Any]:
    """The function that runs ``op``.

    Raises
    ------
    ValueError : the named backend does not exist or does not run here; names those that do.
    """
    if op not in OPS:
        raise ValueError(f"op is {op!r}; accepted are {', '.join(OPS)}")
    return BACKENDS[_chosen(backend)].load(op)


def gram_skills(backend: str | None) -> frozenset[str]:
    """What the backend's `spike_gram` is fast at, see `Backend`. Raises as `resolve` does."""
    return BACKENDS[_chosen(backend)].gram_skills


def _chosen(backend: str | None) -> str:
    names = available_backends()
    name = names[0] if backend is None else backend
    if name not in names:
        raise ValueError(f"backend is {backend!r}; this machine has {', '.join(names)}")
    return name


def native_info() -> dict[str, Any]:
    """What this installation has: instruction sets, threads, CUDA devices."""
    isas = _native.available_isas()
    return {
        "isa": isas[-1],
        "available_isas": isas,
        "threads": thread_count(),
        "cuda": _native.cuda_devices() if _native.with_cuda else None,
    }
