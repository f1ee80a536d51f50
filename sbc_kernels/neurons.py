"""Impulse responses of the neuron that consumes a layer's output.

A neuron enters the compression through one thing only: its subthreshold impulse response ``k``, the
membrane potential at time ``t`` after a unit input at time 0 (SBC, arXiv 2506.03996, eq. 4). A
constant gain on ``k`` scales a layer's Hessian and changes no decision inside the layer.

Every class is a frozen dataclass with ``impulse_response(T) -> float64 [T]``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "IAF",
    "IF",
    "LIF",
    "PLIF",
    "Alpha",
    "CubaLIF",
    "Kernel",
    "Lapicque",
    "Leaky",
    "Neuron",
    "NorseLIF",
    "NorseLIFBox",
    "SinabsLIF",
    "Synaptic",
]

Response = NDArray[np.float64]


@runtime_checkable
class Neuron(Protocol):
    """Anything with ``impulse_response(T)``, the membrane's answer to one unit input, float64 [T]."""

    def impulse_response(self, T: int) -> Response: ...


def _require(ok: bool, name: str, value: object, accepted: str) -> None:
    if not ok:
        raise ValueError(f"{name} is {value!r}; accepted is {accepted}")


def _number(neuron: Any, name: str, accepted: str, low: float, high: float = math.inf) -> None:
    """Checks a parameter and keeps it as a float: a float32 tau would make a float32 response."""
    value = getattr(neuron, name)
    number = isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(
        value, bool
    )
    good = number and low <= value <= high and math.isfinite(value)
    _require(good, name, value, accepted)
    object.__setattr__(neuron, name, float(value))


def _steps(T: int) -> Response:
    _require(isinstance(T, (int, np.integer)) and T >= 1, "T", T, "an integer of at least 1")
    return np.arange(T, dtype=np.float64)


def _geometric(decay: float, T: int) -> Response:
    """``decay ** t``, with 0 ** 0 = 1; products of exact factors, so dyadic decays stay exact."""
    response = np.full(_steps(T).size, decay)
    response[0] = 1.0
    return np.cumprod(response)


def _two_poles(a: float, b: float, T: int) -> Response:
    """``sum_j a^j b^(t-j)``, which is ``(a^(t+1) - b^(t+1)) / (a - b)`` also where a = b."""
    response = np.convolve(_geometric(a, T), _geometric(b, T))
    return response[:T]


@dataclass(frozen=True)
class IF:
    """Integrate and fire, ``k[t] = 1``. Also sinabs' IAF."""

    def impulse_response(self, T: int) -> Response:
        return _geometric(1.0, T)


IAF = IF


@dataclass(frozen=True)
class LIF:
    """SpikingJelly's LIFNode: ``k[t] = (1 - 1/tau)^t / tau``, without the 1/tau if not decay_input.

    Parameters
    ----------
    tau : membrane time constant in time steps, at least 1.
    decay_input : whether the input is divided by tau as well.
    """

    tau: float = 2.0
    decay_input: bool = True

    def __post_init__(self) -> None:
        _number(self, "tau", "a finite number of at least 1", 1.0)

    def impulse_response(self, T: int) -> Response:
        gain = 1.0 / self.tau if self.decay_input else 1.0
        return gain * _geometric(1.0 - 1.0 / self.tau, T)


@dataclass(frozen=True)
class PLIF:
    """SpikingJelly's ParametricLIFNode: a LIF with ``1/tau = sigmoid(w)``."""

    w: float = 0.0
    decay_input: bool = True

    def __post_init__(self) -> None:
        _number(self, "w", "a finite number", -math.inf)

    def impulse_response(self, T: int) -> Response:
        rate = 1.0 / (1.0 + math.exp(-self.w)) if self.w > -700 else 0.0
        return (rate if self.decay_input else 1.0) * _geometric(1.0 - rate, T)


@dataclass(frozen=True)
class Leaky:
    """snnTorch's Leaky and RLeaky: ``k[t] = beta^t``; beta is clamped to 0..1 as snnTorch does."""

    beta: float

    def __post_init__(self) -> None:
        _number(self, "beta", "a finite number", -math.inf)

    def impulse_response(self, T: int) -> Response:
        return _geometric(min(max(self.beta, 0.0), 1.0), T)


@dataclass(frozen=True)
class CubaLIF:
    """Current-based LIF (SpikingJelly's CUBALIF, snnTorch's Synaptic and RSynaptic).

    ``k[t] = (alpha^(t+1) - beta^(t+1)) / (alpha - beta)``, its limit where alpha = beta.

    Parameters
    ----------
    alpha : decay of the synaptic current a time step, 0..1.
    beta : decay of the membrane potential a time step, 0..1.
    """

    alpha: float
    beta: float

    def __post_init__(self) -> None:
        _number(self, "alpha", "0..1", 0.0, 1.0)
        _number(self, "beta", "0..1", 0.0, 1.0)

    def impulse_response(self, T: int) -> Response:
        return _two_poles(self.alpha, self.beta, T)


Synaptic = CubaLIF


