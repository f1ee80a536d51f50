"""benchmarks/gpu.sh: it walks through on a CPU; its steps, the machine, tuning."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import sbc_kernels as sbc

pytest.importorskip("triton")
from gpu import __main__ as script
from gpu import (
    cases,
    contests,
    device,
    machine,
    report,
    tune,
)
from gpu.runner import Done, Runner, Step

ROOT = Path(__file__).parents[1]

# ---- the whole of it, dry --------------------------------------------------------------------------


def test_dry_run(tmp_path: Path) -> None:
    """A few steps of it; all of them are a part of CI by themselves."""
    command = [
        ROOT / "benchmarks" / "gpu.sh",
        "--dry-run",
        "--only",
        "build,limits,gram-linear,wide",
    ]
    environment = {
        **os.environ,
        "PYTHON": sys.executable,
        "PYTHONPATH": str(Path(sbc.__file__).parents[1]),  # the package that is tested here
        "OUT": str(tmp_path),
    }
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "would build with" in done.stdout
    table = (tmp_path / "dry-run.md").read_text(encoding="utf-8")
    assert table in done.stdout
    lines = table.splitlines()
    assert sum("| ours | dry run |" in line for line in lines) == 2
    assert sum("GPTQ's column loop" in line for line in lines) == 2
    for name in ("build", "limits", "case gram-linear, case quantize-wide"):
        assert any(line.startswith(f"| {name} | ok |") for line in lines), name
    assert "==== case gram-linear" in (tmp_path / "gpu.log").read_text(encoding="utf-8")


def test_every_case_has_a_contest() -> None:
    assert [case.key for case in cases.CASES if case.key not in contests.CONTESTS] == []
    assert len(contests.CONTESTS) == len(cases.CASES)
    limits = {"int8", "fp64", "fp32"}
    for key, make in contests.CONTESTS.items():
        made = make(device.Device(dry=True))
        assert made.limit in limits or not made.work, key
        names = [rival.name for rival in made.rivals]
        assert len(set(names)) == len(names), key


# ---- steps -----------------------------------------------------------------------------------------


def runner(folder: Path, seconds: float = 60, only: tuple[str, ...] = ()) -> Runner:
    return Runner(folder / "log", os.environ, time.monotonic() + seconds, only)


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def test_an_interrupt_stops_what_runs(tmp_path: Path) -> None:
    """At once, and the children of what runs."""
    code = (
        "import sys, time; sys.path.append(sys.argv[1]); from gpu.runner import Runner, Step\n"
        "import os; from pathlib import Path\n"
        "run = Runner(Path(sys.argv[2]) / 'log', os.environ, time.monotonic() + 60)\n"
        "step = ['sh', '-c', 'echo $$ > $0; sleep 50']\n"
        "run.run_together([Step(n, [*step, sys.argv[2] + '/' + n], 55) for n in 'ab'])\n"
    )
    there = subprocess.Popen(
        [*python(code), str(ROOT / "benchmarks"), str(tmp_path)], stderr=subprocess.PIPE, text=True
    )
    try:
        files = [tmp_path / name for name in "ab"]
        while not all(file.exists() and file.read_text() for file in files):
            assert there.poll() is None
            time.sleep(0.05)
        there.send_signal(signal.SIGINT)
        _, said = there.communicate(timeout=30)
    finally:
        there.kill()
    assert "KeyboardInterrupt" in said
    for file in files:
        with pytest.raises(ProcessLookupError):
            os.kill(int(file.read_text()), 0)


def test_the_last_failure_of_a_case_is_told() -> None:
    here = machine.Machine("Card", "sm_90", "580", "13.0", 1, "torch 2", "2026-11-26", "abc")
    case = cases.Case("y", "Y")
    done = [
        Done("case x, case y", "too slow", note="stopped after 240 s"),
        Done("case y", "failed", note="y: MemoryError: 9 GB"),
    ]
    text = report.report(here, done, {}, {}, dry=False, selected=(case,))
    (row,) = (line for line in text.splitlines() if line.startswith("| Y | ours |"))
    assert "MemoryError: 9 GB" in row
    assert "stopped" not in row


def test_a_step_that_fails_stops_no_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, reports = runner(tmp_path), []
    run.report = lambda: reports.append(len(run.done))
    run.run("bad", python("print('before'); raise SystemExit('what was wrong')"), 30)
    run.run("absent", [str(tmp_path / "no-such-program")], 30)
    run.run("slow", python("import time; time.sleep(60)"), 1.2)
    run.run("good", python("print('first'); print('last')"), 30)
    run.skip("other", "why")
    assert {d.name: d.status for d in run.done} == {
        "bad": "failed",
        "absent": "failed",
        "slow": "too slow",
        "good": "ok",
        "other": "skipped",
    }
    notes = {d.name: d.note for d in run.done}
    assert (notes["bad"], notes["good"], notes["other"]) == ("what was wrong", "last", "why")
    assert "no-such-program" in notes["absent"]
    assert reports == [1, 2, 3, 4, 5]
    assert "before" in capsys.readouterr().out
    assert "first\nlast" in run.log.read_text(encoding="utf-8")


def test_steps_at_the_same_time(tmp_path: Path) -> None:
    """Each waits for the other's file."""
    run = runner(tmp_path, only=("one", "other"))
    wait = "import sys, time, pathlib; a, b = map(pathlib.Path, sys.argv[1:]); a.touch()\n"
    wait += "while not b.exists(): time.sleep(0.01)"
    a, b = str(tmp_path / "a"), str(tmp_path / "b")
    done = run.run_together(
        [
            Step("one", [*python(wait), a, b], 30, note="said"),
            Step("the other", [*python(wait), b, a], 30),
            Step("third", python(""), 30),
        ]
    )
    assert [(d.name, d.status, d.note) for d in done] == [
        ("one", "ok", "said"),
        ("the other", "ok", ""),
    ]
    assert run.done == done
    assert run.log.read_text(encoding="utf-8").count("==== ") == 2


