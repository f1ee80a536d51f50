"""What a table of norms and neurons is made of, and weights that make the neurons fire."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from spikingjelly.activation_based import base, functional, neuron
from torch import Tensor, nn

WEIGHT_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d)  # spikingjelly's layer.* are subclasses
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)
CLASSES = 10


@dataclass(frozen=True)
class Entry:
    """Where the output of one weight layer goes."""

    norms: tuple[str, ...]  # BatchNorms before the next weight layer or neuron, in order
    consumers: frozenset[str]  # the first neurons that see it; none: it is the network's output


@dataclass(frozen=True)
class Case:
    name: str
    build: Callable[[], nn.Module]
    inputs: Callable[[int], Tensor]
    layers: dict[str, Entry]


Table = dict[str, Entry]


def leads_to(norms: str | Sequence[str], *consumers: str) -> Entry:
    return Entry((norms,) if isinstance(norms, str) else tuple(norms), frozenset(consumers))


HEAD = Entry((), frozenset())


# ---- weights that make the neurons fire --------------------------------------------------------


def neurons_of(model: nn.Module) -> dict[str, nn.Module]:
    return {name: m for name, m in model.named_modules() if isinstance(m, neuron.BaseNode)}


def weight_layers_of(model: nn.Module) -> dict[str, nn.Module]:
    return {name: m for name, m in model.named_modules() if isinstance(m, WEIGHT_LAYERS)}


def norms_of(model: nn.Module) -> dict[str, nn.Module]:
    return {name: m for name, m in model.named_modules() if isinstance(m, NORMS)}


@torch.no_grad()
def settle(model: nn.Module, x: Tensor, drive: float) -> nn.Module:
    """Puts the network where training might have: no BatchNorm is trivial, every neuron fires.

    One pass over ``x`` gives every weight layer outputs of unit variance, and every BatchNorm the
    channels' means (a bit off), variances of 0.5..1.5, weights of 0.5..1.5 and biases within 0.3
    of ``drive``.
    """
    model.eval()
    draw = torch.Generator().manual_seed(1)

    def uniform(n: int, low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(n, generator=draw)

    def scale(module: Any, _: Any, output: Tensor) -> Tensor:
        axis = channels(module, output.dim())
        shape = [1] * axis + [-1] + [1] * (output.dim() - axis - 1)
        spread = output.transpose(0, axis).flatten(1).std(1)
        if isinstance(module, nn.Linear):  # no BatchNorm will centre it
            spread = output.std().expand_as(spread)
        gain = 1 / spread.clamp(min=0.05 * float(output.std()))
        module.weight.mul_(gain.view([-1] + [1] * (module.weight.dim() - 1)))
        output = output * gain.view(shape)
        if module.bias is not None:
            shift = 0.1 * torch.randn(gain.shape, generator=draw)
            module.bias.mul_(gain).add_(shift)
            output = output + shift.view(shape)
        return output

    def centre(module: Any, args: tuple[Tensor, ...]) -> None:
        n, axis = module.num_features, channels(module, args[0].dim())
        mean = args[0].transpose(0, axis).flatten(1).mean(1)
        module.running_mean.copy_(mean + 0.2 * torch.randn(n, generator=draw))
        module.running_var.copy_(uniform(n, 0.5, 1.5))
        module.weight.copy_(uniform(n, 0.5, 1.5))
        module.bias.copy_(uniform(n, drive - 0.3, drive + 0.3))

    hooks = [m.register_forward_hook(scale) for m in weight_layers_of(model).values()]
    hooks += [m.register_forward_pre_hook(centre) for m in norms_of(model).values()]
    model(x)
    for hook in hooks:
        hook.remove()
    functional.reset_net(model)
    return model


def channels(module: nn.Module, dims: int) -> int:
    """The axis of the channels. In step mode m, a tensor has its time steps in front."""
    if isinstance(module, nn.Linear):
        return dims - 1
    return 2 if isinstance(module, base.StepModule) and module.step_mode == "m" else 1


def draw_images(n: int, steps: int | None, size: int = 32) -> Tensor:
    """Seeded images [n, 3, size, size], or [steps, n, 3, size, size] with a new noise each step.

    Sample i is the same for every n.
    """
    samples = []
    for i in range(n):
        draw = torch.Generator().manual_seed(1000 + i)
        image = F.interpolate(torch.randn(1, 3, 8, 8, generator=draw), size, mode="bilinear")[0]
        if steps is None:
            samples.append(image + 0.3 * torch.randn(3, size, size, generator=draw))
        else:
            samples.append(image + 0.3 * torch.randn(steps, 3, size, size, generator=draw))
    return torch.stack(samples, dim=0 if steps is None else 1)


def build_firing(
    make: Callable[[], nn.Module], inputs: Callable[[int], Tensor], drive: float
) -> nn.Module:
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        model = make()
    return settle(model, inputs(4), drive)
