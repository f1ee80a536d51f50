"""benchmarks/gpu.sh: it walks through on a CPU, its table says what was measured, rivals are right."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch

import sbc_kernels as sbc

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "benchmarks"))
pytest.importorskip("triton")
import problems  # noqa: E402
import rivals  # noqa: E402
from gpu import __main__ as script  # noqa: E402
from gpu import (  # noqa: E402
    cases,
    contests,
    machine,
    measure,
    place,
    profile,
    report,
    sew,
    steps,
    torch_rivals,
    tune,
)

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
        made = make(place.Place(dry=True))
        assert made.limit in limits or not made.work, key
        names = [rival.name for rival in made.rivals]
        assert len(set(names)) == len(names), key


# ---- steps -----------------------------------------------------------------------------------------


def runner(folder: Path, seconds: float = 60, only: tuple[str, ...] = ()) -> steps.Runner:
    return steps.Runner(folder / "log", os.environ, time.monotonic() + seconds, only)


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def test_an_interrupt_stops_what_runs(tmp_path: Path) -> None:
    """At once, and the children of what runs."""
    code = (
        "import sys, time; sys.path.append(sys.argv[1]); from gpu.steps import Runner, Step\n"
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
        steps.Done("case x, case y", "too slow", note="stopped after 240 s"),
        steps.Done("case y", "failed", note="y: MemoryError: 9 GB"),
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
            steps.Step("one", [*python(wait), a, b], 30, note="said"),
            steps.Step("the other", [*python(wait), b, a], 30),
            steps.Step("third", python(""), 30),
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


# ---- what was measured -----------------------------------------------------------------------------


def outcome(seconds: list[float], rival: list[float], peak: int = 0) -> cases.Outcome:
    data = {
        "work": 600.0,
        "unit": "OP/s",
        "limit": "int8",
        "contenders": [
            {"name": "ours", "seconds": seconds, "peak": peak, "note": ""},
            {
                "name": "OBC's rank-1 loop, batched",
                "seconds": rival,
                "peak": 7,
                "note": "no memory",
            },
        ],
    }
    return cases.Outcome.of(data, {"int8": 400.0})


def test_outcome() -> None:
    found = outcome([2.0, 3.0, 1.0, 2.5, 1.5], [20.0, 60.0, 30.0, 20.0, 10.0])
    assert found.ours.median == 2.0
    assert found.ours.spread == 1.0
    assert found.rate == 300.0
    assert found.fraction == 0.75
    assert found.ratio(found.rivals[0]) == 10.0  # of 10, 20, 30, 8 and 6.7
    assert outcome([1.0], [2.0]).ours.spread is None
    assert replace(found, limit_rate=None).fraction is None
    assert replace(found, work=0.0).rate is None


def test_targets_are_met_or_missed() -> None:
    found = outcome([2.0], [20.0], peak=3 * 10**9)
    said = {
        cases.seconds(2): True,
        cases.seconds(1.9): False,
        cases.gigabytes(3): True,
        cases.gigabytes(2.9): False,
        cases.share(0.75, "int8"): True,
        cases.share(0.76, "int8"): False,
        cases.times_faster(10, cases.OBC): True,
        cases.times_faster(11, cases.OBC): False,
        cases.times_faster(1, cases.UNFOLD_FP32): None,
    }
    assert {target: target.met(found) for target in said} == said
    assert cases.times_faster(10, cases.OBC).met(outcome([2.0], [])) is None
    assert cases.share(0.1, "int8").met(replace(found, limit_rate=None)) is None
    assert [t.text for t in said][:2] == ["≤ 2 s", "≤ 1.9 s"]
    assert cases.seconds(0.025).text == "≤ 25 ms"


def test_targets_speak_of_rivals_that_are_there() -> None:
    """A target of a rival's name that no rival has would never be met."""
    for case in cases.CASES:
        made = contests.CONTESTS[case.key](place.Place(dry=True))
        data = {
            "work": made.work, "unit": made.unit, "limit": made.limit,
            "contenders": [
                {"name": name, "seconds": [1.0], "peak": 0, "note": ""}
                for name in ("ours", *(rival.name for rival in made.rivals))
            ],
        }  # fmt: skip
        found = cases.Outcome.of(data, dict.fromkeys(("int8", "tf32", "fp32"), 1.0))
        for target in case.targets:
            assert target.met(found) is not None, (case.key, target.text)


