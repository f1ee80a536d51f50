"""Compressing the demonstration's network in 18 ways, measuring each, and reporting the results."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from ..errors import ParameterError
from ..files import load_packed, packed_tensor, save_packed
from ..files.atomic import write_atomic
from ..layer import compress_layer
from ..neurons import LIF
from .data import Dataset, digits, fashion_mnist
from .events import saccade_events
from .network import TAU, Network, Quality, as_input, measure
from .plot import draw
from .results import Figures, Results, Row
from .train import RECIPES, SHIPPED, Recipe, load_checkpoint, save_checkpoint, train

NUM_CALIBRATION_SAMPLES = 300  # training images, without their labels
SPARSITIES = (0.90, 0.97, 0.99)
BITS = (4, 3, 2)

SBC: dict[str, Any] = {"neuron": LIF(TAU)}
PRUNERS: dict[str, dict[str, Any]] = {
    "magnitude": {"method": "magnitude"},
    "exactobs": {"hessian": "current"},
    "sbc": SBC,
}
QUANTIZERS: dict[str, dict[str, Any]] = {
    "rtn": {"method": "rtn"},
    "gptq": {"hessian": "current", "grid": "absmax"},
    "sbc": SBC,
}


@dataclass(frozen=True)
class Setting:
    """One row of the table. `options` are arguments of `compress_layer` for both layers."""

    method: str
    sparsity: float | None = None
    bits: int | None = None
    options: dict[str, Any] = field(default_factory=dict)

    def label(self) -> str:
        """Returns a name such as ``sbc-97-percent`` or ``gptq-2-bit``."""
        if self.bits is not None:
            return f"{self.method}-{self.bits}-bit"
        return f"{self.method}-{100 * (self.sparsity or 0):g}-percent"


SETTINGS = (
    *(Setting(name, sparsity=s, options=how) for s in SPARSITIES for name, how in PRUNERS.items()),
    *(Setting(name, bits=b, options=how) for b in BITS for name, how in QUANTIZERS.items()),
)


def run_demo(
    out: str | Path = "sbc-demo",
    *,
    data: str = "digits",
    data_dir: str | Path | None = None,
    retrain: bool = False,
    quiet: bool = False,
    settings: Sequence[Setting] = SETTINGS,
    limit: int | None = None,
    recipe: Recipe | None = None,
) -> Results:
    """Runs the whole demonstration, as `sbc demo` does.

    Parameters
    ----------
    out : folder for ``report.json``, ``sbc-demo.png`` and ``models/``. It is created if necessary.
    data : "digits", or "fashion-mnist" for IDX files in `data_dir`.
    retrain : train the digits' network instead of loading the shipped one. Networks for other data are
        always trained. A trained network is saved as ``<data>.safetensors``.
    quiet : print nothing.
    settings, limit, recipe : the rows, the number of test samples and the training recipe, for tests.

    Returns
    -------
    The figures of the dense network and of every compression. Accuracy and operations are measured with
    the weights read back from the packed file.

    Raises
    ------
    ParameterError : `data` is unknown, or `data_dir` is missing.
    FileNotFoundError, ValueError : `data_dir` does not hold the IDX files; see `fashion_mnist`.
    """
    if data not in RECIPES:
        raise ParameterError("data", data, f"one of {', '.join(RECIPES)}")
    if data == "fashion-mnist" and data_dir is None:
        raise ParameterError("data_dir", data_dir, "the folder of the IDX files")
    console = Console(quiet=quiet, highlight=False)
    out = Path(out)
    dataset = digits() if data_dir is None else fashion_mnist(data_dir)
    recipe = recipe or RECIPES[data]
    (out / "models").mkdir(parents=True, exist_ok=True)
    with Progress(
        TextColumn("{task.description:<28}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
        disable=quiet,
    ) as progress:
        if retrain or data != "digits":
            task = progress.add_task("training", total=recipe.epochs)
            network = train(dataset, recipe, lambda: progress.advance(task))
            save_checkpoint(out / f"{data}.safetensors", network, dataset, recipe)
        else:
            network = load_checkpoint(SHIPPED, dataset)
        task = progress.add_task("event camera", total=2 + len(settings))

        def show_step(name: str) -> None:
            progress.update(task, advance=1, description=name)

        report = _compress_all(network, dataset, recipe, out, settings, limit, show_step)
    write_atomic(out / "report.json", (json.dumps(report, indent=2) + "\n").encode())
    views = saccade_events(dataset.test_images[:1], recipe.num_steps)[:, 0]
    write_atomic(out / "sbc-demo.png", draw(report, dataset, views))
    console.print(_table(report, dataset, limit))
    console.print(f"{out}/: report.json, sbc-demo.png, models/*.safetensors")
    return report


def _compress_all(
    network: Network,
    dataset: Dataset,
    recipe: Recipe,
    out: Path,
    settings: Sequence[Setting],
    limit: int | None,
    show_step: Callable[[str], None],
) -> Results:
    """Compresses with every setting, saves the packed files and measures them.

    `show_step` is called with the name of the next step.
    """
    test_labels = dataset.test_labels[:limit]
    test = saccade_events(dataset.test_images[:limit], recipe.num_steps)
    images = dataset.train_images[:NUM_CALIBRATION_SAMPLES]
    events = as_input(saccade_events(images, recipe.num_steps))
    with torch.no_grad():  # both layers are calibrated on their inputs in the dense network
        spikes = {"fc1": events.byte(), "fc2": network.run(events).hidden.byte()}
    show_step("dense")
    weights = {name: getattr(network, name) for name in spikes}
    size = save_packed(
        out / "models" / "dense.safetensors", {n: w.numpy() for n, w in weights.items()}
    )
    dense = _figures(measure(network, test, test_labels), size)
    rows: list[Row] = []
    for setting in settings:
        show_step(setting.label())
        path = out / "models" / f"{setting.label()}.safetensors"
        start = time.perf_counter()
        layers = {
            name: compress_layer(
                weights[name],
                spikes[name],
                sparsity=setting.sparsity,
                bits=setting.bits,
                **setting.options,
            )
            for name in weights
        }
        seconds = time.perf_counter() - start
        metadata = {
            "method": setting.method,
            "sparsity": setting.sparsity,
            "bits": setting.bits,
            "data": dataset.name,
        }
        packed = {name: packed_tensor(layer) for name, layer in layers.items()}
        size = save_packed(path, packed, metadata)
        stored = Network(**{n: torch.from_numpy(w) for n, w in load_packed(path).items()})
        figures = _figures(measure(stored, test, test_labels), size)
        rows.append(
            Row(
                method=setting.method,
                sparsity=setting.sparsity,
                bits=setting.bits,
                **figures,
                seconds=round(seconds, 3),
            )
        )
    show_step("done")
    return Results(dense=dense, rows=rows)


def _figures(quality: Quality, size: int) -> Figures:
    return Figures(accuracy=round(quality.accuracy, 2), synops=round(quality.synops, 1), bytes=size)


def _table(report: Results, dataset: Dataset, limit: int | None) -> Table:
    """Returns the terminal's table: a section per sparsity or bits, the best accuracy in bold."""
    dense, samples = report["dense"], len(dataset.test_labels[:limit])
    title = (
        f"{dataset.name}, {samples} test samples that were used neither to train nor to calibrate"
    )
    table = Table(title=title, box=SIMPLE_HEAD, collapse_padding=True, pad_edge=False)
    for name in ("sparsity", "bits"):
        table.add_column(name, justify="right")
    table.add_column("method")
    for name in ("accuracy %", "synops", "bytes", "smaller", "seconds"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_row(
        "", "32", "dense", f"{dense['accuracy']:.2f}", f"{dense['synops']:,.0f}",
        f"{dense['bytes']:,}", "1.0 x", "", end_section=True,
    )  # fmt: skip
    rows = report["rows"]
    for i, row in enumerate(rows):
        group = [r for r in rows if (r["sparsity"], r["bits"]) == (row["sparsity"], row["bits"])]
        best = max(r["accuracy"] for r in group)
        accuracy = f"{row['accuracy']:.2f}"
        table.add_row(
            "" if row["sparsity"] is None else f"{100 * row['sparsity']:g} %",
            str(row["bits"] or "32"),
            row["method"],
            f"[bold]{accuracy}[/bold]" if row["accuracy"] == best else accuracy,
            f"{row['synops']:,.0f}",
            f"{row['bytes']:,}",
            f"{dense['bytes'] / row['bytes']:.1f} x",
            f"{row['seconds']:.2f}",
            end_section=i + 1 < len(rows) and rows[i + 1] not in group,
        )
    return table
