"""What kind of GPU a tensor lies on, and what a kernel is compiled with there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from .. import _native
from ..dispatch import interpreted

__all__ = [
    "CLASSES",
    "SHARED_BYTES",
    "Build",
    "device_class",
    "has_fast_float64",
    "interpreted",
    "room",
]

CLASSES = ("sm_80", "sm_90", "sm_100", "other")
# Of one thread block. "other" is what any other NVIDIA GPU from sm_80 on has.
_LITTLE = 1 / 64  # of a card's memory
SHARED_BYTES = {"sm_80": 163 << 10, "sm_90": 227 << 10, "sm_100": 227 << 10, "other": 64 << 10}


@dataclass(frozen=True)
class Build:
    """One way a kernel is compiled: what `aot` checks, without a GPU.

    Attributes
    ----------
    name : of the op and kernel, and what sets this build apart: "obs_order/panel float32".
    kernel : the function under ``triton.jit``.
    types : by name of every argument that is no constant, Triton's name of its type ("*fp32", "i32").
    constants : by name of every ``tl.constexpr``.
    warps, stages : of the launch.
    tensor_cores : whether its code must have matrix instructions.
    aligned : arguments known to be multiples of 16 (pointers, strides).
    """

    name: str
    kernel: Any
    types: Mapping[str, str]
    constants: Mapping[str, Any]
    warps: int
    stages: int = 1
    tensor_cores: bool = False
    aligned: tuple[str, ...] = field(default=())


def device_class(tensor: Tensor) -> str:
    """One of `CLASSES`."""
    if tensor.device.type != "cuda":
        return "other"
    return _class_of(tensor.device.index or 0)


@lru_cache
def _class_of(index: int) -> str:
    """Of the workstation cards of sm_86 and sm_89, with less shared memory, it is "other"."""
    capability = torch.cuda.get_device_capability(index)
    if capability < (8, 0):
        raise ValueError(
            f"the GPU has compute capability {capability[0]}.{capability[1]}; accepted is 8.0 or later"
        )
    return {
        (8, 0): "sm_80", (9, 0): "sm_90", (10, 0): "sm_100", (10, 3): "sm_100",
    }.get(capability, "other")  # fmt: skip


@lru_cache
def has_native() -> bool:
    """Whether the package has CUDA kernels of its own, and the driver takes them: it must be as new as
    the toolkit that they were built with. Else Triton's do their work."""
    return bool(_native.with_cuda and _native.cuda_devices())


def has_fast_float64(tensor: Tensor) -> bool:
    """At half the speed of float32 or better: the data centres' cards, but for sm_103."""
    if tensor.device.type != "cuda":
        return False
    return torch.cuda.get_device_capability(tensor.device) in ((8, 0), (9, 0), (10, 0))


def room(tensor: Tensor, wanted: int, max_memory: int | None) -> int:
    """Bytes that may be taken on the tensor's device: `max_memory`; None: four fifths of what is free.

    Waits for nothing. Where `wanted` is little, what is free is not asked, which takes longer than a
    small layer does: torch then finds it, or says that it cannot.
    """
    if max_memory is not None:
        return max_memory
    if tensor.device.type != "cuda":
        return 1 << 32
    little = int(torch.cuda.get_device_properties(tensor.device).total_memory * _LITTLE)
    if wanted <= little:
        return little
    free, _ = torch.cuda.mem_get_info(tensor.device)
    stats = torch.cuda.memory_stats_as_nested_dict(tensor.device)
    reserved, taken = (
        stats[f"{what}_bytes"]["all"]["current"] for what in ("reserved", "allocated")
    )
    return int(0.8 * (free + reserved - taken))
