"""One budget shared out over layers at the least sum of costs, by dynamic programming."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["cheapest_densities"]

_UNITS = 4096  # of the budget


def cheapest_densities(
    sizes: Sequence[int],
    costs: Sequence[NDArray[np.float64]],
    densities: Sequence[NDArray[np.float64]],
    density: float,
) -> list[float]:
    """Returns the density of each layer with the least sum of costs.

    Parameters
    ----------
    sizes : number of weights of each layer.
    costs : for each layer, what each of its `densities` costs the network.
    densities : for each layer, the densities to choose from, rising.
    density : fraction of all weights together that may be kept.

    Returns
    -------
    One density a layer. The remainder that the programme's units of 1/4096 of the budget leave over
    goes to all layers in proportion.
    """
    budget = density * sum(sizes)
    unit = budget / _UNITS
    least = np.zeros(_UNITS + 1)
    choices: list[NDArray[np.intp]] = []
    for size, cost, options in zip(sizes, costs, densities, strict=True):
        needs = [max(math.ceil(size * option / unit - 1e-9), 0) for option in options]
        totals = np.full((len(options), _UNITS + 1), np.inf)
        for i, (units, price) in enumerate(zip(needs, cost, strict=True)):
            if units <= _UNITS:
                totals[i, units:] = least[: _UNITS + 1 - units] + price
        choices.append(totals.argmin(axis=0))
        least = totals.min(axis=0)
    if not np.isfinite(least[-1]):
        raise ValueError(f"no choice of densities keeps {density:g} of all weights or less")
    selection, remaining = [], _UNITS
    for size, options, choice in zip(
        reversed(sizes), reversed(densities), reversed(choices), strict=True
    ):
        option = float(options[choice[remaining]])
        selection.append(option)
        remaining -= max(math.ceil(size * option / unit - 1e-9), 0)
    selection.reverse()
    total = sum(size * option for size, option in zip(sizes, selection, strict=True))
    return [min(1.0, option * budget / total) if total > 0 else option for option in selection]
