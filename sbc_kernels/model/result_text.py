"""A compressed model's layers as a table for a terminal."""

from __future__ import annotations

import math
from collections.abc import Sequence

from .record import LayerRecord
from .text_table import text_table

__all__ = ["result_table"]

_COLUMNS = ("layer", "weight", "sparsity", "bits", "error", "damping", "dead", "seconds")


def result_table(layers: Sequence[LayerRecord], sparsity: float, seconds: float) -> str:
    """Returns one line a layer, and a last line about all of them.

    Parameters
    ----------
    layers : what became of each.
    sparsity : fraction of exact zeros over all layers.
    seconds : of the whole run.
    """
    lines = text_table(_COLUMNS, [_row(layer) for layer in layers], left=(0, 1))
    size = sum(math.prod(layer.shape) for layer in layers)
    lines.append(f"{100 * sparsity:.2f} % of {size:,} weights are zero; {seconds:.1f} s")
    return "\n".join(lines)


def _row(layer: LayerRecord) -> tuple[str, ...]:
    return (
        layer.name,
        "x".join(map(str, layer.shape)),
        f"{100 * layer.sparsity:.2f} %",
        str(layer.bits or ""),
        f"{100 * layer.relative_error:.2f} %",
        f"{layer.damp_percent:g}" + (f" ({layer.retries})" if layer.retries else ""),
        f"{layer.dead_inputs}/{layer.inputs}",
        f"{layer.seconds:.2f}",
    )
