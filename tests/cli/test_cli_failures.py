"""Errors and interruptions on the command line."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import CAL, NET, good, run, said

import sbc_kernels as sbc
from sbc_kernels import cli
from sbc_kernels.cli.data import Cut, load_data
from sbc_kernels.cli.objects import load_model
from sbc_kernels.files.lock import FolderLock

# ---- bad use and failures ----------------------------------------------------------------------


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
        broken.setattr("sbc_kernels.report.write_html", lambda *_: 1 / 0)
        result = run(*arguments)
    assert result.exit_code == 1
    assert "ZeroDivisionError" in result.output
    good(*arguments)  # no --force: what is there was never finished
    assert json.loads(Path("o/report.json").read_text())["resumed"] == 2


# ---- damaged and hostile files -----------------------------------------------------------------


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[: len(data) // 2],
        lambda data: data[:-9] + bytes([data[-9] ^ 4]) + data[-8:],
        lambda data: data.replace(b'\\"version\\":1', b'\\"version\\":7'),
        lambda data: b"\xff" * 500,
    ],
    ids=["cut", "a bit", "version", "no file"],
)
def test_damaged_files_end_in_a_short_message(place: Path, packed: Path, damage: Any) -> None:
    Path("bad.safetensors").write_bytes(damage(packed.read_bytes()))
    nir = ("--calibration", "cal.npz", "--out", "net.nir")
    for command in (
        ("export", "net.py:make", "bad.safetensors", *nir),
        ("export", "net.py:make", "bad.safetensors", "--format", "state-dict", "--out", "dense"),
        ("evaluate", "net.py:make", "--test", "test.npz", "--compressed", "bad.safetensors"),
        ("inspect", *CAL, "--checkpoint", "bad.safetensors"),
    ):
        result = run(*command)
        assert result.exit_code == 2, command
        assert "bad.safetensors" in said(result).replace(" ", "")
        assert "Traceback" not in result.output
        assert len(result.output) < 1500
    assert not Path("net.nir").exists()
    assert not Path("dense").exists()
    report = run("report", "bad.safetensors")  # reads the header alone
    assert report.exit_code in (0, 2)
    assert "Traceback" not in report.output


@pytest.mark.parametrize(
    "text",
    ["sparsity = " + "[" * 2000, "x = " + "9" * 5000, "sparsity = " + "[" * 90 + "]" * 90, "\0"],
    ids=["deep", "digits", "nested", "zero"],
)
def test_config_files_that_are_none(place: Path, text: str) -> None:
    Path("run.toml").write_text(text)
    result = run("compress", *CAL, "--out", "o", "--config", "run.toml")
    assert result.exit_code == 2
    assert "run.toml cannot be read as TOML" in said(result)
    for option in ("--overrides", "--model-args"):
        result = run("compress", *CAL, "--out", "o", option, "run.toml")
        assert result.exit_code == 2
        assert "cannot be read (" in said(result)
    result = run("compress", *CAL, "--out", "o", "--max-memory", "9" * 400)
    assert result.exit_code == 2
    assert "is no number of bytes" in said(result)


def test_help_says_that_a_config_runs_code(place: Path) -> None:
    text = said(run("compress", "--help"))
    assert "may name Python files and modules, which are then run: use files you trust" in text


def test_a_folder_in_use_is_not_to_be_removed(place: Path) -> None:
    folder = Path("o/unfinished")
    folder.mkdir(parents=True)
    lock = FolderLock(folder, "checkpoint_dir")
    lock.acquire()
    try:
        result = run("compress", *CAL, "--out", "o")
    finally:
        lock.release()
    assert result.exit_code == 2
    assert f"is held by process {os.getpid()} on" in said(result)
    assert "remove" not in said(result)


def test_a_full_disk_is_one_line(place: Path) -> None:
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2500, limit[1]))
        result = run("compress", *CAL, "--out", "o", "-q")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert result.exit_code == 1
    (line,) = [line for line in result.output.splitlines() if "sbc:" in line]
    assert line.startswith("sbc: [Errno 27] File too large: 'o/unfinished/")
    assert not list(Path("o/unfinished").glob("*.tmp"))
