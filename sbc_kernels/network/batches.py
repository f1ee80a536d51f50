"""Data as batches that can be run through a network again and again."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from ..errors import ParameterError, ParameterTypeError
from .copies import undisturbed
from .inputs import input_of
from .tensors import tensors_in

_MARKED = 1024  # values of a tensor that go into its mark
Mark = tuple[Any, ...]


def reiterable(data: Any, parameter: str = "calibration") -> Iterable[Any]:
    """Returns the data as batches that can be iterated several times.

    Parameters
    ----------
    data : a tensor, which is one batch, or an iterable of batches. An iterator is accepted if its class
        may start anew (see `example_of`), which generators and Python's own cannot.
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
    if isinstance(data, Generator) or (
        isinstance(data, Iterator) and type(data).__module__ in ("builtins", "itertools")
    ):
        raise _one_pass(parameter, data)
    generators = _generators_of(data)
    return _FromTheSameStates(data, generators) if generators else data


def _one_pass(parameter: str, data: object) -> ParameterError:
    """Returns the error about data that can be iterated only once."""
    over = ""
    if isinstance(data, DataLoader):
        over = f" over a {type(data.dataset).__name__}"
    return ParameterTypeError(
        parameter,
        data,
        "a list of batches or a DataLoader, which starts anew each time",
        shown=f"a {type(data).__name__}{over}, which can be iterated only once",
    )


def _generators_of(data: Any) -> list[torch.Generator]:
    """Returns the generators of a DataLoader's own, by which it shuffles."""
    if not isinstance(data, DataLoader):
        return []
    samplers = [
        data,
        data.sampler,
        data.batch_sampler,
        getattr(data.batch_sampler, "sampler", None),
    ]
    own = [getattr(place, "generator", None) for place in samplers]
    unique = {id(g): g for g in own if isinstance(g, torch.Generator)}
    return list(unique.values())


class _FromTheSameStates:
    """A DataLoader whose own generators start from the same state each time, and are put back."""

    def __init__(self, data: DataLoader[Any], generators: list[torch.Generator]) -> None:
        self.data = data
        self.generators = generators
        self.states = [generator.get_state() for generator in generators]

    def __iter__(self) -> Iterator[Any]:
        before = [generator.get_state() for generator in self.generators]
        for generator, state in zip(self.generators, self.states, strict=True):
            generator.set_state(state)
        try:
            yield from self.data
        finally:
            for generator, state in zip(self.generators, before, strict=True):
                generator.set_state(state)


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


def require_content(batch: Any, parameter: str, what: str = "") -> None:
    """Checks that the tensors of a batch's input are not all empty.

    Raises
    ------
    ParameterError : a ValueError; they are.
    """
    tensors = tensors_in(input_of(batch))
    if tensors and not any(tensor.numel() for tensor in tensors):
        shown = f"{what}shape {list(tensors[0].shape)}, which holds nothing"
        accepted = "accepted are at least one sample and one time step"
        raise ParameterError(parameter, batch, accepted, verb="has", shown=shown)


def example_of(batches: Iterable[Any], parameter: str = "calibration") -> Any:
    """Returns the first batch, after a look whether a second iteration begins with it too.

    Raises
    ------
    ParameterError : a ValueError; there is none, it holds nothing, or the second is another.
    """
    first = first_batch(batches, parameter)
    require_content(first, parameter, "a first batch of ")
    if isinstance(batches, (list, tuple)):
        return first
    data = batches.data if isinstance(batches, _FromTheSameStates) else batches
    try:
        again = first_batch(batches, parameter)
    except ParameterError as error:
        raise _one_pass(parameter, data) from error
    if mark_of(again) != mark_of(first):
        raise _one_pass(parameter, data) if _goes_on(data) else changed_data(parameter, data, "0")
    return first


def _goes_on(data: Iterable[Any]) -> bool:
    """Whether iterating data again goes on where the last time stopped, as far as one can tell."""
    source: Any = data
    if isinstance(data, DataLoader):
        if not isinstance(data.dataset, IterableDataset):
            return False
        source = data.dataset
    with undisturbed():
        return iter(source) is iter(source)


def changed_data(parameter: str, batches: object, which: str) -> ParameterError:
    """Returns the error about data that is another in another pass."""
    return ParameterError(
        parameter,
        batches,
        "accepted are the same batches each time: random augmentations and encodings must draw from "
        "the global generators of torch, NumPy or Python, which are seeded before each pass",
        verb="has",
        shown=f"another batch {which} when it is iterated again",
    )


def mark_of(batch: Any) -> Mark:
    """Returns shapes, dtypes and up to 1,024 values of a batch's input, to know it again."""
    return tuple(_mark(tensor) for tensor in tensors_in(input_of(batch)))


def _mark(tensor: Tensor) -> Mark:
    facts = (tuple(tensor.shape), tensor.dtype)
    if tensor.layout != torch.strided or tensor.numel() == 0:
        return facts
    at = np.arange(min(tensor.numel(), _MARKED))
    if tensor.numel() > _MARKED:  # scattered: a regular step would meet the same columns again
        at = at * 2654435761 % tensor.numel()
    places = np.unravel_index(at, tuple(tensor.shape)) if tensor.ndim else ()
    values = tensor.detach()[tuple(torch.from_numpy(p).to(tensor.device) for p in places)]
    if values.is_complex():
        values = torch.view_as_real(values)
    kept = values.double() if values.is_floating_point() else values.long()
    return (*facts, hash(kept.cpu().numpy().tobytes()))
