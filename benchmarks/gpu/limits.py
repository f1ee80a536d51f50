"""Measures the limits of the card: the rate of a copy, and of matrix products of each type.

    python -m gpu.limits FILE       writes {name: operations or bytes per second}

Each rate is the best of several runs and of both layouts of the right-hand side: a limit, not an
average.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from .device import Device

UNITS = {"copy": "B/s"}  # all others are operations per second; a multiply-add counts as two


def best(device: Device, run: Callable[[], Any]) -> float:
    clock = device.clock()
    for _ in range(device.size(3, 1)):
        run()
    return min(clock.measure(run).seconds for _ in range(device.size(12, 1)))


def copy_rate(device: Device) -> float:
    """Bytes read and written, per second."""
    source = torch.ones(
        device.size(1 << 30, 1 << 12), dtype=torch.uint8, device=device.torch_device
    )
    target = torch.empty_like(source)
    return 2 * source.numel() / best(device, lambda: target.copy_(source))


def product_rate(device: Device, dtype: torch.dtype, precision: str = "highest") -> float:
    n = device.size(8192, 32)
    if dtype == torch.int8:  # like integer traces: fewer bits toggle, so the card draws less power
        a, b = (
            torch.randint(0, 16, (n, n), dtype=torch.int8, device=device.torch_device)
            for _ in range(2)
        )
        multiply = torch._int_mm
    else:
        a, b = (torch.randn(n, n, device=device.torch_device).to(dtype) for _ in range(2))
        multiply = torch.mm
    torch.set_float32_matmul_precision(precision)
    seconds = min(best(device, lambda: multiply(a, b)), best(device, lambda: multiply(a, b.T)))
    torch.set_float32_matmul_precision("highest")
    return 2 * n**3 / seconds


MEASURED: dict[str, Callable[[Device], float]] = {
    "copy": copy_rate,
    "int8": lambda device: product_rate(device, torch.int8),
    "fp16": lambda device: product_rate(device, torch.float16),
    "bf16": lambda device: product_rate(device, torch.bfloat16),
    "tf32": lambda device: product_rate(device, torch.float32, "high"),
    "fp32": lambda device: product_rate(device, torch.float32),
    "fp64": lambda device: product_rate(device, torch.float64),
}


def main() -> None:
    device = Device.here()
    rates: dict[str, float] = {}
    failures = []
    for name, measure in MEASURED.items():
        try:
            rates[name] = measure(device)
        except Exception as error:  # a card without it has other limits
            failures.append(f"{name}: {type(error).__name__}: {error}".splitlines()[0])
        Path(sys.argv[1]).write_text(json.dumps(rates))
    if failures:
        raise SystemExit("; ".join(failures))
    print(f"{len(rates)} limits measured")


if __name__ == "__main__":
    main()
