"""The rule that gives every layer the sparsity of the network."""

from __future__ import annotations

from .rule import Shares, Trial


def uniform(trial: Trial, sparsity: float) -> Shares:
    """Returns the sparsity of the network for every layer."""
    return Shares(dict.fromkeys(trial.sizes, sparsity), [])
