"""Where the tests of the Triton kernels run: on a GPU, or on CPU tensors in Triton's interpreter."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import sbc_kernels as sbc
from sbc_kernels.backends.triton.device import interpreted

DEVICE = "cuda" if torch.cuda.is_available() and not interpreted() else "cpu"
needs_triton = pytest.mark.skipif(
    DEVICE == "cpu" and not interpreted(), reason="no CUDA device, and TRITON_INTERPRET is not set"
)
needs_gpu = [
    pytest.mark.gpu,
    pytest.mark.skipif(DEVICE == "cpu", reason="no CUDA device"),
]


# Each of the backends for a GPU that runs here. In the interpreter that is Triton's.
GPU_BACKENDS = sbc.available_backends("cuda")


def to_device(array: np.ndarray | None) -> torch.Tensor | None:
    return None if array is None else torch.as_tensor(array, device=DEVICE)


def to_host(tensor: torch.Tensor | None) -> np.ndarray | None:
    return None if tensor is None else tensor.cpu().numpy()


def _mend_interpreter() -> None:
    """NumPy 2.4 makes no integer of an array of one element, which is what a loop's end is there."""
    from triton.runtime import interpreter

    patch = interpreter._patch_lang_tensor

    def patched(tensor: Any, scope: Any) -> None:
        patch(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))

    interpreter._patch_lang_tensor = patched


if interpreted():
    _mend_interpreter()
