"""Where things run: on a GPU, or walked through on a CPU in Triton's interpreter."""

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
    import interpreted as _mended  # noqa: F401  what the interpreter lacks is put right there

T = TypeVar("T")


@dataclass(frozen=True)
class Sample:
    seconds: float
    peak: int  # bytes beside what was there before


class Clock(Protocol):
    def measure(self, run: Callable[[], Any]) -> Sample: ...


@dataclass(frozen=True)
class Place:
    """``dry``: on a CPU, where sizes are tiny and times mean nothing."""

    dry: bool

    @classmethod
    def here(cls) -> Place:
        return cls(dry=interpreted())

    @property
    def device(self) -> torch.device:
        return torch.device("cpu" if self.dry else "cuda")

    def size(self, real: T, tiny: T) -> T:
        return tiny if self.dry else real

    def grid(self, weight: Tensor, bits: int, **options: Any) -> sbc.Grid:
        """`sbc.fit_grid`, fitted on the host, lying here."""
        grid = sbc.fit_grid(weight.cpu(), bits, **options)
        scale, zero = (torch.as_tensor(t).to(self.device) for t in (grid.scale, grid.zero_point))
        return replace(grid, scale=scale, zero_point=zero)

    def clock(self) -> Clock:
        return HostClock() if self.dry else EventClock()

    def kernels(self, run: Callable[[], Any]) -> list[tuple[str, int, float]]:
        """Name, launches and seconds of what `run` runs on the card, those with the most first."""
        if self.dry:
            run()
            return []
        from torch.profiler import ProfilerActivity, profile

        with profile(activities=[ProfilerActivity.CUDA]) as profiler:
            run()
            torch.cuda.synchronize()
        found = [
            (event.key, event.count, event.self_device_time_total * 1e-6)
            for event in profiler.key_averages()
            if event.self_device_time_total > 0
        ]
        return sorted(found, key=lambda kernel: -kernel[2])


class EventClock:
    """CUDA events on the current stream, after what lay in the L2 cache was pushed out of it."""

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
    def measure(self, run: Callable[[], Any]) -> Sample:
        start = time.perf_counter()
        run()
        return Sample(time.perf_counter() - start, 0)
