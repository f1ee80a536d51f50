"""Runs every op once on a small, odd size and compares with the host. The sanitizer watches this.

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

from .device import Device

Results = tuple[Tensor, ...]  # of the device, of the host


def gram(
    device: Device, neuron: sbc.Neuron, analog: bool = False, channels: int = 37, **options: Any
) -> Results:
    shape = (4, 9, 5, 6, 5) if options else (4, 70, channels)
    draw = torch.Generator().manual_seed(0)
    x: Tensor = torch.rand(shape, generator=draw) < 0.3
    if analog:
        x = x * torch.rand(shape, generator=draw)
    result = sbc.spike_gram(x.to(device.torch_device), neuron, backend=device.backend, **options)
    return result, sbc.spike_gram(x, neuron, **options)


def order(device: Device) -> Results:
    weight, hessian = problem(3, 70)
    G = inverse(hessian)
    result = sbc.obs_order(
        weight.to(device.torch_device), G.to(device.torch_device), backend=device.backend
    )
    return result[1], sbc.obs_order(weight, G)[1]


def solve(device: Device) -> Results:
    weight, hessian = problem(3, 37)
    mask = torch.rand(weight.shape, generator=torch.Generator().manual_seed(1)) < 0.5
    result = sbc.obs_solve(
        *(t.to(device.torch_device) for t in (weight, hessian, mask)), backend=device.backend
    )
    return result, sbc.obs_solve(weight, hessian, mask)


def quantize(device: Device) -> Results:
    weight, hessian = problem(5, 37)
    grid = device.grid(weight, 4, group_size=8)
    result = sbc.obs_quantize(
        weight.to(device.torch_device),
        hessian.to(device.torch_device),
        grid,
        backend=device.backend,
    )
    host = sbc.obs_quantize(weight, hessian, sbc.fit_grid(weight, 4, group_size=8))
    return result.loss, host.loss


OPS: dict[str, Callable[[Device], Results]] = {
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
    device = Device.here()
    for name, op in OPS.items():
        result, host = op(device)
        # A coarse bound, since the tests are exact: this only detects a kernel that does not work
        # at all.
        error = float((result.cpu().double() - host.double()).abs().max() / host.abs().max())
        print(f"{name}: off by {error:.1e} of the largest entry")
        if not error < 1e-3:
            raise SystemExit(f"{name} disagrees with the host")
    print(f"{len(OPS)} ops agree with the host")


if __name__ == "__main__":
    main()