def test_report() -> None:
    case = cases.Case("a", "A", (cases.seconds(1), cases.times_faster(5, cases.OBC)))
    other, third = cases.Case("b", "B", (cases.seconds(1),)), cases.Case("c", "C")
    here = machine.Machine("Card", "sm_90", "580", "13.0", 1, "torch 2", "2026-11-26", "abc")
    text = report.report(
        here,
        [
            steps.Done("build", "ok", 3.21, "built | it"),
            steps.Done("case b", "too slow", 9, "stopped"),
        ],
        {"copy": 3e12, "int8": 400.0},
        {"a": outcome([2.0, 2.0, 2.0], [20.0, 20.0, 20.0], 10**9), "c": outcome([0.0002], [])},
        dry=False,
        selected=(case, other, third),
    )
    lines = text.splitlines()
    assert lines[0] == "# Kernels on Card"
    assert "| build | ok | 3.2 | built / it |" in lines
    assert "| copy | 3.0 TB/s, read and written |" in lines
    assert (
        "| A | ours | 2.00 s | 0.0 µs | 3 | 1.00 GB | 300 OP/s | 75% of int8 |  | "
        "≤ 1 s: MISSED, ≥ 5× OBC's rank-1 loop: met |"
    ) in lines
    assert (
        "|  | OBC's rank-1 loop, batched | 20.00 s | 0.0 µs | 3 | 0.00 GB |  |  | 10.0× |  |"
        in lines
    )
    assert "| B | ours | too slow: stopped | - | - | - | - | - | - | ≤ 1 s: not yet run |" in lines
    assert any(line.startswith("| C | ours | 200.0 µs | - | 1 |") for line in lines)
    assert "|  | OBC's rank-1 loop, batched | failed: no memory | - | 0 | - |  |  | - |  |" in lines


NCU = "\n".join(
    [
        "==PROF== Connected to process 3254 (python3)",
        'A line of the program\'s own, with "ID" in it',
        ",".join(
            [
                '"ID","Kernel Name","Grid Size"',
                '"gpu__dram_throughput.avg.pct_of_peak_sustained_elapsed"',
                '"gpu__time_duration.sum","sm__throughput.avg.pct_of_peak_sustained_elapsed"',
                '"smsp__average_warps_issue_stalled_barrier_per_issue_active.ratio"',
                '"smsp__average_warps_issue_stalled_selected_per_issue_active.ratio"',
                '"smsp__average_warps_issue_stalled_wait_per_issue_active.ratio"',
            ]
        ),
        '"","","","%","us","%","inst","inst","inst"',
        '"0","panel","(512, 1, 1)","66.95","2,000.0","19.90","4.7","1.0","7.5"',
        '"1","void sbc::<unnamed>::panel<(int)3>(sbc::P, int)","(1, 1, 1)","","2","9","","1","0.5"',
        "==PROF== Disconnected",
    ]
)


def test_what_the_profiler_printed_is_read() -> None:
    first, second = profile.read(NCU)
    assert first == profile.Counters(
        "panel", 2000 * 1e-6, {"SM": 19.9, "memory": 66.95}, (("wait", 7.5), ("barrier", 4.7))
    )
    assert second == profile.Counters("panel", 2 * 1e-6, {"SM": 9.0}, (("wait", 0.5),))
    with pytest.raises(ValueError, match="ncu printed no table"):
        profile.read("==ERROR== no device")


def test_every_watch_is_of_a_case() -> None:
    keys = [watch.key for watch in profile.WATCHES]
    assert len(set(keys)) == len(keys)
    assert set(keys) <= set(contests.CONTESTS)
    for watch in profile.WATCHES:
        words = profile.command(watch)
        assert words[0] == "ncu"
        assert words[-4:] == ["-m", "gpu.profile", "run", watch.key]
        assert f"regex:^({'|'.join(watch.kernels)})$" in words


def test_report_of_kernels() -> None:
    case = cases.Case("order-large", "A")
    here = machine.Machine("Card", "sm_90", "580", "13.0", 1, "torch 2", "2026-11-26", "abc")
    text = report.report(
        here,
        [],
        {},
        {},
        dry=False,
        selected=(case, cases.Case("b", "B"), cases.Case("c", "C")),
        kernels={
            "order-large": [("panel", 284, 0.3), ("update", 280, 0.695), ("copy", 1, 0.005)],
            "c": [],
        },
        counters={"order-large": profile.read(NCU)},
    )
    lines = text.splitlines()
    assert "| A | panel | 284 | 300.00 ms | 30% |" in lines
    assert not any("copy" in line for line in lines)  # less than a hundredth
    assert "| B | not yet run | - | - | - |" in lines
    assert "| C | not profiled | - | - | - |" in lines
    assert "| A | panel | 2.00 ms | 20 % | - | 67 % | - | - | - | wait 7.5, barrier 4.7 |" in lines


