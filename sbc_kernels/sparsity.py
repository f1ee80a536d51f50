"""Which weights may go: unstructured sparsity or N:M."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

import numpy as np
from array_api_compat import array_namespace, device

__all__ = ["Pattern", "parse_sparsity"]


@dataclass(frozen=True)
class Pattern:
    """Unstructured (``of_m = 0``, a fraction ``sparsity`` goes) or N:M (``keep_n`` of every ``of_m``
    consecutive inputs are KEPT)."""

    sparsity: float
    keep_n: int = 0
    of_m: int = 0

    def num_pruned(self, size: int) -> int:
        """Of ``size`` weights, to the nearest."""
        return math.floor(self.sparsity * size + 0.5)

    def require_fits(self, shape: tuple[int, ...]) -> None:
        if self.of_m and shape[1] % self.of_m:
            raise ValueError(
                f"sparsity is '{self.keep_n}:{self.of_m}' and d_in is {shape[1]}; accepted is an M "
                "that divides d_in"
            )

    def __str__(self) -> str:
        return f"{self.keep_n}:{self.of_m}" if self.of_m else f"{100 * self.sparsity:g} %"


def parse_sparsity(sparsity: float | str) -> Pattern:
    """0..1 is the fraction of weights to prune; "N:M" keeps N of every M consecutive inputs.

    Raises
    ------
    TypeError, ValueError : naming what came and what is accepted.
    """
    accepted = "a number in 0..1, or 'N:M' with 0 <= N <= M and M >= 1 (N of every M are kept)"
    if isinstance(sparsity, str):
        match = re.fullmatch(r"\s*(\d+)\s*:\s*(\d+)\s*", sparsity)
        keep_n, of_m = (int(match[1]), int(match[2])) if match else (1, 0)
        if keep_n > of_m or of_m < 1:
            raise ValueError(f"sparsity is {sparsity!r}; accepted is {accepted}")
        return Pattern(1.0 - keep_n / of_m, keep_n, of_m)
    if isinstance(sparsity, bool) or not isinstance(
        sparsity, (int, float, np.floating, np.integer)
    ):
        raise TypeError(f"sparsity is a {type(sparsity).__name__}; accepted is {accepted}")
    if not 0.0 <= sparsity <= 1.0:
        raise ValueError(f"sparsity is {sparsity!r}; accepted is {accepted}")
    return Pattern(float(sparsity))


def prune_least(scores: Any, pattern: Pattern) -> Any:
    """Mask, True = kept, that prunes the least scores [d_out, d_in]; ties go to the earlier one."""
    xp = array_namespace(scores)
    rows, d = scores.shape
    if pattern.of_m:
        grouped = xp.reshape(scores, (rows, d // pattern.of_m, pattern.of_m))
        rank = xp.argsort(xp.argsort(grouped, axis=2, stable=True), axis=2, stable=True)
        return xp.reshape(rank >= pattern.of_m - pattern.keep_n, (rows, d))
    kept = xp.ones(rows * d, dtype=xp.bool, device=device(scores))
    ranked = xp.argsort(xp.reshape(scores, (-1,)), stable=True)
    kept[ranked[: pattern.num_pruned(rows * d)]] = False
    return xp.reshape(kept, (rows, d))
