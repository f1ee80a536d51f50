"""``sbc evaluate``: what a network costs to run and how often it is right, dense or compressed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .. import options as o
from ..command import Answer, need_models
from ..data import Cut, load_data, on_device
from ..objects import load_compressed_model, load_device, load_model, load_object

if TYPE_CHECKING:
    from ...metrics import Measured


def evaluate(
    ctx: typer.Context,
    model: o.Model,
    *,
    checkpoint: o.Weights = None,
    compressed: Annotated[
        Path | None,
        typer.Option(
            rich_help_panel=o.NETWORK,
            metavar="FILE",
            help="A model.safetensors of sbc compress, to compare with the dense network.",
        ),
    ] = None,
    model_args: o.ModelArgs = None,
    forward: o.Forward = None,
    readout: o.Readout = None,
    test: o.Test,
    batch_size: o.BatchSize = None,
    batch_axis: o.BatchAxis = None,
    time_steps: o.TimeSteps = None,
    dtype: o.Dtype = "float32",
    pj_per_ac: Annotated[
        float,
        typer.Option(rich_help_panel=o.RUN, metavar="PJ", min=0, help="Picojoules an accumulate."),
    ] = 0.9,
    pj_per_mac: Annotated[
        float,
        typer.Option(
            rich_help_panel=o.RUN, metavar="PJ", min=0, help="Picojoules a multiply-accumulate."
        ),
    ] = 4.6,
    device: o.Device = "cpu",
    json: o.Json = False,
    quiet: o.Quiet = False,
    traceback: o.Traceback = False,
    config: o.Config = None,
    save_config: o.SaveConfig = None,
) -> Answer:
    """Measure a network: accuracy, synaptic operations, energy, spike rates, sparsity.

    With --compressed both are measured, the dense network as MODEL and --checkpoint
    give it. Energy is a proxy: operations times their price (float32, 45 nm).

    [bold]Examples[/bold]

    [cyan]  sbc evaluate net.py:make --checkpoint best.pt --test test.npz
      sbc evaluate net.py:make --checkpoint best.pt --test test.npz \\
        --compressed small/model.safetensors[/cyan]
    """
    need_models(ctx, "jinja2", "matplotlib")
    from ... import metrics
    from ...metrics.passes import labels_of
    from ...network.batches import first_batch
    from ...report.schema import Comparison as Told
    from ..tables import comparison_parts, figures, operations, rates, render, side_of

    how = {"forward": None if forward is None else load_object(forward, "--forward")}
    read = {"readout": None if readout is None else load_object(readout, "--readout")}
    place = load_device(device)
    network = load_model(model, model_args, checkpoint).to(place)
    batches = on_device(load_data(test, Cut.of(ctx.params), "--test"), place)
    prices = (pj_per_ac, pj_per_mac)
    if compressed is None:
        labelled = labels_of(first_batch(batches)) is not None
        measured = metrics.Measured(
            metrics.synaptic_operations(network, batches, **how),
            metrics.spike_rates(network, batches, **how),
            metrics.accuracy(network, batches, **how, **read) if labelled else None,
        )
        told = {"samples": measured.operations.samples, **_told(measured, network, prices)}
        sides = [(model, side_of(measured))]
        sparsity = f"{100 * told['connection_sparsity']:.2f} % of its weights are zero."
        parts = [figures(sides, prices), "", operations(sides), "", rates(sides), "", sparsity]
        return Answer(told, render(*parts))
    small = load_compressed_model(model, model_args, compressed).to(place)
    found = metrics.compare(network, small, batches, **how, **read)
    told = {
        **found.to_dict(),
        "dense": _told(found.dense, network, prices),
        "compressed": _told(found.compressed, small, prices),
    }
    both = [("dense", side_of(found.dense)), ("compressed", side_of(found.compressed))]
    page = Told(found.samples, found.agreement, both[0][1], both[1][1], {})
    zeros = [100 * told[name]["connection_sparsity"] for name, _ in both]
    parts = [
        *comparison_parts(page, prices),
        f"{zeros[1]:.2f} % of the compressed weights are zero, {zeros[0]:.2f} % of the dense.",
        "",
        operations(both),
        "",
        rates(both, found.van_rossum),
    ]
    return Answer(told, render(*parts))


def _told(measured: Measured, network: Any, prices: tuple[float, float]) -> dict[str, Any]:
    from ...metrics import connection_sparsity

    done = measured.operations
    return {
        "accuracy": measured.accuracy,
        "effective_macs": done.effective_macs,
        "effective_acs": done.effective_acs,
        "energy": done.energy(*prices),
        "connection_sparsity": connection_sparsity(network),
        "spike_rates": measured.spike_rates,
        "operations": done.to_dict(),
    }
