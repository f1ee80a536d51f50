"""Where the tests of the Triton kernels run: on a GPU, or on CPU tensors in Triton's interpreter."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
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


# Panels of 16 and 32, sweeps of several blocks, tiles in two parts: all within a few dozen weights.
SMALL_ORDER = {
    "panels": ((1, 32), (40, 16), (64, 32)),
    "tile": 32,
    "part": 16,
    "depth": 16,
    "warps": 4,
    "stages": 2,
}


@contextmanager
def small_tiles() -> Iterator[None]:
    """Several panels, tiles and programs of a layer that the interpreter can walk.

    On a GPU only the exact order's are small; solves and sweeps keep their own.
    """
    from sbc_kernels.backends.triton import obs_order, obs_quantize, obs_solve

    sweeps = (obs_order.Sweep(32, 1, 4, 2), obs_order.Sweep(64, 2, 2, 3))
    order = {
        key: replace(tiles, sweeps=sweeps, **SMALL_ORDER) for key, tiles in obs_order.TILES.items()
    }
    solve = obs_solve.TILES["other"]._replace(side=32, terms=16)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(obs_order, "TILES", order)
        patch.setattr(obs_order, "_COMPACT_BLOCK", 32)
        if DEVICE == "cpu":
            patch.setattr(obs_solve, "_tile", lambda device, dtype: solve)
            sweep = obs_quantize.Tile(rows=4, columns=16, warps=1)
            patch.setitem(obs_quantize.TILES, "other", sweep)
        yield


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


def _patch_language_once() -> None:
    """Triton's language is patched once a launch instead of at every call of a device function.

    The interpreter goes through all of the language at each call, which finds nothing left to patch and
    took 45 % of its time: a solve of 40 rows makes 5800 calls.
    """
    import triton.language
    from triton.language import core
    from triton.runtime import interpreter

    patch = interpreter._patch_lang
    languages = (triton.language, core)
    patched: set[str] = set()

    @cache
    def names(function: Callable[..., Any]) -> frozenset[str]:
        """Returns the names of those of `languages` that a function sees."""
        values = function.__globals__.values()
        return frozenset(m.__name__ for m in languages if any(value is m for value in values))

    def patch_once(function: Callable[..., Any]) -> Any:
        needed = names(function)
        if needed and needed <= patched:
            return interpreter._LangPatchScope()
        launches = not patched
        scope = patch(function)
        patched.update(needed)
        if launches:
            restore = scope.restore

            def restore_all() -> None:
                restore()
                patched.clear()

            scope.restore = restore_all
        return scope

    interpreter._patch_lang = patch_once


if interpreted():
    _mend_interpreter()
    _patch_language_once()
