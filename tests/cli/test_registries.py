"""A method and a rule of allocation of somebody else's: one class and one function, two lines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from commands import CAL, good, run, said

import sbc_kernels as sbc
from sbc_kernels.method import METHODS, LayerOptions, Method, Outcome, Use
from sbc_kernels.method.damping import Damping
from sbc_kernels.method.rows import Rows, masked
from sbc_kernels.model.allocation import ALLOCATIONS, Rule, Shares, Trial

TOY = """
import sbc_kernels as sbc
from net import make
from sbc_kernels.method import METHODS, Method, Outcome, Use
from sbc_kernels.method.damping import Damping
from sbc_kernels.method.rows import masked
from sbc_kernels.model.allocation import ALLOCATIONS, Rule, Shares


class EveryOther(Method):
    doc = "keeps every other input, and every input of a second half"
    baseline = True
    bits = Use.NEVER

    def compress(self, parts, order, options, log):
        for part in parts:
            part.mask = part.xp.ones_like(part.weight, dtype=bool)
            part.mask[:, ::2] = not options.sparsity
            part.result = masked(part.mask, part.weight)
        log.append("every other input")
        return Outcome(Damping(options.damp_percent))


def first_only(trial, sparsity):
    names = list(trial.sizes)
    return Shares({name: sparsity * (name == names[0]) for name in names}, ["the first pays"])


METHODS["every-other"] = EveryOther()
ALLOCATIONS["first-only"] = Rule(first_only, "only the first layer is pruned")
"""


class KeepLargestInput(Method):
    """Prunes all inputs but the one with the largest Hessian diagonal."""

    doc = "keeps one input"
    sparsity = Use.REQUIRED

    def order_key(self, options: LayerOptions) -> Any:
        return "the same for all"

    def order(self, parts: list[Rows], options: LayerOptions, log: list[str]) -> Any:
        log.append("ranked")
        return [int(part.xp.argmax(part.hessian.diagonal())) for part in parts]

    def compress(
        self, parts: list[Rows], order: Any, options: LayerOptions, log: list[str]
    ) -> Outcome:
        for part, best in zip(parts, order, strict=True):
            part.mask = part.xp.zeros_like(part.weight, dtype=bool)
            part.mask[:, best] = True
            part.result = masked(part.mask, part.weight)
        return Outcome(Damping(options.damp_percent, 2), ((0.0, 0.0), (1.0, 1.0)))


def by_size(trial: Trial, sparsity: float) -> Shares:
    """The largest layer gets all of it."""
    largest = max(trial.sizes, key=lambda name: trial.sizes[name])
    assert trial.weight(largest).size == trial.sizes[largest]
    return Shares({name: sparsity * (name == largest) for name in trial.sizes}, ["by size"])


def test_a_registered_method_compresses_a_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METHODS, "one", KeepLargestInput())
    rng = np.random.default_rng(0)
    weight, spikes = rng.standard_normal((4, 6)), rng.random((5, 30, 6)) < 0.3
    spikes[..., 3] = True
    out = sbc.compress_layer(weight, spikes, method="one", sparsity=0.5)
    assert np.flatnonzero(out.mask.any(axis=0)).tolist() == [3]
    assert (out.retries, out.curve) == (2, ((0.0, 0.0), (1.0, 1.0)))
    assert "ranked" in out.log
    with pytest.raises(sbc.ParameterError, match="method is 'one'; accepted with it is a sparsity"):
        sbc.compress_layer(weight, spikes, method="one", bits=4)


def test_registered_ones_compress_a_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METHODS, "one", KeepLargestInput())
    monkeypatch.setitem(ALLOCATIONS, "by-size", Rule(by_size, "all on the largest"))
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(12, 20), torch.nn.ReLU(), torch.nn.Linear(20, 3))
    batches = [(torch.rand(4, 30, 12) < 0.4).float()]
    result = sbc.compress_model(net, batches, sparsity=0.6, method="one", allocation="by-size")
    assert result.allocation == {"0": 0.6, "2": 0.0}
    assert "by size" in result.log
    assert [layer.retries for layer in result.layers] == [2, 2]
    for index in (0, 2):
        assert (result.model[index].weight != 0).any(dim=0).sum() == 1
    result = sbc.compress_model(
        net, batches, sparsity=0.6, overrides={"0": {"method": "one"}}, allocation="by-size"
    )
    assert (result.model[0].weight != 0).any(dim=0).sum() == 1
    assert (result.model[2].weight != 0).all()
    with pytest.raises(sbc.ParameterError, match=r"accepted are .*'one'"):
        sbc.compress_model(net, batches, method="two")


def test_bits_are_those_of_the_codes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A method that makes no codes has quantized nothing, whatever was asked of it."""
    monkeypatch.setitem(METHODS, "one", KeepLargestInput())
    rng = np.random.default_rng(0)
    weight, spikes = rng.standard_normal((4, 6)), rng.random((5, 30, 6)) < 0.3
    out = sbc.compress_layer(weight, spikes, method="one", sparsity=0.5, bits=4)
    assert (out.codes, out.bits, out.group_size) == (None, None, None)


