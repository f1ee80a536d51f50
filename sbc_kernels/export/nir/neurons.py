"""A neuron's equations as a NIR node."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ...frameworks import Update
from .edges import Node, Shape
from .tracking import module_label

__all__ = ["DT", "neuron_node", "require_equations_hold"]

DT = 1e-4  # s; snnTorch's reader has it fixed, SpikingJelly's as its default

Vector = NDArray[np.float64]


def neuron_node(
    nir: Any, name: str, node: Node, update: Update, scale: Vector | None
) -> tuple[Any, tuple[str, ...]]:
    """The node, and what it leaves out, for people.

    Parameters
    ----------
    scale : of the shape of one sample's neurons: what a unit of the current is of the module's. None
        where it is the same.
    """
    what, shape = module_label(name, node.module), node.output_shape
    mine: dict[str, Any] = {"module": type(node.module).__name__}
    lost: list[str] = []
    threshold = update.threshold
    parameters, unit = _time_constants(update, shape, what)
    if threshold is None:  # somebody reads its potential: r takes the unit
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
        mine |= {
            "threshold": threshold,
            "fires_at_threshold": update.at_threshold,
            "reset": "subtract" if update.reset is None else "value",
        }
        if update.reset is not None:
            parameters["v_threshold"] = _fired_above(
                threshold / unit, update.at_threshold, precision
            )
            parameters["v_reset"] = _spread(update.reset, shape, what) / unit
        else:
            # Readers that subtract take off v_threshold itself: it stays what it is.
            lost.append("it subtracts from its potential when it fires; NIR's nodes reset it")
            mine["subtract"] = _spread(update.subtract, shape, what)
        if update.most != 1:
            lost.append("it fires several spikes a step; NIR's nodes fire one")
            mine["most_spikes"] = -1 if update.most is None else update.most
    if update.floor is not None:
        lost.append("its potential has a lower bound; NIR's nodes have none")
        mine["floor"] = _spread(update.floor, shape, what)
    start = _spread(update.start, shape, what) / unit
    if (start != parameters.get("v_leak", parameters.get("v_reset", 0.0))).any():
        lost.append("it starts at another potential than it rests at; NIR's nodes start at rest")
        mine["start"] = start * unit
    if (unit != 1).any():
        mine["unit"] = unit
    kinds = {
        (False, False): "I" if threshold is None else "IF",
        (True, False): "LI" if threshold is None else "LIF",
        (True, True): "CubaLI" if threshold is None else "CubaLIF",
    }
    kind = kinds["v_leak" in parameters, "tau_syn" in parameters]
    nir_node = getattr(nir, kind)(**parameters, metadata={"sbc_kernels": mine})
    return nir_node, tuple(f"{what}: {text}" for text in lost)


def _time_constants(update: Update, shape: Shape, what: str) -> tuple[dict[str, Vector], Vector]:
    """``tau dv/dt = leak - v + r x`` whose step of `DT` is ``v <- decay v + gain x + ...``.

    The unit of a potential that nobody reads is free. It is chosen such that r is what all readers
    know: the second answer is what a potential of 1 is of the module's.
    """
    decay, gain = (_spread(value, shape, what) for value in (update.decay, update.gain))
    if update.synapse is None:
        if (decay == 1).all():
            r = np.full(shape, 1.0 / DT)
            return {"r": r}, _exact(gain)
        synapse = np.zeros(shape)
    else:
        synapse = _spread(update.synapse, shape, what)
    if (decay >= 1).any() or (synapse >= 1).any():
        raise ValueError(
            f"model has {what} with a decay of 1, some of its neurons or its synapses, whose time "
            "constant is infinite; accepted are decays below 1, or IF neurons without a synapse"
        )
    tau, tau_syn = DT / (1.0 - decay), DT / (1.0 - synapse)
    if update.synapse is None:
        return {"tau": tau, "r": np.ones(shape)}, _exact(gain / (1.0 - decay))
    slow = {"tau_mem": tau, "tau_syn": tau_syn, "r": tau / DT, "w_in": tau_syn / DT}
    return slow, _exact(gain)


def _exact(value: Vector) -> Vector:
    """The float32 that a number is but for rounding in float64."""
    near = value.astype(np.float32).astype(np.float64)
    return np.where(np.abs(near - value) <= 1e-12 * np.abs(value), near, value)


def _fired_above(threshold: Vector, at: bool, precision: Any) -> Vector:
    """What a potential of this precision has to exceed, the same whether readers say > or >=.

    Potentials of quantized weights lie on a grid, and so may the threshold. `at` is whether one that
    is equal to it fires: what is written is then between the threshold and the number before it,
    otherwise between the threshold and the number after it, and rounds to that neighbour.
    """
    near = threshold.astype(precision)
    below, above = (np.nextafter(near, precision(end)) for end in (-np.inf, np.inf))
    found = np.where(near > threshold, below, near).astype(np.float64)
    other = (below if at else above).astype(np.float64)
    return np.where(near == threshold, 0.25 * threshold + 0.75 * other, found)


def _spread(value: Any, shape: Shape, what: str) -> Vector:
    """A neuron's parameter for each of one sample's neurons, float64."""
    if hasattr(value, "detach"):
        value = value.detach().double().cpu().numpy()
    array = np.asarray(value, dtype=np.float64)
    try:
        return np.broadcast_to(array, shape).copy()
    except ValueError as error:
        raise ValueError(
            f"model has {what} with a parameter of shape {list(array.shape)}, which does not broadcast "
            f"to its neurons {list(shape)}"
        ) from error


# ---- what it says, and what it does ------------------------------------------------------------


def require_equations_hold(name: str, node: Node, update: Update) -> None:
    """ValueError if the neuron's answers in the forward pass are not those of its equations.

    Its own spikes reset it, so that a difference stays where it is; potentials that are nearer to
    the threshold than rounding tells nothing.
    """
    what, shape = module_label(name, node.module), node.output_shape
    decay, gain, leak = (_spread(v, shape, what) for v in (update.decay, update.gain, update.leak))
    synapse = None if update.synapse is None else _spread(update.synapse, shape, what)
    floor = None if update.floor is None else _spread(update.floor, shape, what)
    threshold = None if update.threshold is None else _spread(update.threshold, shape, what)
    v = np.broadcast_to(_spread(update.start, shape, what), node.currents[0].shape)
    i = np.zeros_like(v)
    size = np.zeros(shape)
    for x, answer in zip(node.currents, node.outputs, strict=True):
        i = x if synapse is None else synapse * i + x
        v = decay * v + gain * i + (1.0 - decay) * leak
        size = np.maximum(size, np.abs(v).max(axis=0, initial=0.0))
        slack = 1e-4 * np.maximum(size, 1e-30)
        if threshold is None:
            right = np.abs(answer - v) <= slack
        else:
            low, high = (_spikes(v + d, threshold, update) for d in (-slack, slack))
            right = (low <= answer) & (answer <= high)
            if update.reset is None:
                v = v - answer * _spread(update.subtract, shape, what)
            else:
                v = np.where(answer != 0, _spread(update.reset, shape, what), v)
        if not right.all():
            expected = v if threshold is None else high
            raise ValueError(
                f"model has {what}, which answered {answer[~right].flat[0]:g} where the equations of "
                f"its class answer {expected[~right].flat[0]:g}; "
                "accepted are neurons that do what their class does, because NIR holds equations alone"
            )
        if floor is not None:
            v = np.maximum(v, floor)


def _spikes(v: Vector, threshold: Vector, update: Update) -> Vector:
    """How many spikes a potential fires."""
    with np.errstate(divide="ignore", invalid="ignore"):
        count = np.trunc(v / threshold) if update.most != 1 else (v > threshold).astype(np.float64)
    count = np.where(v > 0, count, 0.0) if update.most != 1 else count
    return count if update.most is None else np.minimum(count, update.most)
