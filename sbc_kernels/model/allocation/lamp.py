"""LAMP (Lee et al., arXiv 2010.07611): one threshold on normalized squares of all weights."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from .rule import Shares, Trial


def lamp(trial: Trial, sparsity: float) -> Shares:
    """LAMP's shares of the dense model's weights."""
    weights = {name: trial.weight(name) for name in trial.sizes}
    return Shares(lamp_sparsities(weights, sparsity), [])


def lamp_sparsities(
    weights: Mapping[str, NDArray[np.float64]], sparsity: float
) -> dict[str, float]:
    """Returns the sparsity of each layer when the weights with the least LAMP scores are pruned.

    A weight's score is ``w^2 / sum of the squares that are at least as large in its layer``; the
    fraction `sparsity` of all weights with the least scores is pruned, whichever layers they are in.
    """
    scores = []
    for weight in weights.values():
        square = np.sort(weight.ravel() ** 2)
        tail = np.cumsum(square[::-1])[::-1]
        scores.append(square / np.where(tail > 0, tail, 1.0))
    pooled = np.concatenate(scores) if scores else np.zeros(0)
    num_pruned = math.floor(sparsity * pooled.size + 0.5)
    pruned = np.zeros(pooled.size, dtype=bool)
    pruned[np.argsort(pooled, kind="stable")[:num_pruned]] = True
    ends = np.cumsum([score.size for score in scores])
    parts = np.split(pruned, ends[:-1]) if scores else []
    return {name: float(part.mean()) for name, part in zip(weights, parts, strict=True)}