def test_no_step_starts_when_the_time_is_up(tmp_path: Path) -> None:
    run = runner(tmp_path, seconds=0.5)
    done = run.run("late", python("print('no')"), 30)
    assert done is not None
    assert done.status == "no time left"
    assert not run.log.exists()


def test_only(tmp_path: Path) -> None:
    run = runner(tmp_path, only=("gram", "build"))
    assert run.run("tests", python(""), 30) is None
    run.skip("sanitizer", "why")
    assert run.done == []
    assert run.wanted("case gram-large")


# ---- machine ---------------------------------------------------------------------------------------


def test_what_is_missing_is_said_at_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OUT", str(tmp_path))
    monkeypatch.setattr(machine, "NEEDED", ("torch", "no_such_package"))
    files = script.Files(dry=True)
    with pytest.raises(SystemExit) as stopped:
        script.check(files, True, os.environ["PATH"])
    assert stopped.value.code == 2
    assert "missing: no-such-package." in capsys.readouterr().err
    assert machine.missing_tools("/no-such-folder") == ["cmake", "ninja", "c++"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_no_gpu_is_said_at_the_start() -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "benchmarks")}
    with pytest.raises(RuntimeError, match="sees no GPU"):
        machine.look(False, environment)


def test_a_build_is_put_where_the_steps_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OUT", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", "here")
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    files = script.Files(dry=False)
    environment = script.environment_of(files, dry=False)
    build = script.build_command(files)
    searched = environment["PYTHONPATH"].split(os.pathsep)
    assert searched == [build[build.index("--target") + 1], str(files.wheels), "here"]
    assert "TRITON_INTERPRET" not in environment
    assert files.tables == files.logs == tmp_path


# ---- tuning ----------------------------------------------------------------------------------------


def test_tuning_walks_through() -> None:
    environment = {
        **os.environ,
        "TRITON_INTERPRET": "1",
        "PYTHONPATH": os.pathsep.join(
            [str(Path(sbc.__file__).parents[1]), str(ROOT / "benchmarks")]
        ),
    }
    done = subprocess.run(
        [sys.executable, "-P", "-m", "gpu.tune"], env=environment, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "order:",
        "  as it is: dry run; off by 0.0e+00",
        "solve:",
        "  as it is: dry run; off by 0.0e+00",
    ]


def test_every_variant_has_the_table_s_names() -> None:
    """On a card a wrong one would be told only after the others were compiled."""
    order_tiles = tune.obs_order.TILES["sm_90", torch.float32]
    for variant in tune.ORDER:
        replace(order_tiles, **variant)
    for variant in tune.SOLVE:
        tune.obs_solve.TILES["sm_90"]._replace(**variant)


def test_a_variant_that_fails_stops_no_other() -> None:
    def fail() -> torch.Tensor:
        raise RuntimeError("out of shared memory\nmore")

    made = [({}, lambda: torch.ones(2)), ({"a": 1}, fail), ({"b": 2}, lambda: 1.5 * torch.ones(2))]
    assert list(tune.lines(device.Device(dry=True), iter(made))) == [
        "as it is: dry run; off by 0.0e+00",
        "a = 1: RuntimeError: out of shared memory",
        "b = 2: dry run; off by 5.0e-01",
    ]
