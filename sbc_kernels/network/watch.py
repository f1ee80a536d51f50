"""Statistics of what BatchNorms are fed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


class Statistics:
    """Mean and variance of what a norm is fed, over batches of any size, in float64."""

    def __init__(self) -> None:
        self.calls = 0
        self.count = 0
        self.total: Tensor | float = 0.0
        self.squares: Tensor | float = 0.0

    def see(self, values: Tensor, norm: Any) -> None:
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


def channel_axis(norm: Any, values: Tensor) -> int:
    """Which axis of a BatchNorm's input is its channels: [N, C, *map], or [T, N, C, *map] over time.

    Told by the norm's kind, not by sizes: batch and channels may be equally many.
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
    fitting = [at for at in (2, 1) if at < values.ndim and values.shape[at] == norm.num_features]
    if not fitting:
        raise ValueError(
            f"a {type(norm).__name__} of {norm.num_features} channels was fed {list(values.shape)}"
        )
    return fitting[0] if values.ndim >= 5 else fitting[-1]


class Seen(Exception):
    """All that was waited for in this forward pass has been seen."""


@contextmanager
def watching(
    norms: dict[str, Any],
    calls: dict[str, int] | None = None,
    each: Callable[[str, Statistics], None] | None = None,
) -> Iterator[dict[str, Statistics]]:
    """Statistics of what each of the norms is fed while this lasts.

    With `calls`, how often each is called in one forward, a forward is ended by `Seen` after the last.
    `each` is called before a norm is.
    """
    seen = {name: Statistics() for name in norms}
    handles = []
    forwards = 1

    for name, norm in norms.items():

        def hook(
            module: Any, args: tuple[Any, ...], kwargs: dict[str, Any], name: str = name
        ) -> None:
            nonlocal forwards
            (given, *_) = (*args, *kwargs.values())
            seen[name].see(given, module)
            if each is not None:
                each(name, seen[name])
            if calls is not None and all(seen[n].calls == forwards * calls[n] for n in norms):
                forwards += 1
                raise Seen

        handles.append(norm.register_forward_pre_hook(hook, with_kwargs=True))
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()
