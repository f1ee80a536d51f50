"""How much of each layer is pruned: the rules that share one sparsity out over a network.

A rule is one file here and one line in `ALLOCATIONS`; one of your own is registered by adding it to the
dictionary before `compress_model` is called.
"""

from __future__ import annotations

from .lamp import lamp
from .measured import measured
from .rule import Rule, Shares, Trial
from .uniform import uniform

__all__ = ["ALLOCATIONS", "Rule", "Shares", "Trial"]

ALLOCATIONS: dict[str, Rule] = {
    "uniform": Rule(uniform, "the same in every layer", takes_pattern=True),
    "lamp": Rule(lamp, "one threshold on LAMP's scores of all weights (arXiv 2010.07611)"),
    "measured": Rule(
        measured,
        "by what the network's output loses, measured on the calibration data",
        expensive=True,
    ),
}
