"""The C++ kernels, once for each instruction set, on NumPy arrays in CPU memory."""

from __future__ import annotations

from dataclasses import dataclass

from ... import _native
from ...arrays import Array
from ...grid import Grid
from ...sparsity import Pattern
from ..gram_plan import LOOK_UP
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
from . import factor, obs_order, obs_quantize, obs_select, obs_solve
from .gram import CpuGram
from .isas import kernel_of


@dataclass(frozen=True)
class NativeBackend:
    """The kernels of one instruction set.

    Attributes
    ----------
    algorithms : those that its spike_gram chooses from, by the stems of `gram_plan.ALGORITHMS`.
    isa : instruction set of the kernels; the backend's name unless a test sets another.
    """

    name: str
    description: str
    algorithms: frozenset[str] = LOOK_UP
    isa: str = ""
    device: str = "cpu"

    def __post_init__(self) -> None:
        if not self.isa:
            object.__setattr__(self, "isa", self.name)

    def available(self, device: Device | None = None) -> bool:
        return self.isa in _native.available_isas()

    def kernel(self, op: str) -> str:
        return self.isa if op == "spike_gram" else kernel_of(self.isa, op)

    def gram(self, device: Device) -> GramEngine:
        return CpuGram(self, self.isa, self.algorithms)

    def obs_order(
        self,
        weight: Rows,
        inverse_hessian: Matrix,
        num_pruned: int,
        *,
        group: Columns | None = None,
        quota: Columns | None = None,
    ) -> tuple[Order, Rows]:
        isa = self.kernel("obs_order")
        return obs_order.obs_order(weight, inverse_hessian, num_pruned, group, quota, isa)

    def obs_select(
        self,
        weight: Rows,
        hessian: Matrix,
        num_kept: int,
        *,
        group: Columns | None = None,
        quota: Columns | None = None,
    ) -> tuple[Order, Rows]:
        isa = self.kernel("obs_select")
        return obs_select.obs_select(weight, hessian, num_kept, group, quota, isa)

    def obs_solve(
        self,
        weight: Rows,
        hessian: Matrix,
        mask: RowMask,
        *,
        inverse_hessian: Matrix | None = None,
    ) -> Rows:
        isa = self.kernel("obs_solve")
        return obs_solve.obs_solve(weight, hessian, mask, inverse_hessian, isa)

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
        return obs_quantize.obs_quantize(
            weight,
            hessian,
            grid,
            block_size,
            act_order,
            mask,
            pattern,
            num_pruned,
            self.kernel("obs_quantize"),
        )

    def upper_factor(self, matrix: Matrix, perm: Columns) -> Matrix:
        return factor.upper_factor(matrix, perm, self.kernel("upper_factor"))

    def inverse(self, matrix: Matrix) -> Matrix:
        return factor.inverse(matrix, self.kernel("inverse"))

    def solve_positive(self, matrix: Matrix, rhs: Array) -> Array:
        return factor.solve_positive(matrix, rhs, self.kernel("solve_positive"))
