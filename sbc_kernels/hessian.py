"""The layer-wise Hessian of spike trains, batch by batch: data need not fit in memory."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from array_api_compat import array_namespace, device

from .arrays import Array, Restore, is_float, is_numpy, to_array
from .backends.gram_plan import GramPath, plan_gram
from .backends.gram_sums import GramSums, ScaledHessian
from .backends.matched_filter import (
    BYTES_FIXED_POINT_BITS,
    FIXED_POINT_BITS,
    MatchedFilter,
    matched_filter,
)
from .backends.multiples import Multiples
from .backends.protocol import GramEngine
from .backends.registry import available_backends, backend_of, fastest_backend, named_backend
from .conv import Conv
from .errors import ParameterError, ParameterTypeError
from .neurons import Neuron, impulse_response

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


def unit_of(spikes: Array) -> float | None:
    """Returns what all spikes are multiples of, by integers in [-128, 127]; None if there is nothing.

    It is 1 for integers. NaN and infinite values have none. No backend where they lie: None.
    """
    if not is_numpy(spikes) and spikes.is_cuda and not available_backends("cuda"):
        return None
    backend = backend_of(spikes, "spikes", None)
    values, _ = to_array(spikes, "spikes", backend.device)
    xp = array_namespace(values)
    if is_float(values) and not bool(xp.all(xp.isfinite(values))):
        return None
    found = backend.gram(device(values)).narrow(values.reshape(1, 1, -1), None, 1.0)
    return found.unit if isinstance(found, Multiples) else None


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

    Floats that are such integers times one unit (counts over their maximum, spikes times a scale,
    averages of spikes) are summed as integers as well, and the sum is multiplied by the unit's square.
    That is exact for a unit that is a power of two. Any other unit is only known as exactly as the
    spikes are: each stands for the multiple next to it, at most 4 roundings of its dtype away (of
    float32 for half precision, whose own roundings leave most such spikes analog).
    Such batches of a stream share the finest unit so far; one whose unit is no multiple or fraction of
    it starts new sums, and the old ones are kept in float64.

    Spikes may have any finite scale. `sum` and `matrix` raise ParameterError where float64 cannot hold
    the result.
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
        self._sums: GramSums | None = None
        self._filters: dict[int, MatchedFilter] = {}
        self._restore: Restore | None = None
        self._paths: dict[GramPath, int] = {}
        name = "in_features" if conv is None else "in_channels"
        channels = in_features if conv is None else in_channels
        if channels is not None:
            if not isinstance(channels, (int, np.integer)) or channels < 1:
                raise ParameterError(name, channels, "a positive integer")
            self._require_groups(int(channels))
            self._channels = int(channels)

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
        self._add(spikes, alone=False)
        return self

    def sum(self) -> Array:
        """Returns ``sum_n Y_n' Y_n``, which is `matrix()` before the scaling by 2/N."""
        return self._give_back(self._seen().result(1.0).plain())

    def matrix(self) -> Array:
        """Returns ``2 E_n[Y_n' Y_n]``, float64 [d_in, d_in].

        For a grouped convolution it is [groups, d_in, d_in]. Its framework is that of the last batch.
        Raises ValueError before the first batch, and where float64 cannot hold an entry.
        """
        return self._give_back(self.stacked())

    def stacked(self) -> Array:
        """Returns `matrix()` as [groups, d_in, d_in], NumPy or torch on the batches' device."""
        return self.scaled().plain()

    def scaled(self) -> ScaledHessian:
        """Returns `stacked()` as a stack and a power of two, and which inputs fired."""
        sums = self._seen()
        return sums.result(2.0 / self.num_samples)

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
        if self._channels is not None and self._channels != other._channels:
            raise ParameterError(
                "other",
                other,
                f"accepted are {self._channels}",
                verb="has",
                shown=f"{other._channels} inputs or channels",
            )
        engine = self._engine
        if other._engine is not None:
            engine = self._checked_engine(self._engine_like(other._engine), "other")
        if other._sums is not None:
            assert engine is not None
            if self._sums is None:
                self._sums = GramSums(engine, self.conv, other._sums.channels)
            self._sums.merge(other._sums)
        self._engine = engine
        self._channels = other._channels
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
        beyond = self._sums is not None and self._sums.bound >= _EXACT_SUM
        counts: dict[str, int] = {}
        for path, batches in self._paths.items():
            text = path.text(beyond_53_bits=beyond)
            counts[text] = counts.get(text, 0) + batches
        return [f"{text}: {batches} batch(es)" for text, batches in counts.items()]

    # ---- input ---------------------------------------------------------------------------------

    def _require_groups(self, channels: int) -> None:
        if channels % self.groups != 0:
            raise ParameterError(
                "spikes",
                channels,
                f"a multiple of groups = {self.groups}",
                verb="has",
                shown=f"{channels} channels",
            )

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

    def _checked_engine(self, engine: GramEngine, name: str) -> GramEngine:
        """Returns the engine of the batches so far. ParameterError: `name` lies on another device."""
        if self._engine is None:
            return engine
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
        self._require_groups(channels)
        if self.conv is not None:
            self.conv.output_size(tuple(values.shape[3:]))
        return values, channels

    # ---- sums ----------------------------------------------------------------------------------

    def _add(self, spikes: Array, alone: bool) -> ScaledHessian | None:
        """Adds a batch. If it is `alone`, returns its Hessian where a kernel writes that in one go."""
        backend = backend_of(spikes, "spikes", self._backend)
        values, restore = to_array(spikes, "spikes", backend.device)
        engine = self._checked_engine(backend.gram(device(values)), "spikes")
        values, channels = self._checked(values)
        T, N = values.shape[:2]
        # Without a neuron nothing couples the time steps: they are T samples of one step each.
        steps = 1 if self.neuron is None else T
        filter_ = self._filters.get(steps)
        if filter_ is None:  # its response may be too short: before anything is kept
            bits = BYTES_FIXED_POINT_BITS if "bytes" in engine.algorithms else FIXED_POINT_BITS
            filter_ = matched_filter(self.neuron, steps, bits)
        sums = self._sums
        if sums is None:
            sums = GramSums(engine, self.conv, channels)
        batch = engine.narrow(values, self.conv, sums.unit)
        whole = None
        plan = None
        if isinstance(batch, Multiples):
            batch = sums.in_own_unit(batch)
            shifted = self.conv is not None and not engine.squares_convolutions
            plan = plan_gram(
                filter_,
                batch.minimum,
                batch.maximum,
                sums.per_group,
                shifted=shifted,
                algorithms=engine.algorithms,
            )
        if isinstance(batch, Multiples) and plan is not None:
            small = batch.integers.reshape(steps, -1, *batch.integers.shape[2:])
            batch = batch._replace(integers=small)
            map_size = () if self.conv is None else tuple(values.shape[3:])
            if alone and self.conv is None:
                whole = sums.finished(batch, filter_, plan, map_size, 2.0 / N)
            if whole is None:
                sums.add_integers(batch, filter_, plan, map_size)
            shown = filter_.shows(batch.minimum)
            path = replace(plan.path, unit=batch.unit)
        else:
            analog = engine.analog(values) if isinstance(batch, Multiples) else batch
            shown = analog.sure and filter_.answers_at_once
            sums.add_floats(values, None if self.neuron is None else filter_, analog)
            narrow = isinstance(batch, Multiples)
            why = "small enough for 64-bit sums" if narrow else "integers in [-128, 127]"
            path = GramPath(engine.float_arithmetic(values), reason=why)
        if not shown:
            sums.note_fired(values)
        # Only here, where nothing can fail any more.
        self._engine, self._channels, self._sums = engine, channels, sums
        self._filters[steps] = filter_
        self._paths[path] = self._paths.get(path, 0) + 1
        self.num_samples += N
        self._restore = restore
        return whole

    # ---- output --------------------------------------------------------------------------------

    def _seen(self) -> GramSums:
        if self.num_samples == 0 or self._sums is None:
            raise ValueError("the Hessian has seen 0 samples; feed it with update(spikes) first")
        return self._sums

    @classmethod
    def of_batch(cls, spikes: Array, neuron: Neuron | None, **options: Any) -> Array:
        """Returns `matrix()` of one batch, without a second matrix in memory."""
        hessian = cls(neuron, **options)
        whole = hessian._add(spikes, alone=True)
        if whole is None:
            whole = hessian._seen().result(2.0 / hessian.num_samples, consume=True)
        return hessian._give_back(whole.plain())

    def _give_back(self, stack: Array) -> Array:
        matrix = stack if self.groups > 1 else stack[0]
        return matrix if self._restore is None else self._restore(matrix)
