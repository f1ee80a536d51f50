"""Small networks that keep their membranes in ``forward``, each in the style of a published family.

No neuron is a module that an adapter knows: the membranes are found in the computation itself. The
expected responses are written down from the update equations.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .styles import HEAD, Fate, Style, left, spiking

STEPS = 5


class Spike(torch.autograd.Function):
    """A step function with a triangular surrogate gradient."""

    @staticmethod
    def forward(ctx: Any, potential: Tensor) -> Tensor:
        ctx.save_for_backward(potential)
        return (potential > 0).to(potential.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (potential,) = ctx.saved_tensors
        return gradient * (1 - potential.abs()).clamp(min=0)


def powers(decay: float, gain: float = 1.0) -> list[float]:
    return [gain * decay**t for t in range(STEPS)]


class NormEachStep(nn.Module):
    """BatchNorm through time: every step has BatchNorms of its own, held in a plain list too."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 6, 3, padding=1, bias=False)
        self.norms = nn.ModuleList(nn.BatchNorm2d(6) for _ in range(STEPS))
        self.list_of_norms = [self.norms]
        self.fc = nn.Linear(6 * 9, 5, bias=False)

    def forward(self, x: Tensor) -> Tensor:  # [N, 2, 6, 6], shown at every step
        potential = torch.zeros(x.shape[0], 6, 6, 6)
        answer = torch.zeros(x.shape[0], 5)
        for norm in self.list_of_norms[0]:
            drive = (torch.rand_like(x) < x).float()
            potential = 0.9 * potential + (1 - 0.9) * norm(self.conv(drive))
            above = potential / 0.1 - 1.0
            spikes = Spike.apply(above)
            reset = torch.zeros_like(above)
            reset[above > 0] = 0.1
            potential = potential - reset
            answer = answer + self.fc(F.avg_pool2d(spikes, 2).flatten(1))
        return answer / STEPS


class LearnedLeak(nn.Module):
    """A leak and a threshold that are trained, one each a layer, in dictionaries of parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(20, 24, bias=False)
        self.fc2 = nn.Linear(24, 16, bias=False)
        self.out = nn.Linear(16, 5, bias=False)
        self.leak = nn.ParameterDict({"l1": torch.tensor(0.8), "l2": torch.tensor(0.6)})
        self.threshold = nn.ParameterDict({"l1": torch.tensor(0.2), "l2": torch.tensor(0.15)})

    def forward(self, x: Tensor) -> Tensor:  # [T, N, 20]
        potentials = {"l1": torch.zeros(x.shape[1], 24), "l2": torch.zeros(x.shape[1], 16)}
        answer = torch.zeros(x.shape[1], 5)
        for spikes in x:
            for key, layer in (("l1", self.fc1), ("l2", self.fc2)):
                above = potentials[key] / self.threshold[key] - 1.0
                spikes_before = self.threshold[key] * (above > 0).float()
                potentials[key] = self.leak[key] * potentials[key] + layer(spikes) - spikes_before
                spikes = Spike.apply(potentials[key] / self.threshold[key] - 1.0)
            answer = answer + self.out(spikes)
        return answer


class MatrixTutorial(nn.Module):
    """Weights that are bare parameters, [inputs, outputs], and a synapse before the membrane."""

    def __init__(self) -> None:
        super().__init__()
        self.w1 = nn.Parameter(0.3 * torch.randn(20, 16))
        self.w2 = nn.Parameter(0.3 * torch.randn(16, 5))

    def forward(self, x: Tensor) -> Tensor:  # [N, T, 20]
        current = torch.einsum("abc,cd->abd", (x, self.w1))
        synapse = potential = torch.zeros(x.shape[0], 16)
        spikes = []
        for t in range(x.shape[1]):
            fired = Spike.apply(potential - 1.0)
            reset = fired.detach()
            synapse, potential = (
                0.8 * synapse + current[:, t],
                (0.7 * potential + synapse) * (1.0 - reset),
            )
            spikes.append(fired)
        answers = torch.einsum("abc,cd->abd", (torch.stack(spikes, 1), self.w2))
        trace = out = torch.zeros(x.shape[0], 5)
        outs = []
        for t in range(x.shape[1]):
            trace, out = 0.8 * trace + answers[:, t], 0.7 * out + trace
            outs.append(out)
        return torch.stack(outs, 1)


def delayed_synapse() -> list[float]:
    """The potential two steps later is the first to feel a current."""
    synapse, potential, response = 0.0, 0.0, []
    for t in range(STEPS):
        response.append(potential)
        synapse, potential = 0.8 * synapse + (t == 0), 0.7 * potential + synapse
    return response


class AdaptiveRecurrent(nn.Module):
    """A recurrent layer whose threshold rises with each spike; ``.forward`` is called by name."""

    def __init__(self) -> None:
        super().__init__()
        self.i2h, self.h2h = nn.Linear(20, 16), nn.Linear(16, 16)
        self.h2o = nn.Linear(16, 5)
        self.tau_m = nn.Parameter(torch.full((16,), 10.0))
        self.tau_adaptation = nn.Parameter(torch.full((16,), 50.0))

    def forward(self, x: Tensor) -> Tensor:  # [N, T, 20]
        size = (x.shape[0], 16)
        potential, spikes, raised = torch.zeros(size), torch.zeros(size), torch.full(size, 0.01)
        answer = torch.zeros(x.shape[0], 5)
        alpha, rho = torch.exp(-1 / self.tau_m), torch.exp(-1 / self.tau_adaptation)
        for t in range(x.shape[1]):
            current = self.i2h.forward(x[:, t].float()) + self.h2h.forward(spikes)
            raised = rho * raised + (1 - rho) * spikes
            threshold = 0.01 + 1.8 * raised
            potential = potential * alpha + (1 - alpha) * current - threshold * spikes
            spikes = Spike.apply(potential - threshold)
            answer = answer + self.h2o(spikes)
        return answer / x.shape[1]


class SpeechLayer(nn.Module):
    """A layer with weight, BatchNorm, dynamics and recurrence, time second."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.W = nn.Linear(inputs, outputs, bias=False)
        self.V = nn.Linear(outputs, outputs, bias=False)
        self.norm = nn.BatchNorm1d(outputs)
        self.alpha = nn.Parameter(torch.full((outputs,), 0.85))

    def forward(self, x: Tensor) -> Tensor:  # [N, T, inputs]
        current = self.W(x)
        current = self.norm(current.reshape(-1, current.shape[2])).reshape(current.shape)
        alpha = torch.clamp(self.alpha, min=0.8, max=0.96)
        recurrent = self.V.weight.clone().fill_diagonal_(0)
        potential = spikes = torch.zeros(x.shape[0], current.shape[2])
        outputs = []
        for t in range(x.shape[1]):
            drive = current[:, t, :] + torch.matmul(spikes, recurrent)
            potential = alpha * (potential - spikes) + (1 - alpha) * drive
            spikes = Spike.apply(potential - 0.1)
            outputs.append(spikes)
        return torch.stack(outputs, dim=1)


