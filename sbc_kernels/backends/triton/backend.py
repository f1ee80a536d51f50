"""The Triton kernels, on torch tensors that lie on an NVIDIA GPU.

Torch and Triton are imported when an op runs, not before.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec

from ...arrays import Array
from ...grid import Grid
from ...sparsity import Pattern
from ..protocol import (
    Columns,
    Device,
    GramEngine,
    Matrix,
    Order,
    QuantizedRows,
    RowMask,
    Rows,
)
from .interpreter import interpreted


class TritonBackend:
    """Triton for every op that has a kernel; cuSOLVER, by way of torch, for the factorisations."""

    name = "triton"
    description = "Triton for NVIDIA GPUs, of torch tensors that lie there"
    device = "cuda"

    def available(self, device: Device | None = None) -> bool:
        if find_spec("triton") is None or find_spec("torch") is None:
            return False
        return interpreted() or bool(import_module("torch").cuda.is_available())

    def kernel(self, op: str) -> str:
        factorisations = ("upper_factor", "inverse", "solve_positive")
        if op == "obs_select":
            return "none"
        return "torch.linalg" if op in factorisations else "triton"

    def gram(self, device: Device) -> GramEngine:
        from .gram import GpuGram

        return GpuGram(self, device)

    def obs_order(
        self,
        weight: Rows,
        inverse_hessian: Matrix,
        num_pruned: int,
        *,
        group: Columns | None = None,
        quota: Columns | None = None,
    ) -> tuple[Order, Rows]:
        from .obs_order import obs_order

        return obs_order(weight, inverse_hessian, num_pruned, group=group, quota=quota)

    def obs_select(
        self,
        weight: Rows,
        hessian: Matrix,
        num_kept: int,
        *,
        group: Columns | None = None,
        quota: Columns | None = None,
    ) -> tuple[Order, Rows]:
        raise NotImplementedError(
            f"obs_select has no GPU kernel yet, and backend {self.name!r} runs on GPUs; move weight "
            "and hessian to the CPU"
        )

    def obs_solve(
        self,
        weight: Rows,
        hessian: Matrix,
        mask: RowMask,
        *,
        inverse_hessian: Matrix | None = None,
    ) -> Rows:
        from .obs_solve import obs_solve

        return obs_solve(weight, hessian, mask, inverse_hessian=inverse_hessian)

    def obs_quantize(
        self,
        weight: Rows,
        hessian: Matrix,
        grid: Grid | None,
        *,
        block_size: int,
        act_order: bool,
        mask: RowMask | None = None,
        pattern: Pattern | None = None,
        num_pruned: int | None = None,
    ) -> QuantizedRows:
        from .obs_quantize import obs_quantize

        return obs_quantize(
            weight,
            hessian,
            grid,
            block_size=block_size,
            act_order=act_order,
            mask=mask,
            pattern=pattern,
            num_pruned=num_pruned,
        )

    def upper_factor(self, matrix: Matrix, perm: Columns) -> Matrix:
        from .factor import upper_factor

        return upper_factor(matrix, perm)

    def inverse(self, matrix: Matrix) -> Matrix:
        from .factor import inverse

        return inverse(matrix)

    def solve_positive(self, matrix: Matrix, rhs: Array) -> Array:
        from .factor import solve_positive

        return solve_positive(matrix, rhs)
