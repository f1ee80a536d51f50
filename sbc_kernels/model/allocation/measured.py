"""Shares by the error of the network's output, measured on the calibration data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .lamp import lamp
from .programme import cheapest_densities
from .rule import Shares, Trial

Curves = Mapping[str, NDArray[np.float64]]  # by layer, a loss at each density

# Densities to measure, relative to the network's; beside these a few absolute ones up to 1, for small
# layers that are cheap to keep. The programme chooses from many more: between two measurements the
# logarithm of the loss is taken as linear in that of the density.
_RELATIVE = (0.125, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 4.0)
_ABSOLUTE = (0.3, 0.5, 0.75)
_STEPS = 129
_TRIALS = 24  # compressions of the whole network, with weights moved from layer to layer
_FACTORS = (1.4, 1.2)  # by which a layer's density is raised or lowered, coarse first
_FLOOR = 1e-4  # of the largest loss: below that a measurement is noise


def measured(trial: Trial, sparsity: float) -> Shares:
    """Shares whose network is nearest to the dense one among some `_TRIALS` compressions.

    A dynamic programme takes the cheapest densities by each layer's loss on its own. The network is
    compressed with the programme's answer, with LAMP's, and with their geometric mean; the one whose
    outputs are nearest to the dense model's is refined by moving weights from layer to layer for as
    long as that brings the outputs nearer. The notes give each distance and each measured loss.
    """
    sizes, density = trial.sizes, 1.0 - sparsity
    if density <= 0.0 or density >= 1.0:
        return Shares(dict.fromkeys(sizes, sparsity), ["nothing to share out"])
    densities, losses = _losses_alone(trial, density)
    cheapest = _cheapest(densities, losses, sizes, density)
    by_lamp = lamp(trial, sparsity).sparsities
    middle = {name: (cheapest[name] * (1.0 - by_lamp[name])) ** 0.5 for name in sizes}
    candidates = {
        "measured": {name: 1.0 - share for name, share in cheapest.items()},
        "lamp": by_lamp,
        "between": _scaled_to(middle, sizes, density),
    }
    distances = {name: trial.distance(shares) for name, shares in candidates.items()}
    best = min(distances, key=lambda name: distances[name])
    # Layers with the largest losses come first, since they have the most to gain.
    order = sorted(
        sizes, key=lambda name: -float(np.interp(cheapest[name], densities, losses[name]))
    )
    shares, error = _exchange(trial, candidates[best], distances[best], density, order)
    compared = ", ".join(f"{name} {value:.4g}" for name, value in distances.items())
    notes = [
        f"allocation: relative squared error of the outputs: {compared}; {best!r} is taken, and "
        f"refined to {error:.4g}"
    ]
    for name in sizes:
        pairs = zip(densities, losses[name], strict=True)
        notes.append(f"measured {name}: " + ", ".join(f"{d:.3g}: {v:.3g}" for d, v in pairs))
    return Shares(shares, notes)


def _losses_alone(
    trial: Trial, density: float
) -> tuple[NDArray[np.float64], dict[str, NDArray[np.float64]]]:
    """Returns densities, and by layer the network's loss when that layer alone is pruned to each."""
    densities = _densities(density)
    step = trial.progress("measuring layers", len(trial.sizes) * len(densities))
    losses = {}
    for name, prune in trial.prunings():
        curve = []
        for share in (float(1.0 - fraction) for fraction in densities):

            def measure(name: str = name, prune: Any = prune, share: float = share) -> float:
                return trial.loss(name, prune(share))

            curve.append(trial.known(["loss", name, share.hex()], measure))
            step()
        losses[name] = np.array([*curve, 0.0])
    return np.array([*densities, 1.0]), losses


def _cheapest(
    densities: NDArray[np.float64], losses: Curves, sizes: Mapping[str, int], density: float
) -> dict[str, float]:
    """Returns the densities with the least sum of losses, each measured for one layer alone."""
    fine = np.geomspace(densities[0], 1.0, _STEPS)
    highest = max(float(loss.max()) for loss in losses.values())
    floor = max(
        _FLOOR * highest, float(np.finfo(np.float64).tiny)
    )  # of a silent network: no log of 0
    costs = [
        np.exp(np.interp(np.log(fine), np.log(densities), np.log(np.maximum(losses[name], floor))))
        for name in sizes
    ]
    cheapest = cheapest_densities(list(sizes.values()), costs, [fine] * len(sizes), density)
    return dict(zip(sizes, cheapest, strict=True))


def _exchange(
    trial: Trial, shares: dict[str, float], error: float, density: float, order: list[str]
) -> tuple[dict[str, float], float]:
    """Moves weights between one layer and all others, and keeps moves that reduce the error."""
    sizes, remaining = trial.sizes, _TRIALS
    for factor in _FACTORS:
        for name in order:
            for step in (factor, 1.0 / factor):
                density_of = {n: 1.0 - share for n, share in shares.items()}
                own = min(1.0, density_of[name] * step)
                rest = {n: size for n, size in sizes.items() if n != name}
                room = density * sum(sizes.values()) - own * sizes[name]
                if remaining == 0 or own == density_of[name] or not rest or room <= 0:
                    continue
                others = _scaled_to(
                    {n: density_of[n] for n in rest}, rest, room / sum(rest.values())
                )
                remaining -= 1
                moved = {n: others.get(n, 1.0 - own) for n in shares}
                distance = trial.distance(moved)
                if distance < error:
                    shares, error = moved, distance
                    break
    return shares, error


def _scaled_to(
    proportions: Mapping[str, float], sizes: Mapping[str, int], density: float
) -> dict[str, float]:
    """Returns sparsities whose densities are in these proportions, none above 1, `density` in total."""
    low, high = 0.0, 1.0 / max(min(proportions.values()), 1e-9)
    for _ in range(60):
        factor = (low + high) / 2
        total = sum(min(1.0, factor * proportions[name]) * size for name, size in sizes.items())
        low, high = (low, factor) if total > density * sum(sizes.values()) else (factor, high)
    return {name: 1.0 - min(1.0, low * share) for name, share in proportions.items()}


def _densities(density: float) -> NDArray[np.float64]:
    """Returns the densities to measure, rising and below 0.97."""
    candidates = sorted(
        [r * density for r in _RELATIVE] + [a for a in _ABSOLUTE if a > 4.5 * density]
    )
    return np.array([d for d in candidates if d < 0.97])
