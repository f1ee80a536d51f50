"""The code in README.md and docs/ runs and prints the output shown; pages name only what exists."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import sbc_kernels as sbc

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"


def _load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # dataclasses look themselves up
    spec.loader.exec_module(module)
    return module


blocks: Any = _load(DOCS / "blocks.py")
PAGES = [
    page for page in blocks.pages() if "```" in page.read_text(encoding="utf-8")
]  # the other pages have no code
NUMBER_OF = {"README.md": 2, "docs/tutorial.md": 10, "docs/command-line.md": 2}


# The network of docs/options.md is not trained: it hardly fires.
@pytest.mark.filterwarnings("ignore:no input spiked in calibration:RuntimeWarning")
@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_page_runs_and_prints_what_it_shows(page: Path, tmp_path: Path) -> None:
    run = blocks.run_page(page, tmp_path)
    for shown in run.shown:
        assert shown.differs() is None, f"{page}:{shown.block.line}: {shown.differs()}"
    if page.name == "README.md":
        assert "exact integers" in run.printed  # the page prints out.log, which names the path
        assert "LIF(tau=2.0, decay_input=True)" in run.printed  # the plan
        first = run.names["result"].layers[0].shape[0]
        assert f"of {first * 9 + 10 * 16 * 14 * 14:,} weights" in run.printed


def test_there_is_something_to_run() -> None:
    pages = {str(page.relative_to(ROOT)): page for page in PAGES}
    assert len(pages) >= 12
    for name, least in NUMBER_OF.items():
        languages = [block.language for block in blocks.blocks_of(pages[name].read_text("utf-8"))]
        assert languages.count("python") >= least


@pytest.mark.parametrize(
    ("shown", "printed", "same"),
    [
        ("a  1.00 b\n...\nlast 171,624 x", "a 1.01   b\nq\nr\nlast 171,999 x", True),
        ("a 3 b", "a 4 b", False),
        ("a 30.5 b", "a 33.0 b", False),
        ("17 % of 128x800", "18 % of 128x800", True),
        ("17 % of 128x800", "18 % of 128x801", False),
        ("took ... s", "took 0.12 s", True),
        ("x\n----- ---", "x\n-- ------", True),
        ("a", "a\nb", False),
        ("", "b", False),
    ],
)
def test_comparison(shown: str, printed: str, same: bool) -> None:
    assert (blocks.difference(shown, printed) is None) == same


# ---- the reference -----------------------------------------------------------------------------


def documented() -> set[str]:
    """Full names that the directives in docs/api document."""
    directive = re.compile(r"^\.\. (?:auto(?:class|function)|py:data):: ([\w.]+)$", re.M)
    return {
        name
        for page in (DOCS / "api").glob("*.rst")
        for name in directive.findall(page.read_text(encoding="utf-8"))
    }


@pytest.mark.parametrize(
    "module", ["sbc_kernels", "sbc_kernels.metrics", "sbc_kernels.files", "sbc_kernels.report"]
)
def test_every_public_name_is_in_the_reference(module: str) -> None:
    objects = {id(_resolved(name)) for name in documented()}
    exported = importlib.import_module(module)
    public = {name: getattr(exported, name) for name in exported.__all__}
    assert [
        name
        for name, value in public.items()
        if not inspect.ismodule(value) and id(value) not in objects
    ] == []


def _resolved(name: str) -> Any:
    """The object with this full name. Raises AttributeError if there is no such object."""
    module, _, attribute = name.rpartition(".")
    return getattr(importlib.import_module(module), attribute)


# ---- names and figures in the text -------------------------------------------------------------


def test_options_that_are_named_exist() -> None:
    page = (DOCS / "options.md").read_text(encoding="utf-8")
    options = {
        name
        for code in re.findall(r"`([^`\n]+)`", page)
        for name in re.findall(r"\b([a-z_]+)=", code)
    }
    functions = (sbc.compress_model, sbc.compress_layer, sbc.register_neuron)
    assert len(options) > 15
    assert options <= {p for function in functions for p in inspect.signature(function).parameters}


def test_figures_are_measured_ones() -> None:
    """Accuracies and bytes in options.md also occur in README.md or benchmarks/results."""
    sources = [ROOT / "README.md", *(ROOT / "benchmarks" / "results").glob("*.md")]
    measured = "\n".join(source.read_text(encoding="utf-8") for source in sources)
    page = blocks.FENCE.sub("", (DOCS / "options.md").read_text(encoding="utf-8"))
    figures = re.findall(r"\b\d\d\.\d\d\b|\b\d+,\d{3}\b", page)
    assert len(figures) > 15
    assert [figure for figure in figures if figure not in measured] == []
