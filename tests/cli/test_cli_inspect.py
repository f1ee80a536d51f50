"""sbc inspect and sbc compress."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import CAL, good, run, said

import sbc_kernels as sbc
from sbc_kernels.cli.data import Cut, load_data
from sbc_kernels.cli.objects import load_model
from sbc_kernels.files import read_metadata
from sbc_kernels.files.packed import code_tensors

# ---- inspect -----------------------------------------------------------------------------------


def test_inspect_prints_the_plan(place: Path) -> None:
    network = load_model("net.py:make")
    batch = torch.from_numpy(np.load("cal.npz")["x"].astype(np.float32))
    result = good("inspect", *CAL, "--ignore", "4", "--overrides", '{"1": {"neuron": "LIF(3.0)"}}')
    plan = sbc.trace(network, batch, ignore=["4"], overrides={"1": {"neuron": sbc.LIF(3.0)}})
    assert result.stdout.startswith(str(plan))
    assert "1 of 2 weight layers with 480 weights would be compressed" in result.stdout
    told = good("inspect", *CAL, "--json")
    assert json.loads(told.stdout) == json.loads(sbc.trace(network, batch).to_json())


# ---- compress ----------------------------------------------------------------------------------


def test_compress_from_end_to_end(place: Path) -> None:
    result = good(
        "compress",
        *CAL,
        "--test",
        "test.npz",
        "--sparsity",
        "0.8",
        "--bits",
        "4",
        "--out",
        "deep/small",
    )
    network = load_model("net.py:make")
    expected = sbc.compress_model(
        network, load_data("cal.npz", Cut(), ""), sparsity=0.8, bits=4, progress=False
    )
    out = place / "deep" / "small"
    assert sorted(p.name for p in out.iterdir()) == [
        "model.safetensors", "report.html", "report.json",
    ]  # fmt: skip
    loaded = sbc.load_compressed(load_model("net.py:make"), out / "model.safetensors")
    for key, tensor in expected.model.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], tensor), key
    report = json.loads((out / "report.json").read_text())
    assert [layer["name"] for layer in report["layers"]] == ["1", "4"]
    assert report["comparison"]["samples"] == 20
    assert read_metadata(out / "model.safetensors")["report"] == report  # one time stamp, too
    assert "Synaptic operations" in (out / "report.html").read_text()
    shown = expected.table().splitlines()[2].split()[:6]
    assert shown == next(
        line.split()[:6] for line in result.stdout.splitlines() if line.startswith("1 ")
    )
    assert "of 20 samples." in result.stdout


def test_compress_json_is_the_report_and_nothing_else(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    coded = []
    monkeypatch.setattr(
        "sbc_kernels.model.saving.code_tensors",
        lambda tensors: coded.append(tensors) or code_tensors(tensors),
    )
    result = good("compress", "net.py:chatty", *CAL[1:], "--out", "o", "--json", "--method", "rtn",
                  "--bits", "3")  # fmt: skip
    assert json.loads(result.stdout) == json.loads(Path("o/report.json").read_text())
    assert len(coded) == 1  # for the file, the page and the JSON together
    assert "hello from the factory" in result.stderr
    assert "error" in result.stderr  # a line a layer, for there is no terminal
    quiet = good("compress", *CAL, "--out", "p", "--quiet")
    assert quiet.output == ""


def test_a_finished_result_is_not_overwritten(place: Path) -> None:
    arguments = ("compress", *CAL, "--out", "o", "--method", "magnitude")
    good(*arguments)
    before = Path("o/model.safetensors").read_bytes()
    result = run(*arguments, "--sparsity", "0.5")
    assert result.exit_code == 2
    assert "o/model.safetensors and o/report.html and o/report.json are there already" in said(
        result
    )
    assert Path("o/model.safetensors").read_bytes() == before
    good(*arguments, "--sparsity", "0.5", "--force")
    assert Path("o/model.safetensors").read_bytes() != before


# ---- the shell ---------------------------------------------------------------------------------


@pytest.mark.parametrize("device", ["gpu", "cuda:97"])
def test_a_device_that_is_not_there(place: Path, device: str) -> None:
    for command in (
        ["compress", *CAL, "--out", "o"],
        ["evaluate", "net.py:make", "--test", "cal.npz"],
    ):
        result = run(*command, "--device", device)
        assert result.exit_code == 2, result.output
        assert f"{device!r} cannot be used" in said(result)
        assert "this machine has cpu" in said(result)
    assert not Path("o").exists()


def test_a_run_that_did_nothing_is_no_obstacle(place: Path) -> None:
    bad = run("compress", *CAL, "--out", "o", "--allocation", '{"nowhere": 0.5}')
    assert bad.exit_code != 0
    good("compress", *CAL, "--out", "o", "--sparsity", "0.7", "--quiet")


def test_an_empty_folder_does_not_let_a_result_be_overwritten(place: Path) -> None:
    good("compress", *CAL, "--out", "o", "--quiet")
    before = Path("o/model.safetensors").read_bytes()
    Path("o/unfinished").mkdir()
    assert run("compress", *CAL, "--out", "o", "--sparsity", "0.2").exit_code == 2
    assert Path("o/model.safetensors").read_bytes() == before
