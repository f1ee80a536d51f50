"""Parts of small networks with BatchNorms that are not trivial, and their data."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
from nets import Net
from torch import Tensor, nn

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from spikingjelly.activation_based import functional, layer, neuron


IMAGES = (4, 5, 2, 6, 6)
UNIFORM: dict[str, Any] = {"calibration_mode": "parallel", "allocation": "uniform"}
PLAIN: dict[str, Any] = {**UNIFORM, "bn_reestimate": False, "bias_correction": False}


def lif() -> nn.Module:
    return neuron.LIFNode(tau=2.0, step_mode="m")


def norm(features: int = 6) -> nn.Module:
    """A BatchNorm that is not trivial, over [T, N, C]."""
    bn = layer.BatchNorm1d(features, step_mode="m").eval()
    with torch.no_grad():
        bn.running_mean.normal_(0, 0.3)
        bn.running_var.uniform_(0.3, 2)
        bn.weight.uniform_(0.5, 2)
        bn.bias.normal_(0, 0.3)
    return bn


def fc(d_in: int = 6, d_out: int = 6, bias: bool = True) -> nn.Linear:
    return nn.Linear(d_in, d_out, bias=bias)


def data(*shape: int) -> Tensor:
    return (torch.rand(shape or (4, 5, 6)) < 0.4).float()


def outputs(model: nn.Module, x: Tensor) -> list[np.ndarray[Any, Any]]:
    functional.reset_net(model)
    with torch.no_grad():
        out = model(x)
    return [t.numpy() for t in (out if isinstance(out, tuple) else (out,))]


class ScaledNorm(layer.BatchNorm1d):  # type: ignore[misc]
    """tdBN as many repositories write it."""

    def forward(self, x: Tensor) -> Tensor:
        return 0.5 * super().forward(x)


def two_places() -> Net:
    net = Net(
        lambda m, x: m.n2(m.b2(m.f2(m.n1(m.b1(m.f1(x)))))),
        f1=fc(bias=False), f2=fc(bias=False), b1=norm(), b2=norm(), n1=lif(), n2=lif(),
    )  # fmt: skip
    net.f2.weight = net.f1.weight
    return net


def plain_norm(kind: type[nn.Module], features: int = 6) -> nn.Module:
    bn = kind(features).eval()
    with torch.no_grad():
        bn.running_mean.normal_(0, 0.3)
        bn.running_var.uniform_(0.3, 2)
        bn.weight.uniform_(0.5, 2)
        bn.bias.normal_(0, 0.3)
    return bn


def conv(bias: bool = False) -> nn.Module:
    return layer.Conv2d(2, 6, 3, bias=bias, step_mode="m")
