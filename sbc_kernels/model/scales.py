"""The factors between a layer's output and the threshold of its neurons."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from torch import nn

from .norms import Vector, per_step, row_scale, split_by_step
from .planned_layer import PlannedLayer


def output_scale(layer: PlannedLayer, modules: Mapping[str, nn.Module]) -> tuple[Vector, list[str]]:
    """Returns the factor of each row in units of the threshold, float64 [d_out], and notes.

    Parameters
    ----------
    layer : of the plan.
    modules : of the dense model, by name.
    """
    fixed = [
        norm
        for norm in layer.norms
        if norm in layer.plain_norms or per_step(modules[norm]) is not None
    ]
    scale, notes = row_scale([modules[norm] for norm in fixed], layer.shape[0])
    notes += [
        f"rows are compared without {norm}, which is no plain BatchNorm"
        for norm in layer.norms
        if norm not in fixed
    ]
    by_step = _by_step(layer, modules)
    if by_step is not None:
        scale = scale * by_step[0]
    elif layer.step_norms:
        notes.append(
            f"rows are compared without {', '.join(layer.step_norms)}, which have no common scale"
        )
    return scale / layer.threshold, notes


def step_scale(layer: PlannedLayer, modules: Mapping[str, nn.Module]) -> Vector | None:
    """Returns the factor of each time step, float64 [T]; None where all steps have the same."""
    factors = [per_step(modules[norm]) for norm in layer.norms]
    scales = [f for f in factors if f is not None and f.size == layer.layout.steps]
    by_step = _by_step(layer, modules)
    scales += [] if by_step is None else [by_step[1]]
    return np.prod(scales, axis=0) if scales else None


def _by_step(layer: PlannedLayer, modules: Mapping[str, nn.Module]) -> tuple[Vector, Vector] | None:
    """(a factor a row, a factor a time step) of the layer's `step_norms`, one of them for each step."""
    if len(layer.step_norms) != layer.layout.steps:
        return None
    return split_by_step([modules[norm] for norm in layer.step_norms], layer.shape[0])
