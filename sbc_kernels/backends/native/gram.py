"""How `SpikeHessian` sums in CPU memory: NumPy arrays and the native kernels."""

from __future__ import annotations

from math import isfinite

import numpy as np
from numpy.typing import NDArray

from ... import _native
from ...arrays import NumpyArray, exportable, is_float, matrix_product, require_finite
from ...conv import Conv, Region, unfolded
from ...threads import thread_count
from ..gram_plan import Arithmetic, GramPlan, one_byte_type
from ..kernels import note_kernel
from ..multiples import (
    MOST_ROUNDS,
    Analog,
    Multiples,
    common_unit,
    finer_unit,
    is_poor,
    range_exponent,
    sample_of,
    scaled,
    tolerance_of,
)
from ..protocol import Backend
from .isas import kernel_of

_HUGE_PAGE = 2 << 20
_UNFOLD_BYTES = 64 << 20  # of one chunk of an analog convolution's input
_ONE_BYTE = (np.bool_, np.uint8, np.int8)


class CpuGram:
    """The sums of one stream, on the host: a `protocol.GramEngine`."""

    device = "cpu"
    device_name = "CPU memory"
    squares_convolutions = False  # see gram_plan.SpikeRange

    def __init__(self, backend: Backend, isa: str, algorithms: frozenset[str]) -> None:
        self.backend = backend
        self.isa = isa
        self.algorithms = algorithms

    def narrow(self, values: NumpyArray, conv: Conv | None, unit: float) -> Multiples | Analog:
        """Returns the values as multiples of a common unit, or what the sums of floats need to know.

        Integers are read once; bools, whose range is known, only to lay them out. Floats that share
        another unit are read twice, and `unit`, if it is not 1, is tried before another one. Raises
        ValueError if a value is NaN or infinite.
        """
        T, N = values.shape[:2]
        if conv is None:
            C, P = values.shape[-1], 1
            N = values.size // (T * C)
        else:
            C, P = values.shape[2], int(np.prod(values.shape[3:]))
        if P == 1 and values.dtype in _ONE_BYTE and values.flags.c_contiguous:
            # Already in the kernels' layout: no copy.
            small = values.view(np.int8).reshape(T, N, 1, C)
            if values.dtype == np.bool_:
                return Multiples(small, 0, 1)
            low_high = _range_of(values)
            return Analog(sure=True) if low_high is None else Multiples(small, *low_high)
        narrow = np.empty((T, N, P, C), dtype=np.int8)
        source = exportable(np.ascontiguousarray(values).reshape(T * N, C, P))
        to = narrow.reshape(T * N, P, C)
        integral, minimum, maximum = _native.narrow_spikes(source, to, thread_count())
        if integral:
            return Multiples(narrow, minimum, maximum)
        found = _multiples(source, to, unit) if is_float(source) else None
        return self.analog(values) if found is None else Multiples(narrow, *found)

    def analog(self, values: NumpyArray) -> Analog:
        """Returns what the sums of floats need to know. ValueError: one is NaN or infinite."""
        if not is_float(values):
            return Analog(sure=True)
        least, most = float(values.min()), float(values.max())
        if not (isfinite(least) and isfinite(most)):
            require_finite(values, "spikes")
        if values.dtype == np.float32:  # whose squares float64 holds
            return Analog(sure=True)
        return Analog(range_exponent(max(-least, most)))

    def float_arithmetic(self, values: NumpyArray) -> Arithmetic:
        """Returns the arithmetic of `add_floats`."""
        return Arithmetic.FLOAT64

    def zeros(self, *shape: int) -> NumpyArray:
        return np.zeros(shape)

    def zero_sums(self, parts: tuple[Region, ...], groups: int, channels: int) -> list[NumpyArray]:
        """Returns zero sums for `add_integers`: by region, [groups, num_shifts, channels, channels]."""
        return [np.zeros((groups, len(part.neighbours), channels, channels)) for part in parts]

    def add_integers(
        self,
        narrow: NumpyArray,
        plan: GramPlan,
        conv: Conv | None,
        groups: int,
        parts: tuple[Region, ...],
        sums: list[NumpyArray],
    ) -> None:
        """Adds a batch to the sums."""
        self._run(narrow, plan, conv is None, groups, parts, sums, 0.0)

    def finished(
        self, narrow: NumpyArray, plan: GramPlan, parts: tuple[Region, ...], factor: float
    ) -> NumpyArray | None:
        """Returns ``factor`` times the whole sum of one batch of a Linear layer, [1, d, d].

        Returns None if the algorithm's kernel does not write it in one go.
        """
        if not plan.can_finish or factor == 0.0:
            return None
        d = narrow.shape[3]
        matrix = _aligned(1, d, d)
        self._run(narrow, plan, True, 1, parts, [matrix[None]], factor)
        return matrix

    def _run(
        self,
        narrow: NumpyArray,
        plan: GramPlan,
        triangle: bool,
        groups: int,
        parts: tuple[Region, ...],
        sums: list[NumpyArray],
        finish: float,
    ) -> None:
        """Runs the algorithm's kernel. With `finish` it writes `finish` times the sum, mirrored."""
        note_kernel("spike_gram", kernel_of(self.isa, plan.stem))
        getattr(_native, f"gram_{plan.stem}")(
            spikes=exportable(narrow),
            groups=groups,
            triangle=triangle,
            **plan.arguments(),
            **({"finish": finish} if plan.can_finish else {}),
            positions=[part.positions for part in parts],
            neighbours=[part.neighbours for part in parts],
            sums=sums,
            isa=self.isa,
            threads=thread_count(),
        )

    def add_floats(
        self,
        values: NumpyArray,
        membrane: NumpyArray | None,
        conv: Conv | None,
        total: NumpyArray,
        exponent: int = 0,
    ) -> None:
        """Filters the values times 2^-exponent over time, then float64 products on bounded chunks of
        the unfolding; one product a group of ``total`` [groups, d, d]."""
        isa = kernel_of(self.isa, "square")
        note_kernel("spike_gram", f"{isa} float64")
        T, N = values.shape[:2]
        groups, d, _ = total.shape
        samples = values.reshape(T, N, -1)
        row_bytes = T * samples.shape[2] * 8
        if conv is not None:
            row_bytes *= conv.taps
        chunk = max(1, _UNFOLD_BYTES // row_bytes)
        for first in range(0, N, chunk):
            part = samples[:, first : first + chunk].astype(np.float64)
            part = scaled(part, -exponent)
            if membrane is not None:
                part = matrix_product(membrane, part.reshape(T, -1), isa).reshape(part.shape)
            shaped = part.reshape(T * part.shape[1], *values.shape[2:])
            for group in range(groups):
                rows = unfolded(shaped, conv, group) if conv else shaped.reshape(-1, d)
                _native.add_square(
                    rows=np.ascontiguousarray(rows),
                    total=total[group],
                    isa=isa,
                    threads=thread_count(),
                )

    def matrix(
        self,
        sums: list[NumpyArray],
        parts: tuple[Region, ...],
        conv: Conv | None,
        channels: int,
        factor: float,
        consume: bool,
    ) -> NumpyArray:
        """Returns ``factor`` times the sums of `add_integers`, [groups, d, d]; `channels` of one group.

        `consume` saves a copy and invalidates the sums.
        """
        if conv is None:
            matrix: NumpyArray = sums[0][0] if consume else sums[0][0].copy()
            _native.mirror_upper(matrix[0], factor, thread_count())
            return matrix
        groups, d = conv.groups, channels * conv.taps
        matrix = np.empty((groups, channels, conv.taps, channels, conv.taps))
        blocks = [np.asarray(part.blocks, dtype=np.int32) for part in parts]
        _native.assemble_conv(sums, blocks, factor, matrix, thread_count())
        return matrix.reshape(groups, d, d)

    def bytes_of(self, values: NumpyArray) -> NumpyArray | None:
        """Returns the values as bool if all are 0 or 1, else uint8 or int8, in their own layout.

        Returns None if they are no integers in [-128, 127]. Reads them once.
        """
        if values.size == 0:
            return values.astype(np.bool_)
        axes = sorted(range(values.ndim), key=lambda axis: -values.strides[axis])
        source = np.ascontiguousarray(values.transpose(axes))
        narrow = np.empty(source.shape, dtype=np.int8)
        rows = len(source) if source.ndim else 1
        integral, minimum, maximum = _native.narrow_spikes(
            exportable(source.reshape(rows, -1, 1)), narrow.reshape(rows, 1, -1), thread_count()
        )
        if not integral:
            return None
        return narrow.view(one_byte_type(minimum, maximum)).transpose(np.argsort(axes))


def _multiples(
    source: NumpyArray, to: NumpyArray, hint: float
) -> tuple[int, int, float, float] | None:
    """Writes float values as integers. Returns their range, their unit and its tolerance, or None.

    The unit is the hint, if that is not 1 and fits, or else guessed from a sample. Values that have
    none leave at the sample or at the first value that does not fit.
    """
    tolerance = tolerance_of(source)
    unit: float | None = hint
    if hint == 1.0:
        flat = source.reshape(-1)
        sample = sample_of(flat)
        if is_poor(sample):
            sample = sample_of(flat[np.flatnonzero(flat)])
        unit = common_unit(sample, tolerance)
    for _ in range(MOST_ROUNDS):
        if unit is None or unit < 1.0 / np.finfo(source.dtype).max:  # 1 / unit must be finite
            break
        integral, minimum, maximum, largest, misfit = _native.narrow_multiples(
            source, to, unit, thread_count()
        )
        if integral:
            most = max(-minimum, maximum)
            # The largest value has the smallest error beside its size.
            return minimum, maximum, largest / most if most else unit, tolerance
        unit = finer_unit(unit, misfit, tolerance)
    return None if hint == 1.0 else _multiples(source, to, 1.0)


def _range_of(values: NumpyArray) -> tuple[int, int] | None:
    """Returns the least and greatest of the bytes and 0 in one pass, or None if one is above 127."""
    rows = (values.shape[0] * values.shape[1], -1, 1)
    integral, minimum, maximum = _native.narrow_spikes(
        exportable(values.reshape(rows)), None, thread_count()
    )
    return (minimum, maximum) if integral else None


def _aligned(*shape: int) -> NDArray[np.float64]:
    """Returns uninitialised memory from the start of a cache line on, for stores that bypass the cache.

    A large one starts at a 2 MiB page, so that the system can back it with such pages alone.
    """
    size = int(np.prod(shape))
    alignment = _HUGE_PAGE if size * 8 >= 2 * _HUGE_PAGE else 64
    memory = np.empty(size + alignment // 8 - 1)
    first = -memory.ctypes.data % alignment // 8
    return memory[first : first + size].reshape(shape)
