"""Layers whose spikes are huge, tiny or without effect: the masks, and what is said."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from layers import OPTIONS, layer_case

import sbc_kernels as sbc


@pytest.mark.parametrize("power", [-1000, -560, 480])
@pytest.mark.parametrize("kind", ["binary", "analog"])
@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("name", ["linear", "grouped"])
def test_masks_do_not_know_the_scale_of_spikes(
    name: str, option: str, kind: str, power: int
) -> None:
    weight, spikes, geometry = layer_case(name)
    analog = spikes * np.random.default_rng(3).random(spikes.shape).astype(np.float32)
    values = (spikes if kind == "binary" else analog).astype(np.float64)
    plain = sbc.compress_layer(weight, values, sbc.LIF(3.0), **OPTIONS[option], **geometry)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        far = sbc.compress_layer(
            weight, np.ldexp(values, power), sbc.LIF(3.0), **OPTIONS[option], **geometry
        )
    assert np.array_equal(far.weight, plain.weight)
    beyond = [w for w in said if "beyond float64's range" in str(w.message)]
    if power == 480:
        assert not said
        assert np.array_equal(np.ldexp(far.loss, -2 * power), plain.loss)
    else:
        assert (far.loss == 0).all()
        assert len(beyond) == (1 if plain.loss.any() else 0)
    assert not any("spiked" in line for line in set(far.log) ^ set(plain.log))


def test_a_loss_beyond_float64_is_infinite_and_said() -> None:
    weight, spikes, _ = layer_case("linear")
    with pytest.warns(RuntimeWarning, match=r"losses of \d+ rows are beyond float64's range"):
        out = sbc.compress_layer(weight, spikes * 1e200, sbc.IF(), sparsity=0.5)
    assert np.isinf(out.loss).all()
    assert any("beyond float64's range" in line for line in out.log)
    plain = sbc.compress_layer(weight, spikes, sbc.IF(), sparsity=0.5)
    assert np.array_equal(out.mask, plain.mask)


def test_tiny_spikes_are_spikes() -> None:
    """1e-165, whose squares are 0 in float64."""
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "no input spiked")
        warnings.filterwarnings("ignore", "the losses")
        out = sbc.compress_layer(np.ones((2, 4)), np.full((2, 5, 4), 1e-165), sparsity=0.5)
    assert not any("spiked" in line for line in out.log)


NEVER = "1 of 3 inputs never spiked in calibration"
WITHOUT = "1 of 3 inputs spiked in calibration, but without an effect"


@pytest.mark.parametrize(
    ("spikes", "neuron", "lines"),
    [
        ([[1.0, 0, 0], [0, 1, 0]], sbc.IF(), [NEVER]),
        ([[1.0, 0, 0], [0, 0, 1e-200]], sbc.IF(), [NEVER, WITHOUT]),
        ([[1.0, 0, 0], [0, 1, 0]], sbc.Kernel([0.0, 1.0]), [NEVER, WITHOUT]),
        (
            [[0.0, 0, 0], [0, 1, 1]],
            sbc.Kernel([0.0, 1.0]),
            ["2 of 3 inputs spiked in calibration, but none with an effect"],
        ),
        ([[0.0, 0, 0], [0, 0, 0]], sbc.IF(), ["no input spiked in calibration: there is nothing"]),
    ],
)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_silence_is_said_where_it_is(
    spikes: list[list[float]], neuron: sbc.Kernel, lines: list[str]
) -> None:
    """A response with a delay of one step has no use for what comes in the last one."""
    batch = np.array(spikes)[:, None, :]
    out = sbc.compress_layer(np.ones((2, 3)), batch, neuron, sparsity=0.3)
    said = [line for line in out.log if "spiked" in line]
    assert len(said) == len(lines)
    for line, start in zip(said, lines, strict=True):
        assert line.startswith(start)
