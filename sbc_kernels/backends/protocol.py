"""The interface of a backend: ops with one signature each, which take checked arrays and return arrays.

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
from .multiples import Analog, Multiples

# NumPy arrays on a backend for CPU memory, torch tensors on one for a GPU. d is d_in.
Rows: TypeAlias = Array  # [rows, d], float32 or float64
Matrix: TypeAlias = Array  # [d, d], symmetric
RowMask: TypeAlias = Array  # bool [rows, d], True = kept
Order: TypeAlias = Array  # int32 [rows, steps]
Columns: TypeAlias = Array  # int32 [d]
Device: TypeAlias = Any  # torch.device, or "cpu" for NumPy arrays

MATRIX_OPS = (
    "obs_order",
    "obs_select",
    "obs_solve",
    "obs_quantize",
    "upper_factor",
    "inverse",
    "solve_positive",
)
OPS = ("spike_gram", *MATRIX_OPS)  # spike_gram is that of a backend's `GramEngine`


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
    """The sums of one stream of spikes on one device, which `SpikeHessian` is built on.

    Attributes
    ----------
    backend : the backend that made this engine.
    device : where its arrays lie; `device_name` is that in words.
    algorithms : stems of the algorithms that its kernels run fast, see `gram_plan.ALGORITHMS`.
    squares_convolutions : whether a convolution may be summed as squares of M X, see `plan_gram`.
    """

    @property
    def backend(self) -> Backend: ...
    @property
    def device(self) -> Device: ...
    @property
    def device_name(self) -> str: ...
    @property
    def algorithms(self) -> frozenset[str]: ...
    @property
    def squares_convolutions(self) -> bool: ...

    def narrow(self, values: Array, conv: Conv | None, unit: float) -> Multiples | Analog:
        """Returns the values as multiples of a common unit by integers in [-128, 127], or `Analog`.

        Integers are read once; bools, whose range is known, not at all. `unit`, if it is not 1, is
        tried before another one is looked for. Raises ValueError if a value is NaN or infinite.
        """

    def analog(self, values: Array) -> Analog:
        """Returns what `add_floats` needs to know. ValueError if a value is NaN or infinite."""

    def bytes_of(self, values: Array) -> Array | None:
        """Returns the values as the narrowest of bool, uint8 and int8.

        Returns None if a value is no integer in [-128, 127].
        """

    def float_arithmetic(self, values: Array) -> Arithmetic:
        """Returns the arithmetic of `add_floats` for these values."""

    def zeros(self, *shape: int) -> Array:
        """Returns float64 zeros of this shape on the device."""

    def zero_sums(self, parts: tuple[Region, ...], groups: int, channels: int) -> list[Array]:
        """Returns zero sums for `add_integers`, in the engine's own layout; `channels` of one group."""

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
        """Returns ``factor`` times the sum of one batch of a Linear layer, [1, d, d].

        Returns None if no kernel writes it in one go.
        """

    def add_floats(
        self,
        values: Array,
        membrane: Array | None,
        conv: Conv | None,
        total: Array,
        exponent: int = 0,
    ) -> None:
        """Adds the products of filtered floats, taken times 2^-exponent, to the total, float64
        [groups, d, d]."""

    def matrix(
        self,
        sums: list[Array],
        parts: tuple[Region, ...],
        conv: Conv | None,
        channels: int,
        factor: float,
        consume: bool,
    ) -> Array:
        """Returns ``factor`` times the sums of `add_integers`, [groups, d, d]; `channels` of one group.

        `consume` saves a copy and invalidates the sums.
        """


@runtime_checkable
class Backend(Protocol):
    """An implementation of every op.

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
        """Returns whether it runs here, on that device or, with None, on the current one."""

    def kernel(self, op: str) -> str:
        """Returns the name of the kernel that runs one of `OPS`.

        If the input decides as well, it is the kernel for the largest float32 layers. Each call
        records the kernels that it ran, see `kernels.recorded_kernels`.
        """

    def gram(self, device: Device) -> GramEngine:
        """Returns an engine that sums spikes on that device, see `SpikeHessian`."""

    def obs_order(
        self,
        weight: Rows,
        inverse_hessian: Matrix,
        num_pruned: int,
        *,
        group: Columns | None = None,
        quota: Columns | None = None,
    ) -> tuple[Order, Rows]:
        """Returns the order [rows, num_pruned] and the loss of each removal, see `ops.obs_order`.

        `group` [d] and `quota` [groups], int32, bound the removals of each group of a row's weights,
        which is how N:M patterns are ordered. All other arrays have weight's dtype.
        """

    def obs_select(
        self,
        weight: Rows,
        hessian: Matrix,
        num_kept: int,
        *,
        group: Columns | None = None,
        quota: Columns | None = None,
    ) -> tuple[Order, Rows]:
        """Returns the order [rows, num_kept] and the gain of each weight kept, see `ops.obs_select`.

        `group` [d] and `quota` [groups], int32, bound how many of each group of a row's weights are
        kept. All other arrays have weight's dtype. Raises NotImplementedError on a backend without a
        kernel, and numpy.linalg.LinAlgError if the matrix shows not to be positive definite.
        """

    def obs_solve(
        self,
        weight: Rows,
        hessian: Matrix,
        mask: RowMask,
        *,
        inverse_hessian: Matrix | None = None,
    ) -> Rows:
        """Returns the optimal remaining weights, see `ops.obs_solve`.

        The matrices may be float64 with float32 weights. `inverse_hessian` saves computing it.
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
        """Runs the column sweep, see `ops.obs_quantize`.

        The Hessian may be float64 with float32 weights. `num_pruned` replaces the number of weights
        that an unstructured pattern would prune. With a pattern, `mask` names weights that are zero and
        stay so: they are the first to go, also beyond the quota.
        """

    def upper_factor(self, matrix: Matrix, perm: Columns) -> Matrix:
        """Returns R, upper triangular, with ``matrix[perm][:, perm] = R R'``, in matrix's dtype.

        It is computed in float64. GPTQ's U, with ``matrix[perm][:, perm]^-1 = U' U``, is its inverse.
        Raises numpy.linalg.LinAlgError if the matrix is not positive definite.
        """

    def inverse(self, matrix: Matrix) -> Matrix:
        """Returns the inverse of a symmetric positive definite matrix, float64, exactly symmetric.

        Raises numpy.linalg.LinAlgError if the matrix is not positive definite.
        """

    def solve_positive(self, matrix: Matrix, rhs: Array) -> Array:
        """Returns ``matrix^-1 rhs`` for a symmetric positive definite matrix.

        Raises numpy.linalg.LinAlgError if the matrix is not positive definite.
        """
