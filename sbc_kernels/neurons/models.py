"""Closed forms of the impulse responses of the frameworks' neurons.

Time constants are checked when a neuron is made, so that an `impulse_response` cannot fail later.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ..errors import ParameterError
from .response import Response, time_axis

__all__ = [
    "IAF",
    "IF",
    "LIF",
    "PLIF",
    "Alpha",
    "CubaLIF",
    "Lapicque",
    "Leaky",
    "NorseLIF",
    "NorseLIFBox",
    "SinabsLIF",
    "Synaptic",
]

TINY = 5e-324  # the least positive float64: "positive" as a bound that includes its end


def _check_number(
    neuron: object, name: str, accepted: str, low: float, high: float = math.inf
) -> None:
    """Checks a field of a frozen neuron and stores it as float: a float32 tau would round k."""
    value = getattr(neuron, name)
    number = isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(
        value, bool
    )
    if not (number and low <= value <= high and math.isfinite(value)):
        raise ParameterError(name, value, accepted)
    object.__setattr__(neuron, name, float(value))


def _geometric(decay: float, T: int) -> Response:
    """Returns ``decay ** t`` for t < T, with 0 ** 0 = 1.

    It multiplies step by step, so that a decay which is a dyadic fraction stays exact.
    """
    response = np.full(time_axis(T).size, decay)
    response[0] = 1.0
    return np.cumprod(response)


def _two_poles(a: float, b: float, T: int) -> Response:
    """Returns ``sum_j a^j b^(t-j)``.

    That is ``(a^(t+1) - b^(t+1)) / (a - b)``, and its limit where a = b.
    """
    response = np.convolve(_geometric(a, T), _geometric(b, T))
    return response[:T]


@dataclass(frozen=True)
class IF:
    """Integrate and fire without a leak: ``k[t] = 1``. sinabs calls it IAF."""

    def impulse_response(self, T: int) -> Response:
        return _geometric(1.0, T)


IAF = IF


@dataclass(frozen=True)
class LIF:
    """SpikingJelly's LIFNode: ``k[t] = (1 - 1/tau)^t / tau``.

    Parameters
    ----------
    tau : membrane time constant in time steps, at least 1.
    decay_input : whether the input is divided by tau, too. If not, ``k[t] = (1 - 1/tau)^t``.

    Raises
    ------
    ParameterError : `tau` is less than 1 or not finite.
    """

    tau: float = 2.0
    decay_input: bool = True

    def __post_init__(self) -> None:
        _check_number(self, "tau", "a finite number of at least 1", 1.0)

    def impulse_response(self, T: int) -> Response:
        gain = 1.0 / self.tau if self.decay_input else 1.0
        return gain * _geometric(1.0 - 1.0 / self.tau, T)


@dataclass(frozen=True)
class PLIF:
    """SpikingJelly's ParametricLIFNode: a LIF with ``1/tau = sigmoid(w)``.

    Parameters
    ----------
    w : the learned parameter of the time constant, any finite number.
    decay_input : whether the input is divided by tau, too.

    Raises
    ------
    ParameterError : `w` is not finite.
    """

    w: float = 0.0
    decay_input: bool = True

    def __post_init__(self) -> None:
        _check_number(self, "w", "a finite number", -math.inf)

    def impulse_response(self, T: int) -> Response:
        rate = 1.0 / (1.0 + math.exp(-self.w)) if self.w > -700 else 0.0
        return (rate if self.decay_input else 1.0) * _geometric(1.0 - rate, T)


@dataclass(frozen=True)
class Leaky:
    """snnTorch's Leaky and RLeaky: ``k[t] = beta^t``.

    Parameters
    ----------
    beta : decay of the membrane potential a time step, clamped to 0..1 as snnTorch does.

    Raises
    ------
    ParameterError : `beta` is not finite.
    """

    beta: float

    def __post_init__(self) -> None:
        _check_number(self, "beta", "a finite number", -math.inf)

    def impulse_response(self, T: int) -> Response:
        return _geometric(min(max(self.beta, 0.0), 1.0), T)


@dataclass(frozen=True)
class CubaLIF:
    """Current-based LIF (SpikingJelly's CUBALIF, snnTorch's Synaptic and RSynaptic).

    ``k[t] = (alpha^(t+1) - beta^(t+1)) / (alpha - beta)``, or its limit where alpha = beta.

    Parameters
    ----------
    alpha : decay of the synaptic current a time step, 0..1.
    beta : decay of the membrane potential a time step, 0..1.

    Raises
    ------
    ParameterError : a decay is outside 0..1.
    """

    alpha: float
    beta: float

    def __post_init__(self) -> None:
        _check_number(self, "alpha", "0..1", 0.0, 1.0)
        _check_number(self, "beta", "0..1", 0.0, 1.0)

    def impulse_response(self, T: int) -> Response:
        return _two_poles(self.alpha, self.beta, T)


Synaptic = CubaLIF


@dataclass(frozen=True)
class Alpha:
    """snnTorch's Alpha: ``k[t] = ln b / (ln b - ln a) * (a^t - b^t)``, so that ``k[0] = 0``.

    Parameters
    ----------
    alpha : decay of the excitatory current a time step, below 1.
    beta : decay of the inhibitory current a time step, above 0 and below `alpha`.

    Raises
    ------
    ParameterError : ``0 < beta < alpha < 1`` does not hold.
    """

    alpha: float
    beta: float

    def __post_init__(self) -> None:
        _check_number(self, "alpha", "0 < beta < alpha < 1", 0.0, 1.0)
        _check_number(self, "beta", "0 < beta < alpha < 1", 0.0, 1.0)
        if not 0.0 < self.beta < self.alpha < 1.0:
            raise ParameterError("(alpha, beta)", (self.alpha, self.beta), "0 < beta < alpha < 1")

    def impulse_response(self, T: int) -> Response:
        gain = math.log(self.beta) / (math.log(self.beta) - math.log(self.alpha))
        return gain * (_geometric(self.alpha, T) - _geometric(self.beta, T))


@dataclass(frozen=True)
class Lapicque:
    """snnTorch's Lapicque: ``k[t] = (dt/C) (1 - dt/RC)^t``.

    snnTorch lets the user give any two of R, C and beta; with beta, ``RC = -dt / ln beta``.

    Parameters
    ----------
    R, C : resistance and capacitance, positive.
    beta : decay of the membrane potential a time step, in (0, 1), in place of R or C.
    time_step : dt, positive, in the unit of R C.

    Raises
    ------
    ParameterError : not exactly two of R, C and beta are given, or one is out of its range.
    """

    R: float | None = None
    C: float | None = None
    beta: float | None = None
    time_step: float = 1.0

    def __post_init__(self) -> None:
        _check_number(self, "time_step", "a positive number", TINY)
        constants = (self.R, self.C, self.beta)
        if sum(value is not None for value in constants) != 2:
            raise ParameterError("(R, C, beta)", constants, "two of the three")
        for name in ("R", "C"):
            if getattr(self, name) is not None:
                _check_number(self, name, "a positive number", TINY)
        if self.beta is not None:
            _check_number(self, "beta", "a number in (0, 1)", TINY, 1.0 - 2.0**-53)

    def impulse_response(self, T: int) -> Response:
        dt = self.time_step
        if self.beta is None:
            leak, C = dt / (self.R * self.C), self.C  # type: ignore[operator]
        else:
            leak = -math.log(self.beta)
            C = self.C if self.C is not None else dt / (leak * self.R)  # type: ignore[operator]
        return (dt / C) * _geometric(1.0 - leak, T)  # type: ignore[operator]


@dataclass(frozen=True)
class NorseLIF:
    """Norse's LIF and LIFCell: ``k[t] = a_m sum_j (1-a_s)^j (1-a_m)^(t-j)``, ``a = dt * tau_inv``.

    Parameters
    ----------
    tau_syn_inv, tau_mem_inv : inverse time constants of synapse and membrane in 1/s, at least 0.
    dt : time step in s, at least 0.

    Raises
    ------
    ParameterError : one of them is negative or not finite.
    """

    tau_syn_inv: float = 200.0
    tau_mem_inv: float = 100.0
    dt: float = 0.001

    def __post_init__(self) -> None:
        for name in ("tau_syn_inv", "tau_mem_inv", "dt"):
            _check_number(self, name, "a number of at least 0", 0.0)

    def impulse_response(self, T: int) -> Response:
        synapse, membrane = self.dt * self.tau_syn_inv, self.dt * self.tau_mem_inv
        return membrane * _two_poles(1.0 - synapse, 1.0 - membrane, T)


@dataclass(frozen=True)
class NorseLIFBox:
    """Norse's LIFBoxCell: ``k[t] = a_m (1 - a_m)^t`` with ``a_m = dt * tau_mem_inv``.

    Parameters
    ----------
    tau_mem_inv : inverse time constant of the membrane in 1/s, at least 0.
    dt : time step in s, at least 0.

    Raises
    ------
    ParameterError : one of them is negative or not finite.
    """

    tau_mem_inv: float = 100.0
    dt: float = 0.001

    def __post_init__(self) -> None:
        for name in ("tau_mem_inv", "dt"):
            _check_number(self, name, "a number of at least 0", 0.0)

    def impulse_response(self, T: int) -> Response:
        membrane = self.dt * self.tau_mem_inv
        return membrane * _geometric(1.0 - membrane, T)


@dataclass(frozen=True)
class SinabsLIF:
    """sinabs' LIF: ``k[t] = g alpha^t`` with ``alpha = exp(-1/tau_mem)``.

    With a synapse, ``k[t] = g alpha_s (alpha_s^(t+1) - alpha^(t+1)) / (alpha_s - alpha)``.

    Parameters
    ----------
    tau_mem : membrane time constant in time steps, positive.
    tau_syn : synaptic time constant in time steps, positive; None for a neuron without a synapse.
    norm_input : whether the input is scaled by ``g = 1 - alpha``; otherwise ``g = 1``.

    Raises
    ------
    ParameterError : a time constant is not positive.
    """

    tau_mem: float
    tau_syn: float | None = None
    norm_input: bool = True

    def __post_init__(self) -> None:
        _check_number(self, "tau_mem", "a positive number", TINY)
        if self.tau_syn is not None:
            _check_number(self, "tau_syn", "a positive number or None", TINY)

    def impulse_response(self, T: int) -> Response:
        alpha = math.exp(-1.0 / self.tau_mem)
        gain = 1.0 - alpha if self.norm_input else 1.0
        if self.tau_syn is None:
            return gain * _geometric(alpha, T)
        synapse = math.exp(-1.0 / self.tau_syn)
        return gain * synapse * _two_poles(synapse, alpha, T)
