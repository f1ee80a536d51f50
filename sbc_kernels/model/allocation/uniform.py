"""The rule that gives every layer the sparsity of the network."""

from __future__ import annotations

from .rule import Shares, Trial


def uniform(trial: Trial, sparsity: float) -> Shares:
    """Every layer gets the sparsity of the network."""
    return Shares(dict.fromkeys(trial.sizes, sparsity), [])
