"""The table of backends, and the choice of the one that runs an op.

A backend is one entry of `BACKENDS`, an object with the methods of `protocol.Backend`. A backend asked
for by name runs or raises; nothing falls back in silence. The default is the fastest one that runs
where the arrays lie.
"""

from __future__ import annotations

import sys
from typing import Any

from .. import _native
from ..arrays import is_numpy
from ..errors import ParameterError
from ..threads import thread_count
from .cuda.backend import CudaBackend
from .gram_plan import LOOK_UP
from .native.backend import NativeBackend
from .protocol import OPS, Backend, QuantizedRows
from .triton.backend import TritonBackend
from .triton.interpreter import interpreted

__all__ = [
    "BACKENDS",
    "OPS",
    "Backend",
    "QuantizedRows",
    "available_backends",
    "backend_for",
    "backend_of",
    "fastest_backend",
    "named_backend",
    "native_info",
]

# Fastest first; those for a GPU last.
BACKENDS: dict[str, Backend] = {
    backend.name: backend
    for backend in (
        NativeBackend(
            "amx",
            "C++ for AMX tiles of bytes (spike_gram); population counts as vpopcnt, the rest as avx512",
            algorithms=frozenset({"bytes", "counts", "pair_tables"}),
        ),
        NativeBackend(
            "vpopcnt",
            "C++ for AVX-512 VPOPCNTDQ (spike_gram), the rest as avx512",
            algorithms=LOOK_UP | {"counts"},
        ),
        NativeBackend("avx512", "C++ for AVX-512 F, BW, DQ, VL"),
        NativeBackend("avx2", "C++ for AVX2 and FMA"),
        NativeBackend("portable", "C++ for any processor"),
        CudaBackend(),
        TritonBackend(),
    )
}


def available_backends(device: str | None = None) -> list[str]:
    """Returns the names of the backends that run here, fastest first; those for a GPU last.

    Parameters
    ----------
    device : "cpu" or "cuda": only those for arrays that lie there.
    """
    if device not in (None, "cpu", "cuda"):
        raise ParameterError("device", device, "accepted are 'cpu', 'cuda' and None")
    return [
        name
        for name, backend in BACKENDS.items()
        if device in (None, backend.device) and backend.available()
    ]


def named_backend(name: Any, device: Any = None) -> Backend:
    """Returns the backend of that name.

    Raises
    ------
    ParameterError : it does not exist, or does not run here or on the device; names those that do.
    """
    backend = BACKENDS.get(name) if isinstance(name, str) else None
    if backend is None or not backend.available(device):
        names = ", ".join(available_backends())
        raise ParameterError("backend", name, f"one that this machine has: {names}")
    return backend


def backend_of(array: Any, name: str, backend: str | None) -> Backend:
    """Returns the backend for a user's array on its device: the one of that name, or the fastest.

    Parameters
    ----------
    array : the argument called `name`, of any framework.
    backend : a name of `available_backends()`, or None.

    Raises
    ------
    ParameterError : the backend named does not run here, or not where the array lies.
    ValueError : no backend runs there.
    """
    torch = sys.modules.get("torch")
    is_tensor = torch is not None and isinstance(array, torch.Tensor)
    on_gpu = is_tensor and array.is_cuda
    if backend is None:
        return fastest_backend("cuda", array.device) if on_gpu else fastest_backend("cpu")
    target = named_backend(backend, array.device if on_gpu else None)
    if target.device == "cuda" and is_tensor and (on_gpu or interpreted()):
        return target
    if on_gpu or target.device == "cuda":
        where = array.device if is_tensor else "CPU memory"
        names = [*map(repr, available_backends("cuda")), "None"]
        accepted = "a CUDA tensor" if target.device == "cuda" else " or ".join(names)
        shown = f"{backend!r} and {name} lies in {where}"
        raise ParameterError("backend", backend, accepted, shown=shown)
    return target


def backend_for(values: Any, backend: str | None) -> Backend:
    """Returns the backend for a checked array: NumPy, or a torch tensor that stays on its device."""
    if backend is not None:
        return named_backend(backend)
    return fastest_backend("cpu") if is_numpy(values) else fastest_backend("cuda", values.device)


def fastest_backend(kind: str, device: Any = None) -> Backend:
    """Returns the first backend that runs here for arrays on "cpu" or "cuda", on that device."""
    for backend in BACKENDS.values():
        if backend.device == kind and backend.available(device):
            return backend
    raise ValueError(
        f"no backend runs on {kind} here: triton is not installed; accepted are arrays in CPU memory"
    )


def native_info() -> dict[str, Any]:
    """Returns the instruction sets, threads and CUDA devices of this installation."""
    isas = _native.available_isas()
    return {
        "isa": isas[-1],
        "available_isas": isas,
        "threads": thread_count(),
        "cuda": _native.cuda_devices() if _native.with_cuda else None,
    }
