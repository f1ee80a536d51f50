"""The command line: what it passes on, what it writes, how it fails, how it goes on."""

from __future__ import annotations

import functools
import gzip
import inspect
import json
import os
import pickle
import shutil
import signal
import struct
import subprocess
import sys
import textwrap
import time
import tomllib
import typing
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from typer.testing import CliRunner

import sbc_kernels as sbc
from sbc_kernels import cli, model
from sbc_kernels.backends import registry as dispatch
from sbc_kernels.cli import options
from sbc_kernels.cli.commands.compress import compress
from sbc_kernels.cli.data import Cut, load_data
from sbc_kernels.cli.objects import load_model, read_weights
from sbc_kernels.files import Pruned, read_metadata, save_packed
from sbc_kernels.method.options import METHODS
from sbc_kernels.metrics import connection_sparsity, synaptic_operations
from sbc_kernels.model.settings import ALLOCATIONS, MODES

pytestmark = pytest.mark.filterwarnings("ignore")

NET = """
import os, time, warnings
import torch
from torch import nn
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from spikingjelly.activation_based import functional, layer, neuron

class Slow(nn.Identity):
    def forward(self, x):
        time.sleep(float(os.environ.get("SLOW", 0)))
        return x

def make(width=24, depth=0):
    wide = []
    for _ in range(depth):
        wide += [layer.Linear(width, width, bias=False), layer.BatchNorm1d(width), neuron.IFNode()]
    net = nn.Sequential(
        Slow(), layer.Linear(20, width, bias=False), layer.BatchNorm1d(width), neuron.LIFNode(tau=2.0),
        *wide, layer.Linear(width, 4), neuron.IFNode(),
    )
    functional.set_step_mode(net, "m")
    for module in net.modules():
        if isinstance(module, nn.BatchNorm1d):
            module.running_var.fill_(0.05)
    return net.eval()

def chatty():
    print("hello from the factory")
    return make()

def broken():
    return 1 / 0

def no_network():
    return [1, 2]

ready = make()
number = 3

def batches():
    torch.manual_seed(1)
    for _ in range(3):
        yield (torch.rand(6, 5, 20) < 0.3).float(), torch.randint(0, 4, (5,))

def interrupted():
    yield next(iter(batches()))
    raise KeyboardInterrupt

listed = list(batches())
once = batches()

def twice(model, batch):
    return model(batch) + model(batch)

def first(output):
    return output[0]
"""


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with net.py, cal.npz (30 samples) and test.npz (20), labelled."""
    folder = tmp_path_factory.mktemp("cli")
    (folder / "net.py").write_text(NET)
    rng = np.random.default_rng(0)
    for name, count in (("cal", 30), ("test", 20)):
        x = rng.random((6, count, 20)) < 0.3
        np.savez(folder / f"{name}.npz", x=x, y=rng.integers(0, 4, count))
    return folder


@pytest.fixture
def place(files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fresh folder with those files, where commands are run."""
    for file in files.iterdir():
        if file.is_file():
            shutil.copy(file, tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*arguments: str, **more: Any) -> Any:
    return CliRunner().invoke(cli.app, list(arguments), prog_name="sbc", **more)


def good(*arguments: str, **more: Any) -> Any:
    result = run(*arguments, **more)
    assert result.exit_code == 0, result.output
    return result


def said(result: Any) -> str:
    """What it printed, out of its box."""
    return " ".join(result.output.replace("│", " ").split())


CAL = ("net.py:make", "--calibration", "cal.npz")


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


def test_choices_are_those_of_the_package() -> None:
    def choices(option: Any) -> set[str]:
        kind = typing.get_args(option)[0]
        parts = typing.get_args(kind)
        literal = kind if typing.get_origin(kind) is typing.Literal else parts[0]
        return set(typing.get_args(literal))

    assert choices(options.Method) == set(METHODS)
    assert choices(options.CalibrationMode) == set(MODES)
    help_of_backend = typing.get_args(options.Backend)[1].help
    assert ", ".join(dispatch.BACKENDS) in help_of_backend
    offered = typing.get_args(options.Allocation)[1].autocompletion("")
    assert set(offered) == set(ALLOCATIONS)


