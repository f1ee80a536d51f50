"""The class of the GPU that a tensor lies on, and the settings that kernels are compiled with there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from .interpreter import interpreted

__all__ = [
    "CLASSES",
    "SHARED_BYTES",
    "Build",
    "device_class",
    "has_fast_float64",
    "interpreted",
    "kept_alive",
    "room",
]

CLASSES = ("sm_80", "sm_90", "sm_100", "other")
_LITTLE = 1 / 64  # of a card's memory
# Of one thread block. "other" is what any other NVIDIA GPU from sm_80 on has.
SHARED_BYTES = {"sm_80": 163 << 10, "sm_90": 227 << 10, "sm_100": 227 << 10, "other": 64 << 10}


@dataclass(frozen=True)
class Build:
    """One set of settings that a kernel is compiled with, which `aot` checks without a GPU.

    Attributes
    ----------
    name : of the op, the kernel and the variant, such as "obs_order/panel float32".
    kernel : the function under ``triton.jit``.
    types : by name of every argument that is no constant, Triton's name of its type ("*fp32", "i32").
    constants : by name of every ``tl.constexpr``.
    warps, stages : of the launch.
    tensor_cores : whether its code must have matrix instructions.
    aligned : arguments that are multiples of 16 (pointers, strides).
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
    """Returns one of `CLASSES` for the tensor's GPU."""
    if tensor.device.type != "cuda":
        return "other"
    return _class_of(tensor.device.index or 0)


@lru_cache
def _class_of(index: int) -> str:
    """Returns the class of a GPU. Cards of sm_86 and sm_89 have less shared memory and are "other"."""
    capability = torch.cuda.get_device_capability(index)
    if capability < (8, 0):
        raise ValueError(
            f"the GPU has compute capability {capability[0]}.{capability[1]}; accepted is 8.0 or later"
        )
    return {
        (8, 0): "sm_80", (9, 0): "sm_90", (10, 0): "sm_100", (10, 3): "sm_100",
    }.get(capability, "other")  # fmt: skip


def kept_alive(tensor: Tensor) -> Tensor:
    """Returns a tensor that is kept between calls, for use on the current stream.

    Its memory is not reused before that stream has done its work.
    """
    if tensor.device.type == "cuda":
        tensor.record_stream(torch.cuda.current_stream(tensor.device))
    return tensor


def has_fast_float64(tensor: Tensor) -> bool:
    """Returns whether float64 runs at half the speed of float32 or better (sm_80, sm_90, sm_100)."""
    if tensor.device.type != "cuda":
        return False
    return torch.cuda.get_device_capability(tensor.device) in ((8, 0), (9, 0), (10, 0))


def room(tensor: Tensor, demand: int, max_memory: int | None) -> int:
    """Returns the bytes that may be used on the tensor's device.

    They are `max_memory` or, with None, four fifths of the free memory. A demand of at most 1/64 of the
    card gets at most that much, so that small layers are cut the same way in every run. Does not wait
    for the device; the driver is queried only if torch's free reserve is below the demand.
    """
    if max_memory is not None:
        return max_memory
    if tensor.device.type != "cuda":
        return 1 << 32
    little = int(torch.cuda.get_device_properties(tensor.device).total_memory * _LITTLE)
    stats = torch.cuda.memory_stats_as_nested_dict(tensor.device)
    reserved, in_use = (
        stats[f"{what}_bytes"]["all"]["current"] for what in ("reserved", "allocated")
    )
    if demand <= min(little, reserved - in_use):
        return little
    free, _ = torch.cuda.mem_get_info(tensor.device)
    available = int(0.8 * (free + reserved - in_use))
    return min(little, available) if demand <= little else available
