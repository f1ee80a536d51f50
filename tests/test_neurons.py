"""Impulse responses, against the linear update that each framework runs."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from helpers import assert_close, eps
from hypothesis import given
from hypothesis import strategies as st

import sbc_kernels as sbc
from sbc_kernels.neurons import Neuron, impulse_response, membrane_matrix

T = 40
Step = Callable[[float], float]  # one time step: input to membrane potential


def _spikingjelly_lif(tau: float, decay_input: bool) -> Step:
    v = 0.0

    def step(x: float) -> float:
        nonlocal v
        v = v + (x - v) / tau if decay_input else v - v / tau + x
        return v

    return step


def _snntorch_leaky(beta: float) -> Step:
    mem = 0.0

    def step(x: float) -> float:
        nonlocal mem
        mem = min(max(beta, 0.0), 1.0) * mem + x
        return mem

    return step


def _snntorch_synaptic(alpha: float, beta: float) -> Step:
    syn = mem = 0.0

    def step(x: float) -> float:
        nonlocal syn, mem
        syn = alpha * syn + x
        mem = beta * mem + syn
        return mem

    return step


def _snntorch_alpha(alpha: float, beta: float) -> Step:
    excite = inhibit = 0.0
    tau = math.log(alpha) / (math.log(beta) - math.log(alpha)) + 1

    def step(x: float) -> float:
        nonlocal excite, inhibit
        excite = alpha * excite + x
        inhibit = beta * inhibit - x
        return tau * (excite + inhibit)

    return step


def _snntorch_lapicque(R: float, C: float, dt: float) -> Step:
    mem = 0.0

    def step(x: float) -> float:
        nonlocal mem
        mem = x * R * (1 / (R * C)) * dt + (1 - dt / (R * C)) * mem
        return mem

    return step


def _norse_lif(syn_inv: float, mem_inv: float, dt: float) -> Step:
    v = i = 0.0

    def step(x: float) -> float:
        nonlocal v, i
        i = i + x
        v = v + dt * mem_inv * (i - v)
        i = i - dt * syn_inv * i
        return v

    return step


def _norse_box(mem_inv: float, dt: float) -> Step:
    v = 0.0

    def step(x: float) -> float:
        nonlocal v
        v = v + dt * mem_inv * (x - v)
        return v

    return step


def _sinabs_lif(tau_mem: float, tau_syn: float | None, norm: bool) -> Step:
    v = i = 0.0
    alpha = math.exp(-1 / tau_mem)

    def step(x: float) -> float:
        nonlocal v, i
        if tau_syn is not None:
            i = math.exp(-1 / tau_syn) * (i + x)
        v = alpha * v + (1 - alpha if norm else 1.0) * (x if tau_syn is None else i)
        return v

    return step


CASES: dict[str, tuple[Neuron, Step]] = {
    "IF": (sbc.IF(), _snntorch_leaky(1.0)),
    "LIF 2": (sbc.LIF(2.0), _spikingjelly_lif(2.0, True)),
    "LIF 2 whole input": (sbc.LIF(2.0, decay_input=False), _spikingjelly_lif(2.0, False)),
    "LIF 7.3": (sbc.LIF(7.3), _spikingjelly_lif(7.3, True)),
    "LIF 1": (sbc.LIF(1), _spikingjelly_lif(1.0, True)),
    "PLIF 0": (sbc.PLIF(), _spikingjelly_lif(2.0, True)),
    "PLIF -1": (sbc.PLIF(-1.0), _spikingjelly_lif(1 + math.e, True)),
    "PLIF 2": (sbc.PLIF(2.0, decay_input=False), _spikingjelly_lif(1 + math.exp(-2.0), False)),
    "Leaky": (sbc.Leaky(0.9), _snntorch_leaky(0.9)),
    "Leaky 0": (sbc.Leaky(0.0), _snntorch_leaky(0.0)),
    "Leaky above 1": (sbc.Leaky(1.7), _snntorch_leaky(1.7)),
    "Leaky below 0": (sbc.Leaky(-0.5), _snntorch_leaky(-0.5)),
    "CubaLIF": (sbc.CubaLIF(0.8, 0.6), _snntorch_synaptic(0.8, 0.6)),
    "CubaLIF equal": (sbc.CubaLIF(0.7, 0.7), _snntorch_synaptic(0.7, 0.7)),
    "CubaLIF close": (sbc.CubaLIF(0.7, 0.7 + 1e-12), _snntorch_synaptic(0.7, 0.7 + 1e-12)),
    "CubaLIF no leak": (sbc.CubaLIF(1.0, 1.0), _snntorch_synaptic(1.0, 1.0)),
    "CubaLIF no synapse": (sbc.Synaptic(0.0, 0.5), _snntorch_synaptic(0.0, 0.5)),
    "Alpha": (sbc.Alpha(0.9, 0.8), _snntorch_alpha(0.9, 0.8)),
    "Alpha far": (sbc.Alpha(0.95, 0.05), _snntorch_alpha(0.95, 0.05)),
    "Lapicque RC": (sbc.Lapicque(R=5.1, C=1.3, time_step=0.5), _snntorch_lapicque(5.1, 1.3, 0.5)),
    "Lapicque beta R": (
        sbc.Lapicque(R=2.0, beta=0.8),
        _snntorch_lapicque(2.0, 1.0 / (2.0 * math.log(1 / 0.8)), 1.0),
    ),
    "Lapicque beta C": (
        sbc.Lapicque(C=3.0, beta=0.8),
        _snntorch_lapicque(1.0 / (3.0 * math.log(1 / 0.8)), 3.0, 1.0),
    ),
    "Norse LIF": (sbc.NorseLIF(), _norse_lif(200.0, 100.0, 0.001)),
    "Norse LIF equal": (sbc.NorseLIF(150.0, 150.0, 0.002), _norse_lif(150.0, 150.0, 0.002)),
    "Norse box": (sbc.NorseLIFBox(30.0, 0.01), _norse_box(30.0, 0.01)),
    "sinabs LIF": (sbc.SinabsLIF(12.0), _sinabs_lif(12.0, None, True)),
    "sinabs LIF raw": (sbc.SinabsLIF(12.0, norm_input=False), _sinabs_lif(12.0, None, False)),
    "sinabs LIF synapse": (sbc.SinabsLIF(12.0, 4.0), _sinabs_lif(12.0, 4.0, True)),
    "sinabs LIF equal": (sbc.SinabsLIF(6.0, 6.0, False), _sinabs_lif(6.0, 6.0, False)),
}


@pytest.mark.parametrize("name", CASES)
def test_response_is_the_frameworks_update(name: str) -> None:
    neuron, step = CASES[name]
    wanted = np.array([step(1.0 if t == 0 else 0.0) for t in range(T)])
    response = neuron.impulse_response(T)
    assert response.dtype == np.float64
    assert response.shape == (T,)
    # Rounding of T steps; the Alpha neuron subtracts two currents of nearly one size.
    scale = np.abs(wanted) if not isinstance(neuron, sbc.Alpha) else np.abs(wanted).max()
    assert_close(response, wanted, 4 * T * eps(np.float64) * scale, name)
    assert np.array_equal(neuron.impulse_response(5), response[:5])


@pytest.mark.parametrize("name", CASES)
def test_membrane_matrix_filters_like_the_update(name: str) -> None:
    """M x is what the neuron integrates, for an input that is not one spike."""
    neuron, _ = CASES[name]
    x = np.random.default_rng(0).standard_normal(12)
    k = impulse_response(neuron, 12)
    wanted = [sum(k[t - s] * x[s] for s in range(t + 1)) for t in range(12)]
    M = membrane_matrix(neuron, 12)
    assert np.array_equal(M, np.tril(M))
    bound = 24 * eps(np.float64) * (np.abs(M) @ np.abs(x))
    assert_close(M @ x, np.array(wanted), bound, name)


def test_no_neuron_is_the_identity() -> None:
    assert np.array_equal(membrane_matrix(None, 5), np.eye(5))


def test_formulas_of_the_design() -> None:
    t = np.arange(T)
    for neuron, wanted in {
        sbc.IF(): np.ones(T),
        sbc.IAF(): np.ones(T),
        sbc.LIF(4.0): 0.75**t / 4,
        sbc.LIF(4.0, False): 0.75**t,
        sbc.Leaky(0.5): 0.5**t,
        sbc.CubaLIF(0.5, 0.25): (0.5 ** (t + 1) - 0.25 ** (t + 1)) / 0.25,
        sbc.CubaLIF(0.5, 0.5): (t + 1) * 0.5**t,
        sbc.NorseLIFBox(500.0): 0.5 * 0.5**t,
    }.items():
        bound = T * eps(np.float64) * wanted
        assert_close(neuron.impulse_response(T), wanted, bound, repr(neuron))
    assert sbc.Alpha(0.9, 0.5).impulse_response(3)[0] == 0.0
    assert sbc.Synaptic is sbc.CubaLIF
    assert sbc.IAF is sbc.IF


@given(st.integers(1, 5).map(lambda n: 2.0**n), st.integers(1, 16), st.booleans())
def test_dyadic_decays_are_exact(tau: float, steps: int, decay_input: bool) -> None:
    """tau = 2, 4, .. make decays that floats hold: their powers are not rounded before 53 bits."""
    from fractions import Fraction

    decay = 1 - Fraction(1, int(tau))
    response = sbc.LIF(tau, decay_input).impulse_response(steps)
    for t, value in enumerate(response):
        exact = decay**t * (Fraction(1, int(tau)) if decay_input else 1)
        if exact.numerator.bit_length() <= 53:
            assert Fraction(float(value)) == exact


class _Own:
    """A user's neuron: anything with impulse_response."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def impulse_response(self, T: int) -> Any:
        return self.answer