class Contradicting(KeepLargestInput):
    """Its mask prunes one weight more than its result, or that one to -0."""

    left = 1.0

    def compress(
        self, parts: list[Rows], order: Any, options: LayerOptions, log: list[str]
    ) -> Outcome:
        out = super().compress(parts, order, options, log)
        parts[0].result[0, order[0] - 1] = self.left
        return out


@pytest.mark.parametrize("left", [1.0, -0.0])
def test_a_mask_that_contradicts_the_result_is_found_at_once(
    monkeypatch: pytest.MonkeyPatch, left: float
) -> None:
    method = Contradicting()
    method.left = left
    monkeypatch.setitem(METHODS, "odd", method)
    torch.manual_seed(0)
    spikes = (torch.rand(4, 30, 12) < 0.4).float()
    with pytest.raises(
        sbc.ParameterError, match="method is 'odd', whose result is not what its mask"
    ):
        sbc.compress_layer(torch.randn(3, 12), spikes, method="odd", sparsity=0.5)
    net = torch.nn.Sequential(torch.nn.Linear(12, 20), torch.nn.ReLU(), torch.nn.Linear(20, 3))
    with pytest.raises(sbc.ParameterError, match="layer '0': method is 'odd'"):
        sbc.compress_model(net, [spikes], method="odd", sparsity=0.5)


@pytest.mark.parametrize(
    ("shares", "message"),
    [
        ({"0": 0.5}, "allocation is 'odd', which gave no sparsity for '2'; .* each of 0, 2"),
        ({"0": 0.5, "2": 0.5, "1": 0.5}, "allocation is 'odd', which gave a sparsity for '1'"),
        ({"0": 0.5, "2": 1.5}, r"allocation\['2'\] is 1.5"),
    ],
)
def test_shares_that_do_not_fit_are_refused(
    monkeypatch: pytest.MonkeyPatch, shares: dict[str, float], message: str
) -> None:
    odd = Rule(lambda trial, sparsity: Shares(shares, []), "odd", expensive=True)
    monkeypatch.setitem(ALLOCATIONS, "odd", odd)
    net = torch.nn.Sequential(torch.nn.Linear(12, 20), torch.nn.ReLU(), torch.nn.Linear(20, 3))
    batches = [(torch.rand(4, 30, 12) < 0.4).float()]
    with pytest.raises(sbc.ParameterError, match=message):
        sbc.compress_model(net, batches, sparsity=0.6, allocation="odd")


def test_registered_ones_compress_on_the_command_line(place: Path) -> None:
    """The file of the model registers them when it is imported, after the options were read."""
    Path("toy.py").write_text(TOY)
    arguments = ("--sparsity", "0.5", "--method", "every-other", "--allocation", "first-only")
    unknown = run("compress", *CAL, "--out", "o", *arguments)
    assert unknown.exit_code == 2
    assert "--method: method is 'every-other'; accepted are 'exact'" in said(unknown)
    assert not Path("o").exists()
    try:
        good("compress", "toy.py:make", *CAL[1:], "--out", "o", *arguments)
        report = json.loads(Path("o/report.json").read_text())
    finally:
        METHODS.pop("every-other", None)
        ALLOCATIONS.pop("first-only", None)
    assert [layer["sparsity"] for layer in report["layers"]] == [0.5, 0.0]