@dataclass(frozen=True)
class Alpha:
    """snnTorch's Alpha: ``k[t] = ln b / (ln b - ln a) * (a^t - b^t)``, so that ``k[0] = 0``.

    Parameters
    ----------
    alpha : decay of the excitatory current, 0 < beta < alpha < 1.
    beta : decay of the inhibitory current.
    """

    alpha: float
    beta: float

    def __post_init__(self) -> None:
        _number(self, "alpha", "0 < beta < alpha < 1", 0.0, 1.0)
        _number(self, "beta", "0 < beta < alpha < 1", 0.0, 1.0)
        _require(
            0.0 < self.beta < self.alpha < 1.0,
            "(alpha, beta)",
            (self.alpha, self.beta),
            "0 < beta < alpha < 1",
        )

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
    beta : alternative to R or C, in (0, 1).
    time_step : dt, positive.
    """

    R: float | None = None
    C: float | None = None
    beta: float | None = None
    time_step: float = 1.0

    def __post_init__(self) -> None:
        _number(self, "time_step", "a positive number", 5e-324)
        given = sum(value is not None for value in (self.R, self.C, self.beta))
        _require(given == 2, "(R, C, beta)", (self.R, self.C, self.beta), "two of the three")
        for name in ("R", "C"):
            if getattr(self, name) is not None:
                _number(self, name, "a positive number", 5e-324)
        if self.beta is not None:
            _number(self, "beta", "a number in (0, 1)", 5e-324, 1.0 - 2.0**-53)

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
    tau_syn_inv, tau_mem_inv : inverse time constants in 1/s.
    dt : time step in s.
    """

    tau_syn_inv: float = 200.0
    tau_mem_inv: float = 100.0
    dt: float = 0.001

    def __post_init__(self) -> None:
        for name in ("tau_syn_inv", "tau_mem_inv", "dt"):
            _number(self, name, "a number of at least 0", 0.0)

    def impulse_response(self, T: int) -> Response:
        synapse, membrane = self.dt * self.tau_syn_inv, self.dt * self.tau_mem_inv
        return membrane * _two_poles(1.0 - synapse, 1.0 - membrane, T)


@dataclass(frozen=True)
class NorseLIFBox:
    """Norse's LIFBoxCell: ``k[t] = a_m (1 - a_m)^t`` with ``a_m = dt * tau_mem_inv``."""

    tau_mem_inv: float = 100.0
    dt: float = 0.001

    def __post_init__(self) -> None:
        for name in ("tau_mem_inv", "dt"):
            _number(self, name, "a number of at least 0", 0.0)

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
    tau_syn : synaptic time constant in time steps, or None for none.
    norm_input : whether ``g = 1 - alpha`` (otherwise 1).
    """

    tau_mem: float
    tau_syn: float | None = None
    norm_input: bool = True

    def __post_init__(self) -> None:
        _number(self, "tau_mem", "a positive number", 5e-324)
        if self.tau_syn is not None:
            _number(self, "tau_syn", "a positive number or None", 5e-324)

    def impulse_response(self, T: int) -> Response:
        alpha = math.exp(-1.0 / self.tau_mem)
        gain = 1.0 - alpha if self.norm_input else 1.0
        if self.tau_syn is None:
            return gain * _geometric(alpha, T)
        synapse = math.exp(-1.0 / self.tau_syn)
        return gain * synapse * _two_poles(synapse, alpha, T)


@dataclass(frozen=True)
class Kernel:
    """Any impulse response, given as an array ``k`` of at least T values."""

    k: Any = field(repr=False)

    def __post_init__(self) -> None:
        k = np.array(self.k, dtype=np.float64, ndmin=1)
        _require(k.ndim == 1 and k.size >= 1, "k", f"an array of shape {k.shape}", "shape [T]")
        _require(bool(np.isfinite(k).all()), "k", "an array with NaN or Inf", "finite values")
        k.setflags(write=False)
        object.__setattr__(self, "k", k)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Kernel) and np.array_equal(self.k, other.k)

    def __hash__(self) -> int:
        return hash(self.k.tobytes())

    def impulse_response(self, T: int) -> Response:
        _steps(T)
        _require(self.k.size >= T, "k", f"{self.k.size} values", f"at least T = {T} values")
        response: Response = self.k[:T].copy()
        return response


def membrane_matrix(neuron: Neuron | None, T: int) -> Response:
    """``M [T, T]``, the lower-triangular Toeplitz matrix of k; the identity for ``neuron=None``."""
    if neuron is None:
        return np.eye(T)
    lag = np.arange(T)[:, None] - np.arange(T)[None, :]
    return np.where(lag >= 0, impulse_response(neuron, T)[np.maximum(lag, 0)], 0.0)


def impulse_response(neuron: Neuron, T: int) -> Response:
    """``neuron.impulse_response(T)``, checked: float64 [T] and finite."""
    # Not isinstance(neuron, Neuron), which takes longer than the rest: a small layer notices.
    if isinstance(neuron, type) or not callable(getattr(neuron, "impulse_response", None)):
        came = (
            f"the class {neuron.__name__}"
            if isinstance(neuron, type)
            else f"a {type(neuron).__name__}"
        )
        raise TypeError(
            f"neuron is {came}; accepted is an object with impulse_response(T), such as "
            "sbc.LIF(2.0) or sbc.Kernel(k), or None for the current Hessian"
        )
    k = np.asarray(neuron.impulse_response(T), dtype=np.float64)
    _require(k.shape == (T,), "neuron.impulse_response(T)", f"shape {k.shape}", f"shape ({T},)")
    _require(
        bool(np.isfinite(k).all()), "neuron.impulse_response(T)", "not finite", "finite values"
    )
    return k
