"""Runs that are stopped, killed, or started again with something else."""

from __future__ import annotations

import copy
import os
import random
import signal
import subprocess
import sys
import textwrap
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from nets import Net
from torch import Tensor, nn

import sbc_kernels as sbc
from sbc_kernels.model.following_norms import FollowingNorms, reestimate
from sbc_kernels.model.ledger import Ledger
from sbc_kernels.model.passes import Calibration
from sbc_kernels.network.watch import Statistics, watching

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from four_frameworks import (
        PLAIN,
        network,
        same,
        spikes,
    )
    from spikingjelly.activation_based import functional, layer, neuron


def test_a_finished_run_is_read_back_to_the_bit(tmp_path: Path, batches: list[Tensor]) -> None:
    for options in ({"sparsity": 0.8}, {"sparsity": 0.5, "bits": 4, **PLAIN}):
        folder = tmp_path / str(len(options))
        net = network()
        first = sbc.compress_model(net, batches, checkpoint_dir=folder, **options)
        net(spikes())  # a state is nothing of the model's
        functional.reset_net(net)
        again = sbc.compress_model(net, batches, checkpoint_dir=folder, **options)
        assert (first.resumed, again.resumed) == (0, 3)
        assert same(first.model.state_dict(), again.model.state_dict())
        assert same(first.tensors, again.tensors)
        assert [r.loss for r in first.layers] == [r.loss for r in again.layers]


def test_another_run_is_refused(tmp_path: Path, batches: list[Tensor]) -> None:
    net = network()
    sbc.compress_model(net, batches, sparsity=0.8, checkpoint_dir=tmp_path / "a")
    files = {p.name: p.read_bytes() for p in (tmp_path / "a").iterdir()}
    with pytest.raises(ValueError, match="another options"):
        sbc.compress_model(net, batches, sparsity=0.7, checkpoint_dir=tmp_path / "a")
    with pytest.raises(ValueError, match="another calibration"):
        sbc.compress_model(net, batches[:2], sparsity=0.8, checkpoint_dir=tmp_path / "a")
    with torch.no_grad():
        net.fc.weight[0, 0] += 1
    with pytest.raises(ValueError, match="another model"):
        sbc.compress_model(net, batches, sparsity=0.8, checkpoint_dir=tmp_path / "a")
    with torch.no_grad():
        net.fc.weight[0, 0] -= 1
    net.n1.tau = 3.0  # no parameter, but it decides
    with pytest.raises(ValueError, match="another model"):
        sbc.compress_model(net, batches, sparsity=0.8, checkpoint_dir=tmp_path / "a")
    assert files == {p.name: p.read_bytes() for p in (tmp_path / "a").iterdir()}
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"thesis\.txt"):
        sbc.compress_model(net, batches, sparsity=0.8, checkpoint_dir=tmp_path / "b")


