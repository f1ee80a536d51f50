"""One table of options: defaults, choices, config files, bad use."""

from __future__ import annotations

import functools
import inspect
import json
import subprocess
import sys
import tomllib
import typing
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import CAL, good, run, said
from torch import nn

import sbc_kernels as sbc
from sbc_kernels import model
from sbc_kernels.backends.registry import BACKENDS
from sbc_kernels.cli.commands.compress import compress
from sbc_kernels.method.options import METHODS
from sbc_kernels.model.allocation import ALLOCATIONS
from sbc_kernels.model.settings import ModelOptions

BUILT_IN = tuple(METHODS)

# ---- one table of options ----------------------------------------------------------------------


def test_every_argument_of_compress_model_is_an_option_with_its_default() -> None:
    package = inspect.signature(sbc.compress_model).parameters
    own = inspect.signature(compress).parameters
    assert not [name for name in package if name not in own]
    for name, parameter in package.items():
        if name == "ignore":  # an option given many times is a list, which is no good default
            assert (parameter.default, own[name].default) == ((), None)
        else:
            assert own[name].default == parameter.default, name


def test_choices_are_those_of_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that are registered when they are asked for, not when the command line was imported."""
    own = inspect.signature(compress).parameters
    monkeypatch.setitem(METHODS, "toy", METHODS["rtn"])
    monkeypatch.setitem(ALLOCATIONS, "toy", ALLOCATIONS["lamp"])

    def offered(name: str) -> set[str]:
        return set(typing.get_args(own[name].annotation)[1].autocompletion(""))

    assert offered("method") == set(METHODS)
    assert offered("allocation") == set(ALLOCATIONS)
    assert offered("calibration_mode") == {"parallel", "sequential"}
    assert offered("backend") == set(sbc.available_backends())
    for name, registry in (("backend", BACKENDS), ("method", BUILT_IN)):
        text = typing.get_args(own[name].annotation)[1].help
        assert all(entry in text for entry in registry)


def test_help_is_the_records() -> None:
    own = inspect.signature(compress).parameters
    for option in fields(ModelOptions):
        if option.name != "forward":  # which other commands have too
            text = typing.get_args(own[option.name].annotation)[1].help
            assert text.startswith(option.metadata["doc"])


def test_every_command_teaches() -> None:
    assert "sbc compress net.py:make" in good("--help").output
    for name in ("demo", "info", "inspect", "compress", "evaluate", "report", "export"):
        text = good(name, "--help").output
        assert f"sbc {name}" in text.split("╭")[0], name  # an example, above the options
        assert "…" not in text, name  # no option's name is cut off in 80 columns


# ---- compress ----------------------------------------------------------------------------------


EVERYTHING: dict[str, Any] = {
    "sparsity": "2:4",
    "bits": 5,
    "allocation": "uniform",
    "calibration_mode": "parallel",
    "target_damping": 0.25,
    "bn_reestimate": False,
    "bias_correction": False,
    "hessian": "current",
    "method": "blocked",
    "grid": "absmax",
    "sym": True,
    "group_size": 4,
    "act_order": False,
    "block_size": 64,
    "damp_percent": 0.02,
    "overrides": {"4": {"bits": 8, "neuron": sbc.Leaky(0.5), "sparsity": None}},
    "ignore": ["none|of|these", "4"],
    "fold": True,
    "inplace": True,
    "max_memory": 3 << 29,
    "progress": False,
    "backend": "portable",
}


class Passed(Exception):
    """What compress_model was called with."""


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    seen: list[dict[str, Any]] = []

    @functools.wraps(sbc.compress_model)
    def spy(network: nn.Module, calibration: Any, **named: Any) -> Any:
        seen.append(named)
        raise Passed

    monkeypatch.setattr(model, "compress_model", spy)
    return seen


def as_arguments(values: dict[str, Any]) -> list[str]:
    found = []
    for name, value in values.items():
        option = f"--{name.replace('_', '-')}"
        if isinstance(value, bool):
            found.append(option if value else option.replace("--", "--no-", 1))
        else:
            for item in value if isinstance(value, list) else [value]:
                found += [option, json.dumps(item) if isinstance(item, dict) else str(item)]
    return found


def test_all_options_arrive_and_survive_a_config_file(
    place: Path, calls: list[dict[str, Any]]
) -> None:
    typed = {
        **EVERYTHING,
        "overrides": {"4": {"bits": 8, "neuron": "Leaky(beta=0.5)", "sparsity": None}},
        "max_memory": "1.5GiB",
    }
    run("compress", *CAL, "--out", "o", "--forward", "net.py:twice", "--checkpoint-dir", "kept",
        *as_arguments(typed), "--save-config", "deep/run.toml",
        "--num-calibration-samples", "7")  # fmt: skip
    run("compress", "--config", "deep/run.toml")
    first, second = calls
    assert first == second
    assert first.pop("forward").__name__ == "twice"
    assert first.pop("checkpoint_dir") == Path("kept")
    assert first == EVERYTHING
    assert set(first) | {"forward", "checkpoint_dir", "model", "calibration"} == set(
        inspect.signature(sbc.compress_model).parameters
    )
    saved = tomllib.loads(Path("deep/run.toml").read_text())
    run("compress", "--config", "deep/run.toml", "--save-config", "again.toml")
    assert tomllib.loads(Path("again.toml").read_text()) == saved
    assert saved["num_calibration_samples"] == 7


def test_defaults_are_the_packages(place: Path, calls: list[dict[str, Any]]) -> None:
    run("compress", *CAL, "--out", "o")
    assert calls[0].pop("checkpoint_dir") == Path("o/unfinished")
    for name, parameter in inspect.signature(sbc.compress_model).parameters.items():
        assert calls[0].get(name, parameter.default) == parameter.default, name


def test_tables_come_from_files_and_as_json(place: Path, calls: list[dict[str, Any]]) -> None:
    shares = {"1": 0.5, "4": 0.25}
    Path("a.toml").write_text("1 = 0.5\n4 = 0.25\n")
    Path("a.json").write_text(json.dumps(shares))
    Path("run.toml").write_text('sparsity = 0.9\nignore = ["4"]\n[allocation]\n1 = 0.5\n4 = 0.25\n')
    for given in ("a.toml", "a.json", json.dumps(shares)):
        run("compress", *CAL, "--out", "o", "--allocation", given)
    run("compress", *CAL, "--out", "o", "--config", "run.toml", "--sparsity", "0.7")
    assert [call["allocation"] for call in calls] == [shares] * 4
    assert calls[-1]["sparsity"] == 0.7  # the command line wins
    assert calls[-1]["ignore"] == ["4"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("sparsty = 0.9", "has 'sparsty', which is no option; did you mean 'sparsity'?"),
        ("integer_weigths = true", "did you mean 'integer_weights'?"),
        ("qqqq = 1", "'qqqq', which is no option; accepted are act_order, allocation"),
        ("bits = 'many'", "--bits"),
        ("bits = 9", "--bits"),
        ("= 3", "cannot be read as TOML"),
    ],
)
def test_config_errors(place: Path, content: str, message: str) -> None:
    Path("run.toml").write_text(content)
    result = run("compress", *CAL, "--out", "o", "--config", "run.toml")
    assert result.exit_code == 2
    assert message in said(result)
    assert not Path("o").exists()


def test_one_config_file_for_several_commands(place: Path) -> None:
    Path("run.toml").write_text(
        'model = "net.py:make"\ncalibration = "cal.npz"\ntest = "test.npz"\nsparsity = 0.5\n'
    )
    assert "would be compressed" in good("inspect", "--config", "run.toml").output
    assert "accuracy" in good("evaluate", "--config", "run.toml").output
    assert run("compress", "--config", "none.toml").exit_code == 2


# ---- bad use and failures ----------------------------------------------------------------------


def test_links_to_other_files_are_refused(place: Path) -> None:
    Path("notes.txt").write_text("make = 1\n")
    Path("link.py").symlink_to("notes.txt")
    result = run("inspect", "link.py:make", *CAL[1:])
    assert result.exit_code == 2
    text = said(result).replace(" ", "")  # a long path is broken anywhere
    assert "notes.txtisnoPythonfile" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("inspect", "net.py", *CAL[1:]), "accepted are file.py:function"),
        (("inspect", "nut.py:make", *CAL[1:]), "MODEL: there is no file nut.py"),
        (("inspect", "net.py:mak", *CAL[1:]), "did you mean 'make'?"),
        (("inspect", "net.py:zzz", *CAL[1:]), "it has Slow, make, chatty"),
        (("inspect", "no.such:make", *CAL[1:]), "there is no module 'no'"),
        (("inspect", "json.no:make", *CAL[1:]), "there is no module 'json.no'"),
        (("inspect", "net.py:ready", *CAL[1:]), "is a network; accepted is a function"),
        (("inspect", "net.py:number", *CAL[1:]), "is a int; accepted is a function"),
        (
            ("inspect", "net.py:no_network", *CAL[1:]),
            "returned a list; accepted is a torch.nn.Module",
        ),
        (("inspect", "net.py:make", "--calibration", "nowhere"), "--calibration: there is no file"),
        (("inspect", "net.py:make", "--calibration", "net.py:once"), "only once"),
        (("inspect", "net.py:make", "--calibration", "net.py:number"), "gives a int"),
        (("inspect", *CAL, "--model-args", "[1]"), "--model-args"),
        (("inspect", *CAL, "--forward", "net.py:thrice"), "--forward: net.py has no 'thrice'"),
        (
            ("inspect", *CAL, "--overrides", '{"1": {"neuron": "LIF(0.5)"}}'),
            "accepted is a call such as LIF",
        ),
        (("inspect", *CAL, "--overrides", '{"1": {"neuron": "open(1)"}}'), "'open(1)'; accepted"),
        (
            ("inspect", *CAL, "--overrides", '{"77": {"bits": 2}}'),
            "--overrides: overrides has '77'",
        ),
        (("inspect", *CAL, "--batch-axis", "3"), "which has no axis 3"),
        (("compress", *CAL, "--out", "o", "--sparsity", "1.5"), "--sparsity: sparsity is 1.5"),
        (
            ("compress", *CAL, "--out", "o", "--sparsity", "3:7"),
            "--sparsity: layer '1': sparsity is",
        ),
        (("compress", *CAL, "--out", "o", "--backend", "abacus"), "--backend: backend is 'abacus'"),
        (
            ("compress", *CAL, "--out", "o", "--allocation", "fair"),
            "--allocation: allocation is 'fair'",
        ),
        (("compress", *CAL, "--out", "o", "--max-memory", "much"), "no number of bytes"),
        (("compress", *CAL, "--out", "o", "--method", "magic"), "--method"),
        (
            ("compress", *CAL, "--out", "o", "--inplace", "--test", "test.npz"),
            "--inplace leaves nothing",
        ),
        (("compress", *CAL), "--out"),
        (("evaluate", "net.py:make"), "--test"),
        (
            ("evaluate", "net.py:make", "--test", "test.npz", "--compressed", "cal.npz"),
            "--compressed:",
        ),
        (("report", "cal.npz"), "FILE: cal.npz"),
        (("report", "nothing.safetensors"), "FILE: no such file"),
        (("export", "net.py:make", "x.safetensors", "--out", "y"), "give --calibration"),
        (("inspect", *CAL, "--nonsense"), "--nonsense"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_bad_use(place: Path, arguments: tuple[str, ...], message: str) -> None:
    result = run(*arguments)
    assert message in said(result)
    assert result.exit_code == 2


def test_help_and_info_need_no_torch(tmp_path: Path) -> None:
    program = (
        "import sys\nfor name in ('torch', 'jinja2', 'matplotlib', 'safetensors'):\n"
        "    sys.modules[name] = None\nfrom sbc_kernels.cli import main\nmain()"
    )
    for arguments, code, text in (
        (["info"], 0, "instruction set"),
        (["compress", "--help"], 0, "--sparsity"),
        (["inspect", "a.py:b", "--calibration", "c"], 1, "needs torch, safetensors"),
    ):
        done = subprocess.run(
            [sys.executable, "-P", "-c", program, *arguments], capture_output=True, text=True
        )
        assert done.returncode == code, done.stderr
        assert text in done.stdout + done.stderr


def test_info_as_json() -> None:
    told = json.loads(good("info", "--json").stdout)
    assert told["versions"]["torch"] == torch.__version__
    assert told["backends"] == sbc.available_backends()
    assert good("--version").output.strip() == f"sbc-kernels {sbc.__version__}"


# ---- the shell ---------------------------------------------------------------------------------


@pytest.mark.parametrize("value", ["true", "[1]"])
def test_a_sparsity_that_is_no_number(place: Path, value: str) -> None:
    Path("run.toml").write_text(f"sparsity = {value}\n")
    result = run("compress", *CAL, "--out", "o", "--config", "run.toml")
    assert result.exit_code == 2, result.output
    assert "is no sparsity; accepted is a fraction 0..1, or 'N:M'" in said(result)
