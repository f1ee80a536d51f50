"""The HTML report: what is on the page, what it refuses, and how it behaves in a browser."""

from __future__ import annotations

import copy
import json
import math
import os
import re
import shutil
import warnings
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from nets import Net
from torch import nn

import sbc_kernels as sbc
from sbc_kernels.report import render, write_html
from sbc_kernels.report.format import UNKNOWN, count, duration, large, percent, ratio, si
from sbc_kernels.report.svg import PALETTE

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from spikingjelly.activation_based import neuron

ROOT = Path(__file__).parents[1]
ARTEFACTS = ROOT / os.environ.get("SBC_ARTEFACTS", "build")
HOSTILE = (
    "<script>window.hacked=1</script>\"'><img src=x onerror=window.hacked=1>&lt;$x_1$ \x00\u202e"
)
PLOTS = ("sparsity", "synops", "bytes", "rates", "curves", "seconds", "damping")


# ---- reports to show ---------------------------------------------------------------------------


def made_up(
    names: list[str], *, compared: bool = True, bits: int | None = None, seed: int = 0
) -> dict[str, Any]:
    """A report of invented figures, as large as it is asked to be."""
    draw = np.random.default_rng(seed)
    layers, sizes = [], {}
    operations: dict[str, dict[str, dict[str, float]]] = {"dense": {}, "compressed": {}}
    for index, name in enumerate(names):
        d_out, d_in = int(draw.integers(16, 512)), 9 * int(draw.integers(3, 256))
        sparsity = float(draw.uniform(0.7, 0.98))
        steep = float(draw.uniform(4, 12))
        curve = [[float(x), float(x**steep)] for x in np.linspace(0, 1, 26)]
        silent = int(d_in * max(0.0, draw.normal(0.02, 0.1))) if index else int(0.7 * d_in)
        layers.append(
            {
                "name": name,
                "kind": "Conv2d",
                "shape": [d_out, d_in // 9, 3, 3],
                "sparsity": sparsity,
                "bits": bits,
                "loss": float(draw.uniform(0, 9)),
                "relative_error": sparsity**steep * (1.0 if bits is None else 1.05),
                "damp_percent": 0.1 if index % 7 == 3 else 0.01,
                "retries": int(index % 7 == 3),
                "dead_inputs": silent,
                "inputs": d_in,
                "gram_path": "exact integers, 16-bit lanes: 3 batch(es)",
                "seconds": 1e-9 * d_in**2 * d_out,
                "notes": ["no bias takes part: it has none of its own"] if index % 5 == 1 else [],
                "log": [f"pruned {100 * sparsity:.4g} % by exact OBS"],
                "curve": curve,
            }
        )
        sizes[name] = [int(d_out * d_in * (1 - sparsity) * 5), 4 * d_out * d_in]
        met = float(d_out * d_in * draw.uniform(2, 30))
        for side, share in (
            ("dense", 1.0),
            ("compressed", (1 - sparsity) * draw.uniform(0.8, 1.1)),
        ):
            operations[side][name] = {
                "macs": met * share if index == 0 else 0.0,
                "acs": met * share if index else 0.0,
                "weighted_acs": met * share,
                "dense": 9 * met,
            }
    rates = {f"{name}.lif": float(draw.uniform(0.02, 0.3)) for name in names}
    after = {name: rate * float(draw.uniform(0.7, 1.2)) for name, rate in rates.items()}
    comparison = {
        "samples": 2000,
        "agreement": 96.35,
        "dense": {
            "accuracy": 91.08,
            "operations": {"samples": 2000, "layers": operations["dense"]},
            "spike_rates": rates,
        },
        "compressed": {
            "accuracy": 89.42,
            "operations": {"samples": 2000, "layers": operations["compressed"]},
            "spike_rates": after,
        },
        "van_rossum": {name: float(draw.uniform(0.1, 2)) for name in rates},
    }
    return {
        "versions": {"sbc_kernels": "0.1.0", "torch": "2.13.0", "python": "3.11.7"},
        "created": "2026-11-26T09:41:12+00:00",
        "model": "MadeUpNetwork",
        "options": {"sparsity": 0.95, "bits": bits, "overrides": {"layer3.*": {"bits": 8}}},
        "allocation": {layer["name"]: layer["sparsity"] for layer in layers},
        "sparsity": 0.95,
        "seconds": 83.2,
        "resumed": 0,
        "peak_bytes": 612_000_000,
        "predicted_bytes": 500_000_000,
        "start_bytes": None,
        "layers": layers,
        "log": ["bn1 is not folded into conv1: it is in training mode"],
        "footprint": {
            "bytes": sum(s for s, _ in sizes.values()) + 900,
            "dense_bytes": sum(d for _, d in sizes.values()),
            "layers": sizes,
        },
        "comparison": comparison if compared else None,
    }


VGG = [*(f"features.conv{i}" for i in range(1, 9)), *(f"classifier.fc{i}" for i in (1, 2, 10))]
DEEP = [
    "conv1",
    *(
        f"layer{stage}.{block}.conv{i}"
        for stage, blocks in ((1, 3), (2, 8), (3, 36), (4, 4))
        for block in range(blocks)
        for i in (1, 2, 3)
    ),
    "layer4.0.downsample.0",
    "fc",
]
assert len(DEEP) == 156


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
        "Agreement 96.35 % of 2,000 samples get the dense network's answer",
        f"Synaptic operations {large(macs + acs)} before: ",
        f"Energy {si((0.9 * acs + 4.6 * macs) * 1e-12, 'J')} before: ",
        "0.9 picojoules for each accumulate",
        "4.6 for each multiply-accumulate",
        "Sparsity 95.00 % of ",
        "Bits 4 a weight that is kept; ",
        f"Size of the packed file {si(report['footprint']['bytes'], 'B')} before: ",
        "Time 83.2 s 612 MB of memory at most",
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
    assert "Bits 32 a weight: not quantized" in page.text


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
    told = page.text[: page.text.index("What was asked for")]
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


# ---- what is refused ---------------------------------------------------------------------------

UNUSED = {"weighted_acs", "dense"}  # of a layer's operations, and the samples beside them
FREE = ("options", "allocation", "footprint.layers", "spike_rates", "van_rossum")  # keys are names


def required(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path to every key that a report must have."""
    place = ".".join(map(str, path))
    if isinstance(value, dict):
        for key in value:
            if place.endswith("operations.layers"):
                yield from required(value[key], (*path, key))
            elif not place.endswith(FREE) and not (
                (key in UNUSED or key == "samples") and "operations" in path
            ):
                yield (*path, key)
                yield from required(value[key], (*path, key))
    elif isinstance(value, list) and value and isinstance(value[0], dict):
        yield from required(value[0], (*path, 0))


@pytest.mark.parametrize(
    "path", list(required(made_up(["a"]))), ids=lambda path: ".".join(map(str, path))
)
def test_a_missing_key_is_named(path: tuple[Any, ...]) -> None:
    report: Any = made_up(["a"])
    where = report
    for step in path[:-1]:
        where = where[step]
    del where[path[-1]]
    place = ".".join(map(str, path)).replace(".0.", "[0].")
    with pytest.raises(ValueError, match=f"report lacks '{re.escape(place)}'; accepted is what"):
        render(report)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sparsity": "much"}, "report's sparsity is 'much'; accepted is a number, or None"),
        ({"seconds": True}, "report's seconds is True; accepted is a number, or None"),
        ({"resumed": -1}, "report's resumed is -1; accepted is an integer of at least 0"),
        ({"layers": "conv1"}, "report's layers is 'conv1'; accepted is a list"),
        ({"created": "today"}, "report's created is 'today'; accepted is an ISO 8601 date"),
        ({"options": []}, r"report's options is \[\]; accepted is a dictionary"),
        (
            {"footprint": {"bytes": 1, "dense_bytes": 2, "layers": {"a": [1]}}},
            r"report's footprint.layers.a is \[1\]; accepted is two numbers",
        ),
    ],
)
def test_a_value_of_the_wrong_kind_is_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        render(made_up(["a"]) | change)


def test_a_report_is_a_dictionary() -> None:
    with pytest.raises(TypeError, match="report is a list; accepted is the dictionary"):
        render([])  # type: ignore[arg-type]


def test_a_page_is_whole_or_not_there(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    write_html(path, made_up(["a"]))
    good = path.read_bytes()
    assert good.startswith(b"<!DOCTYPE html>")
    with pytest.raises(ValueError, match="lacks 'model'"):
        write_html(path, {k: v for k, v in made_up(["a"]).items() if k != "model"})
    assert path.read_bytes() == good
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]


# ---- words and colours -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (percent(0.95), "95.0 %"),
        (percent(0.99996), "99.996 %"),
        (percent(1.0), "100.0 %"),
        (percent(0.00001), "0.001 %"),
        (percent(0.0), "0.0 %"),
        (percent(None), UNKNOWN),
        (count(171624.2), "171,624"),
        (large(60_040_384), "60.0 M"),
        (si(0, "J"), "0 J"),
        (si(1.544e-7, "J"), "154 nJ"),
        (si(999.7, "B"), "1.00 kB"),
        (si(15720, "B"), "15.7 kB"),
        (si(12, "B"), "12 B"),
        (si(2e-17, "J"), "0.02 fJ"),
        (duration(0.0004), "0.4 ms"),
        (duration(0.551), "551 ms"),
        (duration(9.996), "10.0 s"),
        (duration(3216), "53 min 36 s"),
        (duration(5836), "1 h 37 min"),
        (ratio(100, 8), "12.5 ×"),
        (ratio(100, 0), ""),
        (ratio(100, 120), ""),
        (ratio(None, 3), ""),
    ],
)
def test_words(said: str, expected: str) -> None:
    assert said.replace("\xa0", " ") == expected


PREFIXES = ("f", "p", "n", "µ", "m", "", "k", "M", "G", "T", "P", "E")


@given(st.floats(1e-14, 1e20))
def test_si_keeps_three_digits(value: float) -> None:
    number, _, prefix = si(value, "").partition("\xa0")
    scale = dict(zip(PREFIXES, range(-15, 21, 3), strict=True))
    assert float(number.replace(",", "")) * 10.0 ** scale[prefix] == pytest.approx(
        value, rel=0.0051
    )


def luminance(color: str) -> float:
    parts = np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
@pytest.mark.parametrize(
    ("front", "back", "least"),
    [
        *(
            (text, back, 4.5)
            for text in ("ink", "quiet", "warn")
            for back in ("paper", "card", "wash")
        ),
        *(("accent", back, 4.5) for back in ("paper", "card")),
        ("dense", "card", 3.0),
    ],
)
def test_contrast(scheme: int, front: str, back: str, least: float) -> None:
    """WCAG 2.2 AA: 4.5 for text, 3 for what plots are made of."""
    light, dark = sorted((luminance(PALETTE[role][scheme]) for role in (front, back)), reverse=True)
    assert (light + 0.05) / (dark + 0.05) >= least


# ---- from a real model -------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore")
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


# ---- in a browser ------------------------------------------------------------------------------


def without(what: str) -> None:
    message = f"{what}: the page is not tried in a browser"
    if os.environ.get("CI") == "true":
        pytest.fail(message)
    pytest.skip(message)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    try:
        from playwright.sync_api import sync_playwright
    except ModuleNotFoundError:
        without("playwright is not installed")
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    found = next(filter(None, map(shutil.which, names)), None)
    if found is None:
        without("no Chromium on the path")
    with sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield chromium
        chromium.close()


Opener = Callable[..., Any]


@pytest.fixture
def opened(browser: Any, tmp_path: Path) -> Iterator[Opener]:
    """Opens a report's page; at the end, that nothing was said, thrown or asked of the network."""
    path = tmp_path / "report.html"
    complaints: list[str] = []
    requests: list[str] = []
    contexts = []

    def dismiss(dialog: Any) -> None:
        complaints.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    def open_page(report: dict[str, Any], width: int = 1280, **context: Any) -> Any:
        write_html(path, report)
        contexts.append(browser.new_context(viewport={"width": width, "height": 900}, **context))
        page = contexts[-1].new_page()
        page.set_default_timeout(10_000)
        page.on("console", lambda message: complaints.append(f"console: {message.text}"))
        page.on("pageerror", lambda error: complaints.append(f"thrown: {error}"))
        page.on("dialog", dismiss)
        page.on("request", lambda request: requests.append(request.url))
        page.goto(path.as_uri())
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert complaints == []
    assert {url for url in requests if url != "data:,"} == {path.as_uri()}


def column(page: Any, title: str) -> Any:
    return page.locator("#layers thead th").filter(has_text=re.compile(f"^{re.escape(title)}$"))


def keys(page: Any, index: int) -> list[str | None]:
    script = "(rows, i) => rows.map((row) => row.cells[i].dataset.key ?? null)"
    return list(page.locator("#layers tbody tr").evaluate_all(script, index))


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_screenshot(opened: Opener, scheme: str) -> None:
    page = opened(made_up(VGG, bits=4), color_scheme=scheme)
    ARTEFACTS.mkdir(parents=True, exist_ok=True)
    path = ARTEFACTS / ("report.png" if scheme == "light" else "report-dark.png")
    path.unlink(missing_ok=True)
    page.screenshot(path=path, full_page=True)
    assert path.stat().st_size > 50_000


@pytest.mark.parametrize("width", [1280, 900, 390])
@pytest.mark.parametrize("names", [VGG, DEEP], ids=["11", "156"])
def test_every_plot_has_size_and_nothing_sticks_out(
    opened: Opener, names: list[str], width: int
) -> None:
    page = opened(made_up(names), width)
    assert page.locator("figure").count() == len(PLOTS)
    for plot in PLOTS:
        drawn = page.locator(f"#plot-{plot} .plot svg").filter(visible=True)
        assert drawn.count() == 1
        box = drawn.bounding_box()
        assert box["width"] >= 250
        assert box["height"] >= 40
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= width
        ink = drawn.evaluate("(svg) => { const b = svg.getBBox(); return [b.width, b.height]; }")
        assert min(ink) > 10
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    for details in page.locator("main details").all():
        details.evaluate("(element) => { element.open = true; }")
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_words_in_plots_do_not_run_into_one_another(opened: Opener) -> None:
    """Beside long names and long values too."""
    names = [f"encoder.stages.{i}.attention.projection.{i}" for i in range(12)]
    overlaps = """(svgs) => svgs.flatMap((svg) => {
      const boxes = [...svg.querySelectorAll("text")].map((t) => [t.textContent, t.getBBox()]);
      return boxes.flatMap(([a, p], i) => boxes.slice(i + 1)
        .filter(([, q]) => p.x < q.x + q.width - 1 && q.x < p.x + p.width - 1
          && p.y < q.y + q.height - 3 && q.y < p.y + p.height - 3).map(([b]) => `${a} | ${b}`));
    })"""
    for width in (1280, 390):
        page = opened(made_up(names), width)
        assert page.locator(".plot svg").filter(visible=True).evaluate_all(overlaps) == []


def test_a_heading_sorts_both_ways(opened: Opener) -> None:
    report = made_up(VGG)
    report["layers"][2]["relative_error"] = math.nan
    page = opened(report)
    titles = [text.strip() for text in page.locator("#layers thead th").all_inner_texts()]
    head, index = column(page, "Error"), titles.index("Error")
    errors = [layer["relative_error"] for layer in report["layers"]]
    values = sorted(error for error in errors if not math.isnan(error))
    for direction, expected in (("ascending", values), ("descending", values[::-1])):
        head.get_by_role("button").click()
        assert head.get_attribute("aria-sort") == direction
        *known, last = keys(page, index)
        assert list(map(float, map(str, known))) == pytest.approx(expected)
        assert last is None  # not known: last either way
    column(page, "Layer").get_by_role("button").click()
    assert head.get_attribute("aria-sort") is None
    assert keys(page, 0)[:3] == ["classifier.fc1", "classifier.fc2", "classifier.fc10"]
    column(page, "No.").get_by_role("button").click()
    assert keys(page, 0) == VGG
    assert page.locator("[aria-sort]").count() == 1


def test_the_keyboard_does_all_that_a_mouse_does(opened: Opener) -> None:
    page = opened(made_up(VGG), color_scheme="light")
    theme = page.locator("#theme")
    page.keyboard.press("Tab")
    assert theme.evaluate("(b) => b === document.activeElement")
    page.keyboard.press("Space")
    assert theme.get_attribute("aria-pressed") == "true"
    page.locator("#layers").locator("xpath=..").focus()  # the scrolling region
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert column(page, "Layer").get_attribute("aria-sort") == "ascending"
    page.keyboard.press("Tab")
    page.keyboard.press("Space")
    assert column(page, "No.").get_attribute("aria-sort") == "ascending"
    page.locator("#run ~ details summary").first.focus()
    page.keyboard.press("Enter")
    assert page.get_by_text("overrides").is_visible()


def colours(page: Any) -> list[str]:
    """Of the page's ground, its text, a plot's words and a plot's bars."""
    script = "(e, what) => getComputedStyle(e)[what]"
    bar = page.locator("#plot-seconds svg path[style*=accent]").filter(visible=True).first
    return [
        str(where.evaluate(script, what))
        for where, what in (
            (page.locator("body"), "backgroundColor"),
            (page.locator("h1"), "color"),
            (page.locator("#plot-seconds svg.wide text").first, "fill"),
            (bar, "fill"),
        )
    ]


def test_dark_by_the_system_or_by_the_button(opened: Opener) -> None:
    page = opened(made_up(VGG), color_scheme="light")
    light = colours(page)
    page.emulate_media(color_scheme="dark")
    dark = colours(page)
    assert all(a != b for a, b in zip(light, dark, strict=True))
    assert page.locator("#theme").get_attribute("aria-pressed") == "true"
    page.locator("#theme").click()
    assert colours(page) == light
    page.reload()
    assert colours(page) == light  # it remembers
    assert page.locator("#theme").get_attribute("aria-pressed") == "false"


def test_on_a_phone_the_table_scrolls_beside_the_names(opened: Opener) -> None:
    page = opened(made_up(DEEP), 390)
    region, name = (
        page.locator("#layers").locator("xpath=.."),
        page.locator("#layers tbody th").first,
    )
    assert region.evaluate("(r) => r.scrollWidth > r.clientWidth")
    before = name.bounding_box()["x"]
    region.evaluate("(r) => r.scrollBy(300, 0)")
    assert region.evaluate("(r) => r.scrollLeft") == 300
    assert name.bounding_box()["x"] == pytest.approx(before, abs=1)


def test_hostile_names_do_nothing(opened: Opener) -> None:
    page = opened(made_up([HOSTILE, "b"]) | {"model": HOSTILE, "log": [HOSTILE]})
    assert page.evaluate("window.hacked") is None
    shown = HOSTILE.replace("\x00", "\ufffd")
    assert page.locator("h1").text_content() == shown
    assert page.locator("#layers tbody th").first.text_content().strip() == shown


def test_in_print_everything_is_open_and_nothing_is_a_button(opened: Opener) -> None:
    page = opened(made_up(VGG), color_scheme="dark")
    entry = page.get_by_text("bn1 is not folded into conv1")
    option = page.get_by_text("overrides")
    hidden = "(e) => !e.checkVisibility({ contentVisibilityAuto: true }) || !e.offsetHeight"
    assert entry.evaluate(hidden)
    page.emulate_media(media="print")
    assert not entry.evaluate(hidden)
    assert not option.evaluate(hidden)
    assert not page.locator("#theme").is_visible()
    assert page.locator("h1").evaluate("(e) => getComputedStyle(e).color") == "rgb(27, 31, 36)"
    assert page.pdf(format="A4").startswith(b"%PDF")
    assert page.locator("details[open]").count() == 0  # as it was before


def test_what_a_screen_reader_is_told(opened: Opener) -> None:
    page = opened(made_up(VGG))
    for plot, title in (
        ("sparsity", "Sparsity and error"),
        ("rates", "Spike rates, before and after"),
    ):
        picture = page.locator(f"#plot-{plot}").get_by_role("img", name=title)
        assert picture.count() == 1
        described = picture.evaluate("""(e) => e.getAttribute("aria-describedby").split(" ")
            .map((id) => document.getElementById(id).textContent).join(" ")""")
        assert "Good is" in described
        assert "features.conv" in described
    table = page.get_by_role("table", name="Layers, in the network's order")
    assert table.get_by_role("rowheader").count() == len(VGG)
    assert page.get_by_role("region", name="Layers, in the network's order").count() == 1
    assert page.get_by_role("heading", level=1).count() == 1
    levels = page.locator("h1, h2, h3").evaluate_all("(hs) => hs.map((h) => Number(h.tagName[1]))")
    assert all(b - a <= 1 for a, b in pairwise(levels))
    assert page.locator("html").get_attribute("lang") == "en"
