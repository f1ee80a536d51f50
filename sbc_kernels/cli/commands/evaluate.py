"""``sbc evaluate``: accuracy and operations of a network, dense or compressed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .. import options as o
from ..command import Answer, need_models
from ..data import Cut, load_data, on_device
from ..objects import load_compressed_model, load_device, load_model, load_object

if TYPE_CHECKING:
    from torch import nn

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
        typer.Option(rich_help_panel=o.RUN, metavar="PJ", min=0, help="Picojoules per accumulate."),
    ] = 0.9,
    pj_per_mac: Annotated[
        float,
        typer.Option(
            rich_help_panel=o.RUN, metavar="PJ", min=0, help="Picojoules per multiply-accumulate."
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

    With --compressed both networks are measured; MODEL and --checkpoint give the dense
    one. Energy is a proxy: operations times their price (float32, 45 nm).

    [bold]Examples[/bold]

    [cyan]  sbc evaluate net.py:make --checkpoint best.pt --test test.npz
      sbc evaluate net.py:make --checkpoint best.pt --test test.npz \\
        --compressed small/model.safetensors[/cyan]
    """
    need_models(ctx, "jinja2", "matplotlib")
    from ... import metrics
    from ...metrics.passes import labels_of
    from ...network.batches import first_batch
    from ...report.schema import Comparison
    from ..tables import Part, comparison_parts, figures, operations, rates, render, side_of

    run = None if forward is None else load_object(forward, "--forward")
    read = None if readout is None else load_object(readout, "--readout")
    torch_device = load_device(device)
    network = load_model(model, model_args, checkpoint).to(torch_device)
    batches = on_device(load_data(test, Cut.of(ctx.params), "--test"), torch_device)
    prices = (pj_per_ac, pj_per_mac)
    if compressed is None:
        has_labels = labels_of(first_batch(batches)) is not None
        measured = metrics.Measured(
            metrics.synaptic_operations(network, batches, forward=run),
            metrics.spike_rates(network, batches, forward=run),
            metrics.accuracy(network, batches, forward=run, readout=read) if has_labels else None,
        )
        samples = measured.operations.samples
        values = {"samples": samples, **_values(measured, network, prices)}
        sides = [(model, side_of(measured))]
        sparsity = f"{100 * values['connection_sparsity']:.2f} % of its weights are zero."
        parts: list[Part] = [
            figures(sides, prices),
            "",
            operations(sides),
            "",
            rates(sides),
            "",
            sparsity,
        ]
        return Answer(values, render(*parts))
    small = load_compressed_model(model, model_args, compressed)[0].to(torch_device)
    comparison = metrics.compare(network, small, batches, forward=run, readout=read)
    values = {
        **comparison.to_dict(),
        "dense": _values(comparison.dense, network, prices),
        "compressed": _values(comparison.compressed, small, prices),
    }
    dense_side, small_side = side_of(comparison.dense), side_of(comparison.compressed)
    both = [("dense", dense_side), ("compressed", small_side)]
    summary = Comparison(comparison.samples, comparison.agreement, dense_side, small_side, {})
    zeros = [100 * values[name]["connection_sparsity"] for name, _ in both]
    parts = [
        *comparison_parts(summary, prices),
        f"{zeros[1]:.2f} % of the compressed weights are zero, {zeros[0]:.2f} % of the dense weights.",
        "",
        operations(both),
        "",
        rates(both, comparison.van_rossum),
    ]
    return Answer(values, render(*parts))


def _values(measured: Measured, network: nn.Module, prices: tuple[float, float]) -> dict[str, Any]:
    """Returns the measurements of one network as JSON holds them."""
    from ...metrics import connection_sparsity

    counts = measured.operations
    return {
        "accuracy": measured.accuracy,
        "effective_macs": counts.effective_macs,
        "effective_acs": counts.effective_acs,
        "energy": counts.energy(*prices),
        "connection_sparsity": connection_sparsity(network),
        "spike_rates": measured.spike_rates,
        "operations": counts.to_dict(),
    }
