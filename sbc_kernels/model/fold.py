"""BatchNorms folded into the layers before them, in the model that is returned."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import ParameterError
from ..network.copies import reset_states, undisturbed
from ..network.state import replace_module
from ..network.tensors import WeightLayer
from ..weights import CompressedWeight, Pruned, Quantized
from .norms import Vector, affine_of
from .plan import Plan

__all__ = ["fold_norms"]


def fold_norms(
    model: nn.Module,
    plan: Plan,
    run: Callable[[nn.Module], Any] | None,
    only: Collection[str] | None = None,
) -> tuple[dict[str, Vector], list[str]]:
    """Folds BatchNorms whose input is one layer's output and nothing else; an Identity replaces them.

    Parameters
    ----------
    model : it is changed.
    plan : of the model.
    run : a forward pass, to see whether the model still runs afterwards; None to believe `only`.
    only : names of layers whose norms to fold; None for all that can be.

    Returns
    -------
    By layer name, the factor of each row; and notes on norms that were not folded.

    Raises
    ------
    ParameterError : a ValueError; the model does not run any more.
    """
    modules = dict(model.named_modules())
    folded: dict[str, Vector] = {}
    notes = []
    for layer in plan.compressed:
        if not layer.norms or (only is not None and layer.name not in only):
            continue
        norm = modules[layer.norms[0]]
        affine = affine_of(norm)
        why = (
            "it is not fed that layer's output and nothing else" if not layer.direct
            else "the weight has several places" if layer.also
            else "the layer's output is used elsewhere too" if layer.read_out
            else "it has no fixed scale" if affine is None
            else ""
        )  # fmt: skip
        if why or affine is None:
            notes.append(f"{layer.norms[0]} is not folded into {layer.name}: {why}")
            continue
        fold(modules[layer.name], norm)
        replace_module(model, norm, nn.Identity().train(norm.training))
        folded[layer.name] = affine[0]
    if run is not None:
        try:
            with undisturbed(), torch.no_grad():
                reset_states(model)
                run(model)
                reset_states(model)
        except Exception as error:
            shown = f"True, but the model does not run without its BatchNorms ({error})"
            raise ParameterError("fold", True, "False", shown=shown) from error
    return folded, notes


def refolded(
    weights: Mapping[str, CompressedWeight], scales: Mapping[str, Vector], model: nn.Module
) -> tuple[dict[str, CompressedWeight], list[str]]:
    """Makes compressed and dense weights bit-identical after BatchNorms were folded.

    Codes decide where there are some, and pruned weights become 0 and not -0.

    Parameters
    ----------
    weights : by layer name, before the fold.
    scales : by layer name, what each row was multiplied by, float64 [d_out].
    model : with the folded weights; they are changed.

    Returns
    -------
    The weights after the fold, and notes on codes that a scale of 0 left without meaning.
    """
    modules = dict(model.named_modules())
    folded, notes = dict(weights), []
    for name, scale in scales.items():
        compressed = folded.pop(name, None)
        if compressed is None:
            continue
        dense: Tensor = modules[name].weight
        if isinstance(compressed, Quantized) and scale.astype(np.float32).all():
            compressed = compressed.rescaled(scale)
        else:
            if isinstance(compressed, Quantized):
                notes.append(
                    f"{name}: a BatchNorm's scale of 0 was folded into it, its codes are gone"
                )
            if compressed.mask is None:
                continue
            compressed = Pruned(dense.detach(), compressed.mask)
        with torch.no_grad():
            dense.copy_(compressed.to_dense())
        folded[name] = compressed
    return folded, notes


def fold(layer: WeightLayer, norm: nn.Module) -> None:
    """Multiplies a layer's weight and bias by a norm's scale and adds its shift to the bias.

    The norm does nothing that is left to do after that.
    """
    affine = affine_of(norm)
    assert affine is not None
    scale, shift = (torch.from_numpy(v).to(layer.weight.device) for v in affine)
    weight = layer.weight.detach()
    with torch.no_grad():
        shape = (-1, *[1] * (weight.ndim - 1))
        layer.weight.copy_((weight.double() * scale.reshape(shape)).to(weight.dtype))
        bias = 0.0 if layer.bias is None else layer.bias.detach().double()
        folded = (bias * scale + shift).to(weight.dtype)
        if layer.bias is None:
            layer.bias = nn.Parameter(folded)
        else:
            layer.bias.copy_(folded)
