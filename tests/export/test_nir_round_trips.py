"""NIR graphs, read back by frameworks and by a reference of the equations, spike for spike."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
from nir_networks import (
    HARD,
    IF,
    SOURCES,
    Chain,
    assert_same,
    fired,
    inputs,
    interpret,
    neurons,
    quantized,
    read_back,
    seeded,
    written,
)

import sbc_kernels as sbc

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import nir
    import snntorch as snn
    from spikingjelly.activation_based import neuron


@pytest.mark.parametrize("source", SOURCES)
def test_quantized_networks_fire_alike_in_every_reader(source: str, tmp_path: Path) -> None:
    kind, build, scale = SOURCES[source]
    net, x = seeded(build, scale), inputs()
    weights = quantized(net)
    written(net, x, tmp_path / "net.nir", weights=weights)
    back = nir.read(tmp_path / "net.nir")
    assert {type(back.nodes[name]).__name__ for name in neurons(back)} == {kind}
    expected = fired(net, x, ["n1", "n2", "n3"])
    assert_same(interpret(back, x), expected, "NIR's equations")
    readers = ["spikingjelly", "norse"] if kind == IF else ["spikingjelly", "snntorch", "norse"]
    if "v_reset" in source:  # the other two know no potential but 0 to rest at
        readers = ["spikingjelly"]
    for reader in readers:
        assert_same(read_back(reader, tmp_path / "net.nir", x), expected, reader)


def test_a_network_without_codes_fires_alike(tmp_path: Path) -> None:
    """Weights off every grid: readers round potentials in their own ways; no spike hangs on it."""
    for source in ("spikingjelly LIFNode", "snntorch Leaky"):
        _, build, scale = SOURCES[source]
        net, x = seeded(build, scale), inputs()
        written(net, x, tmp_path / "net.nir")
        expected = fired(net, x, ["n1", "n2", "n3"])
        for reader in ("spikingjelly", "snntorch", "norse"):
            assert_same(read_back(reader, tmp_path / "net.nir", x), expected, reader)


def test_decays_that_no_float_holds_change_few_spikes(tmp_path: Path) -> None:
    """tau = 3 and beta = 0.9: readers round the decay in their own ways. At most 1 spike in 10 000 may
    differ, on weights that are not on a grid (0 of 445 000 were measured)."""
    for build, scale in (
        (lambda: Chain(lambda: neuron.LIFNode(tau=3.0)), 7.0),
        (lambda: Chain(lambda: snn.Leaky(beta=0.9, **HARD)), 1.5),
    ):
        net, x = seeded(build, scale), inputs()
        written(net, x, tmp_path / "net.nir")
        expected = fired(net, x, ["n1", "n2", "n3"])
        for reader in ("spikingjelly", "snntorch", "norse"):
            actual = read_back(reader, tmp_path / "net.nir", x)
            for name, spikes in expected.items():
                assert 0.01 < spikes.mean() < 0.99
                assert (actual[name] != spikes).mean() <= 1e-4, f"{reader}: {name}"


@pytest.mark.parametrize("source", ["spikingjelly IFNode", "spikingjelly LIFNode", "norse LIFCell"])
def test_what_compress_model_answers_fires_alike(source: str, tmp_path: Path) -> None:
    """Scales as they were fitted, BatchNorm folded, both kinds of weights."""
    kind, build, scale = SOURCES[source]
    net, x = seeded(build, scale), inputs()
    result = sbc.compress_model(net, inputs(64, seed=3), sparsity=0.5, bits=4)
    expected = fired(result.model, x, ["n1", "n2", "n3"])
    path = tmp_path / "net.nir"
    written(result.model, x, path, weights=result.weights)
    for reader in (
        ["spikingjelly", "norse"] if kind == IF else ["spikingjelly", "snntorch", "norse"]
    ):
        assert_same(read_back(reader, path, x), expected, reader)
    written(result.model, x, path, weights=result.weights, integer_weights=True)
    assert_same(interpret(nir.read(path), x), expected, "NIR's equations")
    assert_same(read_back("norse", path, x), expected, "norse, integers")
