"""benchmarks/gpu.sh: what it measures, what its table says, whether its rivals are right."""

from __future__ import annotations

import os
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

pytest.importorskip("triton")
import problems
import rivals
from gpu import __main__ as script
from gpu import (
    cases,
    contests,
    device,
    machine,
    measure,
    profile,
    report,
    sew,
    torch_rivals,
)
from gpu.runner import Done, Runner

ROOT = Path(__file__).parents[1]

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
        made = contests.CONTESTS[case.key](device.Device(dry=True))
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
            Done("build", "ok", 3.21, "built | it"),
            Done("case b", "too slow", 9, "stopped"),
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

    def measure(self, run: Any) -> device.Sample:
        run()
        self.now += 1.0
        return device.Sample(self.now, int(self.now))


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

    walker = Runner(tmp_path / "log", os.environ, time.monotonic() + 60, ())
    monkeypatch.setattr(walker, "run", run)
    found = [case for case in cases.CASES if not case.is_alone][:5]
    keys = [case.key for case in found]
    script.measure_together(walker, files, found)
    assert ran == [keys, keys[keys.index("order-large") + 1 :]]


def test_ours_and_rivals_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device.Device, "clock", lambda self: Ticks())
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
    found = measure.measure(contest, device.Device(dry=False))
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
    measure.measure(contest, device.Device(dry=True))
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
        clock = device.EventClock()
        sample = clock.measure(lambda: order.append("run"))
    assert sample == device.Sample(1.5, 250)
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
