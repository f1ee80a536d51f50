"""Small networks that are built as published code builds them, around neurons that are modules.

Each stands for a family of repositories: what its authors do is written anew, in few lines. Neurons
that no adapter knows are classes of this file.
"""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F
from spikingjelly.activation_based import layer, neuron
from torch import Tensor, nn

from .functional_membranes import STEPS, Spike, events, powers
from .styles import BENT, HEAD, Style, left, spiking


class UnknownLIF(nn.Module):
    """A neuron over [T, N, ...] that resets to zero; nobody registers it."""

    def __init__(self, decay: float = 0.5, threshold: float = 0.5) -> None:
        super().__init__()
        self.decay, self.threshold = decay, threshold

    def forward(self, x: Tensor) -> Tensor:
        potential, spikes = torch.zeros_like(x[0]), torch.zeros_like(x[0])
        outputs = []
        for current in x:
            potential = potential * self.decay * (1 - spikes.detach()) + current
            spikes = Spike.apply(potential - self.threshold)
            outputs.append(spikes)
        return torch.stack(outputs)


class UnknownBatchFirst(nn.Module):
    """The same over [N, T, ...]."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = UnknownLIF(0.6)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x.transpose(0, 1)).transpose(0, 1)


class IntegerSpikes(nn.Module):
    """Fires 0 to 4 spikes a step, and divides them by 4."""

    def forward(self, x: Tensor) -> Tensor:
        potential, outputs = torch.zeros_like(x[0]), []
        for current in x:
            potential = 0.25 * potential + current
            rounded = potential.clamp(0, 4).round()
            spikes = (rounded - potential.clamp(0, 4)).detach() + potential.clamp(0, 4)
            potential = potential - spikes
            outputs.append(spikes / 4)
        return torch.stack(outputs)


class ThresholdTimesSpike(nn.Module):
    """An integrate-and-fire neuron of a converted network: each spike has the threshold's size."""

    def __init__(self) -> None:
        super().__init__()
        self.threshold = nn.Parameter(torch.tensor([0.7]))

    def forward(self, x: Tensor) -> Tensor:  # [T * N, ...], time first
        currents = x.unflatten(0, (STEPS, -1))
        potential, outputs = 0.5 * self.threshold * torch.ones_like(currents[0]), []
        for current in currents:
            potential = potential + current
            spikes = Spike.apply(potential - self.threshold) * self.threshold
            potential = potential - spikes
            outputs.append(spikes)
        return torch.stack(outputs).flatten(0, 1)


class PermutedNorm(nn.Module):
    """BatchNorm over time as a BatchNorm3d: [T, N, C, H, W] is copied into [N, C, T, H, W]."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bn = nn.BatchNorm3d(channels)

    def forward(self, x: Tensor) -> Tensor:
        y = x.permute(1, 2, 0, 3, 4).contiguous()
        return self.bn(y).permute(2, 0, 1, 3, 4).contiguous()


class EachStep(nn.Module):
    """Runs a module on [T * N, ...]."""

    def __init__(self, *modules: nn.Module) -> None:
        super().__init__()
        self.module = nn.Sequential(*modules)

    def forward(self, x: Tensor) -> Tensor:
        return self.module(x.flatten(0, 1)).unflatten(0, x.shape[:2])


class ConvEachStep(nn.Conv2d):
    """A convolution over [T, N, C, H, W], one step at a time."""

    def forward(self, x: Tensor) -> Tensor:
        height, width = ((side - 1) // self.stride[0] + 1 for side in x.shape[3:])
        output = torch.zeros(*x.shape[:2], self.out_channels, height, width)
        for t in range(len(x)):
            output[t] = F.conv2d(x[t], self.weight, self.bias, self.stride, self.padding)
        return output


class MembraneShortcut(nn.Module):
    """A residual stream of currents: neuron, convolution, norm, and an addition before the neuron.

    At the last block the stream itself passes a convolution.
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.norm1 = (
            EachStep(nn.Conv2d(2, 6, 3, padding=1, bias=False)),
            PermutedNorm(6),
        )
        self.lif1, self.lif2 = UnknownLIF(0.25), UnknownLIF(0.25)
        self.conv2, self.norm2 = (
            EachStep(nn.Conv2d(6, 6, 3, padding=1, bias=False)),
            PermutedNorm(6),
        )
        self.conv3, self.norm3 = ConvEachStep(6, 8, 3, 2, 1, bias=False), PermutedNorm(8)
        self.shortcut, self.norm4 = ConvEachStep(6, 8, 1, 2, bias=False), PermutedNorm(8)
        self.lif3, self.fc = UnknownLIF(0.25), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:  # [N, T, 2, 6, 6]
        x = x.transpose(0, 1)
        stream = self.norm1(self.conv1(x))
        stream = self.norm2(self.conv2(self.lif1(stream))) + stream
        stream = self.norm3(self.conv3(self.lif2(stream))) + self.norm4(self.shortcut(stream))
        return self.fc(F.adaptive_avg_pool2d(self.lif3(stream).flatten(0, 1), 1).flatten(1)).mean(0)


