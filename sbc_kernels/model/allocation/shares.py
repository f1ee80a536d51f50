"""How much of each layer goes: one budget for the network, shared out over its layers."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["cheapest", "lamp"]

_UNITS = 4096  # of the budget, in the dynamic programme


def lamp(weights: dict[str, NDArray[np.float64]], sparsity: float) -> dict[str, float]:
    """Sparsities by LAMP (Lee et al., arXiv 2010.07611): one threshold on
    ``w^2 / sum of the squares that are at least as large in its layer``."""
    scores = []
    for weight in weights.values():
        square = np.sort(weight.ravel() ** 2)
        left = np.cumsum(square[::-1])[::-1]
        scores.append(square / np.where(left > 0, left, 1.0))
    every = np.concatenate(scores)
    pruned = math.floor(sparsity * every.size + 0.5)
    chosen = np.zeros(every.size, dtype=bool)
    chosen[np.argsort(every, kind="stable")[:pruned]] = True
    found, at = {}, 0
    for name, score in zip(weights, scores, strict=True):
        found[name] = float(chosen[at : at + score.size].mean())
        at += score.size
    return found


def cheapest(
    sizes: Sequence[int],
    costs: Sequence[NDArray[np.float64]],
    densities: Sequence[NDArray[np.float64]],
    density: float,
) -> list[float]:
    """The density of each layer that costs the network least, by dynamic programming.

    Parameters
    ----------
    sizes : weights of each layer.
    densities, costs : of each layer, [options] rising densities and what each costs the network.
    density : of all layers together that may be kept.

    Returns
    -------
    Densities, one a layer. What the coarse grid of the programme leaves over goes to all layers alike.
    """
    budget = density * sum(sizes)
    unit = budget / _UNITS
    best = np.zeros(_UNITS + 1)
    choices: list[NDArray[np.intp]] = []
    for size, cost, options in zip(sizes, costs, densities, strict=True):
        taken = [max(math.ceil(size * option / unit - 1e-9), 0) for option in options]
        tries = np.full((len(options), _UNITS + 1), np.inf)
        for i, (units, price) in enumerate(zip(taken, cost, strict=True)):
            if units <= _UNITS:
                tries[i, units:] = best[: _UNITS + 1 - units] + price
        choices.append(tries.argmin(axis=0))
        best = tries.min(axis=0)
    if not np.isfinite(best[-1]):
        raise ValueError(f"no choice of densities keeps {density:g} of all weights or less")
    found, left = [], _UNITS
    for size, options, choice in zip(
        reversed(sizes), reversed(densities), reversed(choices), strict=True
    ):
        option = float(options[choice[left]])
        found.append(option)
        left -= max(math.ceil(size * option / unit - 1e-9), 0)
    found.reverse()
    kept = sum(size * option for size, option in zip(sizes, found, strict=True))
    return [min(1.0, option * budget / kept) if kept > 0 else option for option in found]