# ---- measuring -------------------------------------------------------------------------------------


class Ticks:
    """A clock on which everything takes a second more than what came before."""

    def __init__(self) -> None:
        self.now = 0.0

    def measure(self, run: Any) -> place.Sample:
        run()
        self.now += 1.0
        return place.Sample(self.now, int(self.now))


@pytest.mark.parametrize("profiling", [False, True])
def test_where_a_process_dies_the_rest_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, profiling: bool
) -> None:
    monkeypatch.setattr(script, "ROOT", tmp_path)
    files = script.Files(dry=True)
    ran: list[list[str]] = []

    def run(name: str, command: list[str], limit: float) -> None:
        keys = command[3::2]
        ran.append(keys)
        for key in keys:
            if key == "order-large":  # nothing more comes of this process
                if profiling:  # but what was measured before
                    files.case(key).write_text("{}")
                break
            files.case(key).write_text('{"kernels": []}')

    walker = runner(tmp_path)
    monkeypatch.setattr(walker, "run", run)
    found = [case for case in cases.CASES if not case.is_alone][:5]
    keys = [case.key for case in found]
    script.measure_together(walker, files, found)
    assert ran == [keys, keys[keys.index("order-large") + 1 :]]


def test_ours_and_rivals_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(place.Place, "clock", lambda self: Ticks())
    calls: list[str] = []

    def fails() -> None:
        raise MemoryError("so much")

    contest = contests.Contest(
        lambda: calls.append("ours"),
        (
            contests.Rival("one", lambda: lambda: calls.append("one"), scale=10.0),
            contests.Rival("two", lambda: fails),
        ),
        rounds=3,
    )
    found = measure.measure(contest, place.Place(dry=False))
    assert calls == ["ours"] * 2 + ["one"] * 2 + ["ours", "one"] * 3
    ours, one, two = found["contenders"]
    assert (ours["seconds"], ours["peak"]) == ([1.0, 3.0, 5.0], 5)
    assert one["seconds"] == [20.0, 40.0, 60.0]
    assert (two["seconds"], two["note"]) == ([], "MemoryError: so much")


def test_what_is_too_slow_to_repeat_is_warmed_up_otherwise() -> None:
    calls: list[str] = []
    contest = contests.Contest(
        lambda: calls.append("ours"), rounds=1, warm=lambda: calls.append("warm")
    )
    measure.measure(contest, place.Place(dry=True))
    assert calls == ["warm", "ours"]


@contextmanager
def cuda_as_far_as_names_go() -> Iterator[list[str]]:
    """torch.cuda's names and signatures on a machine without CUDA; the calls, in order."""
    order: list[str] = []

    def note(name: str, answer: Any = None) -> Any:
        def side_effect(*_: Any, **__: Any) -> Any:
            order.append(name)
            return answer

        return side_effect

    event = mock.create_autospec(torch.cuda.Event, instance=True)
    event.record.side_effect = note("record")
    event.elapsed_time.return_value = 1500.0  # milliseconds
    answers = {
        "Event": event,
        "synchronize": None,
        "reset_peak_memory_stats": None,
        "memory_allocated": 100,
        "max_memory_allocated": 350,
        "get_device_properties": mock.Mock(L2_cache_size=1 << 10),
    }
    with mock.patch.object(torch, "empty", side_effect=lambda *_, **__: torch.zeros(8)):
        patches = [
            mock.patch.object(torch.cuda, name, autospec=True, side_effect=note(name, answer))
            for name, answer in answers.items()
        ]
        for patch in patches:
            patch.start()
        try:
            yield order
        finally:
            for patch in patches:
                patch.stop()


def test_event_clock() -> None:
    with cuda_as_far_as_names_go() as order:
        clock = place.EventClock()
        sample = clock.measure(lambda: order.append("run"))
    assert sample == place.Sample(1.5, 250)
    assert order.index("reset_peak_memory_stats") < order.index("record")
    assert [name for name in order if name in ("record", "run")] == ["record", "run", "record"]


