"""Which tiles are fastest: variants of the tables in sbc_kernels/triton, on the card that is there.

python -m gpu.tune [order] [solve]     PYTHONPATH: the package, and this folder's parent

A line a variant: what it changes, the time of each kernel, and how far its answer is from that of the
first one, which is the table as it stands. Each is timed once, after it was compiled, which takes most
of the time: look at differences of several percent.
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

from .place import Place

Variant = Mapping[str, Any]

# Changes of obs_order.Tiles. In the interpreter the first alone is walked through.
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


def orders(place: Place) -> Iterator[tuple[Variant, Callable[[], Tensor]]]:
    weight, hessian = problem(*place.size((128, 4608), (2, 40)))
    G = inverse(hessian).to(place.device)
    weight = weight.to(place.device)
    key = device_class(weight), weight.dtype
    for variant in ORDER[: place.size(len(ORDER), 1)]:
        tiles = {key: replace(obs_order.TILES[key], **variant)}

        def run(tiles: Any = tiles) -> Tensor:
            with mock.patch.dict(obs_order.TILES, tiles):
                return obs_order.obs_order(
                    weight=weight, inverse_hessian=G, num_pruned=weight.shape[1]
                )[1]

        yield variant, run


def solves(place: Place) -> Iterator[tuple[Variant, Callable[[], Tensor]]]:
    weight, hessian = problem(*place.size((500, 2312), (3, 40)))
    mask = torch.rand(weight.shape, generator=torch.Generator().manual_seed(1)) >= 0.5
    weight, hessian, mask = (t.to(place.device) for t in (weight, hessian, mask))
    key = device_class(weight)
    for variant in SOLVE[: place.size(len(SOLVE), 1)]:
        tiles = {key: obs_solve.TILES[key]._replace(**variant)}

        def run(tiles: Any = tiles) -> Tensor:
            with mock.patch.dict(obs_solve.TILES, tiles):
                return obs_solve.obs_solve(weight=weight, hessian=hessian, mask=mask)

        yield variant, run


def lines(place: Place, variants: Iterator[tuple[Variant, Callable[[], Tensor]]]) -> Iterator[str]:
    first: Tensor | None = None
    for variant, run in variants:
        said = ", ".join(f"{name} = {value}" for name, value in variant.items()) or "as it is"
        try:
            answer = run()
            kernels = place.kernels(run)
        except Exception as error:  # of too much shared memory, say
            yield f"{said}: {type(error).__name__}: {error}".splitlines()[0]
            continue
        first = answer if first is None else first
        off = float((answer.double() - first.double()).norm() / first.double().norm())
        times = ", ".join(f"{name[:40]} {1e3 * took:.2f} ms" for name, _, took in kernels[:5])
        yield f"{said}: {times or 'dry run'}; off by {off:.1e}"


OPS = {"order": orders, "solve": solves}


def main() -> None:
    place = Place.here()
    for name in sys.argv[1:] or OPS:
        print(f"{name}:")
        for line in lines(place, OPS[name](place)):
            print("  " + line, flush=True)


if __name__ == "__main__":
    main()