class SpikingAttention(nn.Module):
    """Attention that multiplies currents with spikes: its projections are not its neuron's current."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.first = nn.Linear(20, 12), self.lif()
        self.query, self.key = nn.Linear(12, 12), nn.Linear(12, 12)
        self.query_lif, self.after = self.lif(), self.lif()
        self.project, self.last, self.head = nn.Linear(12, 12), self.lif(), nn.Linear(12, 5)

    @staticmethod
    def lif() -> nn.Module:
        return neuron.LIFNode(2.0, v_threshold=0.2, step_mode="m")

    def forward(self, x: Tensor) -> Tensor:  # [T, N, L, 20]
        x = self.first(self.embed(x))
        query = self.query_lif(self.query(x))
        scores = self.key(x) @ query.transpose(-2, -1)
        x = self.after(scores @ query)
        return self.head(self.last(self.project(x))).mean((0, 2))


class PaddedNorm(nn.Module):
    """Pads with what a zero would be after the norm, read off the norm's own attributes."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        y = F.pad(self.bn(x), [1] * 4)
        scale = self.bn.weight / torch.sqrt(self.bn.running_var + self.bn.eps)
        border = (self.bn.bias - self.bn.running_mean * scale).detach().view(1, -1, 1)
        y[:, :, 0], y[:, :, -1] = border, border
        return y


class FrozenDecoder(nn.Module):
    """Box decoding: a softmax over bins, and a constant layer that takes their mean."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.spike1 = nn.Linear(20, 32), IntegerSpikes()
        self.fc2 = nn.Linear(32, 16)
        self.bins = nn.Linear(16, 1, bias=False).requires_grad_(False)
        with torch.no_grad():
            self.bins.weight.copy_(torch.arange(16.0)[None])

    def forward(self, x: Tensor) -> Tensor:
        return self.bins(self.fc2(self.spike1(self.fc1(x))).mean(0).softmax(-1))


class SpikingLanguageModel(nn.Module):
    """Token mixing with gates; the embedding is also the head."""

    def __init__(self) -> None:
        super().__init__()
        self.emb = nn.Embedding(30, 16)
        self.key, self.value, self.receptance = (nn.Linear(16, 16, bias=False) for _ in range(3))
        self.lif1 = neuron.LIFNode(2.0, v_threshold=0.1, step_mode="m")
        self.output, self.lif2 = nn.Linear(16, 16, bias=False), UnknownLIF(0.5, 0.1)
        self.head = nn.Linear(16, 30, bias=False)
        self.head.weight = self.emb.weight

    def forward(self, tokens: Tensor) -> Tensor:  # [T, N]
        x = self.lif1(self.emb(tokens))
        mixed = torch.sigmoid(self.receptance(x)) * (self.key(x).relu() * self.value(x)).cumsum(0)
        return self.head(self.lif2(self.output(mixed)))


class StandardizedConv(nn.Conv2d):
    """A convolution whose weight is standardized at every call."""

    def forward(self, x: Tensor) -> Tensor:
        mean = self.weight.mean((1, 2, 3), keepdim=True)
        weight = (self.weight - mean) / (self.weight.std((1, 2, 3), keepdim=True) + 1e-4)
        return F.conv2d(x, weight, self.bias, self.stride, self.padding)


class OnlineTraining(nn.Module):
    """Steps in an outer loop over convolutions whose weights are standardized."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.n1 = StandardizedConv(2, 6, 3, padding=1), neuron.IFNode(v_threshold=0.4)
        self.conv2, self.n2 = StandardizedConv(6, 6, 3, padding=1), neuron.IFNode(v_threshold=0.4)
        self.fc = nn.Linear(6 * 36, 5)

    def forward(self, x: Tensor) -> Tensor:  # [T, N, 2, 6, 6]
        return sum(self.fc(self.n2(self.conv2(self.n1(self.conv1(s)))).flatten(1)) for s in x)


class ListOfBlocks(nn.Module):
    """Delay networks keep their blocks in a plain list of lists."""

    def __init__(self) -> None:
        super().__init__()
        sizes = (20, 24, 16)
        self.blocks = [
            [
                layer.Linear(a, b, bias=False, step_mode="m"),
                layer.BatchNorm1d(b, step_mode="m"),
                neuron.LIFNode(2.0, v_threshold=0.2, step_mode="m"),
            ]
            for a, b in itertools.pairwise(sizes)
        ]
        self.blocks.append([layer.Linear(16, 5, bias=False, step_mode="m")])
        self.model = nn.Sequential(*(module for block in self.blocks for module in block))

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            for module in block:
                x = module(x)
        return x.softmax(-1).sum(0)


