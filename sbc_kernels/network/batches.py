"""Data as batches that can be run through a network again and again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from torch import Tensor

from .copies import undisturbed


def reiterable(data: Any, parameter: str = "calibration") -> Iterable[Any]:
    """Batches that can be iterated several times. A TypeError about `parameter` for anything else."""
    if isinstance(data, Tensor):
        return [data]
    if isinstance(data, tuple) and data and isinstance(data[0], Tensor):
        raise TypeError(
            f"{parameter} is a tuple of tensors, one batch or several; accepted is a list of batches"
        )
    if isinstance(data, (str, bytes, Mapping)) or not isinstance(data, Iterable):
        raise TypeError(
            f"{parameter} is a {type(data).__name__}; accepted is a tensor, a list of batches or a "
            "DataLoader"
        )
    if isinstance(data, Iterator):
        raise TypeError(
            f"{parameter} can be iterated only once; accepted is a list of batches or a DataLoader"
        )
    return data


def first_batch(batches: Iterable[Any], parameter: str = "calibration") -> Any:
    """The first batch, drawn with the same random numbers each time. ValueError where there is none."""
    with undisturbed():
        for batch in batches:
            return batch
    raise ValueError(f"{parameter} has no batch; accepted is at least one")
