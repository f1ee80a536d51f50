"""What a backend is: the ops, with one signature on every backend, checked arrays in, arrays out.

A backend for CPU memory takes NumPy arrays, one for a GPU torch tensors that lie there. Nothing here
imports a backend, and a backend need not import this: it has the methods.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol, TypeAlias, runtime_checkable

from ..arrays import Array
from ..conv import Conv, Region
from ..grid import Grid
from ..sparsity import Pattern
from .gram_plan import Arithmetic, GramPlan

# NumPy arrays on a backend for CPU memory, torch tensors on one for a GPU. d is d_in.
Rows: TypeAlias = Array  # [rows, d], float32 or float64
Matrix: TypeAlias = Array  # [d, d], symmetric
RowMask: TypeAlias = Array  # bool [rows, d], True = kept
Order: TypeAlias = Array  # int32 [rows, steps]
Columns: TypeAlias = Array  # int32 [d]
Device: TypeAlias = Any  # torch.device, or "cpu" for NumPy arrays

OPS = (
    "spike_gram",
    "obs_order",
    "obs_solve",
    "obs_quantize",
    "upper_factor",
    "inverse",
    "solve_positive",
)


class QuantizedRows(NamedTuple):
    """The result of `obs_quantize`.

    Attributes
    ----------
    codes : uint8 [d_out, d_in], or None without a grid.
    weight : the dequantized weights, weight's dtype [d_out, d_in].
    loss : [d_out], each row's ``1/2 (w - q) H (w - q)'`` with the Hessian given.
    mask : bool [d_out, d_in], True = kept, where this call pruned; else None.
    """

    codes: Array
    weight: Array
    loss: Array
    mask: Array


class GramEngine(Protocol):
    """The sums of one stream of spikes, on one device: what `SpikeHessian` is built on.

    Attributes
    ----------
    backend : whose engine this is.
    device : where its arrays lie; `place` is that in words.
    algorithms : stems of those that its kernels run fast, see `gram_plan.ALGORITHMS`.
    squares_convolutions : whether a convolution's sum may be that of squares, see `plan_gram`.
    """

    @property
    def backend(self) -> Backend: ...
    @property
    def device(self) -> Device: ...
    @property
    def place(self) -> str: ...
    @property
    def algorithms(self) -> frozenset[str]: ...
    @property
    def squares_convolutions(self) -> bool: ...

    def narrow(self, values: Array, conv: Conv | None) -> tuple[Array, int, int] | None:
        """int8 [T, N, P, C] with its range, or None where a value is no integer in [-128, 127].

        The values are looked through once; bools, whose range is known, not at all. Raises ValueError
        where a value is NaN or infinite.
        """

    def bytes_of(self, values: Array) -> Array | None:
        """The values as bool, uint8 or int8, whichever tells most of their range; None as `narrow`."""

    def float_arithmetic(self, values: Array) -> Arithmetic:
        """What `add_floats` computes in."""

    def zeros(self, *shape: int) -> Array:
        """float64."""

    def zero_sums(self, parts: tuple[Region, ...], groups: int, channels: int) -> list[Array]:
        """What `add_integers` adds to, in a layout of the engine's own; `channels` of one group."""

    def add_integers(
        self,
        narrow: Array,
        plan: GramPlan,
        conv: Conv | None,
        groups: int,
        parts: tuple[Region, ...],
        sums: list[Array],
    ) -> None:
        """Adds a batch to the sums."""

    def finished(
        self, narrow: Array, plan: GramPlan, parts: tuple[Region, ...], factor: float
    ) -> Array | None:
        """``factor`` times the sum of one batch of a Linear layer [1, d, d].

        None where no kernel writes it in one go.
        """

    def add_floats(
        self, values: Array, membrane: Array | None, conv: Conv | None, total: Array
    ) -> None:
        """Adds the products of filtered floats to the total, float64 [groups, d, d]."""

    def matrix(
        self,
        sums: list[Array],
        parts: tuple[Region, ...],
        conv: Conv | None,
        channels: int,
        factor: float,
        consume: bool,
    ) -> Array:
        """``factor`` times what `add_integers` has summed [groups, d, d]; `channels` of one group.

        `consume` spares a copy; the sums are no more then.
        """


@runtime_checkable
class Backend(Protocol):
    """One way to compute every op.

    Attributes
    ----------
    name : what users write in ``backend=``.
    description : one line.
    device : "cpu" for NumPy arrays in CPU memory, "cuda" for torch tensors on an NVIDIA GPU.
    """

    @property
    def name(self) -> str: ...
    @property
    def description(self) -> str: ...
    @property
    def device(self) -> str: ...

    def available(self, device: Device | None = None) -> bool:
        """Whether it runs here: on that device, or with None on the current one."""

    def kernel(self, op: str) -> str:
        """Name of the kernel that runs one of `OPS`.

        Where the input decides as well, this is the one for the largest float32 layers. Each call
        notes what it ran: see `kernels.recorded_kernels`.
        """

    def gram(self, device: Device) -> GramEngine:
        """An engine that sums spikes which lie on that device, see `SpikeHessian`."""

    def obs_order(
        self,
        weight: Rows,
        inverse_hessian: Matrix,
        num_pruned: int,
        *,
        group: Columns | None = None,
        quota: Columns | None = None,
    ) -> tuple[Order, Rows]:
        """Order [rows, num_pruned] and loss of each removal, see `ops.obs_order`.

        `group` [d] and `quota` [groups], int32, bound what each group of a row's weights gives up:
        that is how N:M patterns are ordered. All have weight's dtype.
        """

    def obs_solve(
        self,
        weight: Rows,
        hessian: Matrix,
        mask: RowMask,
        *,
        inverse_hessian: Matrix | None = None,
    ) -> Rows:
        """The optimal remaining weights, see `ops.obs_solve`.

        The matrices may be float64 with float32 weights. `inverse_hessian` spares computing it.
        """

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
        """The column sweep, see `ops.obs_quantize`.

        The Hessian may be float64 with float32 weights. `num_pruned` replaces the number of weights
        that an unstructured pattern would prune.
        """

    def upper_factor(self, matrix: Matrix, perm: Columns) -> Matrix:
        """R, upper triangular, with ``matrix[perm][:, perm] = R R'``, in matrix's dtype.

        Computed in float64. GPTQ's U, with ``matrix[perm][:, perm]^-1 = U' U``, is its inverse.
        Raises numpy.linalg.LinAlgError where the matrix is not positive definite.
        """

    def inverse(self, matrix: Matrix) -> Matrix:
        """Inverse of a symmetric positive definite matrix, float64, exactly symmetric.

        Raises numpy.linalg.LinAlgError where the matrix is not positive definite.
        """

    def solve_positive(self, matrix: Matrix, rhs: Array) -> Array:
        """``matrix^-1 rhs`` of a symmetric positive definite matrix.

        Raises numpy.linalg.LinAlgError where the matrix is not positive definite.
        """
