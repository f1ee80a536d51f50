"""Checkpoints on the command line."""

from __future__ import annotations

import pickle
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import CAL, good, run, said
from safetensors.torch import save_file
from torch import nn

import sbc_kernels as sbc
from sbc_kernels.cli.checkpoints import read_weights
from sbc_kernels.cli.data import Cut, load_data
from sbc_kernels.cli.objects import load_model
from sbc_kernels.files import Pruned, save_packed

# ---- checkpoints -------------------------------------------------------------------------------


def trained(seed: int) -> nn.Module:
    made = load_model("net.py:make")
    torch.manual_seed(seed)
    for parameter in made.parameters():
        nn.init.normal_(parameter)
    return made


@pytest.mark.parametrize("kind", ["safetensors", "torch", "wrapped", "parallel", "packed", "ours"])
def test_checkpoints(place: Path, kind: str) -> None:
    source = trained(5)
    state = source.state_dict()
    path = Path("w.safetensors" if kind in ("safetensors", "packed", "ours") else "w.pt")
    if kind == "safetensors":
        save_file(state, path)
    elif kind == "torch":
        torch.save(state, path)
    elif kind == "wrapped":
        torch.save({"epoch": 3, "state_dict": state, "optimizer": {}}, path)
    elif kind == "parallel":
        torch.save({f"module.{key}": tensor for key, tensor in state.items()}, path)
    elif kind == "packed":
        arrays: dict[str, Any] = {key: tensor.numpy() for key, tensor in state.items()}
        arrays["1.weight"] = Pruned(arrays["1.weight"], arrays["1.weight"] != 0)
        save_packed(path, arrays)
    else:
        batches = load_data("cal.npz", Cut(), "")
        result = sbc.compress_model(source, batches, sparsity=0.5, progress=False)
        result.save(path)
        state = result.model.state_dict()
    loaded = load_model("net.py:make", None, path)
    assert list(state)
    for key, tensor in state.items():
        assert torch.equal(loaded.state_dict()[key], tensor), key


def test_checkpoints_that_do_not_go_with_the_network(place: Path) -> None:
    state = trained(5).state_dict()
    state["1.weight"] = state["1.weight"][:, :7].contiguous()
    state["extra.weight"] = state.pop("4.bias")
    save_file(state, "w.safetensors")
    result = run("inspect", *CAL, "--checkpoint", "w.safetensors")
    assert result.exit_code == 2
    text = said(result)
    assert "1.weight is [24, 7] and in the network [24, 20]" in text
    assert "it lacks 4.bias" in text
    assert "the network has no extra.weight" in text


class Evil:
    def __reduce__(self) -> Any:
        return (print, ("gotcha",))


def test_checkpoints_execute_nothing(place: Path) -> None:
    Path("evil.pt").write_bytes(pickle.dumps({"a": Evil()}))
    torch.save({"a": Evil()}, "evil2.pt")
    torch.save(trained(1), "whole.pt")
    torch.save({"lr": 0.1}, "numbers.pt")
    Path("half.safetensors").write_bytes(b"\x10\0\0")
    for name, message in (
        ("evil.pt", "evil.pt"),
        ("evil2.pt", "holds more than tensors"),
        ("whole.pt", "torch.save(model.state_dict(), ...)"),
        ("numbers.pt", "holds lr besides tensors"),
        ("half.safetensors", "is not a whole safetensors file"),
        ("none.pt", "there is no file none.pt"),
    ):
        result = run("inspect", *CAL, "--checkpoint", name)
        assert result.exit_code == 2, result.output
        assert message in said(result)
        assert "gotcha" not in result.output


def test_a_neurons_state_in_a_checkpoint_is_passed_over(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """snnTorch keeps membranes as buffers, of whatever batch ran last."""
    Path("torchy.py").write_text(
        "import snntorch, torch\nfrom torch import nn\ndef make():\n"
        "    return nn.Sequential(nn.Linear(3, 2), snntorch.Leaky(beta=0.5, init_hidden=True))\n"
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        source = load_model("torchy.py:make")
    source(torch.rand(7, 3))
    state = {**source.state_dict(), "1.mem": torch.zeros(7, 2)}
    state["1.beta"] = torch.tensor(0.25)
    torch.save(state, "w.pt")
    loaded = load_model("torchy.py:make", None, Path("w.pt"))
    assert torch.equal(loaded[0].weight, source[0].weight)
    assert float(loaded[1].beta) == 0.25
    assert "1.mem" in capsys.readouterr().err


# ---- the shell ---------------------------------------------------------------------------------


def test_a_packed_file_is_a_checkpoint(place: Path) -> None:
    """Whatever its dtype: bfloat16 lies in it as bits."""
    Path("half.py").write_text(
        "import torch\nfrom net import make as wide\ndef make():\n    return wide().bfloat16()\n"
    )
    given = (
        "half.py:make",
        "--calibration",
        "cal.npz",
        "--dtype",
        "float32",
        "--forward",
        "half.py:run",
    )
    with Path("half.py").open("a") as file:
        file.write("def run(model, batch):\n    return model(batch.bfloat16())\n")
    good("compress", *given, "--out", "o", "--sparsity", "0.5", "--quiet")
    state = read_weights(Path("o/model.safetensors"))
    wanted = sbc.load_compressed(Path("o/model.safetensors"))
    assert state.keys() == wanted.keys()
    assert all(torch.equal(state[name], wanted[name]) for name in wanted)
    assert state["1.weight"].dtype == torch.bfloat16


def test_files_that_are_no_checkpoint(place: Path) -> None:
    Path("a.pt").write_text("hello")
    torch.save({0: torch.zeros(2)}, "b.pt")
    for name, why in (
        ("a.pt", "cannot be read by torch.load"),
        ("b.pt", "holds 0 besides tensors"),
    ):
        result = run("inspect", *CAL, "--checkpoint", name)
        assert result.exit_code == 2, result.output
        assert why in said(result)
