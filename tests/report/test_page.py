"""The HTML report: what is on the page."""

from __future__ import annotations

import copy
import json
import math
import re
import warnings
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up_reports import DEEP, HOSTILE, PLOTS, VGG, made_up
from nets import Net
from torch import nn

import sbc_kernels as sbc
from sbc_kernels.report import render
from sbc_kernels.report.format import UNKNOWN, large, si

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from spikingjelly.activation_based import neuron


# ---- reports to show ---------------------------------------------------------------------------


class Page(HTMLParser):
    """Tags with their attributes, and the text that is not script or style."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self._text: list[str] = []
        self._open: list[str] = []
        self.feed(html)
        self.text = re.sub(r"\s+", " ", " ".join(self._text))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag in ("script", "style"):
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in ("script", "style"):
            self._open.pop()

    def handle_data(self, data: str) -> None:
        if not self._open:
            self._text.append(data)

    def ids(self) -> list[str]:
        return [str(attrs["id"]) for _, attrs in self.tags if "id" in attrs]

    def figures(self) -> list[str]:
        return [str(a["id"]).removeprefix("plot-") for tag, a in self.tags if tag == "figure"]


# ---- what is on the page -----------------------------------------------------------------------


def test_headline_with_a_comparison() -> None:
    report = made_up(VGG, bits=4)
    macs, acs = (
        sum(
            layer[kind]
            for layer in report["comparison"]["compressed"]["operations"]["layers"].values()
        )
        for kind in ("macs", "acs")
    )
    page = Page(render(report))
    for expected in (
        "Accuracy 89.42 % before: 91.08 % −1.66 points on 2,000 samples",
        "Agreement 96.35 % of 2,000 samples get the dense network's prediction",
        f"Synaptic operations {large(macs + acs)} before: ",
        f"Energy {si((0.9 * acs + 4.6 * macs) * 1e-12, 'J')} before: ",
        "0.9 picojoules for each accumulate",
        "4.6 for each multiply-accumulate",
        "Sparsity 95.00 % of ",
        "Bits 4 per kept weight; ",
        f"Size of the packed file {si(report['footprint']['bytes'], 'B')} before: ",
        "Time 83.2 s 612 MB of memory at peak",
    ):
        assert expected.replace("\xa0", " ") in page.text, expected
    assert page.figures() == list(PLOTS)
    assert "metrics.compare" not in page.text


def test_without_a_comparison_the_page_says_how_to_get_one() -> None:
    page = Page(render(made_up(VGG, compared=False)))
    assert page.figures() == [plot for plot in PLOTS if plot not in ("synops", "rates")]
    assert "result.to_html(path, comparison=sbc.metrics.compare(dense, result, data))" in page.text
    for absent in ("Accuracy 8", "Energy is", "Agreement", "Operations before"):
        assert absent not in page.text
    assert "Bits 32 per weight: not quantized" in page.text


def test_without_labels_there_is_no_accuracy() -> None:
    report = made_up(VGG)
    report["comparison"]["dense"]["accuracy"] = report["comparison"]["compressed"]["accuracy"] = (
        None
    )
    page = Page(render(report))
    assert "Accuracy" not in page.text
    assert "Agreement 96.35 %" in page.text


def test_warnings_come_before_the_plots() -> None:
    page = render(made_up(VGG))
    text = Page(page).text
    assert "Damping was raised in 2 layers" in text
    assert (
        "features.conv4 (1 retry, damping 0.1), classifier.fc10 (1 retry, damping 0.1)"
        in re.sub(r" ,", ",", text)
    )
    assert "Most in features.conv1, 70.0 %." in text or "Most in features.conv1, 69." in text
    assert "No bias takes part: it has none of its own" in text
    assert page.index("No bias takes part") < page.index("<figure")


def test_nothing_to_warn_of() -> None:
    report = made_up(VGG)
    for layer in report["layers"]:
        layer |= {"retries": 0, "dead_inputs": 0, "notes": []}
    assert "Nothing stands out" in Page(render(report)).text


def test_no_layers() -> None:
    page = Page(render(made_up([], compared=False)))
    assert "No layer was compressed." in page.text
    assert page.figures() == []


@pytest.mark.parametrize("number", [1, 2, 12, 13, 24, 25, 61])
def test_any_number_of_layers(number: int) -> None:
    page = Page(render(made_up([f"stage.{i}" for i in range(number)])))
    assert page.figures() == list(PLOTS)
    assert len(page.ids()) == len(set(page.ids()))


def test_quantized_only_has_no_loss_curves() -> None:
    report = made_up(VGG, bits=3)
    for layer in report["layers"]:
        layer["curve"] = []
    assert "curves" not in Page(render(report)).figures()


def test_a_deep_network_stays_small() -> None:
    html = render(made_up(DEEP))
    page = Page(html)
    assert len(html.encode()) < 3_000_000
    assert all(name in page.text for name in DEEP)
    assert len(page.ids()) == len(set(page.ids()))
    referred = set(re.findall(r"url\(#(.+?)\)|href=\"#(.+?)\"", html))
    assert {a or b for a, b in referred} <= set(page.ids())
    named = [
        attrs.get(f"aria-{how}by") for _, attrs in page.tags for how in ("labelled", "described")
    ]
    assert {name for names in named for name in (names or "").split()} <= set(page.ids())


def test_nothing_is_loaded() -> None:
    page = Page(render(made_up(VGG)))
    for tag, attrs in page.tags:
        assert tag not in ("iframe", "object", "embed", "img")
        assert "src" not in attrs
        if tag == "link":
            assert attrs["href"] == "data:,"
    assert sum(tag == "script" for tag, _ in page.tags) == 1


def test_the_same_report_gives_the_same_page() -> None:
    """Whatever matplotlib is set to; and its settings are left as they are."""
    report = made_up(VGG)
    first = render(report)
    with mpl.rc_context(
        {"svg.fonttype": "path", "path.sketch": (5, 50, 5), "axes.facecolor": "red"}
    ):
        before = dict(mpl.rcParams)
        assert render(copy.deepcopy(report)) == first
        assert dict(mpl.rcParams) == before


def test_figures_that_are_not_known() -> None:
    report = made_up(VGG)
    for index, value in enumerate((None, math.nan, math.inf, -math.inf)):
        for key in ("sparsity", "relative_error", "damp_percent", "seconds", "loss"):
            report["layers"][index][key] = value
        report["layers"][index]["curve"][3] = [math.nan, 1.0]
        name = report["layers"][index]["name"]
        report["footprint"]["layers"][name] = [value, value]
        report["comparison"]["compressed"]["operations"]["layers"][name]["acs"] = value
        report["comparison"]["compressed"]["spike_rates"][f"{name}.lif"] = value
        report["comparison"]["van_rossum"][f"{name}.lif"] = value
    report["seconds"] = report["sparsity"] = report["peak_bytes"] = math.nan
    page = Page(render(report))
    assert page.figures() == list(PLOTS)
    assert f"Time {UNKNOWN}" in page.text
    assert f"Synaptic operations {UNKNOWN}" in page.text  # a part is not known: neither is the sum
    told = page.text[: page.text.index("The run Options")]
    assert not re.search(r"\b(nan|inf|None)\b", told)


def test_layers_that_only_one_side_knows() -> None:
    report = made_up(VGG)
    sides = report["comparison"]
    del sides["compressed"]["operations"]["layers"]["features.conv2"]
    del sides["compressed"]["spike_rates"]["features.conv2.lif"]
    sides["dense"]["operations"]["layers"]["not.compressed"] = {"macs": 1.0, "acs": 2.0}
    del report["footprint"]["layers"]["features.conv3"]
    assert Page(render(report)).figures() == list(PLOTS)


# ---- what users may call their layers ----------------------------------------------------------


def test_hostile_names_are_text() -> None:
    page = Page(render(made_up([HOSTILE, "b"]) | {"model": HOSTILE, "log": [HOSTILE]}))
    assert not any(tag == "img" for tag, _ in page.tags)
    assert sum(tag == "script" for tag, _ in page.tags) == 1
    assert "<script>window.hacked=1</script>" in page.text
    assert "$x_1$" in page.text  # not typeset as mathematics


@settings(max_examples=8)
@given(st.lists(st.text(max_size=40), min_size=1, max_size=3, unique=True))
def test_any_name(names: list[str]) -> None:
    html = render(made_up(names))
    html.encode("utf-8")
    page = Page(html)
    assert len(page.ids()) == len(set(page.ids()))
    for name in names:
        shown = re.sub(
            r"[^\t\n\x20-\x7e\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "\ufffd", name
        )
        assert re.sub(r"\s+", " ", shown) in page.text


# ---- from a real model -------------------------------------------------------------------------


def test_a_real_result(tmp_path: Path) -> None:
    torch.manual_seed(0)

    def run(net: Any, x: torch.Tensor) -> torch.Tensor:
        return torch.stack([net.n2(net.fc2(net.n1(net.fc1(step)))) for step in x])

    lif = neuron.LIFNode
    net = Net(run, fc1=nn.Linear(30, 20), n1=lif(tau=2.0), fc2=nn.Linear(20, 5), n2=lif(tau=2.0))
    nn.init.uniform_(net.fc1.weight, 0, 0.5)
    nn.init.uniform_(net.fc2.weight, 0, 0.8)
    spikes = (torch.rand(4, 6, 30, generator=torch.Generator().manual_seed(1)) < 0.3).float()
    result = sbc.compress_model(net, [spikes], sparsity=0.8, bits=4)
    labels = torch.arange(6) % 5
    comparison = sbc.metrics.compare(net, result, [(spikes, labels)])
    path = tmp_path / "report.html"
    result.to_html(path, comparison=comparison)
    page = Page(path.read_text(encoding="utf-8"))
    assert page.figures() == list(PLOTS)
    assert f"{100 * result.sparsity:.2f} %" in page.text
    assert f"Accuracy {comparison.compressed.accuracy:.2f} %" in page.text
    for layer in result.layers:
        assert f"{100 * layer.relative_error:.2f} %" in page.text
    assert render(json.loads(json.dumps(result.report(comparison)))).startswith("<!DOCTYPE html>")
