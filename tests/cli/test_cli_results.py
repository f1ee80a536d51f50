"""sbc evaluate, sbc report, sbc export, completion in the shell."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import CAL, good, run, said
from safetensors.torch import load_file

import sbc_kernels as sbc
from sbc_kernels.cli.data import Cut, load_data
from sbc_kernels.cli.objects import load_model
from sbc_kernels.files import read_metadata, save_packed
from sbc_kernels.method.options import METHODS
from sbc_kernels.metrics import connection_sparsity, synaptic_operations

# ---- evaluate, report, export ------------------------------------------------------------------


def test_evaluate_one_network(place: Path) -> None:
    told = json.loads(good("evaluate", "net.py:make", "--test", "test.npz", "--json").stdout)
    network = load_model("net.py:make")
    data = load_data("test.npz", Cut(), "")
    expected = synaptic_operations(network, data)
    assert told["samples"] == 20
    assert told["effective_acs"] == expected.effective_acs
    assert told["energy"] == expected.energy()
    assert told["accuracy"] == sbc.metrics.accuracy(network, data)
    assert told["spike_rates"] == sbc.metrics.spike_rates(network, data)
    assert told["connection_sparsity"] == connection_sparsity(network)
    text = good("evaluate", "net.py:make", "--test", "test.npz", "--pj-per-ac", "0").output
    assert f"{told['accuracy']:.2f} %" in text
    assert "0 J" in text
    np.save("unlabelled.npy", np.load("test.npz")["x"])
    blind = json.loads(good("evaluate", "net.py:make", "--test", "unlabelled.npy", "--json").stdout)
    assert blind["accuracy"] is None
    assert blind["operations"] == told["operations"]


def test_evaluate_two_networks(place: Path, packed: Path) -> None:
    arguments = ("evaluate", "net.py:make", "--test", "test.npz", "--compressed", str(packed))
    told = json.loads(good(*arguments, "--json").stdout)
    small = sbc.load_compressed(load_model("net.py:make"), packed)
    data = load_data("test.npz", Cut(), "")
    found = sbc.metrics.compare(load_model("net.py:make"), small, data)
    assert told["agreement"] == found.agreement
    assert told["compressed"]["effective_acs"] == found.compressed.operations.effective_acs
    assert told["compressed"]["connection_sparsity"] == pytest.approx(0.75, abs=0.01)
    assert told["van_rossum"] == found.van_rossum
    text = good(*arguments).output
    assert "van Rossum distance" in text
    assert f"{found.agreement:.2f} % of 20 samples." in text


def test_readout_and_forward_are_used(place: Path) -> None:
    arguments = ("evaluate", "net.py:make", "--test", "test.npz", "--json")
    plain = json.loads(good(*arguments).stdout)
    twice = json.loads(good(*arguments, "--forward", "net.py:twice").stdout)
    assert twice["effective_acs"] == pytest.approx(2 * plain["effective_acs"], rel=0.2)
    first = json.loads(good(*arguments, "--readout", "net.py:first").stdout)
    network, data = load_model("net.py:make"), load_data("test.npz", Cut(), "")
    assert first["accuracy"] == sbc.metrics.accuracy(network, data, readout=lambda out: out[0])


def test_report(place: Path, packed: Path) -> None:
    carried = read_metadata(packed)["report"]
    assert json.loads(good("report", str(packed), "--json").stdout) == carried
    text = good("report", str(packed)).output
    for layer in carried["layers"]:
        assert f"{100 * layer['sparsity']:.2f} %" in text
    assert "of 20 samples." in text
    good("report", str(packed), "--out", "deep/page.html")
    assert "</html>" in Path("deep/page.html").read_text()
    assert run("report", str(packed), "--out", "deep/page.html").exit_code == 2
    good("report", str(packed), "--out", "deep/page.html", "--force")
    save_packed("plain.safetensors", {"a": np.zeros(3)})
    assert "holds no report" in said(run("report", "plain.safetensors"))


def test_export_a_state_dict(place: Path, packed: Path) -> None:
    good(
        "export",
        "net.py:make",
        str(packed),
        "--format",
        "state-dict",
        "--out",
        "deep/sd.safetensors",
    )
    state = load_file("deep/sd.safetensors")
    expected = sbc.load_compressed(packed)
    assert state.keys() == expected.keys()
    for key, tensor in state.items():
        assert torch.equal(tensor, expected[key])
    load_model("net.py:make", None, Path("deep/sd.safetensors"))
    arguments = ("--format", "state-dict", "--out", "x")
    wide = run("export", "net.py:make", str(packed), *arguments, "--model-args", '{"width": 30}')
    assert wide.exit_code == 2
    assert "is of another model" in said(wide)
    both = run("export", "net.py:make", str(packed), *arguments, "--integer-weights")
    assert both.exit_code == 2


@pytest.mark.parametrize("integers", [False, True])
def test_export_nir(place: Path, integers: bool) -> None:
    import nir

    result = run("export", "net.py:make", "o/model.safetensors", "--out", "net.nir", *CAL[1:])
    assert "FILE: no such file: o/model.safetensors" in said(result)
    good("compress", *CAL, "--fold", "--bits", "3", "--out", "o", "-q")
    more = ("--integer-weights",) if integers else ()
    result = good(
        "export", "net.py:make", "o/model.safetensors", *CAL[1:], "--out", "deep/net.nir", *more
    )
    assert "deep/net.nir is written" in result.output
    graph = nir.read("deep/net.nir")
    layers = [node for node in graph.nodes.values() if isinstance(node, (nir.Linear, nir.Affine))]
    assert [node.weight.shape for node in layers] == [(24, 20), (4, 24)]
    whole = all(np.array_equal(node.weight, np.rint(node.weight)) for node in layers)
    assert whole == integers
    state = sbc.load_compressed(Path("o/model.safetensors"))
    if not integers:
        np.testing.assert_array_equal(layers[0].weight, state["1.weight"])


def test_export_nir_says_what_stands_in_its_way(place: Path, packed: Path) -> None:
    result = run("export", "net.py:make", str(packed), *CAL[1:], "--out", "net.nir")
    assert result.exit_code == 2
    assert "NIR has no BatchNorm" in said(result)
    assert not Path("net.nir").exists()


# ---- the shell ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("sbc comp", {"compress"}),
        ("sbc compress --method ", set(METHODS)),
        ("sbc compress --backend ", set(sbc.available_backends())),
        ("sbc compress --allocation m", {"measured"}),
        ("sbc export --format ", {"nir", "state-dict"}),
        ("sbc compress --bn-re", {"--bn-reestimate"}),
    ],
)
def test_completion(typed: str, offered: set[str]) -> None:
    env = {
        "_SBC_COMPLETE": "complete_bash",
        "COMP_WORDS": typed,
        "COMP_CWORD": str(len(typed.split(" ")) - 1),
    }
    result = run(env=env)
    assert set(result.stdout.split()) == offered
