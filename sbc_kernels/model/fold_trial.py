"""One batch through a network before and after BatchNorms are folded: whether anything else changes.

A fold is right in exact arithmetic and rounds otherwise. A rounding may make a neuron fire a step
earlier, and then everything behind it differs. So the neurons' spikes of the first run are put into
the second one, in which they are the same; what the neurons are fed is compared instead.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ..network.copies import neurons_of, reset_states, undisturbed
from ..network.tensors import first_tensor, map_tensors, narrow, tensors_in

# Of the values at one place this share may differ: a neuron that is not known may fire on a rounding.
_ROUNDED = 1e-3
_ROUNDINGS = 8  # times what a rounding of a layer's output changes is a rounding still
_MOST = 1 << 16  # values of one call that are compared


@dataclass
class Observed:
    """What was seen in one forward pass.

    Attributes
    ----------
    values : by place, values of each call in the order of the calls.
    spikes : by neuron, what each call returned, integers in one byte.
    """

    values: dict[str, list[Tensor]] = field(default_factory=lambda: defaultdict(list))
    spikes: dict[str, list[Any]] = field(default_factory=lambda: defaultdict(list))

    def difference(self, after: Observed, rounded: Observed | None = None) -> str:
        """Says where the values of another pass are not these; "" where they are, but for rounding.

        Parameters
        ----------
        after : the other pass.
        rounded : one of the same model that differs in rounding, which shows what that makes: behind a
            norm whose variance is next to 0 it is much.
        """
        for place, before in self.values.items():
            now = after.values.get(place, [])
            if [t.shape for t in before] != [t.shape for t in now]:
                return f"{place} has another shape or number of calls"
            a, b = (torch.cat([t.double() for t in values]) for values in (before, now))
            size = a.abs().max() if a.numel() else a.new_zeros(())
            error = (b - a).abs()
            bound = size * torch.finfo(before[0].dtype).eps ** 0.5
            if rounded is not None:
                c = torch.cat([t.double() for t in rounded.values[place]])
                bound = torch.maximum(bound, _ROUNDINGS * (c - a).abs().max())
            if int((~(error <= bound)).sum()) > _ROUNDED * a.numel():  # NaN is above any bound
                return f"{place} changes by {100 * float(error.max() / size):.2g} %"
        return ""


def observe(
    model: nn.Module,
    run: Callable[[nn.Module], Any],
    norms: Collection[str],
    spikes: dict[str, list[Any]] | None = None,
) -> Observed:
    """Runs a model once and returns what its neurons are fed, what some norms return, and its output.

    Parameters
    ----------
    model : its states are reset before and after.
    run : runs one whole sequence.
    norms : names of the BatchNorms, or of what has replaced them.
    spikes : what the neurons shall return in place of their own; default their own.
    """
    observed = Observed()
    with undisturbed(), torch.no_grad(), _hooked(model, norms, observed, spikes):
        reset_states(model)
        output = run(model)
        reset_states(model)
    for tensor in tensors_in(output):
        _add(observed, "the output", tensor)
    return observed


@contextmanager
def rounded_outputs(model: nn.Module, names: Collection[str]) -> Iterator[None]:
    """Inside, the outputs of some modules are 4 units of rounding larger or smaller, by turns."""

    def hook(_: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        if not isinstance(output, Tensor):
            return output
        signs = 1 - 2 * (torch.arange(output.numel(), device=output.device) % 2)
        return output + 4 * torch.finfo(output.dtype).eps * output * signs.reshape(output.shape)

    modules = dict(model.named_modules())
    handles = [modules[name].register_forward_hook(hook) for name in names]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _hooked(
    model: nn.Module,
    norms: Collection[str],
    observed: Observed,
    spikes: dict[str, list[Any]] | None,
) -> Iterator[None]:
    modules = dict(model.named_modules())
    neurons = neurons_of(model)
    active: list[str] = []

    def enter(name: str) -> Callable[..., None]:
        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            current = first_tensor(args, kwargs)
            if not active and current is not None:
                _add(observed, f"the input of {name}", current)
            active.append(name)

        return hook

    def leave(name: str, holds_norm: bool) -> Callable[..., Any]:
        def hook(_: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
            active.pop()
            if active:
                return output
            for tensor in tensors_in(output) if holds_norm else ():
                _add(observed, f"the output of {name}", tensor)
            calls = observed.spikes[name]
            if spikes is None:
                calls.append(map_tensors(output, lambda t: narrow(t.detach()).clone()))
                return output
            calls.append(None)
            if len(calls) > len(spikes[name]):
                return output
            kept = iter(tensors_in(spikes[name][len(calls) - 1]))
            return map_tensors(output, lambda t: next(kept, t).to(t.dtype))

        return hook

    def done(name: str) -> Callable[..., None]:
        def hook(_: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            for tensor in tensors_in(output):
                _add(observed, f"the output of {name}", tensor)

        return hook

    handles = []
    for name, (module, _) in neurons.items():
        holds_norm = any(norm.startswith(f"{name}.") for norm in norms)
        handles += [
            module.register_forward_pre_hook(enter(name), with_kwargs=True),
            module.register_forward_hook(leave(name, holds_norm)),
        ]
    handles += [modules[name].register_forward_hook(done(name)) for name in norms]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _add(observed: Observed, place: str, tensor: Tensor) -> None:
    """Keeps the values of a tensor, or as many at places drawn the same way each time."""
    if not tensor.is_floating_point():
        return
    flat = tensor.detach().flatten()
    if flat.numel() > _MOST:
        draw = torch.Generator().manual_seed(0)
        flat = flat[torch.randint(flat.numel(), (_MOST,), generator=draw).to(flat.device)]
    observed.values[place].append(flat.clone())
