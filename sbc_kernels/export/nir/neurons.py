"""A neuron's equations as a NIR node."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ...frameworks import Update
from .edges import Node, Shape
from .refusals import ModelRefused
from .tracking import module_label

__all__ = ["DT", "neuron_node", "require_equations_hold"]

DT = 1e-4  # s; fixed in snnTorch's reader, the default of SpikingJelly's

Vector = NDArray[np.float64]


def neuron_node(
    nir: ModuleType, name: str, node: Node, update: Update, scale: Vector | None
) -> tuple[Any, tuple[str, ...]]:
    """Returns the node of a neuron, and sentences about what the node cannot hold.

    Parameters
    ----------
    nir : the package.
    name : of the module.
    node : the module and its shapes.
    update : its equations.
    scale : of the shape of one sample's neurons, what the input has to be multiplied by to be in the
        module's units; None where it is 1.
    """
    what, shape = module_label(name, node.module), node.output_shape
    metadata: dict[str, Any] = {"module": type(node.module).__name__}
    losses: list[str] = []
    threshold = update.threshold
    parameters, unit = _time_constants(update, shape, what)
    if threshold is None:  # its potential is an output, so r takes the unit
        parameters["r"], unit = parameters["r"] * unit, np.ones(shape)
    unit = unit if scale is None else unit * scale
    if "tau" in parameters or "tau_mem" in parameters:
        parameters["v_leak"] = _spread(update.leak, shape, what) / unit
    if threshold is not None:
        # Exact where readers compare in the neuron's own precision.
        precision = np.float64 if node.dtype == torch.float64 else np.float32
        threshold = _spread(threshold, shape, what).astype(precision).astype(np.float64)
        parameters["v_threshold"] = threshold / unit
        parameters["v_reset"] = np.zeros(shape)
        metadata |= {
            "threshold": threshold,
            "fires_at_threshold": update.at_threshold,
            "reset": "subtract" if update.reset is None else "value",
        }
        if update.reset is not None:
            parameters["v_threshold"] = _unambiguous_threshold(
                threshold / unit, update.at_threshold, precision
            )
            parameters["v_reset"] = _spread(update.reset, shape, what) / unit
        else:
            # Readers that subtract take off v_threshold itself: it stays what it is.
            losses.append("it subtracts from its potential when it fires; NIR's nodes reset it")
            metadata["subtract"] = _spread(update.subtract, shape, what)
        if update.most != 1:
            losses.append("it fires several spikes a step; NIR's nodes fire one")
            metadata["most_spikes"] = -1 if update.most is None else update.most
    if update.floor is not None:
        losses.append("its potential has a lower bound; NIR's nodes have none")
        metadata["floor"] = _spread(update.floor, shape, what)
    start = _spread(update.start, shape, what) / unit
    if (start != parameters.get("v_leak", parameters.get("v_reset", 0.0))).any():
        losses.append("it starts at another potential than it rests at; NIR's nodes start at rest")
        metadata["start"] = start * unit
    if (unit != 1).any():
        metadata["unit"] = unit
    kinds = {  # by whether it leaks, whether its input has a time constant
        (False, False): "I" if threshold is None else "IF",
        (True, False): "LI" if threshold is None else "LIF",
        (True, True): "CubaLI" if threshold is None else "CubaLIF",
    }
    kind = kinds["v_leak" in parameters, "tau_syn" in parameters]
    nir_node = getattr(nir, kind)(**parameters, metadata={"sbc_kernels": metadata})
    return nir_node, tuple(f"{what}: {text}" for text in losses)


def _time_constants(update: Update, shape: Shape, what: str) -> tuple[dict[str, Vector], Vector]:
    """Returns NIR's parameters of the membrane, and the unit of its potential.

    ``tau dv/dt = leak - v + r x``, in steps of `DT`, is ``v <- decay v + gain x + (1 - decay) leak``.
    The unit of a potential that no one reads is free. It is chosen such that r is the one value that
    all readers accept: the unit is the module's potential where the node's is 1.
    """
    decay, gain = (_spread(value, shape, what) for value in (update.decay, update.gain))
    if update.synapse is None:
        if (decay == 1).all():
            r = np.full(shape, 1.0 / DT)
            return {"r": r}, _nearby_float32(gain)
        synapse = np.zeros(shape)
    else:
        synapse = _spread(update.synapse, shape, what)
    if (decay >= 1).any() or (synapse >= 1).any():
        raise ModelRefused(
            f"model has {what} with a decay of 1, some of its neurons or its synapses, whose time "
            "constant is infinite; accepted are decays below 1, or IF neurons without a synapse"
        )
    tau, tau_syn = DT / (1.0 - decay), DT / (1.0 - synapse)
    if update.synapse is None:
        return {"tau": tau, "r": np.ones(shape)}, _nearby_float32(gain / (1.0 - decay))
    slow = {"tau_mem": tau, "tau_syn": tau_syn, "r": tau / DT, "w_in": tau_syn / DT}
    return slow, _nearby_float32(gain)


def _nearby_float32(value: Vector) -> Vector:
    """Returns the float32 number that each value is, up to a relative 1e-12 of rounding in float64;
    other values stay."""
    near = value.astype(np.float32).astype(np.float64)
    return np.where(np.abs(near - value) <= 1e-12 * np.abs(value), near, value)


def _unambiguous_threshold(threshold: Vector, at_threshold: bool, precision: Any) -> Vector:
    """Returns a threshold at which readers that compare with > and with >= fire alike.

    Potentials of quantized weights lie on a grid, and so may the threshold. The number that is
    returned lies between two neighbours of `precision`, so that no potential equals it: the threshold
    and the number before it if a potential that equals the threshold fires, otherwise the threshold
    and the number after it. It rounds to that neighbour.

    Parameters
    ----------
    threshold : in the node's units.
    at_threshold : whether a potential that equals the threshold fires.
    precision : of the potentials, np.float32 or np.float64.
    """
    near = threshold.astype(precision)
    below, above = (np.nextafter(near, precision(end)) for end in (-np.inf, np.inf))
    between = np.where(near > threshold, below, near).astype(np.float64)
    other = (below if at_threshold else above).astype(np.float64)
    return np.where(near == threshold, 0.25 * threshold + 0.75 * other, between)


def _spread(value: Any, shape: Shape, what: str) -> Vector:
    """Returns a neuron's parameter for each of one sample's neurons, float64."""
    if hasattr(value, "detach"):
        value = value.detach().double().cpu().numpy()
    array = np.asarray(value, dtype=np.float64)
    try:
        return np.broadcast_to(array, shape).copy()
    except ValueError as error:
        raise ModelRefused(
            f"model has {what} with a parameter of shape {list(array.shape)}, which does not broadcast "
            f"to its neurons {list(shape)}"
        ) from error


# ---- equations and module compared --------------------------------------------------------------


def require_equations_hold(name: str, node: Node, update: Update) -> None:
    """Compares a neuron's outputs in the forward pass with its equations.

    The equations are reset by the neuron's own spikes, so that a difference does not spread.
    Potentials that are nearer to the threshold than 1e-4 of the largest may fire or not.

    Parameters
    ----------
    name : of the module.
    node : with its currents and outputs.
    update : its equations.

    Raises
    ------
    ValueError : the outputs are not those of the equations.
    """
    what, shape = module_label(name, node.module), node.output_shape
    decay, gain, leak = (_spread(v, shape, what) for v in (update.decay, update.gain, update.leak))
    synapse = None if update.synapse is None else _spread(update.synapse, shape, what)
    floor = None if update.floor is None else _spread(update.floor, shape, what)
    threshold = None if update.threshold is None else _spread(update.threshold, shape, what)
    v = np.broadcast_to(_spread(update.start, shape, what), node.currents[0].shape)
    i = np.zeros_like(v)
    size = np.zeros(shape)
    for x, output in zip(node.currents, node.outputs, strict=True):
        i = x if synapse is None else synapse * i + x
        v = decay * v + gain * i + (1.0 - decay) * leak
        size = np.maximum(size, np.abs(v).max(axis=0, initial=0.0))
        slack = 1e-4 * np.maximum(size, 1e-30)
        if threshold is None:
            right = np.abs(output - v) <= slack
        else:
            low, high = (_spikes(v + d, threshold, update) for d in (-slack, slack))
            right = (low <= output) & (output <= high)
            if update.reset is None:
                v = v - output * _spread(update.subtract, shape, what)
            else:
                v = np.where(output != 0, _spread(update.reset, shape, what), v)
        if not right.all():
            expected = v if threshold is None else high
            raise ModelRefused(
                f"model has {what}, whose output is {output[~right].flat[0]:g} where the equations of "
                f"its class give {expected[~right].flat[0]:g}; "
                "accepted are neurons that do what their class does, because NIR holds equations alone"
            )
        if floor is not None:
            v = np.maximum(v, floor)


def _spikes(v: Vector, threshold: Vector, update: Update) -> Vector:
    """Returns how many spikes a potential fires."""
    with np.errstate(divide="ignore", invalid="ignore"):
        count = np.trunc(v / threshold) if update.most != 1 else (v > threshold).astype(np.float64)
    count = np.where(v > 0, count, 0.0) if update.most != 1 else count
    return count if update.most is None else np.minimum(count, update.most)