def test_every_command_teaches() -> None:
    assert "sbc compress net.py:make" in good("--help").output
    for name in ("demo", "info", "inspect", "compress", "evaluate", "report", "export"):
        text = good(name, "--help").output
        assert f"sbc {name}" in text.split("╭")[0], name  # an example, above the options
        assert "…" not in text, name  # no option's name is cut off in 80 columns


# ---- inspect -----------------------------------------------------------------------------------


def test_inspect_prints_the_plan(place: Path) -> None:
    network = load_model("net.py:make")
    batch = torch.from_numpy(np.load("cal.npz")["x"].astype(np.float32))
    result = good("inspect", *CAL, "--ignore", "4", "--overrides", '{"1": {"neuron": "LIF(3.0)"}}')
    plan = sbc.trace(network, batch, ignore=["4"], overrides={"1": {"neuron": sbc.LIF(3.0)}})
    assert result.stdout.startswith(str(plan))
    assert "1 of 2 weight layers, 480 weights, would be compressed" in result.stdout
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
    assert read_metadata(out / "model.safetensors")["report"]["comparison"] == report["comparison"]
    assert "Synaptic operations" in (out / "report.html").read_text()
    shown = expected.table().splitlines()[2].split()[:6]
    assert shown == next(
        line.split()[:6] for line in result.stdout.splitlines() if line.startswith("1 ")
    )
    assert "of 20 samples are given the same class" in result.stdout


def test_compress_json_is_the_report_and_nothing_else(place: Path) -> None:
    result = good("compress", "net.py:chatty", *CAL[1:], "--out", "o", "--json", "--method", "rtn",
                  "--bits", "3")  # fmt: skip
    assert json.loads(result.stdout) == json.loads(Path("o/report.json").read_text())
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
        ("qqqq = 1", "'qqqq', which is no option; there are act_order, allocation"),
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
            "accepted is such as LIF",
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


def test_an_error_of_the_users_code_is_one_line(place: Path) -> None:
    result = run("inspect", "net.py:broken", *CAL[1:])
    assert result.exit_code == 1
    (line,) = result.output.splitlines()
    where = 1 + NET.splitlines().index("    return 1 / 0")
    assert line == (
        "sbc: net.py:broken failed: ZeroDivisionError: division by zero "
        f"(net.py, line {where}); --traceback shows all"
    )
    whole = run("inspect", "net.py:broken", *CAL[1:], "--traceback")
    assert whole.exit_code == 1
    assert "Traceback (most recent call last)" in whole.output
    assert "return 1 / 0" in whole.output
    Path("bad.py").write_text("import no_such_framework\n")
    result = run("inspect", "bad.py:make", *CAL[1:])
    assert result.exit_code == 1
    assert (
        "no module 'no_such_framework' (bad.py, line 1); is no_such_framework installed?"
        in said(result)
    )


def test_what_nobody_expected_names_its_kind(place: Path) -> None:
    Path("odd.py").write_text("def forward(model, batch):\n    raise LookupError('lost')\n")
    result = run("inspect", *CAL, "--forward", "odd.py:forward")
    assert result.exit_code == 1
    assert result.output.splitlines() == [
        "sbc: LookupError: lost",
        "--traceback shows where it happened.",
    ]


