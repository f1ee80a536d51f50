"""What the network loses by each layer at several sparsities, measured on the calibration data."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...layer import PreparedLayer
from ...network.copies import copy_of
from ...network.tensors import tensors_in
from ...network.watch import watching
from ...sparsity import parse_sparsity
from ..norms import reestimate
from ..passes import Feeder
from ..plan import PlannedLayer
from .shares import cheapest

if TYPE_CHECKING:
    from ..run import Run

# Densities to measure, relative to the network's; beside these a few absolute ones up to 1, for small
# layers that are cheap to keep. The programme chooses from many more: between two measurements the
# logarithm of the loss is taken as linear in that of the density.
_RELATIVE = (0.125, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 4.0)
_ABSOLUTE = (0.3, 0.5, 0.75)
_STEPS = 129
_TRIALS = 24  # of the whole network, with weights moved from layer to layer
_FACTORS = (1.4, 1.2)  # by which a layer's density is raised or lowered, coarse first
_FLOOR = 1e-4  # of the largest loss: below that a measurement is noise


def measured(
    run: Run, layers: dict[str, PlannedLayer], sparsity: float, lamp: dict[str, float]
) -> tuple[dict[str, float], list[str]]:
    """The sparsity of each layer, and notes.

    What the programme finds rests on each layer's loss by itself. So the network is compressed with its
    answer, with LAMP's and with one between the two; the one whose outputs are nearest to the dense
    model's is taken, and bettered by moving weights from layer to layer for as long as that brings the
    outputs nearer: some `_TRIALS` compressions of the network. The notes say how near each came.
    """
    density = 1.0 - sparsity
    if density <= 0.0 or density >= 1.0:
        return dict.fromkeys(layers, sparsity), ["nothing to share out"]
    trial = _Trial(run)
    known, losses = _losses_alone(run, trial, layers, sparsity)
    sizes = {name: layer.size for name, layer in layers.items()}
    kept = _cheapest(known, losses, sizes, density)
    middle = {name: (kept[name] * (1.0 - lamp[name])) ** 0.5 for name in layers}
    candidates = {
        "measured": {name: 1.0 - share for name, share in kept.items()},
        "lamp": lamp,
        "between": _scaled_to(middle, sizes, density),
    }
    nearness = {name: trial.distance(shares) for name, shares in candidates.items()}
    best = min(nearness, key=lambda name: nearness[name])
    # Where much is lost there is much to gain: those layers first.
    order = sorted(layers, key=lambda name: -float(np.interp(kept[name], known, losses[name])))
    shares, error = _exchange(trial, candidates[best], nearness[best], sizes, density, order)
    told = ", ".join(f"{name} {value:.4g}" for name, value in nearness.items())
    notes = [
        f"allocation: relative squared error of the outputs: {told}; {best!r} is taken, and bettered "
        f"to {error:.4g}"
    ]
    for name in layers:
        pairs = zip(known, losses[name], strict=True)
        notes.append(f"measured {name}: " + ", ".join(f"{d:.3g}: {v:.3g}" for d, v in pairs))
    return shares, notes


def _losses_alone(
    run: Run, trial: _Trial, layers: dict[str, PlannedLayer], sparsity: float
) -> tuple[NDArray[np.float64], dict[str, NDArray[np.float64]]]:
    """Densities, and by layer what the network loses when that layer alone is pruned to each."""
    tried = _densities(1.0 - sparsity)
    bar = run.bars.task("measuring layers", len(layers) * len(tried))
    losses = {}
    for group in run.plan.groups(run.settings.max_memory):
        for name, moments in run.gather([layer.name for layer in group if layer.name in layers]):
            weight = trial.modules[name].weight.detach().clone()
            prepared = PreparedLayer(
                weight, moments.hessian, run.scale(name)[0], backend=run.settings.backend
            )
            options = run.settings.options(layers[name].options, sparsity)
            found = []
            for density in tried:
                pattern = parse_sparsity(float(1.0 - density))
                out = prepared.compress(replace(options, pattern=pattern))
                found.append(trial.loss(name, out.weight))
                bar()
            losses[name] = np.array([*found, 0.0])
    return np.array([*tried, 1.0]), losses


def _cheapest(
    known: NDArray[np.float64],
    losses: dict[str, NDArray[np.float64]],
    sizes: dict[str, int],
    density: float,
) -> dict[str, float]:
    """The densities with the least sum of losses, each layer's taken by itself."""
    fine = np.geomspace(known[0], 1.0, _STEPS)
    floor = _FLOOR * max(float(loss.max()) for loss in losses.values())
    costs = [
        np.exp(np.interp(np.log(fine), np.log(known), np.log(np.maximum(losses[name], floor))))
        for name in sizes
    ]
    found = cheapest(list(sizes.values()), costs, [fine] * len(sizes), density)
    return dict(zip(sizes, found, strict=True))