class ReadoutLayer(nn.Module):
    """A leaky integrator whose softmax is summed over time."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.W = nn.Linear(inputs, outputs, bias=False)
        self.alpha = nn.Parameter(torch.full((outputs,), 0.9))

    def forward(self, x: Tensor) -> Tensor:
        current, potential, answer = self.W(x), 0.0, 0.0
        for t in range(x.shape[1]):
            potential = self.alpha * potential + (1 - self.alpha) * current[:, t]
            answer = answer + F.softmax(potential, dim=1)
        return answer


class StraightThrough(nn.Module):
    """Spikes as ``(hard - soft).detach() + soft``; the reset is to zero."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(20, 16, bias=False), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:  # [T, N, 20]
        potential, answer = torch.zeros(x.shape[1], 16), 0.0
        for step in x:
            potential = 0.75 * potential + F.linear(step, self.fc1.weight)
            soft = torch.sigmoid(4 * (potential - 0.4))
            spikes = ((potential > 0.4).float() - soft).detach() + soft
            potential = potential * (1 - spikes)
            answer = answer + self.fc2(spikes)
        return answer


def images() -> Tensor:
    return torch.rand(4, 2, 6, 6)


def events() -> Tensor:
    return (torch.rand(STEPS, 4, 20) < 0.4).float()


def events_time_second() -> Tensor:
    return (torch.rand(4, STEPS, 20) < 0.4).float()


def speech() -> nn.Module:
    return nn.Sequential(SpeechLayer(20, 16), SpeechLayer(16, 12), ReadoutLayer(12, 5))


_LEAKY_SPEECH: Fate = spiking(powers(0.85, 0.15))

FUNCTIONAL: tuple[Style, ...] = (
    Style("norm_each_step", NormEachStep, images, {"conv": spiking(powers(0.9, 0.1)), "fc": HEAD}),
    Style(
        "learned_leak",
        LearnedLeak,
        events,
        {"fc1": spiking(powers(0.8)), "fc2": spiking(powers(0.6)), "out": HEAD},
    ),
    Style(
        "matrix_tutorial",
        MatrixTutorial,
        events_time_second,
        {"w1": spiking(delayed_synapse()), "w2": HEAD},
    ),
    Style(
        "adaptive_recurrent",
        AdaptiveRecurrent,
        events_time_second,
        {
            "i2h": spiking(powers(2.718281828459045**-0.1, 1 - 2.718281828459045**-0.1)),
            "h2h": spiking(powers(2.718281828459045**-0.1, 1 - 2.718281828459045**-0.1)),
            "h2o": HEAD,
        },
    ),
    Style(
        "speech",
        speech,
        events_time_second,
        {"0.W": _LEAKY_SPEECH, "0.V": left, "1.W": _LEAKY_SPEECH, "1.V": left, "2.W": None},
    ),
    Style(
        "straight_through",
        StraightThrough,
        events,
        {"fc1": spiking(powers(0.75)), "fc2": HEAD},
    ),
)