def test_missing_packages_are_named(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = cli.command.find_spec
    monkeypatch.setattr(
        cli.command, "find_spec", lambda name: None if name == "safetensors" else found(name)
    )
    result = run("inspect", *CAL)
    assert result.exit_code == 1
    assert said(result) == (
        "sbc: sbc inspect needs safetensors, not installed here: pip install 'sbc-kernels[cli]'"
    )


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


# ---- interrupted -------------------------------------------------------------------------------


def test_interrupted_says_how_to_go_on(place: Path) -> None:
    result = run(
        "compress", "net.py:make", "--calibration", "net.py:interrupted", "--out", "my out"
    )
    assert result.exit_code == 130
    assert result.stderr.splitlines()[-2:] == [
        "sbc: interrupted. 0 finished parts are in my out/unfinished; the same command goes on there:",
        "  sbc compress net.py:make --calibration net.py:interrupted --out 'my out'",
    ]
    assert run("inspect", "net.py:make", "--calibration", "net.py:interrupted").exit_code == 0
    result = run("evaluate", "net.py:make", "--test", "net.py:interrupted")
    assert (result.exit_code, result.stderr.strip()) == (130, "sbc: interrupted")


def start(*arguments: str, **env: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-P", "-m", "sbc_kernels.cli", *arguments]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", **env},
    )


def test_a_run_goes_on_after_ctrl_c(place: Path) -> None:
    arguments = (
        "compress",
        *CAL,
        "--out",
        "o",
        "--test",
        "test.npz",
        "--model-args",
        '{"depth": 2}',
    )
    process = start(*arguments, SLOW="0.1")
    assert process.stderr is not None
    seen = ""
    while "1: sparsity" not in seen:  # the first layer is finished
        line = process.stderr.readline()
        assert line, seen
        seen += line
    while not list(Path("o/unfinished").glob("*.safetensors")):
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, rest = process.communicate(timeout=60)
    assert process.returncode == 130
    there = len(list(Path("o/unfinished").glob("*.safetensors")))
    assert f"{there} finished part" in rest
    assert "in o/unfinished; the same command goes on there:" in rest
    assert rest.rstrip().endswith("--out o --test test.npz --model-args '{\"depth\": 2}'")
    assert not Path("o/report.json").exists()

    other = run(*arguments, "--sparsity", "0.5")  # but only the same command
    assert other.exit_code == 2
    assert "belongs to a run with another options" in said(other)
    assert "To start anew, remove o/unfinished" in said(other)

    good(*arguments)
    report = json.loads(Path("o/report.json").read_text())
    assert 1 <= report["resumed"] == there < len(report["layers"])
    assert not Path("o/unfinished").exists()
    whole = sbc.compress_model(
        load_model("net.py:make", {"depth": 2}), load_data("cal.npz", Cut(), ""), progress=False
    )
    again = sbc.load_compressed(Path("o/model.safetensors"))
    for key, tensor in again.items():
        assert torch.equal(tensor, whole.model.state_dict()[key]), key


def test_ctrl_c_is_heard_while_a_kernel_runs(tmp_path: Path) -> None:
    """The kernel's part is played by a mutex that is locked twice: no signal ends the wait for it."""
    program = textwrap.dedent(
        """
        import ctypes
        from sbc_kernels.cli.interrupt import prompt_interrupts
        libc, mutex = ctypes.CDLL(None), ctypes.create_string_buffer(128)
        with prompt_interrupts(lambda: "last words"):
            libc.pthread_mutex_lock(mutex)
            print("ready", flush=True)
            libc.pthread_mutex_lock(mutex)
        """
    )
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen([sys.executable, "-P", "-c", program], **pipes, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    time.sleep(0.5)  # until it waits
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=30)
    assert process.returncode == 130
    assert told.strip() == "last words"


