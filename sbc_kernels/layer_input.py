"""What `compress_layer` makes of its input before the work: the geometry, and the Hessian."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .arrays import Array, is_numpy, require_same_kind
from .backends.gram_sums import ScaledHessian
from .conv import Conv
from .errors import ParameterError
from .hessian import SpikeHessian
from .memory import require_memory
from .method import METHODS, LayerOptions
from .method.fields import Choice
from .method.options import HESSIANS, less_memory
from .neurons import LIF, Neuron

__all__ = ["DEFAULT_NEURON", "checked_conv", "hessian_of", "require_layer_memory"]

# This very object says that no neuron was given.
DEFAULT_NEURON = LIF(tau=2.0)


def checked_conv(
    values: Array, stride: Any, padding: Any, dilation: Any, groups: int
) -> Conv | None:
    """Returns the geometry of a convolution, None for a matrix, to which none of it may be given."""
    if values.ndim == 2:
        geometry = {
            "stride": (stride, 1),
            "padding": (padding, 0),
            "dilation": (dilation, 1),
            "groups": (groups, 1),
        }
        for name, (value, default) in geometry.items():
            if value != default:
                raise ParameterError(
                    name,
                    value,
                    "a convolution's weight of 3 or 4 dimensions with it",
                    shown=f"given for W of shape {list(values.shape)}",
                )
        return None
    conv = Conv(values.shape[2:], stride, padding, dilation, groups)
    if len(values) % conv.groups:
        raise ParameterError(
            "groups", groups, "a divisor", shown=f"{groups} with {len(values)} outputs"
        )
    return conv


def require_layer_memory(
    values: Array, spikes: Array | SpikeHessian, conv: Conv | None, options: LayerOptions
) -> None:
    """Raises MemoryError where the Hessian and the method certainly need more than there is."""
    rows, d = len(values), int(math.prod(values.shape[1:]))
    groups = 1 if conv is None else conv.groups
    stack = 8 * groups * d * d
    # The sums from which it is made go before the work; those of a fed SpikeHessian are there already.
    gathered = stack if isinstance(spikes, SpikeHessian) else 2 * stack

    def need(method: str) -> int:
        return max(gathered, stack + METHODS[method].work_bytes(rows, d))

    others = (f"method={name!r}" for name in less_memory(options))
    sizes = (need(name) for name in less_memory(options))
    require_memory(
        need(options.method),
        None if is_numpy(values) else values.device,
        f"a weight of [{rows}, {d}] with method {options.method!r}",
        zip(others, sizes, strict=True),
    )


def hessian_of(
    W: Array,
    values: Array,
    spikes: Array | SpikeHessian,
    neuron: Neuron | None,
    hessian: str,
    conv: Conv | None,
    backend: str | None,
    log: list[str],
) -> ScaledHessian:
    """Returns the undamped Hessian, on W's device."""
    Choice(HESSIANS)("hessian", hessian)
    d = int(np.prod(values.shape[1:]))
    if isinstance(spikes, SpikeHessian):
        if neuron is not None and neuron is not DEFAULT_NEURON and neuron != spikes.neuron:
            raise ParameterError(
                "neuron",
                neuron,
                "None or the same",
                shown=f"{neuron!r} and spikes was fed with {spikes.neuron!r}",
            )
        if hessian == "current" and spikes.neuron is not None:
            raise ParameterError(
                "hessian",
                hessian,
                "a SpikeHessian with neuron=None",
                shown="'current' and spikes was fed with a neuron",
            )
        if spikes.conv != conv:
            raise ParameterError(
                "spikes",
                spikes,
                f"accepted for this W is {conv!r}",
                shown=f"fed for {spikes.conv!r}",
                verb="was",
            )
        source = spikes
    else:
        require_same_kind(W, spikes, "W", "spikes")
        if neuron is DEFAULT_NEURON and hessian == "smp":
            log.append("no neuron given: LIF(tau=2.0)")
        source = SpikeHessian(
            neuron if hessian == "smp" else None,
            conv=conv,
            backend=backend,
            in_features=d if conv is None else None,
            in_channels=None if conv is None else values.shape[1] * conv.groups,
        )
        source.update(spikes)
    if source.in_features is not None and source.in_features != d:
        raise ParameterError(
            "W",
            W,
            "accepted are equal numbers",
            shown=f"{d} inputs and spikes was fed {source.in_features}",
            verb="has",
        )
    scaled = source.scaled()
    log.append(
        f"Hessian: {'current' if source.neuron is None else repr(source.neuron)}, "
        f"{source.num_samples} samples, " + "; ".join(source.paths)
    )
    return scaled
