"""Networks and inputs whose operations are counted."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn

from sbc_kernels.metrics import (
    SynapticOperations,
)

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from spikingjelly.activation_based import base, functional, layer, neuron


STEPS, SAMPLES = 5, 4


def prune(model: nn.Module, density: float = 0.3, seed: int = 0) -> nn.Module:
    """Zeros among all weights of layers; no bias is zero."""
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, (nn.Linear, nn.modules.conv._ConvNd)):
                module.weight.mul_(torch.rand(module.weight.shape, generator=draw) < density)
    return model


def multi_step(*layers: nn.Module) -> nn.Module:
    """SpikingJelly, [T, N, ...]."""
    torch.manual_seed(1)
    net = nn.Sequential(*layers)
    for module in net.modules():
        if isinstance(module, (nn.Linear, nn.modules.conv._ConvNd)):
            module.reset_parameters()
            with torch.no_grad():
                module.weight.mul_(8)
    functional.set_step_mode(net, "m")
    return prune(net)


def linear_net() -> nn.Module:
    lif = neuron.LIFNode(tau=2.0)
    return multi_step(layer.Linear(12, 20), lif, layer.Linear(20, 6, bias=False), neuron.IFNode())


def conv_net() -> nn.Module:
    return multi_step(
        layer.Conv2d(2, 6, 3, padding=1),
        neuron.LIFNode(tau=2.0),
        layer.Conv2d(6, 4, (3, 2), stride=2, padding=(2, 1), groups=2, dilation=(1, 2)),
        neuron.LIFNode(tau=2.0),
        layer.AvgPool2d(2),  # no longer integers
        layer.Flatten(),
        layer.Linear(8, 10),
        neuron.LIFNode(tau=2.0),
        layer.Linear(10, 3),
    )


def other_convs() -> nn.Module:
    """Padding that wraps and reflects, "same", and other numbers of axes."""

    class Net(base.MemoryModule):
        def __init__(self) -> None:
            super().__init__()
            self.one = nn.Conv1d(2, 4, 3, padding=2, stride=2, padding_mode="circular")
            self.two = nn.Conv2d(4, 4, (2, 3), padding="same", groups=4)
            self.three = nn.Conv3d(4, 2, 2, padding=1)
            self.mirror = nn.Conv2d(2, 3, 3, padding=1, padding_mode="reflect")
            self.lif = neuron.LIFNode(tau=2.0, step_mode="m")

        def forward(self, x: Tensor) -> Tensor:
            y = self.one(x.flatten(0, 1).flatten(2))
            y = self.lif(y.unflatten(0, x.shape[:2])).flatten(0, 1)
            y = self.two(y.unflatten(2, (2, -1)))
            y = self.three((y > 0).float().unsqueeze(2))
            y = self.mirror((y[:, :, 0] > 0).float())
            return y.flatten(1).unflatten(0, x.shape[:2])

    torch.manual_seed(2)
    return prune(Net())


NETS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (linear_net, (12,)),
    "conv": (conv_net, (2, 7, 6)),
    "other convs": (other_convs, (2, 6, 7)),
}


def inputs(kind: str, *shape: int, seed: int = 0) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    binary = (torch.rand(shape, generator=draw) < 0.3).float()
    if kind == "binary":
        return binary
    if kind == "ternary":
        return binary * (torch.randint(0, 2, shape, generator=draw) * 2 - 1)
    if kind == "integer":
        return binary * torch.randint(-3, 5, shape, generator=draw)
    return binary * torch.randn(shape, generator=draw)


def as_neurobench(found: SynapticOperations) -> dict[str, float]:
    return {
        "Effective_MACs": found.effective_macs,
        "Effective_ACs": found.effective_acs,
        "Dense": found.dense,
    }
