"""Statistics of the inputs of BatchNorms, gathered by hooks while a model runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


class Statistics:
    """Mean and variance of each channel of a norm's input, over batches of any size, in float64."""

    def __init__(self) -> None:
        self.calls = 0
        self.count = 0
        self.total: Tensor | float = 0.0
        self.squares: Tensor | float = 0.0

    def add(self, values: Tensor, norm: nn.Module) -> None:
        """Adds one input of the norm."""
        self.calls += 1
        axis = channel_axis(norm, values)
        flat = values.detach().double().movedim(axis, 0).flatten(1)
        self.count += flat.shape[1]
        self.total = self.total + flat.sum(dim=1)
        self.squares = self.squares + flat.square().sum(dim=1)

    @property
    def mean(self) -> Tensor:
        return torch.as_tensor(self.total / self.count)

    @property
    def var(self) -> Tensor:
        return (torch.as_tensor(self.squares / self.count) - self.mean**2).clamp_min(0)


def channel_axis(norm: nn.Module, values: Tensor) -> int:
    """Returns the axis of the channels in a BatchNorm's input, [N, C, *map] or [T, N, C, *map].

    The class of the norm decides and not the sizes: there may be as many samples as channels.
    """
    own = {nn.BatchNorm2d: 3, nn.BatchNorm3d: 4}  # axes of one sample
    for kind, axes in own.items():
        if isinstance(norm, kind):
            return int(values.ndim) - axes
    if isinstance(norm, nn.BatchNorm1d):
        over_time = values.ndim == 4 or (
            values.ndim == 3 and getattr(norm, "step_mode", "s") == "m"
        )
        return 2 if over_time else 1
    axes_of_size = [
        at for at in (2, 1) if at < values.ndim and values.shape[at] == norm.num_features
    ]
    if not axes_of_size:
        raise ValueError(
            f"a {type(norm).__name__} of {norm.num_features} channels got {list(values.shape)}"
        )
    return axes_of_size[0] if values.ndim >= 5 else axes_of_size[-1]


class Seen(Exception):
    """Ends a forward pass in which every hook has what it waited for."""


@contextmanager
def watching(
    norms: dict[str, Any],
    calls: dict[str, int] | None = None,
    each: Callable[[str, Statistics], None] | None = None,
) -> Iterator[dict[str, Statistics]]:
    """Gathers statistics of the inputs of norms inside a ``with`` block.

    Parameters
    ----------
    norms : by name.
    calls : how often each is called in one forward. With it, `Seen` ends a forward after the last call.
    each : called with a norm's name and its statistics so far, before the norm runs.
    """
    statistics = {name: Statistics() for name in norms}
    handles = []
    forwards = 1

    for name, norm in norms.items():

        def hook(
            module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], name: str = name
        ) -> None:
            nonlocal forwards
            (features, *_) = (*args, *kwargs.values())
            statistics[name].add(features, module)
            if each is not None:
                each(name, statistics[name])
            if calls is None:
                return
            if all(statistics[n].calls == forwards * calls[n] for n in norms):
                forwards += 1
                raise Seen

        handles.append(norm.register_forward_pre_hook(hook, with_kwargs=True))
    try:
        yield statistics
    finally:
        for handle in handles:
            handle.remove()
