"""The matched filter M'M: its entries, how long they stay exact, and that it is made once."""

from __future__ import annotations

import re
import time
from fractions import Fraction

import numpy as np
import pytest
from helpers import assert_close, eps

import sbc_kernels as sbc
from sbc_kernels.backends import matched_filter as module
from sbc_kernels.backends.matched_filter import matched_filter
from sbc_kernels.neurons import Neuron, membrane_matrix

# README and docs/method.md name these: the last T at which sums are exact, by tau.
SAID = "1000 samples of counts up to 3 with LIF(2) up to T = 17, LIF(4) 9 and LIF(8) 6"
EXACT_UP_TO = {2.0: 17, 4.0: 9, 8.0: 6}
OF_TWO_SAMPLES = {2.0: 22, 4.0: 11, 8.0: 7}


@pytest.mark.parametrize("T", [1, 2, 5, 30])
@pytest.mark.parametrize(
    "neuron",
    [sbc.IF(), sbc.LIF(2.0), sbc.LIF(3.0), sbc.Kernel(np.linspace(-1, 2, 30))],
    ids=["IF", "LIF(2)", "LIF(3)", "kernel"],
)
def test_entries(neuron: Neuron, T: int) -> None:
    found = matched_filter(neuron, T)
    M = membrane_matrix(neuron, T)
    wanted = M.T @ M
    row = np.abs(wanted).sum(axis=1).max()
    bound = 4 * T * eps(np.float64) * row + (0 if found.exact else 2.0 ** -(found.bits - 1) * row)
    assert_close(found.factor * found.integers, wanted, bound, "M'M")
    assert_close(found.pair_factor * found.pair_weights, wanted, 4 * T * eps(np.float64) * row)
    assert np.array_equal(found.membrane_matrix, M)
    assert found.largest_row_sum == max(sum(abs(int(v)) for v in row) for row in found.integers)
    if found.exact and T > 1:  # the square of a lone number is its unit, rounded
        exact = [[Fraction(float(v)) for v in row] for row in M]
        for t in range(T):
            for u in range(T):
                entry = sum(exact[s][t] * exact[s][u] for s in range(T))
                assert int(found.integers[t, u]) * Fraction(found.factor) == entry


@pytest.mark.parametrize("value", [1, 3])
@pytest.mark.parametrize(("samples", "last"), [(1000, EXACT_UP_TO), (2, OF_TWO_SAMPLES)])
@pytest.mark.parametrize("tau", [2.0, 4.0, 8.0])
def test_how_long_counts_are_exact(
    tau: float, samples: int, last: dict[float, int], value: int, backend: str
) -> None:
    """By the log, and by the sum in whole numbers: spikes at every step are the worst case."""
    for T in (1, last[tau], last[tau] + 1, last[tau] + 3):
        batch = np.full((T, samples, 3), value, np.uint8)
        hessian = sbc.SpikeHessian(sbc.LIF(tau), backend=backend).update(batch)
        said = "exact integers" in hessian.paths[0]
        if value == 3:
            assert said == (last[tau] >= T)
        elif last[tau] >= T:
            assert said
        if said:
            k = [Fraction(float(v)) for v in sbc.LIF(tau).impulse_response(T)]
            y = [value * sum(k[: t + 1]) for t in range(T)]
            assert Fraction(float(hessian.sum()[0, 0])) == samples * sum(v * v for v in y)


@pytest.mark.parametrize("page", ["README.md", "docs/method.md"])
def test_the_pages_say_how_long(page: str, request: pytest.FixtureRequest) -> None:
    figures = [int(number) for number in re.findall(r"\d+", SAID)]
    assert figures == [1000, 3, *(int(n) for pair in EXACT_UP_TO.items() for n in pair)]
    text = " ".join((request.config.rootpath / page).read_text().split())
    assert SAID in text.replace("`", "")


def test_a_long_filter_is_made_once_and_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """T = 3000 took minutes: T^2 sums in Python, again for every batch."""
    made = []
    plain = module._autocorrelation
    monkeypatch.setattr(module, "_autocorrelation", lambda k: made.append(len(k)) or plain(k))
    neuron = sbc.Kernel(np.full(3000, 0.5))
    spikes = np.zeros((3000, 1, 2), dtype=bool)
    spikes[::7, :, 0] = True
    start = time.process_time()
    hessian = sbc.SpikeHessian(neuron).update(spikes).update(spikes)
    sbc.SpikeHessian(neuron).update(spikes)
    assert made == [3000]
    assert time.process_time() - start < 60  # 1 to 2 s; in Python it was minutes
    count = np.cumsum(spikes[:, 0, 0])
    assert hessian.sum()[0, 0] == 2 * 0.25 * float((count.astype(np.float64) ** 2).sum())
