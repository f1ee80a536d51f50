"""spike_gram and SpikeHessian against float32 products of torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import rivals
import torch

import sbc_kernels as sbc

DENSITY = 0.15  # of spikes; the time of the kernels does not depend on it

NEURONS = {"LIF2": sbc.LIF(2.0), "IF": sbc.IF(), "LIF1.7": sbc.LIF(1.7)}


def spikes(*shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(*shape, generator=generator) < DENSITY


def response(neuron: Any, T: int) -> torch.Tensor:
    return torch.from_numpy(neuron.impulse_response(T))


@pytest.mark.parametrize(("d", "rows"), [(2312, 10240), (1152, 65536), (4608, 10240)])
def test_plain_gram(versus: Any, popcount_rate: float, d: int, rows: int) -> None:
    x = spikes(1, rows, d)
    floats = x[0].float()
    versus(
        f"plain Gram d={d}, N·T={rows}",
        lambda: sbc.spike_gram(x),
        lambda: floats.T @ floats,
        rival_name="float32 X.T @ X",
        work=rows * d * (d + 1) / 2,
        unit="bit/s",
        limit=popcount_rate,
        limit_name="AND+POPCNT+ADD",
        target=25,
    )


@pytest.mark.parametrize("neuron", NEURONS)
@pytest.mark.parametrize(("d", "T", "N", "target"), [(1152, 4, 4096, 5), (2312, 10, 1000, 3)])
def test_smp_gram(
    versus: Any, sgemm_rate: float, d: int, T: int, N: int, target: int, neuron: str
) -> None:
    x, model = spikes(T, N, d), NEURONS[neuron]
    k = response(model, T)
    versus(
        f"SMP Gram d={d}, T={T}, N={N}, {neuron}",
        lambda: sbc.spike_gram(x, model),
        lambda: rivals.smp_gram(x, k),
        rival_name="filter, float32 GEMM",
        work=2.0 * T * N * d * d,
        unit="FLOP/s (GEMM's)",
        limit=sgemm_rate,
        limit_name="sgemm",
        target=target,
    )


def peak_memory(who: str, channels: int) -> float:
    """Peak memory in MiB, measured by peak_memory.py."""
    script = Path(__file__).with_name("peak_memory.py")
    command = [sys.executable, script, who, str(channels)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


@pytest.mark.parametrize("neuron", ["IF", "LIF2"])
@pytest.mark.parametrize("channels", [64, 128])
def test_conv_gram(versus: Any, sgemm_rate: float, channels: int, neuron: str) -> None:
    x, model, conv = spikes(4, 64, channels, 28, 28), NEURONS[neuron], sbc.Conv((3, 3), padding=1)
    k = response(model, 4)
    note = ""
    if neuron == "LIF2":  # the neuron that peak_memory.py uses
        ours, theirs = (peak_memory(contender, channels) for contender in ("ours", "rival"))
        note = f"peak memory {ours:.0f} MiB, rival's {theirs:.0f}"
    versus(
        f"conv Gram 3x3, {channels} channels, 28x28, T=4, 64 samples, {neuron}",
        lambda: sbc.spike_gram(x, model, conv=conv),
        lambda: rivals.conv_gram(x, k, 3, 1),
        rival_name="filter, unfold, float32 GEMM",
        work=2.0 * 4 * 64 * 784 * (9 * channels) ** 2,
        unit="FLOP/s (GEMM's)",
        limit=sgemm_rate,
        limit_name="sgemm",
        target=15,
        rounds=3,
        note=note,
    )
