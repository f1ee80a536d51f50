"""Every benchmark times a kernel and its rival in turns, so that both run under the same conditions."""

from __future__ import annotations

import subprocess
import sysconfig
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import pytest
import torch


class Versus:
    """``versus(case, ours, rival, work=...)`` runs rounds that time the rival and ours in turns.

    Each timed call directly follows an untimed call of the same function, so that neither contender
    pays for memory that a virtual machine returned to its host while the other one ran.

    The benchmark's JSON receives the case, the rival's median time, the median of the ratios of the
    rounds, the rate (work per second at the median time of ours) and the limit that it is compared
    with.
    """

    def __init__(self, benchmark: Any) -> None:
        self.benchmark = benchmark

    def __call__(
        self,
        case: str,
        ours: Callable[[], Any],
        rival: Callable[[], Any] | None,
        *,
        rival_name: str,
        work: float,
        unit: str,
        limit: float | None = None,
        limit_name: str = "",
        target: float | None = None,
        rounds: int = 7,
        rival_scale: float = 1.0,
        note: str = "",
    ) -> None:
        rival_seconds: list[float] = []

        def run_rival_and_warm_up() -> None:
            if rival is not None:
                rival()
                start = time.perf_counter()
                rival()
                rival_seconds.append((time.perf_counter() - start) * rival_scale)
            ours()

        self.benchmark.pedantic(ours, setup=run_rival_and_warm_up, rounds=rounds, iterations=1)
        seconds = self.benchmark.stats.stats.data
        info = self.benchmark.extra_info
        info.update(
            case=case,
            rival=rival_name,
            rate=work / median(seconds),
            unit=unit,
            limit=limit,
            limit_name=limit_name,
            target=target,
            note=note,
        )
        if rival_seconds:
            pairs = zip(rival_seconds[-len(seconds) :], seconds, strict=True)
            info["rival_seconds"] = median(rival_seconds)
            info["ratio"] = median(theirs / ours for theirs, ours in pairs)


@pytest.fixture
def versus(benchmark: Any) -> Versus:
    return Versus(benchmark)


@pytest.fixture(scope="session")
def popcount_rate(tmp_path_factory: pytest.TempPathFactory) -> float:
    """Bits per second of AND + POPCNT + ADD in registers, on as many threads as torch uses."""
    binary = tmp_path_factory.mktemp("limits") / "limits"
    compiler = (sysconfig.get_config_var("CXX") or "c++").split()[0]
    source = Path(__file__).with_name("limits.cpp")
    command = [compiler, "-O3", "-march=native", "-std=c++17", "-pthread", str(source)]
    subprocess.run([*command, "-o", str(binary)], check=True)
    out = subprocess.run([binary, str(torch.get_num_threads())], check=True, capture_output=True)
    return float(out.stdout)


@pytest.fixture(scope="session")
def sgemm_rate() -> float:
    """FLOP/s of torch's float32 matrix product, the best of five at n = 2048."""
    a = torch.randn(2048, 2048)
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        a @ a
        seconds.append(time.perf_counter() - start)
    return 2 * 2048**3 / min(seconds)
