"""Spikes and responses of any finite scale, and what is said where float64 cannot hold a result."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from helpers import assert_close, eps, spike_train

import sbc_kernels as sbc
from sbc_kernels.neurons import Neuron
from sbc_kernels.ops import reference

D = 13
POWERS = [-1060, -600, -250, -201, 200, 201, 333, 600, 1000]


def drawn(kind: str, *shape: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    spikes = spike_train(rng, *shape).astype(np.float64)
    spikes[0].flat[:2] = (1, 1)
    factor = {"binary": 1.0, "counts": rng.integers(-4, 5, shape), "analog": rng.random(shape)}
    values: np.ndarray = spikes * factor[kind]
    return np.ldexp(np.rint(np.ldexp(values, 12)), -12)  # 13 bits: exact also where it is subnormal


@pytest.mark.parametrize("power", POWERS)
@pytest.mark.parametrize("kind", ["binary", "counts", "analog"])
@pytest.mark.parametrize("shape", ["linear", "conv"])
def test_a_power_of_two_comes_out_squared(shape: str, kind: str, power: int, backend: str) -> None:
    """Where the spikes' own scale is harmless, the sum is the same to the last bit."""
    extent, conv = {
        "linear": ((3, 9, D), None),
        "conv": ((3, 4, 2, 5, 4), sbc.Conv((3, 3), padding=1)),
    }[shape]
    spikes = drawn(kind, *extent)
    # The reciprocal of a subnormal unit is infinite: its multiples are summed as floats, which round
    # the response of LIF(3) otherwise than the fixed point of integers.
    for neuron in (None, sbc.LIF(2.0), *([sbc.LIF(3.0)] if power > -1000 else [])):
        plain = sbc.SpikeHessian(neuron, conv=conv, backend=backend).update(spikes)
        far = sbc.SpikeHessian(neuron, conv=conv, backend=backend)
        far.update(np.ldexp(spikes, power))
        scaled, wanted = far.scaled(), plain.scaled()
        assert wanted.exponent == 0
        assert np.array_equal(np.ldexp(scaled.stack, scaled.exponent - 2 * power), wanted.stack)
        assert np.array_equal(scaled.fired, wanted.fired)
        if abs(power) > 511:
            if power > 0:
                with pytest.raises(sbc.ParameterError, match=r"spikes have a Hessian .* 2\^"):
                    far.matrix()
            else:
                assert not np.asarray(far.matrix()).any()
        else:
            assert np.array_equal(np.ldexp(far.matrix(), -2 * power), plain.matrix())


@pytest.mark.parametrize("power", [-600, 600])
@pytest.mark.parametrize("kind", ["binary", "analog"])
def test_responses_of_any_scale(power: int, kind: str, backend: str) -> None:
    spikes = drawn(kind, 3, 9, D)
    for k in ([1.0, 0.5, 0.25], [0.9, -0.3, 0.7]):
        plain = sbc.SpikeHessian(sbc.Kernel(k), backend=backend).update(spikes).scaled()
        far = sbc.SpikeHessian(sbc.Kernel(np.ldexp(k, power)), backend=backend).update(spikes)
        scaled = far.scaled()
        bound = 8 * eps(np.float64) * np.abs(plain.stack).max()
        stack = np.ldexp(scaled.stack, scaled.exponent - 2 * power)
        assert_close(stack, plain.stack, bound, repr(k))


@pytest.mark.parametrize("order", [1, -1])
def test_batches_of_far_scales(order: int) -> None:
    """The larger ones decide; of the smaller ones it is still known that they fired."""
    large, small = np.zeros((2, 5, 3)), np.zeros((2, 5, 3))
    large[..., 0] = np.random.default_rng(1).random((2, 5))
    small[..., 1] = np.random.default_rng(2).random((2, 5))
    hessian = sbc.SpikeHessian(sbc.IF())
    for batch in (np.ldexp(large, 700), np.ldexp(small, -700))[::order]:
        hessian.update(batch)
    scaled = hessian.scaled()
    assert scaled.fired.tolist() == [[True, True, False]]
    wanted = 0.2 * reference.spike_sum(large, sbc.IF())[0]
    stack = np.ldexp(scaled.stack[0], scaled.exponent - 1400)
    assert_close(stack, wanted, 32 * eps(np.float64) * wanted, "stack")


@pytest.mark.parametrize("merged", [False, True])
@pytest.mark.parametrize("kind", ["counts", "analog"])
def test_far_batches_add_up(kind: str, merged: bool) -> None:
    spikes = np.ldexp(drawn(kind, 3, 8, D), 580)
    whole = sbc.SpikeHessian(sbc.LIF(2.0)).update(spikes).scaled()
    stream = sbc.SpikeHessian(sbc.LIF(2.0))
    for batch in (spikes[:, :3], spikes[:, 3:]):
        if merged:
            stream.merge(sbc.SpikeHessian(sbc.LIF(2.0)).update(batch))
        else:
            stream.update(batch)
    parts = stream.scaled()
    stack = np.ldexp(parts.stack, parts.exponent - whole.exponent)
    assert_close(stack, whole.stack, 64 * eps(np.float64) * np.abs(whole.stack).max(), "stack")


@pytest.mark.parametrize("how", ["spike_gram", "matrix", "sum"])
@pytest.mark.parametrize("kind", ["binary", "analog"])
def test_a_hessian_beyond_float64_is_refused(how: str, kind: str) -> None:
    spikes = np.ldexp(drawn(kind, 2, 5, 4), 520)
    ask: Any = {
        "spike_gram": lambda: sbc.spike_gram(spikes, sbc.Kernel([1.0, 1.0])),
        "matrix": lambda: sbc.SpikeHessian().update(spikes).matrix(),
        "sum": lambda: sbc.SpikeHessian().update(spikes).sum(),
    }[how]
    with pytest.raises(sbc.ParameterError, match=r"spikes have .* 2\^10\d\d; .* a smaller scale"):
        ask()


# ---- which inputs fired -----------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [bool, np.int8, np.float32, np.float64])
@pytest.mark.parametrize(
    "neuron",
    [None, sbc.LIF(2.0), sbc.LIF(3.0), sbc.Kernel([0.0, 1.0, 0.5]), sbc.Kernel([0.0, 0.0, 0.0])],
    ids=repr,
)
@pytest.mark.parametrize("conv", [None, sbc.Conv((3, 2), stride=2, groups=2)])
def test_what_fired(dtype: Any, neuron: Neuron | None, conv: sbc.Conv | None, backend: str) -> None:
    """By the data: also before a neuron answers, and where it never does."""
    rng = np.random.default_rng(4)
    shape = (3, 2, 24) if conv is None else (3, 2, 4, 6, 5)
    spikes = rng.random(shape) < 0.01
    spikes[2, 1].flat[:3] = True  # a delayed response never sees the last step
    values = spikes.astype(dtype) * (dtype(0.37) if dtype is np.float64 else dtype(1))
    if dtype is np.float64:
        values *= 1.0 + 0.1 * rng.random(shape)
    hessian = sbc.SpikeHessian(neuron, conv=conv, backend=backend).update(values)
    rows = reference.filtered_input(spikes, None, conv)
    assert np.array_equal(hessian.scaled().fired, (rows != 0).any(axis=1))