def test_captured() -> None:
    """A graph's replay answers the tensor that was made while it was captured."""
    calls: list[int] = []
    names = ("Stream", "current_stream", "stream", "CUDAGraph", "graph")
    with mock.patch.multiple(
        torch.cuda, autospec=True, **dict.fromkeys(names, mock.DEFAULT)
    ) as fake:
        replay = torch_rivals.captured(lambda: torch.tensor(calls.append(1) or len(calls)))
        assert len(calls) == 2  # once to warm up, once to capture
        assert int(replay()) == 2
        assert len(calls) == 2
        fake["CUDAGraph"].return_value.replay.assert_called_once_with()


# ---- rivals ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-5), (torch.float16, 1e-2)])
def test_rival_grams(dtype: torch.dtype, bound: float) -> None:
    draw = torch.Generator().manual_seed(0)
    x, neuron = torch.rand(4, 60, 9, generator=draw) < 0.3, sbc.LIF(2.0)
    k = torch.from_numpy(neuron.impulse_response(4))
    wanted = sbc.spike_gram(x, neuron)
    found = torch_rivals.gram(x, k, dtype)
    assert found.dtype == dtype
    assert float((found - wanted).abs().max()) <= bound * float(wanted.max())
    maps = torch.rand(4, 5, 3, 6, 6, generator=draw) < 0.3
    wanted = sbc.spike_gram(maps, neuron, conv=sbc.Conv((3, 3), padding=1))
    found = torch_rivals.conv_gram(maps, k, 3, 1, dtype)
    assert float((found - wanted).abs().max()) <= bound * float(wanted.max())


def test_rival_gptq() -> None:
    """In groups it is the same loop as without; in a "graph" the same as eager."""
    weight, hessian = problems.problem(6, 40)
    grid = sbc.fit_grid(weight.numpy(), 3, kind="absmax")
    scale, zero = torch.from_numpy(grid.scale), torch.from_numpy(grid.zero_point)
    group = torch.zeros(40, dtype=torch.int32)
    mine = torch_rivals.Gptq(weight, hessian, scale, zero, group, 3, block=16)
    wanted = rivals.gptq(weight, hessian, scale, zero, 7, block=16)
    assert torch.equal(mine.eager(), wanted)
    assert torch.equal(mine.graphed()(), wanted)
    grid = sbc.fit_grid(weight.numpy(), 3, kind="absmax", group_size=8)
    scale, zero = torch.from_numpy(grid.scale), torch.from_numpy(grid.zero_point)
    group = torch.from_numpy(grid.group_of_column(40))
    grouped = torch_rivals.Gptq(weight, hessian, scale, zero, group, 3).eager()
    ours = sbc.obs_quantize(weight, hessian, sbc.Grid(3, grid.scale, grid.zero_point, 8)).weight
    assert float((grouped - ours).abs().max()) < 1e-5


def test_rival_order() -> None:
    weight, hessian = problems.problem(3, 20)
    G = problems.inverse(hessian)
    order, loss = torch_rivals.obs_order(weight, G, 20)
    wanted_order, wanted_loss = sbc.obs_order(weight, G)
    assert torch.equal(order.int(), wanted_order)
    assert np.allclose(loss, wanted_loss, rtol=1e-3, atol=1e-6)


def test_sew_resnet152_has_its_layers() -> None:
    with torch.device("meta"):
        model = sew.SewResNet(sew.RESNET152, 64, 1000)
    layers = [m for m in model.modules() if isinstance(m, (torch.nn.Conv2d, torch.nn.Linear))]
    assert len(layers) == 156
    assert sum(layer.weight.numel() for layer in layers) == 60_040_384
    assert sum(isinstance(module, sew.IF) for module in model.modules()) == 155


def test_sew_resnet_is_traced() -> None:
    images = sew.photographs(2, 16, 2, torch.device("cpu"))
    model = sew.build(images, (2, 1, 1, 1), 2, 3)
    plan = sbc.trace(model, images)
    assert plan["layer1.1.conv2"].consumers == ("layer1.1.sn2",)
    assert plan["layer2.0.downsample.0"].consumers == ("layer2.0.downsample_sn",)
    assert len(plan.layers) == 1 + 2 * 3 + 3 * 3 + 4 + 1


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
    assert list(tune.lines(place.Place(dry=True), iter(made))) == [
        "as it is: dry run; off by 0.0e+00",
        "a = 1: RuntimeError: out of shared memory",
        "b = 2: dry run; off by 5.0e-01",
    ]
