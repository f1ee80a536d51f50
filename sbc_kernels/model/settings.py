"""The arguments of `compress_model`, checked."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from ..method.options import Options, checked_options
from .allocation import ALLOCATIONS

BASELINES = ("magnitude", "rtn")
MODES = ("parallel", "sequential")


@dataclass(frozen=True)
class Settings:
    """What was asked for, checked, with the defaults that depend on one another."""

    said: dict[str, Any]  # arguments of checked_options
    mode: str
    target_damping: float
    bn_reestimate: bool
    bias_correction: bool
    hessian: str
    max_memory: int
    backend: str | None

    def options(self, own: Mapping[str, Any], sparsity: float | str | None) -> Options:
        """A layer's options: its own over everybody's, with the sparsity it was given."""
        arguments = {**self.said, **own}
        return checked_options(**{**arguments, "sparsity": sparsity}, backend=self.backend)


def checked_settings(
    said: dict[str, Any],
    allocation: Any,
    mode: str | None,
    target_damping: float,
    bn_reestimate: bool | None,
    bias_correction: bool | None,
    hessian: str,
    max_memory: int | None,
    backend: str | None,
    place: torch.device,
) -> Settings:
    """`place` is where the model lies, whose memory is to suffice."""
    baseline = said["method"] in BASELINES
    mode = mode or ("parallel" if baseline else "sequential")
    if mode not in MODES:
        raise ValueError(f"calibration_mode is {mode!r}; accepted are {', '.join(MODES)}")
    if baseline and mode == "sequential":
        raise ValueError(
            f"calibration_mode is 'sequential' with method {said['method']!r}, which looks at weights "
            "only; accepted is 'parallel'"
        )
    for name, flag in (("bn_reestimate", bn_reestimate), ("bias_correction", bias_correction)):
        if flag is not None and not isinstance(flag, bool):
            raise TypeError(f"{name} is {flag!r}; accepted are True, False and None")
    if hessian not in ("smp", "current"):
        raise ValueError(f"hessian is {hessian!r}; accepted are 'smp' and 'current'")
    if not isinstance(target_damping, (int, float)) or not 0 < target_damping < math.inf:
        raise ValueError(f"target_damping is {target_damping!r}; accepted is a positive number")
    if max_memory is not None and (not isinstance(max_memory, int) or max_memory < 1):
        raise ValueError(f"max_memory is {max_memory!r}; accepted is a number of bytes, or None")
    if not isinstance(allocation, Mapping):
        if allocation not in ALLOCATIONS:
            raise ValueError(
                f"allocation is {allocation!r}; accepted are {', '.join(ALLOCATIONS)}, or a dictionary "
                "of sparsities by layer name"
            )
        if not ALLOCATIONS[allocation].takes_pattern and not isinstance(
            said["sparsity"], (int, float)
        ):
            raise ValueError(
                f"allocation is {allocation!r} with sparsity {said['sparsity']!r}; accepted with it is "
                "a fraction 0..1"
            )
    if said["sparsity"] is not None or said["bits"] is not None:
        checked_options(**said, backend=backend)
    return Settings(
        said,
        mode,
        float(target_damping),
        not baseline if bn_reestimate is None else bool(bn_reestimate),
        not baseline if bias_correction is None else bool(bias_correction),
        hessian,
        max_memory or _half_of_memory(place),
        backend,
    )


def _half_of_memory(place: torch.device) -> int:
    if place.type == "cuda":
        return int(torch.cuda.mem_get_info(place)[0]) // 2  # of what is free: others use it too
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    except (AttributeError, OSError, ValueError):  # not a system that tells
        return 4 << 30
