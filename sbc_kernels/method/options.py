"""A layer's options, checked."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..sparsity import Pattern, parse_sparsity


@dataclass(frozen=True)
class Options:
    """What one group of rows is compressed with, checked."""

    pattern: Pattern | None
    bits: int | None
    method: str
    grid: str
    sym: bool
    group_size: int
    act_order: bool
    block_size: int
    damp_percent: float
    backend: str | None


METHODS = ("exact", "blocked", "magnitude", "rtn")


def checked_options(
    sparsity: float | str | None,
    bits: int | None,
    method: str,
    grid: str | None,
    sym: bool,
    group_size: int,
    act_order: bool | None,
    block_size: int,
    damp_percent: float,
    backend: str | None,
) -> Options:
    """`compress_layer`'s options, checked, with the defaults that depend on one another."""
    pattern = None if sparsity is None else parse_sparsity(sparsity)
    if bits is not None:
        integral = isinstance(bits, (int, np.integer)) and not isinstance(bits, bool)
        if not integral or not 1 <= bits <= 8:
            raise ValueError(f"bits is {bits!r}; accepted is an integer in 1..8, or None")
    if method not in METHODS:
        raise ValueError(f"method is {method!r}; accepted are {', '.join(METHODS)}")
    if method == "rtn" and (pattern is not None or bits is None):
        raise ValueError("method is 'rtn'; accepted with it is bits and no sparsity")
    if method == "magnitude" and pattern is None:
        raise ValueError("method is 'magnitude'; accepted with it is a sparsity")
    if grid not in (None, "mse", "absmax"):
        raise ValueError(f"grid is {grid!r}; accepted are 'mse' and 'absmax'")
    if not isinstance(block_size, (int, np.integer)) or block_size < 1:
        raise ValueError(f"block_size is {block_size!r}; accepted is an integer of at least 1")
    number = isinstance(damp_percent, (int, float)) and not isinstance(damp_percent, bool)
    if not number or not 0.0 <= damp_percent < np.inf:
        raise ValueError(f"damp_percent is {damp_percent!r}; accepted is a number of at least 0")
    natural = method == "blocked" and pattern is not None and pattern.of_m > 0
    if natural and act_order:
        raise ValueError(
            "act_order is True with method 'blocked' and an N:M pattern; accepted is False"
        )
    if natural and pattern is not None:
        block_size = -(-block_size // pattern.of_m) * pattern.of_m
    return Options(
        pattern=pattern,
        bits=None if bits is None else int(bits),
        method=method,
        grid=grid or ("absmax" if method in ("rtn", "magnitude") else "mse"),
        sym=bool(sym),
        group_size=group_size,
        act_order=not natural if act_order is None else bool(act_order),
        block_size=int(block_size),
        damp_percent=float(damp_percent),
        backend=backend,
    )