def test_batchnorms_that_followed_are_kept_too(
    tmp_path: Path, batches: list[Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In parallel mode they follow after all layers: stopped there, a run goes on there."""
    net = two_norms()
    options: dict[str, Any] = {"sparsity": 0.8, "calibration_mode": "parallel"}
    whole = sbc.compress_model(net, batches, **options)
    moved: list[str] = []
    move = FollowingNorms.move

    def interrupted(norms: FollowingNorms, norm: str, after: Statistics) -> None:
        if len(moved) == 1:
            raise KeyboardInterrupt
        moved.append(norm)
        move(norms, norm, after)

    monkeypatch.setattr(FollowingNorms, "move", interrupted)
    with pytest.raises(KeyboardInterrupt):
        sbc.compress_model(net, batches, checkpoint_dir=tmp_path, **options)
    monkeypatch.setattr(
        FollowingNorms,
        "move",
        lambda norms, norm, after: (moved.append(norm), move(norms, norm, after)),
    )
    resumed = sbc.compress_model(net, batches, checkpoint_dir=tmp_path, **options)
    assert moved == ["bn", "fc.1"]
    assert same(whole.model.state_dict(), resumed.model.state_dict())


def two_norms() -> nn.Module:
    """The network with a second BatchNorm, behind fc."""
    net = network()
    norm = nn.BatchNorm1d(20).eval()
    net.fc = nn.Sequential(net.fc, norm)
    return net


def shortcut_first() -> nn.Module:
    """Of a residual add: `y` is behind both layers, and both norms are behind `a`."""
    return with_norms(lambda m, x: m.n(m.y(m.b(x) + m.x(m.a(x)))))


def late_norm() -> nn.Module:
    """`a` is called before `b`, its norm after that of `b`, and fed what that one lets through."""

    def run(m: Any, x: Tensor) -> Tensor:
        early = m.a(x)
        return m.k(m.x(early * m.n(m.y(m.b(x)))))

    return with_norms(run)


def with_norms(run: Callable[[Any, Tensor], Tensor]) -> nn.Module:
    torch.manual_seed(5)
    parts: dict[str, nn.Module] = {name: nn.Linear(12, 16, bias=False) for name in "ab"}
    for name in "xy":
        norm = nn.BatchNorm1d(16)
        with torch.no_grad():
            norm.running_var.uniform_(0.1, 0.5)
            norm.running_mean.uniform_(-0.1, 0.1)
        parts[name] = layer.SeqToANNContainer(norm)
    parts |= {name: neuron.LIFNode(tau=2.0, step_mode="m", v_threshold=0.5) for name in "nk"}
    return Net(run, **parts).eval()


@pytest.mark.parametrize("build", [two_norms, shortcut_first, late_norm])
@pytest.mark.parametrize("split", [1, 2])
def test_each_batchnorm_follows_those_before_it(
    build: Callable[[], nn.Module], split: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the order of calls, once each: from one pass where there is one batch, else a pass each. After
    that, what each is fed has the mean and variance that it was given."""
    net = build()
    torch.manual_seed(6)
    shape = (4, 60, 2, 8, 8) if build is two_norms else (4, 60, 12)
    whole = (torch.rand(shape) < 0.4).float()
    batches = list(whole.split(60 // split, dim=1))
    passes: list[None] = []
    each = Calibration.each
    monkeypatch.setattr(Calibration, "each", lambda *args: (passes.append(None), each(*args))[1])
    options: dict[str, Any] = {"sparsity": 0.6, "calibration_mode": "parallel"}
    still = sbc.compress_model(net, batches, bn_reestimate=False, bias_correction=False, **options)
    before = len(passes)
    passes.clear()
    result = sbc.compress_model(net, batches, bias_correction=False, **options)
    assert len(passes) - before == (2 if split == 1 else 3)  # the dense model's, then ours

    norms = {
        n: m
        for n, m in result.model.named_modules()
        if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d)
    }
    assert len(norms) == 2
    dense, after = (statistics_of(model, batches) for model in (net, result.model))
    for name, norm in norms.items():
        old = dict(net.named_modules())[name]
        expected = copy.deepcopy(old)
        reestimate(expected, dense[name], after[name])
        assert torch.equal(expected.running_mean, norm.running_mean)
        assert torch.equal(expected.running_var, norm.running_var)
        assert not torch.equal(
            norm.running_var, dict(still.model.named_modules())[name].running_var
        )

    stored = sbc.compress_model(
        net, batches, bias_correction=False, checkpoint_dir=tmp_path, **options
    )
    passes.clear()
    again = sbc.compress_model(
        net, batches, bias_correction=False, checkpoint_dir=tmp_path, **options
    )
    assert not passes
    for other in (stored, again):
        assert same(result.model.state_dict(), other.model.state_dict())


def statistics_of(model: nn.Module, batches: list[Tensor]) -> dict[str, Statistics]:
    norms = {
        n: m for n, m in model.named_modules() if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d)
    }
    with watching(norms) as seen, torch.no_grad():
        for batch in batches:
            functional.reset_net(model)
            model(batch)
    functional.reset_net(model)
    return seen


def test_stopped_while_batchnorms_follow(
    tmp_path: Path, batches: list[Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of one batch all have followed by then: the first file that says so is written, no other."""
    net = two_norms()
    options: dict[str, Any] = {"sparsity": 0.8, "calibration_mode": "parallel"}
    whole = sbc.compress_model(net, batches[:1], **options)
    store = Ledger.store

    def interrupted(ledger: Ledger, name: str) -> None:
        store(ledger, name)
        if any(key.endswith("running_var") for key in ledger.finished[name].entries):
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Ledger, "store", interrupted)
        with pytest.raises(KeyboardInterrupt):
            sbc.compress_model(net, batches[:1], checkpoint_dir=tmp_path, **options)
    moved: list[str] = []
    move = FollowingNorms.move
    monkeypatch.setattr(
        FollowingNorms,
        "move",
        lambda norms, norm, after: (moved.append(norm), move(norms, norm, after)),
    )
    resumed = sbc.compress_model(net, batches[:1], checkpoint_dir=tmp_path, **options)
    assert moved == ["fc.1"]
    assert same(whole.model.state_dict(), resumed.model.state_dict())


RUN = """
import sys, warnings
warnings.simplefilter("ignore")
import torch
torch.set_num_threads(1)
import four_frameworks as t
import sbc_kernels as sbc
print("ready", flush=True)
result = sbc.compress_model(
    t.network(), [t.spikes(s, 40) for s in range(3)], sparsity=0.8, bits=4,
    calibration_mode=sys.argv[2], checkpoint_dir=sys.argv[1] or None)
torch.save({"state": result.model.state_dict(), "resumed": result.resumed}, sys.argv[3])
"""


@pytest.mark.parametrize("mode", ["parallel", "sequential"])
def test_killed_at_random_points_and_resumed_to_the_bit(mode: str, tmp_path: Path) -> None:
    script = tmp_path / "run.py"
    script.write_text(textwrap.dedent(RUN))
    paths = [str(Path(__file__).parents[1]), *sys.path]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}

    def start(folder: str, out: Path) -> subprocess.Popen[str]:
        command = [sys.executable, str(script), folder, mode, str(out)]
        return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)

    def killed_after(process: subprocess.Popen[str], folder: Path, files: int, wait: float) -> bool:
        """Kills it `wait` after so many layers are there; whether it lived that long."""
        while process.poll() is None and len(list(folder.glob("*.safetensors"))) < files:
            time.sleep(0.002)
        time.sleep(wait)
        alive = process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.communicate()
        return alive

    draw = random.Random(0)
    folder = tmp_path / "checkpoint"
    kills = 0
    for files in (0, 1, 2):
        process = start(str(folder), tmp_path / "out.pt")
        assert process.stdout is not None
        process.stdout.readline()
        kills += killed_after(process, folder, files, draw.uniform(0, 0.03))
        for path in folder.glob("*.safetensors") if folder.exists() else ():
            assert path.stat().st_size > 0
    assert kills >= 2
    whole = start("", tmp_path / "whole.pt")
    resumed = start(str(folder), tmp_path / "out.pt")
    for process in (whole, resumed):
        process.communicate(timeout=120)
        assert process.returncode == 0
    a, b = (torch.load(tmp_path / name, weights_only=True) for name in ("whole.pt", "out.pt"))
    assert a["resumed"] == 0
    assert b["resumed"] >= 1
    assert same(a["state"], b["state"])
