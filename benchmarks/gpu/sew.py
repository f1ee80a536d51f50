"""SEW-ResNet (arXiv 2102.04159) in plain torch: ADD, integrate-and-fire neurons, bottleneck blocks.

The weight layers have the shapes and names of SpikingJelly's, but SpikingJelly is not needed. The
input is [T, N, 3, h, w].
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

import sbc_kernels as sbc

RESNET152 = (3, 8, 36, 3)


class IF(nn.Module):
    """Integrate and fire at 1, reset to 0, over the first axis."""

    def forward(self, current: Tensor) -> Tensor:
        v = torch.zeros_like(current[0])
        spikes = []
        for x in current:
            v = v + x
            fired = (v >= 1.0).to(x.dtype)
            v = v * (1.0 - fired)
            spikes.append(fired)
        return torch.stack(spikes)


sbc.register_neuron(IF, sbc.IF())


def each_step(module: nn.Module, x: Tensor) -> Tensor:
    return module(x.flatten(0, 1)).unflatten(0, x.shape[:2])


def conv(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)


class Bottleneck(nn.Module):
    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        outputs = 4 * width
        self.conv1, self.bn1, self.sn1 = conv(inputs, width, 1), nn.BatchNorm2d(width), IF()
        self.conv2, self.bn2, self.sn2 = conv(width, width, 3, stride), nn.BatchNorm2d(width), IF()
        self.conv3, self.bn3, self.sn3 = conv(width, outputs, 1), nn.BatchNorm2d(outputs), IF()
        self.downsample: nn.Module | None = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(
                conv(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs)
            )
            self.downsample_sn = IF()

    def forward(self, x: Tensor) -> Tensor:
        out = self.sn1(each_step(self.bn1, each_step(self.conv1, x)))
        out = self.sn2(each_step(self.bn2, each_step(self.conv2, out)))
        out = self.sn3(each_step(self.bn3, each_step(self.conv3, out)))
        if self.downsample is not None:
            x = self.downsample_sn(each_step(self.downsample, x))
        return out + x


class SewResNet(nn.Module):
    def __init__(self, blocks: Sequence[int], width: int, classes: int, stem: int = 7) -> None:
        super().__init__()
        self.conv1, self.bn1, self.sn1 = conv(3, width, stem, 2), nn.BatchNorm2d(width), IF()
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        inputs = width
        stages = []
        for stage, count in enumerate(blocks):
            inner = width << stage
            strides = [1 if stage == 0 else 2] + [1] * (count - 1)
            blocks_of_stage = []
            for stride in strides:
                blocks_of_stage.append(Bottleneck(inputs, inner, stride))
                inputs = 4 * inner
            stages.append(nn.Sequential(*blocks_of_stage))
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.fc = nn.Linear(inputs, classes)

    def forward(self, x: Tensor) -> Tensor:
        out = self.sn1(each_step(self.bn1, each_step(self.conv1, x)))
        out = each_step(self.maxpool, out)
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            out = stage(out)
        return self.fc(out.mean((-2, -1)))


@torch.no_grad()
def build(images: Tensor, *shape: Any) -> nn.Module:
    """A `SewResNet` of this shape, in eval mode, on the device of the images.

    Its weights are random, and its BatchNorms make it fire on these images.
    """
    torch.manual_seed(0)
    model = SewResNet(*shape).to(images.device).train()
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = None  # running statistics become those of the images
        nn.init.constant_(norm.bias, 0.2)  # a mean current that fires every few steps
    model(images)
    return model.eval()


def photographs(count: int, size: int, steps: int, device: torch.device) -> Tensor:
    """Smooth random images with some noise, the same at every step: [steps, count, 3, size, size]."""
    draw = torch.Generator().manual_seed(0)
    coarse = torch.rand(count, 3, 8, 8, generator=draw)
    image = nn.functional.interpolate(coarse, size, mode="bilinear")
    image = image + 0.1 * torch.randn(image.shape, generator=draw)
    return image.to(device).expand(steps, *image.shape)
