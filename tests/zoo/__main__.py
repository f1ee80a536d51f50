"""Checks the tables against the models."""

from __future__ import annotations

from typing import Any

import torch
from spikingjelly.activation_based import functional, neuron
from torch import Tensor, nn

from .cases import CASES
from .spikingjelly_networks import build_sew_resnet152, sew_resnet152_layers
from .tables import NORMS, Entry, Table, draw_images, neurons_of, norms_of, weight_layers_of


@torch.no_grad()
def firing_rates(model: nn.Module, x: Tensor) -> dict[str, float]:
    rates: dict[str, float] = {}
    hooks = [
        m.register_forward_hook(
            lambda _m, _x, y, name=name: rates.update({name: float((y != 0).float().mean())})
        )
        for name, m in neurons_of(model).items()
    ]
    output = model(x)
    for hook in hooks:
        hook.remove()
    functional.reset_net(model)
    assert bool(torch.isfinite(output).all())
    return rates


@torch.no_grad()
def traced_layers(model: nn.Module, x: Tensor) -> Table:
    """The same table by experiment: which neurons' inputs move when one layer's weights do.

    All neurons' outputs are frozen at what they were, so only those fed without a neuron between
    move. For the norms, the other weight layers' outputs are frozen too.
    """
    weights, neurons, norms = weight_layers_of(model), neurons_of(model), norms_of(model)
    names = {m: name for group in (weights, neurons, norms) for name, m in group.items()}
    outputs: dict[str, Tensor] = {}
    inputs: dict[str, Tensor] = {}
    order: list[str] = []
    freeze: set[str] = set()

    def before(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        inputs[names[module]] = args[0].clone()
        order.append(names[module])

    def after(module: nn.Module, _: Any, output: Tensor) -> Tensor | None:
        if names[module] in freeze:
            return outputs[names[module]].clone()
        outputs[names[module]] = output.clone()
        return None

    def run() -> dict[str, Tensor]:
        inputs.clear()
        order.clear()
        inputs[""] = model(x)
        functional.reset_net(model)
        return dict(inputs)

    hooks = [m.register_forward_pre_hook(before) for m in names]
    hooks += [m.register_forward_hook(after) for m in names]
    plain = run()
    for name in names.values():
        assert order.count(name) == 1, f"{name} runs {order.count(name)} times"
    fixed, table = dict(outputs), {}
    draw = torch.Generator().manual_seed(2)
    for name, module in weights.items():
        kept: Tensor = module.weight.clone()
        module.weight += 0.1 * torch.randn(kept.shape, generator=draw)
        outputs = dict(fixed)
        freeze = set(neurons)
        moved = {n for n, value in run().items() if not torch.equal(value, plain[n])}
        outputs = dict(fixed)
        freeze = set(neurons) | set(weights) - {name}
        close = {n for n, value in run().items() if not torch.equal(value, plain[n])}
        module.weight.copy_(kept)
        consumers = frozenset(moved & set(neurons))
        assert consumers or "" in moved, f"{name} changes nothing"
        assert not consumers or "" not in moved, f"{name} also reaches the output"
        table[name] = Entry(tuple(n for n in order if n in close and n in norms), consumers)
    for hook in hooks:
        hook.remove()
    return table


def check(name: str, model: nn.Module, x: Tensor, layers: Table) -> None:
    modules = dict(model.named_modules())
    assert layers.keys() == weight_layers_of(model).keys()
    for entry in layers.values():
        assert all(isinstance(modules[n], NORMS) for n in entry.norms)
        assert all(isinstance(modules[n], neuron.BaseNode) for n in entry.consumers)
    rates = firing_rates(model, x)
    low, high = min(rates, key=lambda n: rates[n]), max(rates, key=lambda n: rates[n])
    print(
        f"{name}: {len(layers)} layers, {len(rates)} neurons firing at {rates[low]:.1%} ({low}) "
        f"to {rates[high]:.1%} ({high})"
    )
    assert rates[low] > 0.01, f"{low} is silent"
    assert rates[high] < 0.9, f"{high} never rests"
    traced = traced_layers(model, x)
    for layer_name, entry in layers.items():
        assert traced[layer_name] == entry, f"{layer_name}: {traced[layer_name]}, not {entry}"


if __name__ == "__main__":
    torch.set_num_threads(1)
    for each in CASES:
        check(each.name, each.build(), each.inputs(3), each.layers)
    images = draw_images(1, 4, 64)
    check("sew_resnet152", build_sew_resnet152(4), images, sew_resnet152_layers())
