"""Baselines: prune the smallest weights, round to the nearest level; nothing is compensated."""

from __future__ import annotations

from typing import Any

from ..sparsity import prune_least
from .damping import Damping
from .options import LayerOptions, Method, Outcome, Use
from .rows import Rows, masked, may_stay, unflatten
from .sweep import fit_part, quantized_line


class Nearest(Method):
    """Weights go by their own size, and to their own nearest level."""

    baseline = True

    def compress(
        self, parts: list[Rows], order: Any, options: LayerOptions, log: list[str]
    ) -> Outcome:
        if options.pattern is not None:
            _prune(parts, options, log)
        else:
            for part in parts:
                part.mask = part.kept
        if options.bits is not None:
            for part in parts:
                part.grid = fit_part(part, options, weighted=False)
                part.codes, part.result = part.grid.round(part.result)
                if part.mask is not None:
                    part.result = masked(part.mask, part.result)
            log.append(quantized_line(options) + ", rounded to nearest")
        return Outcome(Damping(options.damp_percent))


class Magnitude(Nearest):
    doc = "baseline, prunes the smallest weights and rounds to nearest"
    sparsity = Use.REQUIRED


class RoundToNearest(Nearest):
    doc = "baseline, rounds to nearest"
    sparsity = Use.NEVER
    bits = Use.REQUIRED


def _prune(parts: list[Rows], options: LayerOptions, log: list[str]) -> None:
    """Prunes by magnitude, with one quota for all groups of a layer."""
    pattern, xp = options.pattern, parts[0].xp
    assert pattern is not None
    kept = prune_least(xp.concat([part.sizes() for part in parts]), pattern)
    masks = unflatten(xp.reshape(kept, (-1,)), [part.weight for part in parts])
    for part, mask in zip(parts, masks, strict=True):
        part.mask = may_stay(mask, part)
        part.result = masked(part.mask, part.weight)
    log.append(f"pruned {pattern} by magnitude, weights not updated")
