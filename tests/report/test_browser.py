"""The HTML report in a browser."""

from __future__ import annotations

import math
import os
import re
import shutil
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from made_up_reports import DEEP, HOSTILE, PLOTS, VGG, made_up

from sbc_kernels.report import write_html

ROOT = Path(__file__).parents[2]


ARTEFACTS = ROOT / os.environ.get("SBC_ARTEFACTS", "build")


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
        assert "better" in described
        assert "features.conv" in described
    table = page.get_by_role("table", name="Layers, in the network's order")
    assert table.get_by_role("rowheader").count() == len(VGG)
    assert page.get_by_role("region", name="Layers, in the network's order").count() == 1
    assert page.get_by_role("heading", level=1).count() == 1
    levels = page.locator("h1, h2, h3").evaluate_all("(hs) => hs.map((h) => Number(h.tagName[1]))")
    assert all(b - a <= 1 for a, b in pairwise(levels))
    assert page.locator("html").get_attribute("lang") == "en"
