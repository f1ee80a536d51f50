"""BatchNorms folded into the layers before them, in the model that is handed back."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import torch
from torch import nn

from ..network.copies import reset_states, undisturbed
from .norms import Vector, affine_of
from .plan import Plan

__all__ = ["fold_norms"]


def fold_norms(
    model: nn.Module,
    plan: Plan,
    run: Callable[[nn.Module], Any] | None,
    only: Collection[str] | None = None,
) -> tuple[dict[str, Vector], list[str]]:
    """Folds BatchNorms that are fed one layer's output and nothing else; an Identity takes the place.

    Parameters
    ----------
    model : is changed.
    plan : of it.
    run : a forward pass, to see whether the model still runs afterwards; None to believe `only`.
    only : names of layers whose norms to fold; None for all that can be.

    Returns
    -------
    By name of the layer, what its rows were multiplied by; and notes about norms that were not folded.

    Raises
    ------
    ValueError : the model does not run any more.
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
        idle = nn.Identity().train(norm.training)
        for owner in model.modules():  # wherever it is registered
            for key, child in owner._modules.items():
                if child is norm:
                    owner._modules[key] = idle
        folded[layer.name] = affine[0]
    if run is not None:
        try:
            with undisturbed(), torch.no_grad():
                reset_states(model)
                run(model)
                reset_states(model)
        except Exception as error:
            raise ValueError(
                f"fold is True, but the model does not run without its BatchNorms ({error}); accepted "
                "is False"
            ) from error
    return folded, notes


def fold(layer: Any, norm: Any) -> None:
    """Takes the norm's scale and shift into the layer's weight and bias. The norm is then idle."""
    found = affine_of(norm)
    assert found is not None
    scale, shift = (torch.from_numpy(v).to(layer.weight.device) for v in found)
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
