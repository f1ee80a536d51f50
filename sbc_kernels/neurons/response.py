"""The protocol of a neuron, and the responses that come as numbers: a kernel or a state space."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol, cast, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import ParameterError, ParameterTypeError

Response = NDArray[np.float64]  # [T], the membrane potential after a unit input at time 0


@runtime_checkable
class Neuron(Protocol):
    """Anything with ``impulse_response(T)``: the membrane potential after a unit input, float64 [T]."""

    def impulse_response(self, T: int) -> Response: ...


def time_axis(T: int) -> Response:
    """Returns ``[0, 1, ..., T - 1]`` as float64 [T]. ParameterError where T is no positive integer."""
    if not (isinstance(T, (int, np.integer)) and T >= 1):
        raise ParameterError("T", T, "an integer of at least 1")
    return np.arange(T, dtype=np.float64)


@dataclass(frozen=True)
class Kernel:
    """An impulse response given as numbers.

    Parameters
    ----------
    k : array-like [K] of finite numbers, K at least the number of time steps T of the data. It is
        copied to float64 and made read-only.

    Raises
    ------
    ParameterError : `k` has another shape, is empty, or holds NaN or Inf.
    """

    k: ArrayLike = field(repr=False)

    def __post_init__(self) -> None:
        k = np.array(self.k, dtype=np.float64, ndmin=1)
        if k.ndim != 1 or k.size == 0:
            raise ParameterError(
                "k", self.k, "shape [T]", shown=f"an array of shape {list(k.shape)}"
            )
        if not np.isfinite(k).all():
            raise ParameterError("k", self.k, "finite values", shown="an array with NaN or Inf")
        k.setflags(write=False)
        object.__setattr__(self, "k", k)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Kernel) and np.array_equal(self._values, other._values)

    def __hash__(self) -> int:
        return hash(self._values.tobytes())

    @property
    def _values(self) -> Response:
        return cast(Response, self.k)

    def impulse_response(self, T: int) -> Response:
        time_axis(T)
        if self._values.size < T:
            raise ParameterError(
                "k", self.k, f"at least T = {T} values", shown=f"{self._values.size} values"
            )
        return self._values[:T].copy()


@dataclass(frozen=True)
class StateSpace:
    """A linear neuron of several states: ``s <- A s + B x``, membrane ``C s``, so ``k[t] = C A^t B``.

    Parameters
    ----------
    A : [S, S], rows of the transition of one time step.
    B : [S], what a unit input adds to each state.
    C : [S], how much each state contributes to the membrane potential.
    """

    A: tuple[tuple[float, ...], ...]
    B: tuple[float, ...]
    C: tuple[float, ...]

    def impulse_response(self, T: int) -> Response:
        A, state, C = np.array(self.A), np.array(self.B), np.array(self.C)
        k = np.empty(T)
        for t in range(T):
            k[t] = C @ state
            state = A @ state
        return k


def membrane_matrix(neuron: Neuron | None, T: int) -> Response:
    """Returns ``M``, float64 [T, T]: the lower-triangular Toeplitz matrix of the impulse response.

    ``M`` filters an input of T steps to the potentials that it causes. It is the identity for
    ``neuron=None``, which compares the input currents themselves.
    """
    if neuron is None:
        return np.eye(T)
    lag = np.arange(T)[:, None] - np.arange(T)[None, :]
    return np.where(lag >= 0, impulse_response(neuron, T)[np.maximum(lag, 0)], 0.0)


def impulse_response(neuron: Neuron, T: int) -> Response:
    """Returns ``neuron.impulse_response(T)`` after checking that it is [T] and finite, as float64.

    Raises
    ------
    ParameterTypeError : `neuron` is a class, or has no ``impulse_response``.
    ParameterError : the response has another shape, or holds NaN or Inf.
    """
    # Not isinstance(neuron, Neuron): a runtime-checkable protocol takes longer than all the rest,
    # which shows in the time of a small layer.
    if isinstance(neuron, type) or not callable(getattr(neuron, "impulse_response", None)):
        raise ParameterTypeError(
            "neuron",
            neuron,
            "an object with impulse_response(T), such as sbc.LIF(2.0) or sbc.Kernel(k), or None for "
            "the current Hessian",
            shown=f"the class {neuron.__name__}"
            if isinstance(neuron, type)
            else f"a {type(neuron).__name__}",
        )
    k = np.asarray(neuron.impulse_response(T), dtype=np.float64)
    if k.shape != (T,):
        raise ParameterError(
            "neuron.impulse_response(T)", k, f"shape ({T},)", shown=f"an array of shape {k.shape}"
        )
    if not np.isfinite(k).all():
        raise ParameterError(
            "neuron.impulse_response(T)", k, "finite values", shown="an array that is not finite"
        )
    return k
