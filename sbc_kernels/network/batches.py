"""Data as batches that can be run through a network again and again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from torch import Tensor

from ..errors import ParameterError, ParameterTypeError
from .copies import undisturbed


def reiterable(data: Any, parameter: str = "calibration") -> Iterable[Any]:
    """Returns the data as batches that can be iterated several times.

    Parameters
    ----------
    data : a tensor, which is one batch, or an iterable of batches that is no iterator.
    parameter : the name that the user knows the data by.

    Raises
    ------
    ParameterTypeError : for anything else.
    """
    if isinstance(data, Tensor):
        return [data]
    if isinstance(data, tuple) and data and isinstance(data[0], Tensor):
        raise ParameterTypeError(
            parameter, data, "a list of batches", shown="a tuple of tensors, one batch or several"
        )
    if isinstance(data, (str, bytes, Mapping)) or not isinstance(data, Iterable):
        accepted = "a tensor, a list of batches or a DataLoader"
        raise ParameterTypeError(parameter, data, accepted, shown=f"a {type(data).__name__}")
    if isinstance(data, Iterator):
        raise ParameterTypeError(
            parameter,
            data,
            "a list of batches or a DataLoader",
            shown=f"a {type(data).__name__}, which can be iterated only once",
        )
    return data


def first_batch(batches: Iterable[Any], parameter: str = "calibration") -> Any:
    """Returns the first batch, drawn with the same random numbers each time.

    Raises
    ------
    ParameterError : a ValueError; there is none.
    """
    with undisturbed():
        for batch in batches:
            return batch
    raise ParameterError(parameter, batches, "at least one batch", shown="empty")
