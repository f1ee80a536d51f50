"""``sbc inspect``: the layers and neurons of a network, before it is compressed."""

from __future__ import annotations

import json as json_module
from typing import Any

import typer

from .. import options as o
from ..command import Answer, need_models
from ..data import Cut, load_data
from ..objects import layer_options, load_model, load_object
from ..package_options import package_options


@package_options("overrides", "ignore", before="json")
def inspect(
    ctx: typer.Context,
    model: o.Model,
    *,
    checkpoint: o.Weights = None,
    model_args: o.ModelArgs = None,
    forward: o.Forward = None,
    calibration: o.Calibration,
    batch_size: o.BatchSize = None,
    batch_axis: o.BatchAxis = None,
    time_steps: o.TimeSteps = None,
    dtype: o.Dtype = "float32",
    json: o.Json = False,
    quiet: o.Quiet = False,
    traceback: o.Traceback = False,
    config: o.Config = None,
    save_config: o.SaveConfig = None,
    **settings: Any,
) -> Answer:
    """Show the layers and neurons that sbc compress would work on.

    One batch is run through the network. For each weight layer, a row shows its input,
    the time steps T, the BatchNorms behind it, the neurons that integrate its output,
    and the impulse response from which its Hessian is built.

    [bold]Examples[/bold]

    [cyan]  sbc inspect net.py:make --calibration cal.npz --checkpoint best.pt
      sbc inspect mypackage.nets:vgg --calibration batches/ --ignore 'head.*'[/cyan]
    """
    need_models(ctx)
    from ...model import trace
    from ...network.batches import first_batch

    network = load_model(model, model_args, checkpoint)
    batches = load_data(calibration, Cut.of(ctx.params), "--calibration")
    plan = trace(
        network,
        first_batch(batches),
        forward=None if forward is None else load_object(forward, "--forward"),
        overrides=layer_options(settings["overrides"]),
        ignore=settings["ignore"] or (),
    )
    size = sum(layer.size for layer in plan.compressed)
    summary = (
        f"{len(plan.compressed)} of {len(plan.layers)} weight layers with {size:,} weights would be "
        "compressed."
        if plan.compressed
        else "No weight layer of this network can be compressed. If it has a neuron class of its own, "
        "call sbc_kernels.register_neuron in the factory's file."
    )
    return Answer(json_module.loads(plan.to_json()), f"{plan}\n\n{summary}")