def test_own_neuron_and_kernel() -> None:
    k = np.array([1.0, -0.5, 0.25])
    assert isinstance(_Own(k), Neuron)
    assert np.array_equal(impulse_response(_Own(k), 3), k)
    kernel = sbc.Kernel(k)
    k[0] = 9.0  # a Kernel keeps its own copy
    assert np.array_equal(kernel.impulse_response(2), [1.0, -0.5])
    kernel.impulse_response(2)[0] = 5.0  # and hands out copies
    assert np.array_equal(kernel.impulse_response(2), [1.0, -0.5])
    assert kernel == sbc.Kernel([1.0, -0.5, 0.25]) != sbc.Kernel([1.0, -0.5])
    assert hash(kernel) == hash(sbc.Kernel((1.0, -0.5, 0.25)))
    assert sbc.Kernel(2.0).impulse_response(1).tolist() == [2.0]


@pytest.mark.parametrize("scalar", [np.float32, np.float64, np.int64, int])
def test_numpy_numbers_are_numbers(scalar: Callable[[float], Any]) -> None:
    """Also in precision: 1/3 is not to be rounded to the 24 bits of the number it came from."""
    for tau in (2, 3):
        response = sbc.LIF(scalar(tau)).impulse_response(5)
        assert np.array_equal(response, sbc.LIF(float(tau)).impulse_response(5))
    assert np.array_equal(
        sbc.CubaLIF(np.float32(0.5), np.float32(0.25)).impulse_response(9),
        sbc.CubaLIF(0.5, 0.25).impulse_response(9),
    )


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: sbc.LIF(0.5), r"tau is 0\.5; accepted is a finite number of at least 1"),
        (lambda: sbc.LIF(math.nan), "tau is nan"),
        (lambda: sbc.LIF(math.inf), "tau is inf"),
        (lambda: sbc.LIF("2"), "tau is '2'"),
        (lambda: sbc.LIF(True), "tau is True"),
        (lambda: sbc.PLIF(math.inf), "w is inf"),
        (lambda: sbc.Leaky(math.nan), "beta is nan"),
        (lambda: sbc.Leaky(None), "beta is None"),
        (lambda: sbc.CubaLIF(1.5, 0.5), r"alpha is 1\.5; accepted is 0\.\.1"),
        (lambda: sbc.CubaLIF(0.5, -0.1), r"beta is -0\.1; accepted is 0\.\.1"),
        (lambda: sbc.Alpha(0.5, 0.9), r"accepted is 0 < beta < alpha < 1"),
        (lambda: sbc.Alpha(0.5, 0.5), r"accepted is 0 < beta < alpha < 1"),
        (lambda: sbc.Alpha(1.0, 0.5), r"accepted is 0 < beta < alpha < 1"),
        (lambda: sbc.Alpha(0.5, 0.0), r"accepted is 0 < beta < alpha < 1"),
        (lambda: sbc.Lapicque(), r"\(R, C, beta\) is \(None, None, None\); accepted is two"),
        (lambda: sbc.Lapicque(R=1.0, C=1.0, beta=0.5), "accepted is two of the three"),
        (lambda: sbc.Lapicque(R=-1.0, C=1.0), r"R is -1\.0; accepted is a positive number"),
        (lambda: sbc.Lapicque(R=1.0, C=0.0), r"C is 0\.0"),
        (lambda: sbc.Lapicque(R=1.0, beta=1.0), r"beta is 1\.0; accepted is a number in \(0, 1\)"),
        (lambda: sbc.Lapicque(R=1.0, C=1.0, time_step=0.0), r"time_step is 0\.0"),
        (lambda: sbc.NorseLIF(tau_mem_inv=-1.0), r"tau_mem_inv is -1\.0"),
        (lambda: sbc.NorseLIFBox(dt=math.nan), "dt is nan"),
        (lambda: sbc.SinabsLIF(0.0), r"tau_mem is 0\.0; accepted is a positive number"),
        (lambda: sbc.SinabsLIF(1.0, -1.0), r"tau_syn is -1\.0"),
        (lambda: sbc.Kernel([]), r"k is .*shape"),
        (lambda: sbc.Kernel([[1.0]]), r"k is .*shape"),
        (lambda: sbc.Kernel([1.0, math.nan]), "k is .*NaN or Inf"),
        (lambda: sbc.Kernel([1.0]).impulse_response(2), "k is 1 values; .*at least T = 2"),
        (lambda: sbc.IF().impulse_response(0), "T is 0; accepted is an integer of at least 1"),
        (lambda: sbc.LIF().impulse_response(2.0), r"T is 2\.0"),
        (lambda: impulse_response(_Own(np.ones(3)), 4), r"shape \(3,\).*shape \(4,\)"),
        (lambda: impulse_response(_Own([1.0, math.inf]), 2), "not finite"),
    ],
)
def test_wrong_parameters(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("neuron", ["LIF", 2.0, sbc.LIF, object()])
def test_no_neuron_at_all(neuron: Any) -> None:
    with pytest.raises(TypeError, match=r"neuron is .*; accepted is an object with"):
        sbc.SpikeHessian(neuron)
