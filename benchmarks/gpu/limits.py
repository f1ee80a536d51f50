"""What the card can do at most, measured: copying, and matrix products of each kind.

    python -m gpu.limits FILE       writes {name: operations or bytes a second}

The best of several, of both layouts of the right-hand side: a limit, not an average.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from .place import Place

UNITS = {"copy": "B/s"}  # others: operations, two a multiply-add


def best(place: Place, run: Callable[[], Any]) -> float:
    clock = place.clock()
    for _ in range(place.size(3, 1)):
        run()
    return min(clock.measure(run).seconds for _ in range(place.size(12, 1)))


def copy_rate(place: Place) -> float:
    """Bytes read and written."""
    source = torch.ones(place.size(1 << 30, 1 << 12), dtype=torch.uint8, device=place.device)
    target = torch.empty_like(source)
    return 2 * source.numel() / best(place, lambda: target.copy_(source))


def product_rate(place: Place, dtype: torch.dtype, precision: str = "highest") -> float:
    n = place.size(8192, 32)
    if dtype == torch.int8:  # what integer traces look like: fewer bits change, the card draws less
        a, b = (
            torch.randint(0, 16, (n, n), dtype=torch.int8, device=place.device) for _ in range(2)
        )
        multiply = torch._int_mm
    else:
        a, b = (torch.randn(n, n, device=place.device).to(dtype) for _ in range(2))
        multiply = torch.mm
    torch.set_float32_matmul_precision(precision)
    seconds = min(best(place, lambda: multiply(a, b)), best(place, lambda: multiply(a, b.T)))
    torch.set_float32_matmul_precision("highest")
    return 2 * n**3 / seconds


MEASURED: dict[str, Callable[[Place], float]] = {
    "copy": copy_rate,
    "int8": lambda place: product_rate(place, torch.int8),
    "fp16": lambda place: product_rate(place, torch.float16),
    "bf16": lambda place: product_rate(place, torch.bfloat16),
    "tf32": lambda place: product_rate(place, torch.float32, "high"),
    "fp32": lambda place: product_rate(place, torch.float32),
    "fp64": lambda place: product_rate(place, torch.float64),
}


def main() -> None:
    place = Place.here()
    rates: dict[str, float] = {}
    failures = []
    for name, measure in MEASURED.items():
        try:
            rates[name] = measure(place)
        except Exception as error:  # a card without it has other limits
            failures.append(f"{name}: {type(error).__name__}: {error}".splitlines()[0])
        Path(sys.argv[1]).write_text(json.dumps(rates))
    if failures:
        raise SystemExit("; ".join(failures))
    print(f"{len(rates)} limits measured")


if __name__ == "__main__":
    main()
