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
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from .. import _native

OPS = ("spike_gram", "obs_order", "obs_solve", "obs_quantize", "upper_factor")


@dataclass(frozen=True)
class Backend:
    """``available()`` says whether it runs here; ``load(op)`` gives the op's function on arrays;
    ``gram_skills`` says what its `spike_gram` is fast at: "bytes" and "counts" of gram_plan.plan_gram.
    ``device`` is where its arrays lie: in CPU memory as NumPy arrays, or on a GPU as torch tensors.
    """

    name: str
    description: str
    available: Callable[[], bool]
    load: Callable[[str], Callable[..., Any]]
    gram_skills: frozenset[str] = frozenset()
    device: str = "cpu"


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


def interpreted() -> bool:
    """Whether Triton's kernels run in its interpreter, on CPU tensors."""
    return os.environ.get("TRITON_INTERPRET", "0") not in ("", "0")


def _triton_runs() -> bool:
    if find_spec("triton") is None or find_spec("torch") is None:
        return False
    return interpreted() or bool(import_module("torch").cuda.is_available())


def _triton_op(op: str) -> Callable[..., Any]:
    module, name = {
        "spike_gram": ("spike_gram", "add_integers"),
        "upper_factor": ("linalg", "upper_factor"),
    }.get(op, (op, op))
    run: Callable[..., Any] = getattr(import_module(f"{__package__}.triton.{module}"), name)
    return run


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
        Backend(
            "triton",
            "Triton for NVIDIA GPUs, of torch tensors that lie there",
            _triton_runs,
            _triton_op,
            frozenset({"bytes"}),
            "cuda",
        ),
    )
}


def available_backends(device: str | None = None) -> list[str]:
    """Names of the backends that run here, fastest first; those for a GPU last.

    Parameters
    ----------
    device : "cpu" or "cuda": only those for arrays that lie there.
    """
    if device not in (None, "cpu", "cuda"):
        raise ValueError(f"device is {device!r}; accepted are 'cpu', 'cuda' and None")
    return [
        name
        for name, backend in BACKENDS.items()
        if device in (None, backend.device) and backend.available()
    ]


def on_device(array: Any, name: str, backend: str | None) -> bool:
    """Whether this is a torch tensor that a GPU's backend takes where it lies.

    Raises
    ------
    ValueError : the backend named does not run where the array lies.
    """
    torch = sys.modules.get("torch")
    on_gpu = torch is not None and isinstance(array, torch.Tensor) and array.is_cuda
    if backend is None:
        if on_gpu:
            _chosen(None, "cuda")
        return on_gpu
    wanted = BACKENDS[_chosen(backend)].device
    is_tensor = torch is not None and isinstance(array, torch.Tensor)
    if wanted == "cuda" and is_tensor and (on_gpu or (interpreted() and not array.is_cuda)):
        return True
    if on_gpu or wanted == "cuda":
        where = array.device if is_tensor else "CPU memory"
        accepted = "a CUDA tensor" if wanted == "cuda" else "backend='triton', or None"
        raise ValueError(
            f"backend is {backend!r} and {name} lies in {where}; accepted is {accepted}"
        )
    return False


def resolve(op: str, backend: str | None, device: str = "cpu") -> Callable[..., Any]:
    """The function that runs ``op``.

    Raises
    ------
    ValueError : the named backend does not exist or does not run here; names those that do.
    """
    if op not in OPS:
        raise ValueError(f"op is {op!r}; accepted are {', '.join(OPS)}")
    return BACKENDS[_chosen(backend, device)].load(op)


def gram_skills(backend: str | None, device: str = "cpu") -> frozenset[str]:
    """What the backend's `spike_gram` is fast at, see `Backend`. Raises as `resolve` does."""
    return BACKENDS[_chosen(backend, device)].gram_skills


def _chosen(backend: str | None, device: str = "cpu") -> str:
    if backend is not None:
        if backend not in BACKENDS or not BACKENDS[backend].available():
            names = ", ".join(available_backends())
            raise ValueError(f"backend is {backend!r}; this machine has {names}")
        return backend
    for name, known in BACKENDS.items():
        if known.device == device and known.available():
            return name
    raise ValueError(
        f"no backend runs on {device} here: triton is not installed; accepted are arrays in CPU memory"
    )


def native_info() -> dict[str, Any]:
    """What this installation has: instruction sets, threads, CUDA devices."""
    isas = _native.available_isas()
    return {
        "isa": isas[-1],
        "available_isas": isas,
        "threads": thread_count(),
        "cuda": _native.cuda_devices() if _native.with_cuda else None,
    }