class RepeatsAnImage(nn.Module):
    """Adds a time axis to its input in place, and repeats it."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.lif1 = EachStep(nn.Linear(20, 24)), UnknownBatchFirst()
        self.fc2, self.lif2 = EachStep(nn.Linear(24, 16)), UnknownBatchFirst()
        self.fc3 = EachStep(nn.Linear(16, 5))

    def forward(self, x: Tensor) -> Tensor:  # [N, 20]
        x = x.unsqueeze_(1).repeat(1, STEPS, 1)
        return self.fc3(self.lif2(self.fc2(self.lif1(self.fc1(x)))))


class NorseSpeech(nn.Module):
    """Recurrent cells that hold their weights themselves."""

    def __init__(self) -> None:
        super().__init__()
        import norse.torch as norse

        self.cell, self.readout = norse.LIFRecurrentCell(20, 16), norse.LILinearCell(16, 5)

    def forward(self, x: Tensor) -> Tensor:  # [T, N, 20]
        state = readout_state = answer = None
        for step in x:
            spikes, state = self.cell(3 * step, state)
            answer, readout_state = self.readout(spikes, readout_state)
        return answer


def converted() -> nn.Module:
    return nn.Sequential(
        nn.Linear(20, 24),
        ThresholdTimesSpike(),
        nn.Linear(24, 16),
        ThresholdTimesSpike(),
        nn.Linear(16, 5),
    )


def reparameterized() -> nn.Module:
    return nn.Sequential(
        layer.SeqToANNContainer(nn.Conv2d(2, 6, 1, bias=False), PaddedNorm(6)),
        layer.SeqToANNContainer(nn.Conv2d(6, 8, 3, bias=False), nn.BatchNorm2d(8)),
        neuron.LIFNode(2.0, v_threshold=0.2, step_mode="m"),
        layer.SeqToANNContainer(nn.Flatten(), nn.Linear(8 * 36, 5)),
    )


def image_events() -> Tensor:
    return (torch.rand(STEPS, 4, 2, 6, 6) < 0.4).float()


def image_events_time_second() -> Tensor:
    return image_events().transpose(0, 1).contiguous()


def flat_events() -> Tensor:
    return events().flatten(0, 1)


def sequences() -> Tensor:
    return (torch.rand(STEPS, 4, 6, 20) < 0.4).float()


def still_images() -> Tensor:
    return torch.rand(4, 20)


def tokens() -> Tensor:
    return torch.randint(0, 30, (STEPS, 4))


_LIF = spiking(powers(0.5, 0.5))  # SpikingJelly, tau = 2
_IF = spiking(powers(1.0))

PUBLISHED: tuple[Style, ...] = (
    Style(
        "membrane_shortcut",
        MembraneShortcut,
        image_events_time_second,
        {
            "conv1.module.0": spiking(powers(0.25)),
            "conv2.module.0": spiking(powers(0.25)),
            "conv3": spiking(powers(0.25)),
            "shortcut": spiking(powers(0.25)),
            "fc": HEAD,
        },
    ),
    Style(
        "spiking_attention",
        SpikingAttention,
        sequences,
        {"embed": _LIF, "query": _LIF, "key": BENT, "project": _LIF, "head": HEAD},
    ),
    Style(
        "reparameterized",
        reparameterized,
        image_events,
        {"0.0": None, "1.0": _LIF, "3.1": HEAD},
    ),
    Style(
        "frozen_decoder",
        FrozenDecoder,
        events,
        {"fc1": spiking(powers(0.25)), "fc2": None, "bins": left},
    ),
    Style(
        "language_model",
        SpikingLanguageModel,
        tokens,
        {"emb": left, "key": BENT, "value": BENT, "receptance": BENT, "head": left}
        | {"output": spiking(powers(0.5))},
    ),
    Style("converted", converted, flat_events, {"0": _IF, "2": _IF, "4": HEAD}),
    Style(
        "online_training", OnlineTraining, image_events, {"conv1": left, "conv2": left, "fc": HEAD}
    ),
    Style(
        "list_of_blocks", ListOfBlocks, events, {"model.0": _LIF, "model.3": _LIF, "model.6": None}
    ),
    Style(
        "repeats_an_image",
        RepeatsAnImage,
        still_images,
        {
            "fc1.module.0": spiking(powers(0.6)),
            "fc2.module.0": spiking(powers(0.6)),
            "fc3.module.0": HEAD,
        },
    ),
    Style(
        "norse_speech",
        NorseSpeech,
        events,
        {"cell.input_weights": None, "cell.recurrent_weights": None},
    ),
)
