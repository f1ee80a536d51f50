"""Which of the package's CUDA kernels run on a device."""

from __future__ import annotations

from functools import lru_cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from ... import _native

KERNELS = {"obs_order": "order_panel", "spike_gram": "multiply_bytes"}  # by op


def has_kernel(kernel: str, device: Any = None) -> bool:
    """Returns whether one of `KERNELS` runs on a torch.device, or with None on the current one.

    It does if it was built for the device's architecture by a toolkit that the driver supports.
    """
    if not _native.with_cuda or find_spec("torch") is None:
        return False
    torch = import_module("torch")
    if not torch.cuda.is_available() or (device is not None and device.type != "cuda"):
        return False
    index = None if device is None else device.index
    return _runs(kernel, torch.cuda.current_device() if index is None else index)


@lru_cache
def _runs(kernel: str, index: int) -> bool:
    with import_module("torch").cuda.device(index):
        return bool(getattr(_native, f"runs_{kernel}")(index))
