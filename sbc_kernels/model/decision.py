"""The compression of one layer of a network, once its moments are gathered."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping

import torch
from array_api_compat import array_namespace
from torch import Tensor, nn

from ..arrays import matrix_product
from ..layer import PreparedLayer, checked_weight, weight_array
from ..method import LayerOptions
from ..network.state import owner_of, tensor_of
from .moments import Matrix, Moments, corrected_target
from .planned_layer import PlannedLayer
from .record import FinishedLayer, LayerRecord
from .scales import output_scale
from .settings import ModelOptions

Modules = Mapping[str, nn.Module]  # of `model.named_modules()`, by name


def compressed_layer(
    layer: PlannedLayer,
    moments: Moments,
    dense: Modules,
    work: Modules,
    options: LayerOptions,
    settings: ModelOptions,
) -> FinishedLayer:
    """Prunes or quantizes one layer.

    Parameters
    ----------
    layer : of the plan.
    moments : of the inputs that the compressed layer will see. Its matrices are used up.
    dense, work : modules of the dense model, and of the copy that is being compressed. Neither is
        changed.
    options : of the layer.
    settings : of the run.
    """
    start = time.perf_counter()
    backend = settings.backend
    centred = moments.centred(consume=True)
    matrix = _matrix(layer.weight_in(dense), backend)
    target = layer.weight_in(work).detach()
    if moments.cross is not None:
        refitted = corrected_target(matrix, centred, settings.target_damping, backend)
        moments.cross = centred.cross = None  # the room is needed
        target = torch.as_tensor(refitted).reshape(target.shape).to(target.dtype)
    scale, notes = output_scale(layer, dense)
    prepared = PreparedLayer(
        checked_weight(target, backend), centred.hessian, scale, fired=moments.fired
    )
    out = prepared.compress(options)
    entries = {}
    if moments.constant is not None:
        change = moments.bias_change(matrix, _matrix(out.weight, backend))
        entries = _changed_bias(layer, work, torch.as_tensor(change))
    loss = float(out.loss.sum())
    energy = _energy(_matrix(target, backend), centred.hessian)
    fired = moments.fired
    assert fired is not None
    record = LayerRecord(
        name=layer.name,
        kind=layer.kind,
        shape=layer.shape,
        sparsity=out.sparsity,
        bits=out.bits,
        loss=loss,
        relative_error=math.sqrt(loss / energy) if energy > 0 else 0.0,
        damp_percent=out.damp_percent,
        retries=out.retries,
        dead_inputs=int((~fired).sum()),
        inputs=fired.size,
        gram_path="; ".join(moments.paths),
        seconds=time.perf_counter() - start,
        notes=(*layer.notes, *notes, *_omissions(layer, settings)),
        log=tuple(out.log),
        curve=out.curve,
        group_size=out.group_size,
        weight_entry=layer.weight_entry,
        transposed=layer.transposed,
    )
    return FinishedLayer(record, out.weight, out.compressed, entries)


def untouched_layer(layer: PlannedLayer, work: Modules) -> FinishedLayer:
    """Returns a layer for which neither a sparsity nor bits were asked, as it is."""
    weight = layer.weight_in(work).detach()
    record = LayerRecord(
        name=layer.name,
        kind=layer.kind,
        shape=layer.shape,
        sparsity=int((weight == 0).sum()) / weight.numel(),
        bits=None,
        loss=0.0,
        relative_error=0.0,
        damp_percent=0.0,
        retries=0,
        dead_inputs=0,
        inputs=layer.groups * layer.in_features,
        gram_path="",
        seconds=0.0,
        notes=layer.notes,
        log=("neither sparsity nor bits asked for: left as it was",),
        weight_entry=layer.weight_entry,
        transposed=layer.transposed,
    )
    return FinishedLayer(record, weight)


def _changed_bias(layer: PlannedLayer, work: Modules, change: Tensor) -> dict[str, Tensor]:
    """The entry of the state that takes a change of the layer's bias, with its new value."""
    assert layer.bias_entry is not None
    before = tensor_of(work, layer.bias_entry).detach()
    step = change.to(before.device)
    is_mean = owner_of(layer.bias_entry)[1] == "running_mean"  # a BatchNorm subtracts it
    after = before.double() - step if is_mean else before.double() + step
    return {layer.bias_entry: after.to(before.dtype)}


def _omissions(layer: PlannedLayer, settings: ModelOptions) -> list[str]:
    """Returns notes on steps that the run takes for other layers and cannot take for this one."""
    notes = []
    if settings.bias_correction and layer.bias_entry is None:
        notes.append("no bias takes part: it has none of its own, and no BatchNorm for itself")
    others = [norm for norm in layer.norms + layer.step_norms if norm not in layer.plain_norms]
    if settings.bn_reestimate and others:
        notes.append(f"{', '.join(others)} keeps its statistics: it is no plain BatchNorm")
    return notes


def _matrix(weight: Tensor, backend: str | None) -> Matrix:
    """The weight as float64 [d_out, d_in]; NumPy, or torch where it lies on a GPU."""
    values = weight_array(weight, backend)
    xp = array_namespace(values)
    return xp.astype(values.reshape(len(values), -1), xp.float64)


def _energy(weight: Matrix, hessian: Matrix) -> float:
    """``E_n |Y_n w|^2`` summed over all rows of the weight."""
    xp, rows = array_namespace(weight), len(weight) // len(hessian)
    parts = [weight[g * rows : (g + 1) * rows] for g in range(len(hessian))]
    return sum(
        0.5 * float(xp.einsum("ri,ri->", matrix_product(part, H), part))
        for part, H in zip(parts, hessian, strict=True)
    )
