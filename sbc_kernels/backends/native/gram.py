"""How `SpikeHessian` sums in CPU memory: NumPy arrays and the native kernels."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ... import _native
from ...arrays import Array, exportable, require_finite
from ...conv import Conv, Region
from ...threads import thread_count
from ..gram_plan import GramPlan
from ..kernels import note_kernel
from ..protocol import Backend
from .isas import kernel_of

_HUGE_PAGE = 2 << 20
_UNFOLD_BYTES = 64 << 20  # of one chunk of an analog convolution's input


class CpuGram:
    """The sums of one stream, on the host."""

    device = "cpu"
    place = "CPU memory"
    squares_convolutions = False  # see gram_plan.plan_gram

    def __init__(self, backend: Backend, isa: str, skills: frozenset[str]) -> None:
        self.backend = backend
        self.isa = isa
        self.skills = skills

    def narrow(self, values: Array, conv: Conv | None) -> tuple[Array, int, int] | None:
        """int8 [T, N, P, C] with its range, or None where a value is no integer in [-128, 127].

        Raises ValueError where one is NaN or infinite.
        """
        require_finite(values, "spikes")
        T, N = values.shape[:2]
        if conv is None:
            C, P = values.shape[-1], 1
            N = values.size // (T * C)
        else:
            C, P = values.shape[2], int(np.prod(values.shape[3:]))
        if P == 1 and values.dtype in (np.bool_, np.uint8, np.int8) and values.flags.c_contiguous:
            # Already in the kernels' layout: no copy.
            small = values.view(np.int8).reshape(T, N, 1, C)
            if values.dtype == np.bool_:
                return small, 0, 1
            minimum, maximum = min(int(values.min()), 0), max(int(values.max()), 0)
            return (small, minimum, maximum) if maximum <= 127 else None
        narrow = np.empty((T, N, P, C), dtype=np.int8)
        source = np.ascontiguousarray(values)
        integral, minimum, maximum = _native.narrow_spikes(
            exportable(source.reshape(T * N, C, P)), narrow.reshape(T * N, P, C), thread_count()
        )
        return (narrow, minimum, maximum) if integral else None

    def can_finish(self, plan: GramPlan) -> bool:
        """Whether `add_integers` can write a Linear layer's whole matrix, scaled, in one go."""
        by_counts = plan.pair_weights is not None and "counts" in self.skills
        return bool(plan.digits) or by_counts

    def float_path(self, values: Array) -> str:
        """What `add_floats` does, in words."""
        return "float64 matrix products"

    def zeros(self, *shape: int) -> Array:
        return np.zeros(shape)

    def empty(self, *shape: int) -> NDArray[np.float64]:
        """Uninitialised, from the start of a cache line on: the kernels can then write past the cache.
        A large one starts a 2 MiB page: where the system has such pages, it is made of them alone."""
        size = int(np.prod(shape))
        alignment = _HUGE_PAGE if size * 8 >= 2 * _HUGE_PAGE else 64
        memory = np.empty(size + alignment // 8 - 1)
        first = -memory.ctypes.data % alignment // 8
        return memory[first : first + size].reshape(shape)

    def add_integers(
        self,
        narrow: Array,
        plan: GramPlan,
        conv: Conv | None,
        groups: int,
        parts: tuple[Region, ...],
        sums: list[Array],
        *,
        finish: float,
    ) -> None:
        """Adds a batch to the sums, by group and region. With `finish` the one sum of a Linear layer is
        written, times that, and mirrored."""
        isa = self.isa
        by_counts = plan.pair_weights is not None and conv is None
        stem = "bytes" if plan.digits else "counts" if by_counts else "tables"
        note_kernel("spike_gram", kernel_of(isa, stem))
        channels = narrow.shape[3] // groups
        for group in range(groups):
            _native.spike_gram(
                spikes=exportable(narrow),
                first_channel=group * channels,
                channels=channels,
                pair_weights=plan.pair_weights,
                matched_filter=plan.integers,
                lane_bytes=plan.lane_bytes,
                planes=plan.planes,
                digits=plan.digits,
                is_signed=plan.is_signed,
                squared=plan.squared,
                max_term=plan.max_term,
                triangle=conv is None,
                finish=finish,
                positions=[part.positions for part in parts],
                neighbours=[part.neighbours for part in parts],
                sums=sums[group * len(parts) : (group + 1) * len(parts)],
                isa=isa,
                threads=thread_count(),
            )

    def add_floats(
        self, values: Array, membrane: Array | None, conv: Conv | None, total: Array
    ) -> None:
        """Filters over time, then float64 products on bounded chunks of the unfolding; one product a
        group of ``total`` [groups, d, d]."""
        note_kernel("spike_gram", "blas")
        T, N = values.shape[:2]
        groups, d, _ = total.shape
        samples = values.reshape(T, N, -1)
        row_bytes = T * samples.shape[2] * 8
        if conv is not None:
            row_bytes *= conv.taps
        chunk = max(1, _UNFOLD_BYTES // row_bytes)
        for first in range(0, N, chunk):
            part = samples[:, first : first + chunk].astype(np.float64)
            if membrane is not None:
                part = np.tensordot(membrane, part, axes=1)
            shaped = part.reshape(T * part.shape[1], *values.shape[2:])
            for group in range(groups):
                rows = unfold(shaped, conv, group) if conv else shaped.reshape(-1, d)
                total[group] += rows.T @ rows

    def stack(self, matrices: list[Array]) -> Array:
        return np.stack(matrices)

    def mirrored(self, total: Array, factor: float, consume: bool) -> Array:
        """``factor`` times a symmetric matrix of which the upper triangle is there."""
        matrix = total if consume else total.copy()
        _native.mirror_upper(matrix, factor, thread_count())
        return matrix

    def assembled(
        self, parts: tuple[Region, ...], sums: list[Array], factor: float, d: int, taps: int
    ) -> NDArray[np.float64]:
        """[d, d], ``factor`` times the sums of the regions [num_shifts, C, C], which are X' Z."""
        matrix = np.empty((d // taps, taps, d // taps, taps))
        blocks = [np.asarray(part.blocks, dtype=np.int32) for part in parts]
        _native.assemble_conv(sums, blocks, factor, matrix, thread_count())
        return matrix.reshape(d, d)


def unfold(maps: Array, conv: Conv, group: int) -> Array:
    """[S, C, *map] to [S * outputs, d_in] of one group."""
    per_group = maps.shape[1] // conv.groups
    maps = maps[:, group * per_group : (group + 1) * per_group]
    maps = np.pad(maps, [(0, 0), (0, 0), *conv.pads()])
    reach = [d * (k - 1) + 1 for d, k in zip(conv.dilations, conv.kernel_size, strict=True)]
    axes = tuple(range(2, 2 + conv.dims))
    windows = np.lib.stride_tricks.sliding_window_view(maps, reach, axis=axes)
    steps = [slice(None, None, step) for step in (1, 1, *conv.strides, *conv.dilations)]
    windows = windows[tuple(steps)]
    order = (0, *axes, 1, *range(2 + conv.dims, 2 + 2 * conv.dims))
    return np.ascontiguousarray(windows.transpose(order)).reshape(-1, per_group * conv.taps)
