"""``sbc export``: a compressed file as what other programs read."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from .. import options as o
from ..command import Answer, need_models, require_absent
from ..data import Cut, load_data
from ..objects import load_compressed_model, load_object

Format = Literal["nir", "state-dict"]


def export(
    ctx: typer.Context,
    model: o.Model,
    file: o.Packed,
    *,
    format: Annotated[
        Format,
        typer.Option(
            rich_help_panel=o.WHAT,
            metavar="NAME",
            help="nir: a graph of the Neuromorphic Intermediate Representation, for simulators and "
            "chips. state-dict: dense tensors in a safetensors file, for any loader.",
        ),
    ] = "nir",
    integer_weights: Annotated[
        bool,
        typer.Option(
            "--integer-weights/--no-integer-weights",
            rich_help_panel=o.SWITCHES,
            metavar="",
            help="NIR only: write weights as integers, and move their scales into the neurons.",
        ),
    ] = False,
    calibration: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=o.DATA,
            metavar="DATA",
            help="NIR only: data as for sbc compress. One batch runs through the network, so that "
            "its graph is known.",
        ),
    ] = None,
    model_args: o.ModelArgs = None,
    forward: o.Forward = None,
    batch_size: o.BatchSize = None,
    batch_axis: o.BatchAxis = None,
    time_steps: o.TimeSteps = None,
    dtype: o.Dtype = "float32",
    out: Annotated[
        Path,
        typer.Option(
            rich_help_panel=o.OUTPUT,
            metavar="FILE",
            help="The file to write, such as net.nir or net.safetensors.",
            show_default=False,
        ),
    ],
    force: o.Force = False,
    json: o.Json = False,
    quiet: o.Quiet = False,
    traceback: o.Traceback = False,
    config: o.Config = None,
    save_config: o.SaveConfig = None,
) -> Answer:
    """Write a compressed network for other programs.

    NIR has no BatchNorm: compress with --fold before exporting to it.

    [bold]Examples[/bold]

    [cyan]  sbc export net.py:make small/model.safetensors --calibration cal.npz \\
        --out net.nir
      sbc export net.py:make small/model.safetensors --format state-dict \\
        --out dense.safetensors[/cyan]
    """
    need_models(ctx, *(["nir", "h5py"] if format == "nir" else []))
    require_absent(ctx, [out], force)
    if format == "nir" and calibration is None:
        raise typer.BadParameter(
            "a NIR graph is found by running a batch through the network: give --calibration",
            param_hint="--calibration",
        )
    if format != "nir" and integer_weights:
        raise typer.BadParameter(
            "a state dict holds dense weights; accepted with it is --format nir",
            param_hint="--integer-weights",
        )
    network, weights = load_compressed_model(model, model_args, file, "FILE")
    out.parent.mkdir(parents=True, exist_ok=True)
    if format == "state-dict":
        from safetensors.torch import save

        from ...files.atomic import write_atomic

        # Tied weights become tensors of their own: safetensors holds no two names for one.
        write_atomic(out, save({name: t.clone() for name, t in network.state_dict().items()}))
    else:
        assert calibration is not None
        from ...export.nir.graph import nir_graph, write_nir
        from ...network.batches import first_batch

        batches = load_data(calibration, Cut.of(ctx.params), "--calibration")
        graph = nir_graph(
            network,
            first_batch(batches),
            forward=None if forward is None else load_object(forward, "--forward"),
            weights=weights,
            integer_weights=integer_weights,
        )
        write_nir(out, graph)
    size = out.stat().st_size
    return Answer(
        {"path": str(out), "format": format, "bytes": size}, f"{out} is written, {size:,} bytes."
    )
