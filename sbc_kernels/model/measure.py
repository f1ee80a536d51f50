"""What the network loses by each layer at several sparsities, measured on the calibration data."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ..layer import PreparedLayer
from ..pattern import parse_sparsity
from .allocate import cheapest
from .feed import Feeder
from .plan import PlannedLayer
from .provenance import tensors_in

if TYPE_CHECKING:
    from .compress import _Run

# Densities to measure, relative to the network's, and steps between them for the programme to choose
# from: between two measurements the logarithm of the loss is taken as linear in that of the density.
_RELATIVE = (0.125, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 4.0, 8.0)
_STEPS = 97


def measured(
    run: _Run, layers: dict[str, PlannedLayer], sparsity: float
) -> tuple[dict[str, float], list[str]]:
    """The sparsity of each layer, and notes."""
    density = 1.0 - sparsity
    if density <= 0.0 or density >= 1.0:
        return dict.fromkeys(layers, sparsity), ["nothing to share out"]
    tried = np.array(sorted({min(d * density, 1.0) for d in _RELATIVE}))
    outputs: list[list[Tensor]] = []
    trial = copy.deepcopy(run.dense)
    feeder = Feeder(trial, run.batches, run.forward)
    feeder.run({}, {}, lambda output: outputs.append(_kept(output)))
    modules = dict(trial.named_modules())
    losses: dict[str, list[float]] = {}
    bar = run.bars.task("measuring layers", len(layers) * len(tried))
    waiting = [name for group in run.plan.groups(run.settings.max_memory) for name in
               [[layer.name for layer in group if layer.name in layers]]]  # fmt: skip
    for names in waiting:
        for name, moments in run.gather(names):
            weight = modules[name].weight
            before = weight.detach().clone()
            prepared = PreparedLayer(before, moments.hessian, run.scale(name)[0])
            options = run.settings.options(layers[name].options, sparsity)
            losses[name] = []
            for kept in tried:
                pattern = parse_sparsity(float(1.0 - kept))
                out = prepared.compress(replace(options, pattern=pattern))
                with torch.no_grad():
                    weight.copy_(out.weight)
                losses[name].append(_divergence(feeder, outputs))
                bar()
            with torch.no_grad():
                weight.copy_(before)
    fine = np.geomspace(tried[0], tried[-1], _STEPS)
    floor = 1e-12
    costs = [
        np.exp(np.interp(np.log(fine), np.log(tried), np.log(np.maximum(losses[name], floor))))
        for name in layers
    ]
    sizes = [layer.size for layer in layers.values()]
    shares = cheapest(sizes, costs, [fine] * len(sizes), density)
    return {name: 1.0 - share for name, share in zip(layers, shares, strict=True)}, []


def _kept(output: Any) -> list[Tensor]:
    return [tensor.detach().clone() for tensor in tensors_in(output) if tensor.is_floating_point()]


def _divergence(feeder: Feeder, dense: list[list[Tensor]]) -> float:
    """Squared error of the outputs over their variance, all batches and outputs together."""
    wrong = energy = 0.0
    index = 0

    def compare(output: Any) -> None:
        nonlocal wrong, energy, index
        for now, then in zip(_kept(output), dense[index], strict=True):
            wrong += float((now.double() - then.double()).square().sum())
            energy += float((then.double() - then.double().mean()).square().sum())
        index += 1

    feeder.run({}, {}, compare)
    return wrong / energy if energy > 0 else wrong