def test_a_failure_after_the_layers_loses_none(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ("compress", *CAL, "--out", "o")
    with monkeypatch.context() as broken:
        broken.setattr(sbc.CompressedModel, "to_html", lambda *_, **__: 1 / 0)
        result = run(*arguments)
    assert result.exit_code == 1
    assert "ZeroDivisionError" in result.output
    good(*arguments)  # no --force: what is there was never finished
    assert json.loads(Path("o/report.json").read_text())["resumed"] == 2


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
        ("numbers.pt", "holds lr beside tensors"),
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


# ---- data --------------------------------------------------------------------------------------


def batches_of(text: str, **cut: Any) -> list[Any]:
    data = load_data(text, Cut(**cut), "--calibration")
    found = list(data)
    for one, other in zip(found, data, strict=True):  # a second pass gives the same
        torch.testing.assert_close(one, other, rtol=0, atol=0)
    return found


def test_one_file_is_cut_along_the_samples(place: Path) -> None:
    x, y = (np.load("cal.npz")[name] for name in "xy")
    np.save("cal.npy", x)
    (single,) = batches_of("cal.npz")
    assert single[0].dtype == torch.float32
    np.testing.assert_array_equal(single[0], x)
    np.testing.assert_array_equal(single[1], y)
    cut = batches_of("cal.npz", batch_size=8, samples=20)
    assert [len(labels) for _, labels in cut] == [8, 8, 4]
    np.testing.assert_array_equal(torch.cat([inputs for inputs, _ in cut], 1), x[:, :20])
    np.testing.assert_array_equal(torch.cat([labels for _, labels in cut]), y[:20])
    plain = batches_of("cal.npy", batch_size=3, batch_axis=0, dtype="keep")
    assert [tuple(inputs.shape) for inputs in plain] == [(3, 30, 20)] * 2
    assert plain[0].dtype == torch.bool
    static = batches_of("cal.npy", time_steps=2, dtype="float64")
    assert [tuple(inputs.shape) for inputs in static] == [(2, 6, 30, 20)]
    np.testing.assert_array_equal(static[0][1], x)
    assert [x.shape[1] for x in batches_of("cal.npy", samples=29, batch_size=29)] == [29]


def test_a_folders_files_are_batches(place: Path) -> None:
    Path("f").mkdir()
    rng = np.random.default_rng(0)
    arrays = [rng.random((4, count, 3)) for count in (70, 2, 5)]
    np.savez("f/a.npz", x=arrays[0])
    np.save("f/b.npy", arrays[1])
    np.savez("f/c.npz", other=arrays[2].astype(">f8"))
    Path("f/readme.txt").write_text("hello")
    found = batches_of("f", dtype="keep")
    for batch, array in zip(found, arrays, strict=True):
        np.testing.assert_array_equal(batch, array)
    assert [b.shape[1] for b in batches_of("f", batch_size=60)] == [60, 10, 2, 5]
    assert [b.shape[1] for b in batches_of("f", samples=71)] == [70, 1]


def write_idx(path: Path, array: np.ndarray, zipped: bool = False) -> None:
    data = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()
    path.write_bytes(gzip.compress(data) if zipped else data)


def test_idx_images(place: Path) -> None:
    Path("idx").mkdir()
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (70, 5, 4)).astype(np.uint8)
    labels = rng.integers(0, 10, 70).astype(np.uint8)
    write_idx(Path("idx/t10k-images-idx3-ubyte.gz"), images, zipped=True)
    (first, second) = batches_of("idx")  # 64 and 6
    assert isinstance(first, torch.Tensor)  # there are no labels
    write_idx(Path("idx/t10k-labels-idx1-ubyte"), labels)
    for text in ("idx", "idx/t10k-images-idx3-ubyte.gz"):
        first, second = batches_of(text, time_steps=3)
        assert first[0].shape == (3, 64, 1, 5, 4)
        assert first[0].dtype == torch.float32
        np.testing.assert_array_equal(np.rint(255 * first[0][2, :, 0].numpy()), images[:64])
        assert float(first[0].max()) <= 1
        np.testing.assert_array_equal(second[1], labels[64:])
    write_idx(Path("idx/train-images-idx3-ubyte"), images)
    with pytest.raises(Exception, match="name the one that is meant, such as idx/train-images"):
        batches_of("idx")


