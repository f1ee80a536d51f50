"""Every backend's ops on NumPy arrays, wherever a backend wants them.

Without a GPU the CPU's backends run; with one those for it as well; and where TRITON_INTERPRET is
set, Triton's alone, on CPU tensors and smaller problems: the two runs of `make test` share the tests.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
import torch
from interpreted import DEVICE

import sbc_kernels as sbc
from sbc_kernels.backends.registry import BACKENDS, Backend, QuantizedRows
from sbc_kernels.backends.triton.interpreter import interpreted

T = TypeVar("T")


@dataclass(frozen=True)
class Ops:
    """The ops of one backend, on NumPy arrays. No op may change its input."""

    name: str

    @property
    def backend(self) -> Backend:
        return BACKENDS[self.name]

    @property
    def on_gpu(self) -> bool:
        return self.backend.device == "cuda"

    @property
    def splits_products(self) -> bool:
        """Whether the exact order's float32 products are three of TF32, each sum cut off."""
        if not self.on_gpu:
            return False
        from sbc_kernels.backends.triton import obs_order
        from sbc_kernels.backends.triton.device import device_class

        kind = device_class(torch.empty(0, device=DEVICE))
        return obs_order.TILES[kind, torch.float32].split

    def several(self, on_cpu: Sequence[T], on_gpu: Sequence[T]) -> Sequence[T]:
        """Cases for a CPU's backend, or the fewer ones that the interpreter has time for."""
        return on_gpu if self.on_gpu else on_cpu

    def put(self, value: Any) -> Any:
        if isinstance(value, sbc.Grid):
            return replace(
                value, scale=self.put(value.scale), zero_point=self.put(value.zero_point)
            )
        if not self.on_gpu or not isinstance(value, np.ndarray):
            return value
        return torch.as_tensor(value, device=DEVICE)

    def take(self, value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            assert self.on_gpu
            assert not value.requires_grad
            return value.cpu().numpy()
        if isinstance(value, QuantizedRows):
            return QuantizedRows(*map(self.take, value))
        return tuple(map(self.take, value)) if isinstance(value, tuple) else value

    def run(self, op: str, *args: Any, **options: Any) -> Any:
        arguments = {**dict(enumerate(args)), **options}
        put = {key: self.put(value) for key, value in arguments.items()}
        before = {key: v.tobytes() for key, v in arguments.items() if isinstance(v, np.ndarray)}
        named = {name: put[name] for name in options}
        answer = getattr(self.backend, op)(*(put[place] for place in range(len(args))), **named)
        for key, bytes_before in before.items():
            assert self.take(put[key]).tobytes() == bytes_before, f"{op} changed its input {key}"
        return self.take(answer)

    def obs_order(
        self, weight: np.ndarray, G: np.ndarray, num_pruned: int, **groups: Any
    ) -> tuple[np.ndarray, np.ndarray]:
        order, loss = self.run("obs_order", weight, G, num_pruned, **groups)
        assert order.shape == loss.shape == (len(weight), num_pruned)
        assert (order.dtype, loss.dtype) == (np.int32, weight.dtype)
        return order, loss

    def obs_solve(
        self, weight: np.ndarray, H: np.ndarray, mask: np.ndarray, G: np.ndarray | None = None
    ) -> np.ndarray:
        solution: np.ndarray = self.run("obs_solve", weight, H, mask, inverse_hessian=G)
        return solution

    def obs_quantize(
        self,
        weight: np.ndarray,
        H: np.ndarray,
        grid: sbc.Grid | None,
        *,
        block_size: int = 128,
        act_order: bool = True,
        **options: Any,
    ) -> QuantizedRows:
        answer: QuantizedRows = self.run(
            "obs_quantize", weight, H, grid, block_size=block_size, act_order=act_order, **options
        )
        assert answer.weight.dtype == answer.loss.dtype == weight.dtype
        return answer


HERE = [Ops(name) for name in sbc.available_backends("cuda" if interpreted() else None)]