def _exchange(
    trial: _Trial,
    shares: dict[str, float],
    error: float,
    sizes: dict[str, int],
    density: float,
    order: list[str],
) -> tuple[dict[str, float], float]:
    """Gives a layer more weights or fewer at all others' cost; keeps what brings the outputs nearer."""
    left = _TRIALS
    for factor in _FACTORS:
        for name in order:
            for step in (factor, 1.0 / factor):
                kept = {n: 1.0 - share for n, share in shares.items()}
                mine = min(1.0, kept[name] * step)
                rest = {n: size for n, size in sizes.items() if n != name}
                room = density * sum(sizes.values()) - mine * sizes[name]
                if left == 0 or mine == kept[name] or not rest or room <= 0:
                    continue
                others = _scaled_to({n: kept[n] for n in rest}, rest, room / sum(rest.values()))
                left -= 1
                tried = {n: others.get(n, 1.0 - mine) for n in shares}
                now = trial.distance(tried)
                if now < error:
                    shares, error = tried, now
                    break
    return shares, error


def _scaled_to(kept: dict[str, float], sizes: dict[str, int], density: float) -> dict[str, float]:
    """Sparsities whose densities are proportional to `kept`, none above 1, and together as asked."""
    low, high = 0.0, 1.0 / max(min(kept.values()), 1e-9)
    for _ in range(60):
        factor = (low + high) / 2
        total = sum(min(1.0, factor * kept[name]) * size for name, size in sizes.items())
        low, high = (low, factor) if total > density * sum(sizes.values()) else (factor, high)
    return {name: 1.0 - min(1.0, low * share) for name, share in kept.items()}


def _densities(density: float) -> NDArray[np.float64]:
    """Rising, below 1, none much nearer to the next than the others."""
    wanted = sorted([r * density for r in _RELATIVE] + [a for a in _ABSOLUTE if a > 4.5 * density])
    return np.array([d for d in wanted if d < 0.97])


class _Trial:
    """The dense model with one layer changed at a time."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.model = copy_of(run.dense)
        self.modules: dict[str, Any] = dict(self.model.named_modules())
        self.feeder = Feeder(self.model, run.batches, run.forward, run.plan.neuron_steps)
        self.outputs: list[list[Tensor]] = []
        run.watch_dense_norms()
        self.feeder.run({}, {}, lambda output: self.outputs.append(_kept(output)))

    def loss(self, name: str, weight: Tensor) -> float:
        """Squared error of the outputs over their variance, with this weight in the layer's place.

        Its BatchNorms follow, as they will in the compressed model.
        """
        module = self.modules[name]
        norms = {n: self.modules[n] for n in self.run.moving_norms(name)}
        before = [
            (tensor, tensor.detach().clone())
            for tensor in (
                module.weight,
                *(t for norm in norms.values() for t in (norm.running_mean, norm.running_var)),
            )
        ]
        with torch.no_grad():
            module.weight.copy_(weight)
        try:
            if norms:
                calls = {n: self.run.norm_calls[n] for n in norms}
                with watching(norms, calls) as after:
                    self.feeder.run({}, {}, lambda output: None)
                for n, norm in norms.items():
                    reestimate(norm, self.run.before[n], after[n])
            return self._error(self.feeder)
        finally:
            with torch.no_grad():
                for tensor, value in before:
                    tensor.copy_(value)

    def distance(self, shares: dict[str, float]) -> float:
        """The same for the whole network, compressed with these sparsities."""
        work = self.run.tried_with(shares)
        run = self.run
        return self._error(Feeder(work, run.batches, run.forward, run.plan.neuron_steps))

    def _error(self, feeder: Feeder) -> float:
        wrong = energy = 0.0
        expected = iter(self.outputs)

        def compare(output: Any) -> None:
            nonlocal wrong, energy
            for now, then in zip(_kept(output), next(expected), strict=True):
                wrong += float((now.double() - then.double()).square().sum())
                energy += float((then.double() - then.double().mean()).square().sum())

        feeder.run({}, {}, compare)
        return wrong / energy if energy > 0 else wrong


def _kept(output: Any) -> list[Tensor]:
    return [tensor.detach().clone() for tensor in tensors_in(output) if tensor.is_floating_point()]