def test_loaders(place: Path) -> None:
    expected = batches_of("net.py:listed")
    torch.testing.assert_close(batches_of("net.py:batches"), expected, rtol=0, atol=0)
    assert len(expected) == 3
    Path("mod.py").write_text("import torch\nx = torch.ones(2, 3)\ndef one():\n    return x\n")
    assert torch.equal(batches_of("mod:one")[0], torch.ones(2, 3))


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": np.array(["a", "b"])}, "holds an array of <U1"),
        ({"x": np.array([[1, None]], dtype=object)}, "cannot be used"),
        ({"x": np.zeros((3, 0, 2))}, "holds no samples"),
        ({"x": np.zeros(3)}, "no axis 1 of samples; --batch-axis says which"),
        ({"y": np.zeros(3, int)}, "it holds y; accepted are inputs as the array x"),
        ({"x": np.zeros((2, 3)), "y": np.zeros(2, int)}, "labels int64 of shape [2] for 3 samples"),
        ({"x": np.zeros((2, 3)), "y": np.zeros(3)}, "labels float64 of shape [3]"),
        ({}, "it holds nothing"),
    ],
    ids=str,
)
def test_arrays_that_are_no_batches(place: Path, arrays: dict[str, Any], message: str) -> None:
    np.savez("d.npz", **arrays)
    result = run("inspect", "net.py:make", "--calibration", "d.npz")
    assert result.exit_code == 2
    assert message in said(result)


def test_files_that_hold_no_batches(place: Path) -> None:
    Path("empty").mkdir()
    Path("a.txt").write_text("x")
    Path("half.npz").write_bytes(Path("cal.npz").read_bytes()[:100])
    Path("no.npy").write_bytes(b"")
    Path("images-idx3-ubyte").write_bytes(b"PNG")
    for name in ("empty", "a.txt", "half.npz", "no.npy", "images-idx3-ubyte"):
        result = run("inspect", "net.py:make", "--calibration", name)
        assert result.exit_code == 2, result.output
        assert name in said(result)


# ---- evaluate, report, export ------------------------------------------------------------------


@pytest.fixture(scope="module")
def packed(files: Path) -> Path:
    """A model.safetensors of 75 % sparsity and 4 bits, with its comparison."""
    here = Path.cwd()
    os.chdir(files)
    try:
        asked = ("--sparsity", "0.75", "--bits", "4", "--out", "small", "-q")
        good("compress", *CAL, "--test", "test.npz", *asked)
    finally:
        os.chdir(here)
    return files / "small" / "model.safetensors"


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
    assert "apart, in spikes" in text
    assert f"{found.agreement:.2f} % of 20 samples are given the same class" in text


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
    assert "of 20 samples are given the same class" in text
    good("report", str(packed), "--out", "deep/page.html")
    assert "</html>" in Path("deep/page.html").read_text()
    assert run("report", str(packed), "--out", "deep/page.html").exit_code == 2
    good("report", str(packed), "--out", "deep/page.html", "--force")
    save_packed("plain.safetensors", {"a": np.zeros(3)})
    assert "carries no report" in said(run("report", "plain.safetensors"))


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


def test_a_loader_is_not_cut(place: Path) -> None:
    """What cannot be applied is refused, not passed over."""
    loader = ("net.py:make", "--calibration", "net.py:batches", "--out", "o")
    for option in (
        ("--num-calibration-samples", "3"),
        ("--batch-size", "2"),
        ("--dtype", "float64"),
    ):
        result = run("compress", *loader, *option)
        assert result.exit_code == 2, result.output
        assert f"makes its own batches; accepted with it is none of {option[0]}" in said(result)
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


@pytest.mark.parametrize("value", ["true", "[1]"])
def test_a_sparsity_that_is_no_number(place: Path, value: str) -> None:
    Path("run.toml").write_text(f"sparsity = {value}\n")
    result = run("compress", *CAL, "--out", "o", "--config", "run.toml")
    assert result.exit_code == 2, result.output
    assert "is no sparsity; accepted is a fraction 0..1, or 'N:M'" in said(result)


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
    for name, why in (("a.pt", "cannot be read by torch.load"), ("b.pt", "holds 0 beside tensors")):
        result = run("inspect", *CAL, "--checkpoint", name)
        assert result.exit_code == 2, result.output
        assert why in said(result)
