"""Every op once, small and ragged, against the host's answer: what the sanitizer watches.

python -m gpu.smoke
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from problems import inverse, problem
from torch import Tensor

import sbc_kernels as sbc

from .place import Place

Answers = tuple[Tensor, ...]


def gram(
    place: Place, neuron: sbc.Neuron, analog: bool = False, channels: int = 37, **options: Any
) -> Answers:
    shape = (4, 9, 5, 6, 5) if options else (4, 70, channels)
    draw = torch.Generator().manual_seed(0)
    x: Tensor = torch.rand(shape, generator=draw) < 0.3
    if analog:
        x = x * torch.rand(shape, generator=draw)
    there = sbc.spike_gram(x.to(place.device), neuron, backend="triton", **options)
    return there, sbc.spike_gram(x, neuron, **options)


def order(place: Place) -> Answers:
    weight, hessian = problem(3, 70)
    G = inverse(hessian)
    there = sbc.obs_order(weight.to(place.device), G.to(place.device), backend="triton")
    return there[1], sbc.obs_order(weight, G)[1]


def solve(place: Place) -> Answers:
    weight, hessian = problem(3, 37)
    mask = torch.rand(weight.shape, generator=torch.Generator().manual_seed(1)) < 0.5
    there = sbc.obs_solve(*(t.to(place.device) for t in (weight, hessian, mask)), backend="triton")
    return there, sbc.obs_solve(weight, hessian, mask)


def quantize(place: Place) -> Answers:
    weight, hessian = problem(5, 37)
    grid = place.grid(weight, 4, group_size=8)
    there = sbc.obs_quantize(
        weight.to(place.device), hessian.to(place.device), grid, backend="triton"
    )
    host = sbc.obs_quantize(weight, hessian, sbc.fit_grid(weight, 4, group_size=8))
    return there.loss, host.loss


OPS: dict[str, Callable[[Place], Answers]] = {
    "Gram in integers": partial(gram, neuron=sbc.LIF(2.0)),
    "Gram in integers, wide": partial(gram, neuron=sbc.LIF(2.0), channels=300),
    "Gram in fixed point": partial(gram, neuron=sbc.LIF(1.7)),
    "Gram of floats": partial(gram, neuron=sbc.LIF(2.0), analog=True),
    "conv Gram": partial(gram, neuron=sbc.IF(), conv=sbc.Conv((3, 3), padding=1)),
    "order": order,
    "solve": solve,
    "quantize": quantize,
}


def main() -> None:
    place = Place.here()
    for name, op in OPS.items():
        there, host = op(place)
        # Crude, as the tests are exact: to see at once that a kernel does its work at all.
        error = float((there.cpu().double() - host.double()).abs().max() / host.abs().max())
        print(f"{name}: off by {error:.1e} of the largest entry")
        if not error < 1e-3:
            raise SystemExit(f"{name} disagrees with the host")
    print(f"{len(OPS)} ops agree with the host")


if __name__ == "__main__":
    main()
