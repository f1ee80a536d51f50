"""The memory that compression takes: predicted near the truth, refused where there is not enough."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import sbc_kernels as sbc
from sbc_kernels import memory
from sbc_kernels.method import METHODS
from sbc_kernels.model.memory import PeakMemory

WIDE = 1 << 20  # inputs of a layer that no machine holds


@pytest.mark.parametrize(
    ("method", "options"),
    [("exact", {"sparsity": 0.9}), ("blocked", {"sparsity": 0.9}), ("exact", {"bits": 4})],
)
def test_prediction_is_near_the_truth(method: str, options: dict[str, Any]) -> None:
    d, rows = 2112, 4  # one matrix is too large for the heap, so that what is freed is seen
    rng = np.random.default_rng(0)
    weight, spikes = rng.standard_normal((rows, d)).astype("f"), rng.random((4, 64, d)) < 0.2
    small = weight[:, :64].copy(), spikes[..., :64].copy()
    sbc.compress_layer(*small, method=method, **options)  # what is loaded once does not count
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)  # else what was freed before is used again, unseen
    watch = PeakMemory(torch.device("cpu"))
    sbc.compress_layer(weight, spikes, method=method, **options)
    if watch.start is None or watch.peak is None:
        pytest.skip("this system does not tell")
    sweeps = "blocked" if "bits" in options else method
    predicted = 8 * d * d + METHODS[sweeps].work_bytes(rows, d)
    assert 0.8 * predicted < watch.peak - watch.start < 1.2 * predicted


def test_a_layer_that_cannot_fit_is_refused_before_the_work() -> None:
    weight, spikes = np.ones((1, WIDE), np.float32), np.zeros((1, 1, WIDE), bool)
    with pytest.raises(
        MemoryError, match=r"weight of \[1, 1048576\] with method 'exact' needs about"
    ):
        sbc.compress_layer(weight, spikes)


@pytest.mark.parametrize("method", ["exact", "blocked"])
def test_what_would_fit_is_named(monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    weight, spikes = np.ones((64, 512), np.float32), np.zeros((1, 1, 512), bool)
    works = [METHODS[name].work_bytes(64, 512) for name in ("exact", "blocked")]
    between = 8 * 512**2 + sum(works) // 2
    monkeypatch.setattr(memory, "_SMALL", 0)
    monkeypatch.setattr(memory, "available_memory", lambda device=None: between)
    if method == "exact":
        monkeypatch.setattr(memory, "_MARGIN", 1.0)
        with pytest.raises(MemoryError, match=r"accepted is method='blocked' \(\d+.* MiB\)"):
            sbc.compress_layer(weight, spikes)
        return
    with pytest.warns(RuntimeWarning, match="no input spiked"):
        sbc.compress_layer(weight, spikes, method=method)
    monkeypatch.setattr(memory, "available_memory", lambda device=None: between // 4)
    with pytest.raises(MemoryError, match="nothing less exact fits"):
        sbc.compress_layer(weight, spikes, method=method)


def test_a_model_that_cannot_fit_is_refused_before_the_work(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    net = nn.Sequential(nn.Linear(300, 4), nn.Linear(4, 2))
    batches_seen: list[int] = []

    class Batches:
        def __iter__(self) -> Any:
            batches_seen.append(1)
            return iter([torch.zeros(2, 3, 300)])

    plan = sbc.trace(net, torch.zeros(2, 3, 300))
    parallel, paired = plan.peak_bytes(1), plan.peak_bytes(1, paired=True)
    assert parallel < 0.7 * paired
    monkeypatch.setattr(memory, "available_memory", lambda device=None: (parallel + paired) // 2)
    monkeypatch.setattr(memory, "_MARGIN", 1.0)
    monkeypatch.setattr(memory, "_SMALL", 0)
    with pytest.raises(MemoryError, match=r"'0' \[4, 300\].* is calibration_mode='parallel' \("):
        sbc.compress_model(net, Batches(), sparsity=0.5)
    by_memory = len(batches_seen)
    with pytest.raises(sbc.ParameterError, match="group_size is 301"):
        sbc.compress_model(net, Batches(), bits=4, group_size=301)
    assert len(batches_seen) == 2 * by_memory  # no more than any option that is refused
    limit = (parallel + paired) // 2
    with pytest.raises(sbc.ParameterError, match=f"max_memory is {limit} and .*mode='parallel'"):
        sbc.compress_model(net, Batches(), sparsity=0.5, max_memory=limit)


@pytest.mark.skipif(sys.platform != "linux", reason="the limit is Linux's")
def test_limits_of_the_process_count() -> None:
    code = (
        "import resource, numpy as np, sbc_kernels as sbc\n"
        "from sbc_kernels.memory import available_memory\n"
        "limit = 3 << 30\n"
        "resource.setrlimit(resource.RLIMIT_AS, (limit, limit))\n"
        "assert available_memory() < limit\n"
        "d = 20000\n"
        "try: sbc.compress_layer(np.ones((1, d), 'f'), np.ones((1, 1, d), bool), method='blocked')\n"
        "except MemoryError as error: print(error)\n"
    )
    told = subprocess.run(
        [sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True
    )
    assert "with method 'blocked' needs about 11.9 GiB and" in told.stdout


def test_control_groups_count(tmp_path: Path) -> None:
    own = tmp_path / "cgroup"
    for version, line, names in (
        ("2", "0::/a/b", ("memory.max", "memory.current", "inactive_file")),
        (
            "1",
            "5:cpu,memory:/a/b",
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        ),
    ):
        root = tmp_path / version
        base = root / "memory" if version == "1" else root
        for place, limit, used in (("a/b", "max", 10), ("a", "1000", 400)):
            folder = base / place
            folder.mkdir(parents=True, exist_ok=True)
            (folder / names[0]).write_text(limit + "\n")
            (folder / names[1]).write_text(f"{used}\n")
            (folder / "memory.stat").write_text(f"anon 5\n{names[2]} 150\n")
        own.write_text(f"1:name=systemd:/a\n{line}\n")
        assert list(memory._left_by_groups(root, own)) == [750]
    own.write_text("0::/../elsewhere\n")
    assert list(memory._left_by_groups(tmp_path / "2", own)) == []
    assert list(memory._left_by_groups(tmp_path / "2", tmp_path / "none")) == []


def test_there_is_memory_left_here() -> None:
    left = memory.available_memory()
    assert left is None or left > 1 << 20
    assert memory.in_bytes(3 << 29) == "1.5 GiB"
    assert memory.in_bytes(100) == "100 bytes"
