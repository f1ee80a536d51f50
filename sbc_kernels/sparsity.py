"""Sparsity patterns: which weights of a layer may be pruned, unstructured or N:M."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

from array_api_compat import array_namespace, device

from .errors import ParameterError, ParameterTypeError
from .scalars import as_number

__all__ = ["Pattern", "parse_sparsity"]


@dataclass(frozen=True)
class Pattern:
    """A parsed sparsity.

    Attributes
    ----------
    sparsity : fraction of the weights to prune, 0..1.
    keep_n, of_m : of every `of_m` consecutive inputs of a row, `keep_n` are KEPT. Both are 0 where the
        sparsity is unstructured.
    """

    sparsity: float
    keep_n: int = 0
    of_m: int = 0

    def num_pruned(self, size: int) -> int:
        """Returns how many of `size` weights are pruned, rounded to the nearest integer."""
        return math.floor(self.sparsity * size + 0.5)

    def require_fits(self, shape: tuple[int, ...]) -> None:
        """Raises ParameterError where M does not divide the d_in of a weight ``[d_out, d_in]``."""
        if self.of_m and shape[1] % self.of_m:
            raise ParameterError(
                "sparsity",
                f"{self.keep_n}:{self.of_m}",
                "an M that divides d_in",
                shown=f"'{self.keep_n}:{self.of_m}' and d_in is {shape[1]}",
            )

    def __str__(self) -> str:
        return f"{self.keep_n}:{self.of_m}" if self.of_m else f"{100 * self.sparsity:g} %"


def parse_sparsity(sparsity: float | str) -> Pattern:
    """Parses the parameter `sparsity`.

    Parameters
    ----------
    sparsity : the fraction of weights to prune, a number in 0..1; or "N:M", which keeps N of every M
        consecutive inputs.

    Raises
    ------
    ParameterTypeError : it is neither a number nor a string.
    ParameterError : the number is outside 0..1, or the string is not "N:M" with N <= M.
    """
    accepted = "a number in 0..1, or 'N:M' with 0 <= N <= M and M >= 1 (N of every M are kept)"
    if isinstance(sparsity, str):
        match = re.fullmatch(r"\s*(\d+)\s*:\s*(\d+)\s*", sparsity)
        keep_n, of_m = (int(match[1]), int(match[2])) if match else (1, 0)
        if keep_n > of_m or of_m < 1:
            raise ParameterError("sparsity", sparsity, accepted)
        return Pattern(1.0 - keep_n / of_m, keep_n, of_m)
    fraction = as_number(sparsity)
    if fraction is None:
        raise ParameterTypeError(
            "sparsity", sparsity, accepted, shown=f"a {type(sparsity).__name__}"
        )
    if not 0.0 <= fraction <= 1.0:
        hint = f"; did you mean {fraction / 100:g}?" if 1.0 < fraction <= 100.0 else ""
        raise ParameterError("sparsity", sparsity, accepted + hint)
    return Pattern(float(fraction))


def prune_least(scores: Any, pattern: Pattern) -> Any:
    """Returns the mask that prunes the weights of the least scores; of equal ones, the earlier.

    Parameters
    ----------
    scores : [d_out, d_in], floating point, of any array library. NaN counts as the largest.
    pattern : with N:M, every group of M inputs is ranked by itself; otherwise the whole matrix is.

    Returns
    -------
    bool [d_out, d_in] on the device of `scores`, True where a weight is kept.
    """
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
