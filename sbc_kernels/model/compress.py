"""Compress a whole spiking network: trace, gather, allocate, decide, layer by layer."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..backends.kernels import recorded_kernels
from ..method.fields import from_arguments
from ..network.batches import example_of, reiterable
from ..network.copies import Forward, copy_of, require_model, run_forward
from ..network.gradients import in_usual_mode
from ..network.kept import KeptStates
from ..network.originals import require_plain_parts, require_writable
from .checkpoint import Checkpoint
from .fingerprint import fingerprint
from .fold import fold_norms, foldable, own_norms, refolded
from .layer_checks import check_layers, check_memory
from .memory import PeakMemory, half_of_memory
from .modes import compress
from .overrides import Overrides
from .passes import Calibration
from .progress import Progress
from .result import CompressedModel
from .run import Run
from .settings import ModelOptions
from .shares import fractions_of, share_out
from .stamp import current_stamp
from .tracing import trace_copy

__all__ = ["compress_model"]


@in_usual_mode
def compress_model(
    model: nn.Module,
    calibration: Any,
    *,
    sparsity: float | str | None = None,
    bits: int | None = None,
    allocation: str | Mapping[str, float] | None = None,
    calibration_mode: str | None = None,
    target_damping: float = 0.5,
    bn_reestimate: bool | None = None,
    bias_correction: bool | None = None,
    hessian: str = "smp",
    method: str = "exact",
    grid: str | None = None,
    sym: bool = False,
    group_size: int = -1,
    act_order: bool | None = None,
    block_size: int = 128,
    damp_percent: float = 0.01,
    overrides: Overrides | None = None,
    ignore: Sequence[str] = (),
    forward: Forward | None = None,
    fold: bool = False,
    inplace: bool = False,
    max_memory: int | None = None,
    checkpoint_dir: str | Path | None = None,
    progress: bool | None = None,
    backend: str | None = None,
) -> CompressedModel:
    """Prunes and/or quantizes every weight layer of a spiking network, without training.

    Spiking Brain Compression (arXiv 2506.03996) on each layer, with the Hessian of the neurons that
    integrate its output. ``compress_model(model, calibration)`` alone prunes 90 % of all weights.

    Parameters
    ----------
    model : see `trace`; in CPU memory or on one GPU, where it is then compressed. Never changed unless
        `inplace`. Forward hooks of your own run with the copies that are worked on.
    calibration : unlabelled batches as the model takes them: a tensor (one batch), a list, a
        DataLoader; of a batch that is a tuple the first item. A batch that is a dictionary is passed by
        keyword where the model's forward has parameters of these names, without `labels` that it does
        not require. Iterated several times, with the same random seed; it has to be the same each
        time. A few hundred samples do.
    sparsity : fraction 0..1 of all weights together to prune, or "N:M" (N of every M are KEPT).
    bits : 1..8, to quantize; with `sparsity` the survivors.
    allocation : how a fraction is shared out over the layers: "lamp" (arXiv 2010.07611, the default;
        the paper's), "uniform", "measured" (the loss of the network's output by each layer at several
        sparsities is measured on the calibration data, a dynamic programme takes the cheapest, and the
        best start is refined by about 25 compressions of the whole network), or a dictionary by layer
        name (other layers get `sparsity`). A pattern is the same for every layer.
    calibration_mode : "parallel": all Hessians from the dense model, one pass where memory permits.
        "sequential": layer by layer on what the compressed layers before it produce, each layer's
        weight first refitted to that input (two passes a layer). Default "sequential", for the
        baselines "parallel".
    target_damping : damping of the refit, relative to the Hessian's mean diagonal; positive.
    bn_reestimate : move BatchNorms' statistics as far as the calibration data's moved. Default True,
        for the baselines False.
    bias_correction : let the bias (or the BatchNorm behind a layer without one) take part as an input
        that is always on and never pruned. Default True, for the baselines False.
    hessian, method, grid, sym, group_size, act_order, block_size, damp_percent, backend : as in
        `compress_layer`. Rows of a layer compete in the units of what its neurons integrate:
        BatchNorm's scale and the threshold count.
    overrides, ignore, forward : as in `trace`.
    fold : fold each BatchNorm into the layer before it in the model that is returned, where the model
        computes the same without it. `CompressedModel.unfolded` names the others.
    inplace : change `model` itself, at the very end.
    max_memory : bytes; Hessians are gathered for as many layers at once as fit. Refused where one layer
        by itself is predicted to take more. Default: half of what the system has, or of what is free on
        the model's GPU, and no more than this process can still take.
    checkpoint_dir : a folder; each finished layer is written there, and a stopped run resumes with
        bit-identical results. One run at a time uses it; refused if model, calibration data or options
        differ. A file that is damaged is named in the `log`, and its layer computed again. With
        ``allocation="measured"`` each measurement is kept as well.
    progress : bars on the terminal (needs rich). Default: where there is a terminal and rich.

    Returns
    -------
    CompressedModel

    Raises
    ------
    TypeError, ValueError : naming the parameter, what came and what is accepted; the model is as it
        was.
    OSError : `checkpoint_dir` cannot be written (a full disk): the error names the file. What was
        finished stays.
    MemoryError : before any work, where a layer certainly takes more memory than this process can get.
        It names the layer, what it needs, and what would fit.
    """
    options = from_arguments(ModelOptions, locals())
    require_model(model)
    require_plain_parts(model)
    if options.inplace:
        require_writable(model)
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    start, memory, stamp = time.perf_counter(), PeakMemory(device), current_stamp()
    settings = options.settled(half_of_memory(device))
    batches = reiterable(calibration)
    with Progress(progress) as bars, Checkpoint(checkpoint_dir) as checkpoint:
        dense, example = copy_of(model), example_of(batches)
        plan = trace_copy(
            model, dense, example, forward=forward, overrides=overrides, ignore=ignore
        )
        for parameter in dense.parameters():
            parameter.requires_grad_(False)
        check_layers(plan, settings)
        check_memory(plan, settings, device, options.max_memory)
        norms: dict[str, str] = {}
        unfolded: dict[str, str] = {}

        def run_first(model: nn.Module) -> Any:
            kept = KeptStates(model, plan.states)
            output = run_forward(model, example, forward)
            kept.put_back()
            return output

        if fold:  # before the work, what cannot be folded is known
            norms, unfolded = own_norms(plan, dense)
            norms, refused = foldable(dense, norms, run_first)
            unfolded |= refused
        decisive = settings.outcome()
        checkpoint.open(lambda: fingerprint(model, plan, batches, decisive))
        calibrated = Calibration(batches, forward, plan)
        run = Run(dense, plan, calibrated, settings, bars, checkpoint)
        with recorded_kernels() as kernels:
            share_out(run)
            compress(run)
        if fold:  # once more: the statistics have moved
            norms, refused = foldable(run.work, norms, run_first)
            unfolded |= refused
        result_model = model if inplace else copy_of(model)
        weights = run.ledger.deliver(result_model)
        if fold:
            weights, notes = refolded(weights, fold_norms(result_model, norms), result_model)
            run.log += [f"{norm} is not folded: {why}" for norm, why in unfolded.items()] + notes
    run.log += checkpoint.notes
    records = run.ledger.records(run.layers)
    zeros = sum(record.sparsity * math.prod(record.shape) for record in records)
    size = sum(math.prod(record.shape) for record in records)
    return CompressedModel(
        model=result_model,
        layers=records,
        plan=plan,
        sparsity=zeros / size if size else 0.0,
        weights=weights,
        options=decisive,
        allocation=fractions_of(run),
        seconds=time.perf_counter() - start,
        resumed=run.ledger.resumed,
        peak_bytes=memory.peak,
        predicted_bytes=plan.peak_bytes(
            settings.max_memory, settings.calibration_mode == "sequential", settings.method
        ),
        start_bytes=memory.start,
        log=run.log,
        folded=norms,
        unfolded=unfolded,
        example=example,
        forward=forward,
        stamp=stamp,
        kernels=kernels,
    )
