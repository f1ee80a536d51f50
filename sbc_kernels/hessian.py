"""The layer-wise Hessian of spike trains, batch by batch: data need not fit in memory."""

from __future__ import annotations

from typing import Any

import numpy as np
from array_api_compat import device

from .arrays import Array, Restore, is_numpy, to_array
from .backends.gram_plan import GramPath, GramPlan, plan_gram
from .backends.matched_filter import (
    BYTES_FIXED_POINT_BITS,
    FIXED_POINT_BITS,
    MatchedFilter,
    matched_filter,
)
from .backends.protocol import GramEngine
from .backends.registry import available_backends, backend_of, fastest_backend, named_backend
from .conv import Conv, Region, linear_regions, regions
from .errors import ParameterError, ParameterTypeError
from .neurons import Neuron, impulse_response, membrane_matrix

__all__ = ["SpikeHessian"]

_EXACT_SUM = 1 << 53  # float64 holds every integer below


def one_byte(spikes: Array) -> Array:
    """Returns spikes that are integers in [-128, 127] as bool, uint8 or int8, others as they are.

    bool where all are 0 or 1, uint8 where none is negative. One pass over the spikes, where they lie.
    Where no backend runs there they stay as they are.
    """
    if not is_numpy(spikes) and spikes.is_cuda and not available_backends("cuda"):
        return spikes
    backend = backend_of(spikes, "spikes", None)
    values, restore = to_array(spikes, "spikes", backend.device)
    narrow = backend.gram(device(values)).bytes_of(values)
    return spikes if narrow is None else restore(narrow)


