"""Times variants of the launch tables in sbc_kernels/backends/triton on the card of this machine.

python -m gpu.tune [order] [solve]     PYTHONPATH: the package, and this folder's parent

Prints one line per variant: what it changes, the time of each kernel, and the distance of its
result from that of the first variant, which is the current table. Each variant is timed once after
it was compiled, so only differences of several percent are meaningful.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any
from unittest import mock

import torch
from problems import inverse, problem
from torch import Tensor

from sbc_kernels.backends.triton import obs_order, obs_solve
from sbc_kernels.backends.triton.device import device_class

from .device import Device

Variant = Mapping[str, Any]

# Changes of obs_order.Tiles. A dry run takes the first only.
ORDER: tuple[Variant, ...] = (
    {},
    {"early": False},
    {"stages": 2},
    {"depth": 32, "stages": 2},
    {"tile": 128},
    {"tile": 128, "warps": 8},
    {"tile": 128, "warps": 8, "early": False},
    {"tile": 128, "part": 128, "warps": 8},
    {"panels": ((1, 128), (129, 32))},
    {"panels": ((1, 128), (129, 64), (3072, 96))},
)
# Changes of obs_solve.Tile.
SOLVE: tuple[Variant, ...] = (
    {},
    {"split": False, "stages": 2},
    {"stages": 2},
    {"terms": 16},
    {"terms": 64, "stages": 2},
    {"update": 8},
)


def orders(device: Device) -> Iterator[tuple[Variant, Callable[[], Tensor]]]:
    weight, hessian = problem(*device.size((128, 4608), (2, 40)))
    G = inverse(hessian).to(device.torch_device)
    weight = weight.to(device.torch_device)
    key = device_class(weight), weight.dtype
    for variant in ORDER[: device.size(len(ORDER), 1)]:
        tiles = {key: replace(obs_order.TILES[key], **variant)}

        def run(tiles: Any = tiles) -> Tensor:
            with mock.patch.dict(obs_order.TILES, tiles):
                return obs_order.obs_order(
                    weight=weight, inverse_hessian=G, num_pruned=weight.shape[1]
                )[1]

        yield variant, run


def solves(device: Device) -> Iterator[tuple[Variant, Callable[[], Tensor]]]:
    weight, hessian = problem(*device.size((500, 2312), (3, 40)))
    mask = torch.rand(weight.shape, generator=torch.Generator().manual_seed(1)) >= 0.5
    weight, hessian, mask = (t.to(device.torch_device) for t in (weight, hessian, mask))
    key = device_class(weight)
    for variant in SOLVE[: device.size(len(SOLVE), 1)]:
        tiles = {key: obs_solve.TILES[key]._replace(**variant)}

        def run(tiles: Any = tiles) -> Tensor:
            with mock.patch.dict(obs_solve.TILES, tiles):
                return obs_solve.obs_solve(weight=weight, hessian=hessian, mask=mask)

        yield variant, run


def lines(
    device: Device, variants: Iterator[tuple[Variant, Callable[[], Tensor]]]
) -> Iterator[str]:
    first: Tensor | None = None
    for variant, run in variants:
        changes = ", ".join(f"{name} = {value}" for name, value in variant.items()) or "as it is"
        try:
            output = run()
            kernels = device.kernels(run)
        except Exception as error:  # too much shared memory, for example
            yield f"{changes}: {type(error).__name__}: {error}".splitlines()[0]
            continue
        first = output if first is None else first
        distance = float((output.double() - first.double()).norm() / first.double().norm())
        times = ", ".join(f"{name[:40]} {1e3 * seconds:.2f} ms" for name, _, seconds in kernels[:5])
        yield f"{changes}: {times or 'dry run'}; off by {distance:.1e}"


OPS = {"order": orders, "solve": solves}


def main() -> None:
    device = Device.here()
    for name in sys.argv[1:] or OPS:
        print(f"{name}:")
        for line in lines(device, OPS[name](device)):
            print("  " + line, flush=True)


if __name__ == "__main__":
    main()
