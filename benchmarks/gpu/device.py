"""The device that the benchmarks run on: a GPU or, in a dry run, a CPU with Triton's interpreter."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

import sbc_kernels as sbc
from sbc_kernels.backends.triton.device import interpreted

if interpreted():
    sys.path.append(str(Path(__file__).parents[2] / "tests" / "gpu"))
    import interpreted as _patches  # noqa: F401  adds what the interpreter lacks

T = TypeVar("T")


@dataclass(frozen=True)
class Sample:
    """One timed call: its duration, and the bytes that it allocated at most beyond those before it."""

    seconds: float
    peak: int


class Clock(Protocol):
    def measure(self, run: Callable[[], Any]) -> Sample: ...


@dataclass(frozen=True)
class Device:
    """A device and the sizes for it.

    Attributes
    ----------
    dry : whether this is a dry run on a CPU, where sizes are tiny and times mean nothing.
    """

    dry: bool

    @classmethod
    def here(cls) -> Device:
        """The GPU, unless this process runs Triton's interpreter."""
        return cls(dry=interpreted())

    @property
    def torch_device(self) -> torch.device:
        return torch.device("cpu" if self.dry else "cuda")

    @property
    def backend(self) -> str:
        """The fastest backend for tensors there: "cuda" where its kernels run, or "triton"."""
        return sbc.available_backends("cuda")[0]

    def size(self, real: T, tiny: T) -> T:
        """`real` on a GPU, `tiny` in a dry run."""
        return tiny if self.dry else real

    def grid(self, weight: Tensor, bits: int, **options: Any) -> sbc.Grid:
        """The result of `sbc.fit_grid` on the host, copied to this device."""
        grid = sbc.fit_grid(weight.cpu(), bits, **options)
        scale, zero = (
            torch.as_tensor(t).to(self.torch_device) for t in (grid.scale, grid.zero_point)
        )
        return replace(grid, scale=scale, zero_point=zero)

    def clock(self) -> Clock:
        return HostClock() if self.dry else EventClock()

    def kernels(self, run: Callable[[], Any]) -> list[tuple[str, int, float]]:
        """Name, launches and seconds of each kernel that `run` launches, the slowest first."""
        if self.dry:
            run()
            return []
        from torch.profiler import ProfilerActivity, profile

        with profile(activities=[ProfilerActivity.CUDA]) as profiler:
            run()
            torch.cuda.synchronize()
        kernels = [
            (event.key, event.count, event.self_device_time_total * 1e-6)
            for event in profiler.key_averages()
            if event.self_device_time_total > 0
        ]
        return sorted(kernels, key=lambda kernel: -kernel[2])


class EventClock:
    """Times with CUDA events on the current stream, after flushing the L2 cache."""

    def __init__(self) -> None:
        cache = torch.cuda.get_device_properties(0).L2_cache_size
        self._filler = torch.empty(max(2 * cache, 1 << 26), dtype=torch.uint8, device="cuda")

    def measure(self, run: Callable[[], Any]) -> Sample:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        self._filler.zero_()
        start.record()
        run()
        end.record()
        end.synchronize()
        peak = torch.cuda.max_memory_allocated() - before
        return Sample(start.elapsed_time(end) / 1000, peak)


class HostClock:
    """Times with the host's clock, for dry runs. It does not measure memory."""

    def measure(self, run: Callable[[], Any]) -> Sample:
        start = time.perf_counter()
        run()
        return Sample(time.perf_counter() - start, 0)