class SpikeHessian:
    """``H = 2 E_n[Y_n' Y_n]`` over calibration samples n, with ``Y_n = M X_n`` (SBC, eq. 6).

    M is the lower-triangular Toeplitz matrix of the consuming neuron's impulse response; without a
    neuron it is the identity and H is the current Hessian of OBC and GPTQ. A convolution's H is that
    of its unfolded input, summed over output positions, but nothing is unfolded.

    Parameters
    ----------
    neuron : of `sbc_kernels.neurons`, or None.
    in_features : d_in of a Linear layer. Give this or both of `conv` and `in_channels`; with neither,
        it is taken from the first batch.
    conv : a `Conv`, for Conv1d and Conv2d.
    in_channels : C of a convolution.
    backend : a name of `available_backends()`, or None for the fastest.

    Notes
    -----
    Batches add up in integers wherever spikes are integers in [-128, 127] and the neuron's response is
    dyadic: then `sum` is exact while it is below 2^53, whatever the batches. `paths` lists how each
    batch was summed. Spikes on a GPU are summed there; all batches must lie on one device.
    """

    def __init__(
        self,
        neuron: Neuron | None = None,
        *,
        in_features: int | None = None,
        conv: Conv | None = None,
        in_channels: int | None = None,
        backend: str | None = None,
    ) -> None:
        if neuron is not None:
            impulse_response(neuron, 1)
        if conv is not None and not isinstance(conv, Conv):
            raise ParameterTypeError(
                "conv", conv, "a Conv, or None", shown=f"a {type(conv).__name__}"
            )
        if conv is not None and in_features is not None:
            raise ParameterError("in_features", in_features, "in_channels", shown="given with conv")
        if conv is None and in_channels is not None:
            raise ParameterError(
                "in_channels", in_channels, "in_features", shown="given without conv"
            )
        if backend is not None:
            named_backend(backend)
        self.neuron = neuron
        self.conv = conv
        self.num_samples = 0
        self._backend = backend
        self._channels: int | None = None
        self._engine: GramEngine | None = None  # of the device of the first batch
        self._sums: dict[tuple[Any, ...], list[Array]] = {}  # by T, unit and map
        self._bound = 0.0  # of any entry of _sums
        self._filters: dict[int, MatchedFilter] = {}
        self._total: Array | None = None  # float64 [groups, d, d]
        self._restore: Restore | None = None
        self._only_batch = False
        self._finished: Array | None = None  # the whole matrix, where a kernel wrote it
        self._paths: dict[GramPath, int] = {}
        name = "in_features" if conv is None else "in_channels"
        channels = in_features if conv is None else in_channels
        if channels is not None:
            if not isinstance(channels, (int, np.integer)) or channels < 1:
                raise ParameterError(name, channels, "a positive integer")
            self._set_channels(int(channels))

    # ---- public methods -------------------------------------------------------------------------

    def update(self, spikes: Array) -> SpikeHessian:
        """Adds a batch.

        Parameters
        ----------
        spikes : [T, N, d_in], or [T, N, L, d_in] with L positions that share the weights; for a
            convolution [T, N, C, W] or [T, N, C, H, W]. bool, integer or float, time first. Negative
            and ternary spikes are valid.

        Returns
        -------
        self

        Raises
        ------
        TypeError, ValueError : naming what was given and what is accepted; then nothing has been added.
        """
        backend = backend_of(spikes, "spikes", self._backend)
        values, restore = to_array(spikes, "spikes", backend.device)
        engine = self._require_engine(backend.gram(device(values)), "spikes")
        values, channels = self._checked(values)
        T, N = values.shape[:2]
        # Without a neuron nothing couples the time steps: they are T samples of one step each.
        steps = 1 if self.neuron is None else T
        filter_ = self._filters.get(steps)
        if filter_ is None:  # its response may be too short: before anything is kept
            bits = BYTES_FIXED_POINT_BITS if "bytes" in engine.algorithms else FIXED_POINT_BITS
            filter_ = self._filters[steps] = matched_filter(self.neuron, steps, bits)
        narrow = engine.narrow(values, self.conv)
        if self._channels is None:
            self._set_channels(channels)
        plan = None
        if narrow is not None:
            per_group = narrow[0].shape[-1] // self.groups
            shifted = self.conv is not None and not engine.squares_convolutions
            plan = plan_gram(
                filter_, *narrow[1:], per_group, shifted=shifted, algorithms=engine.algorithms
            )
        if narrow is not None and plan is not None:
            small = narrow[0].reshape(steps, -1, *narrow[0].shape[2:])
            map_size = tuple(values.shape[3:]) if self.conv is not None else ()
            self._add_integers(small, plan, map_size, N)
            self._note(plan.path)
        else:
            self._add_floats(values)
            why = "integers in [-128, 127]" if narrow is None else "small enough for 64-bit sums"
            self._note(GramPath(engine.float_arithmetic(values), reason=why))
        self.num_samples += N
        self._restore = restore
        return self

    def sum(self) -> Array:
        """Returns ``sum_n Y_n' Y_n``, which is `matrix()` before the scaling by 2/N."""
        return self._give_back(self._scaled(1.0))

    def matrix(self) -> Array:
        """Returns ``2 E_n[Y_n' Y_n]``, float64 [d_in, d_in].

        For a grouped convolution it is [groups, d_in, d_in]. Its framework is that of the last batch.
        Raises ValueError before the first batch.
        """
        return self._give_back(self.stacked())

    def stacked(self) -> Array:
        """Returns `matrix()` as [groups, d_in, d_in], NumPy or torch on the batches' device."""
        return self._scaled(2.0 / self._seen())

    def merge(self, other: SpikeHessian) -> SpikeHessian:
        """Adds another's samples to this one, as if they had been batches here. Returns self."""
        if not isinstance(other, SpikeHessian):
            raise ParameterTypeError(
                "other", other, "a SpikeHessian", shown=f"a {type(other).__name__}"
            )
        if (self.neuron, self.conv) != (other.neuron, other.conv):
            raise ParameterError(
                "other",
                other,
                f"accepted are this one's {self.neuron!r} and {self.conv!r}",
                verb="has",
                shown=f"{other.neuron!r} and {other.conv!r}",
            )
        if other._channels is None:
            return self
        if self._channels is None:
            self._set_channels(other._channels)
        if self._channels != other._channels:
            raise ParameterError(
                "other",
                other,
                f"accepted are {self._channels}",
                verb="has",
                shown=f"{other._channels} inputs or channels",
            )
        if other._engine is not None:
            self._require_engine(self._engine_like(other._engine), "other")
        for key, sums in other._sums.items():
            own_sums = self._sums.setdefault(key, [0.0 * part for part in sums])
            for to, part in zip(own_sums, sums, strict=True):
                to += part
        self._bound += other._bound
        if other._total is not None:
            self._total = other._total + (0.0 if self._total is None else self._total)
        for path, batches in other._paths.items():
            self._paths[path] = self._paths.get(path, 0) + batches
        self.num_samples += other.num_samples
        self._restore = self._restore or other._restore
        return self

    @property
    def groups(self) -> int:
        return 1 if self.conv is None else self.conv.groups

    @property
    def in_features(self) -> int | None:
        """Side of (one group's) H, or None before it is known."""
        if self._channels is None:
            return None
        return self._channels // self.groups * (1 if self.conv is None else self.conv.taps)

    @property
    def paths(self) -> list[str]:
        """How the batches were summed, with the number of batches for each way.

        "exact integers" appears only while the whole sum is below 2^53, where float64 holds every
        integer.
        """
        beyond = self._bound >= _EXACT_SUM
        return [
            f"{path.text(beyond_53_bits=beyond)}: {batches} batch(es)"
            for path, batches in self._paths.items()
        ]

    # ---- input ---------------------------------------------------------------------------------

    def _set_channels(self, channels: int) -> None:
        if channels % self.groups != 0:
            raise ParameterError(
                "spikes",
                channels,
                f"a multiple of groups = {self.groups}",
                verb="has",
                shown=f"{channels} channels",
            )
        self._channels = channels

    def _engine_like(self, other: GramEngine) -> GramEngine:
        """Returns this stream's engine for the sums of another one."""
        if self._backend is None:
            return fastest_backend(other.backend.device, other.device).gram(other.device)
        backend = named_backend(self._backend)
        if backend.device != other.backend.device:
            raise ParameterError(
                "backend",
                self._backend,
                "one that runs there, or None",
                shown=f"{self._backend!r} and other lies in {other.device_name}",
            )
        return backend.gram(other.device)

    def _require_engine(self, engine: GramEngine, name: str) -> GramEngine:
        """Returns the engine of the batches so far. ParameterError: `name` lies on another device."""
        if self._engine is None:
            self._engine = engine
        if self._engine.device_name != engine.device_name:
            raise ParameterError(
                name,
                engine.device,
                "one device for all",
                verb="lies",
                shown=f"in {engine.device_name}, and earlier batches in {self._engine.device_name}",
            )
        return self._engine

    def _checked(self, values: Array) -> tuple[Array, int]:
        """Returns spikes, checked, and the number of inputs of a Linear layer or channels of a map."""
        if self.conv is None:
            accepted = "[T, N, d_in] or [T, N, positions, d_in]"
            good = values.ndim >= 3
            channels = values.shape[-1] if good else 0
        else:
            accepted = "[T, N, C, W]" if self.conv.dims == 1 else "[T, N, C, H, W]"
            good = values.ndim == 3 + self.conv.dims
            channels = values.shape[2] if good else 0
        if not good or 0 in values.shape:
            raise ParameterError(
                "spikes",
                values,
                f"{accepted} with no axis empty",
                verb="has",
                shown=f"shape {list(values.shape)}",
            )
        if self._channels is not None and channels != self._channels:
            raise ParameterError(
                "spikes",
                values,
                f"accepted are {self._channels}",
                verb="has",
                shown=f"shape {list(values.shape)}, that is {channels} inputs or channels",
            )
        if self.conv is not None:
            self.conv.output_size(tuple(values.shape[3:]))
        return values, channels

    # ---- sums ----------------------------------------------------------------------------------

    def _add_integers(
        self, narrow: Array, plan: GramPlan, map_size: tuple[int, ...], num_samples: int
    ) -> None:
        assert self._channels is not None
        assert self._engine is not None
        T, N, P, _ = narrow.shape
        per_group = self._channels // self.groups
        parts = self._regions(map_size)
        key = (T, plan.factor, map_size)
        self._bound += plan.sum_bound * T * N * P
        if self._only_batch and self.conv is None:
            factor = 2.0 / num_samples * plan.factor
            self._finished = self._engine.finished(narrow, plan, parts, factor)
            if self._finished is not None:
                return
        if key not in self._sums:
            self._sums[key] = self._engine.zero_sums(parts, self.groups, per_group)
        self._engine.add_integers(narrow, plan, self.conv, self.groups, parts, self._sums[key])

    def _regions(self, map_size: tuple[int, ...]) -> tuple[Region, ...]:
        return linear_regions() if self.conv is None else regions(self.conv, map_size)

    def _add_floats(self, values: Array) -> None:
        """Adds a batch of values that are no small integers."""
        assert self._engine is not None
        assert self.in_features is not None
        if self._total is None:
            self._total = self._engine.zeros(self.groups, self.in_features, self.in_features)
        membrane = None if self.neuron is None else membrane_matrix(self.neuron, len(values))
        self._engine.add_floats(values, membrane, self.conv, self._total)

    # ---- output --------------------------------------------------------------------------------

    def _scaled(self, scale: float, consume: bool = False) -> Array:
        """Returns ``scale * sum_n Y_n' Y_n``. `consume` ends the stream, which saves a copy."""
        self._seen()
        engine = self._engine
        assert engine is not None
        assert self._channels is not None
        per_group = self._channels // self.groups
        terms = [] if self._total is None else [scale * self._total]
        for (_, unit, map_size), sums in self._sums.items():
            parts = self._regions(map_size)
            factor = scale * unit
            terms.append(engine.matrix(sums, parts, self.conv, per_group, factor, consume))
        if consume:
            self._sums.clear()
        return sum(terms[1:], start=terms[0])

    def _seen(self) -> int:
        if self.num_samples == 0:
            raise ValueError("the Hessian has seen 0 samples; feed it with update(spikes) first")
        return self.num_samples

    @classmethod
    def of_batch(cls, spikes: Array, neuron: Neuron | None, **options: Any) -> Array:
        """Returns `matrix()` of one batch, without a second matrix in memory."""
        hessian = cls(neuron, **options)
        hessian._only_batch = True
        hessian.update(spikes)
        if hessian._finished is not None:
            return hessian._give_back(hessian._finished)
        return hessian._give_back(hessian._scaled(2.0 / hessian.num_samples, consume=True))

    def _give_back(self, stack: Array) -> Array:
        matrix = stack if self.groups > 1 else stack[0]
        return matrix if self._restore is None else self._restore(matrix)

    def _note(self, path: GramPath) -> None:
        self._paths[path] = self._paths.get(path, 0) + 1
