"""A convolutional spiking network for Fashion-MNIST: a whole model to compress.

The layers are conv1, conv2 and conv3, each with batch norm, LIF and a 2 x 2 maximum, and a linear
head. Images enter as currents, the same at each of the T = 4 time steps. conv1 therefore receives
analog values, and conv2, conv3 and the head receive spikes, since the maximum of spikes is a spike.
Every layer runs on [T * N, ...], T-major.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from sbc_kernels.demo.data import find_idx, read_idx

NUM_STEPS = 4
TAU = 2.0
THRESHOLD = 1.0
CLASSES = 10
CHECKPOINT = Path(__file__).with_name("checkpoint.safetensors")


class Spike(torch.autograd.Function):
    """A step function at 0, whose gradient is replaced by the derivative of ``atan(pi u) / pi``."""

    @staticmethod
    def forward(ctx: Any, above: Tensor) -> Tensor:
        ctx.save_for_backward(above)
        return (above >= 0).to(above.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (above,) = ctx.saved_tensors
        return grad / (1 + (torch.pi * above).square())


class LIF(nn.Module):
    """Leaky integrate-and-fire neurons: currents [T, N, ...] in, spikes [T, N, ...] out.

    They start at rest. Each step adds (x - v) / tau to v, spikes at v >= threshold, and then resets
    v to 0 without a gradient through the reset: SpikingJelly's LIF with ``decay_input`` and
    ``detach_reset``.
    """

    def __init__(self, tau: float = TAU, threshold: float = THRESHOLD) -> None:
        super().__init__()
        self.tau = tau
        self.threshold = threshold

    def forward(self, current: Tensor) -> Tensor:
        v = torch.zeros_like(current[0])
        spikes = []
        for x in current.unbind():
            v = v + (x - v) / self.tau
            spike = Spike.apply(v - self.threshold)
            v = v * (1 - spike.detach())
            spikes.append(spike)
        return torch.stack(spikes)

    def extra_repr(self) -> str:
        return f"tau={self.tau}, threshold={self.threshold}"


class ConvNetwork(nn.Module):
    """Images float [N, 1, 28, 28] in 0..1 in, logits [N, 10] out: the head's mean over time."""

    def __init__(self, channels: tuple[int, int, int] = (32, 64, 64)) -> None:
        super().__init__()
        first, second, third = channels
        self.conv1 = nn.Conv2d(1, first, 3, padding=1, bias=False)  # 28 x 28
        self.bn1 = nn.BatchNorm2d(first)
        self.lif1 = LIF()
        self.conv2 = nn.Conv2d(first, second, 3, padding=1, bias=False)  # 14 x 14
        self.bn2 = nn.BatchNorm2d(second)
        self.lif2 = LIF()
        self.conv3 = nn.Conv2d(second, third, 3, padding=1, bias=False)  # 7 x 7
        self.bn3 = nn.BatchNorm2d(third)
        self.lif3 = LIF()
        self.pool = nn.MaxPool2d(2)
        self.head = nn.Linear(third * 3 * 3, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        x = images.repeat(NUM_STEPS, 1, 1, 1)
        x = self.pool(over_time(self.lif1, self.bn1(self.conv1(x))))
        x = self.pool(over_time(self.lif2, self.bn2(self.conv2(x))))
        x = self.pool(over_time(self.lif3, self.bn3(self.conv3(x))))
        logits = self.head(x.flatten(1))
        return logits.unflatten(0, (NUM_STEPS, -1)).mean(dim=0)


def over_time(neuron: LIF, current: Tensor) -> Tensor:
    """Applies a neuron, which takes [T, N, ...], to the [T * N, ...] of the layers around it."""
    return neuron(current.unflatten(0, (NUM_STEPS, -1))).flatten(0, 1)


def load(path: str | Path = CHECKPOINT) -> ConvNetwork:
    """The trained network, in eval mode."""
    model = ConvNetwork()
    model.load_state_dict(load_file(path))
    return model.eval()


def read_images(folder: str | Path, part: str) -> tuple[Tensor, Tensor]:
    """Images float [N, 1, 28, 28] in 0..1 and labels int64 [N]; part is "train" or "t10k"."""
    images = read_idx(find_idx(Path(folder), f"{part}-images-idx3-ubyte"), 3)
    labels = read_idx(find_idx(Path(folder), f"{part}-labels-idx1-ubyte"), 1)
    return torch.tensor(images)[:, None].float() / 255, torch.tensor(labels).long()


@torch.no_grad()
def accuracy(model: nn.Module, images: Tensor, labels: Tensor, batch: int = 500) -> float:
    """Accuracy in percent, in eval mode. The mode of the model is restored afterwards."""
    training = model.training
    model.eval()
    right = 0
    for seen, expected in zip(images.split(batch), labels.split(batch), strict=True):
        right += int((model(seen).argmax(dim=1) == expected).sum())
    model.train(training)
    return 100 * right / len(labels)
