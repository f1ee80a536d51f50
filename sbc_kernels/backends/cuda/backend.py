"""CUDA C++ where there is a kernel for an op, Triton for the others."""

from __future__ import annotations

from ..protocol import Columns, Device, GramEngine, Matrix, Order, Rows
from ..triton.backend import TritonBackend
from ..triton.interpreter import interpreted
from .device import KERNELS, has_kernel


class CudaBackend(TritonBackend):
    """Runs if at least one of its kernels does; `kernel` says which ops Triton runs."""

    name = "cuda"
    description = (
        "CUDA C++ for NVIDIA GPUs (obs_order; spike_gram on Hopper), the other ops as triton"
    )

    def available(self, device: Device | None = None) -> bool:
        if interpreted() or not super().available(device):
            return False
        return any(has_kernel(kernel, device) for kernel in KERNELS.values())

    def kernel(self, op: str) -> str:
        own = op in KERNELS and has_kernel(KERNELS[op])
        return "cuda" if own else super().kernel(op)

    def gram(self, device: Device) -> GramEngine:
        from ..triton.gram import GpuGram
        from .spike_gram import multiply_bytes

        has_own = has_kernel(KERNELS["spike_gram"], device)
        return GpuGram(self, device, multiply_bytes if has_own else None)

    def obs_order(
        self,
        weight: Rows,
        inverse_hessian: Matrix,
        num_pruned: int,
        *,
        group: Columns | None = None,
        quota: Columns | None = None,
    ) -> tuple[Order, Rows]:
        from ..triton.obs_order import obs_order
        from .obs_order import CudaPanel

        panel = CudaPanel() if has_kernel(KERNELS["obs_order"], weight.device) else None
        return obs_order(
            weight, inverse_hessian, num_pruned, group=group, quota=quota, own_panel=panel
        )
