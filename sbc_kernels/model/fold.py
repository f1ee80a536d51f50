"""BatchNorms folded into the layers before them, in the model that is returned."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..network.copies import copy_of
from ..network.state import replace_module
from ..weights import CompressedWeight, Pruned, Quantized
from .fold_trial import Observed, observe, rounded_outputs
from .norms import Vector, affine_of
from .plan import Plan

__all__ = ["fold_norms", "foldable", "own_norms"]


def own_norms(plan: Plan, model: nn.Module) -> tuple[dict[str, str], dict[str, str]]:
    """Returns the BatchNorms that are fed all of one layer's output and nothing else.

    Parameters
    ----------
    plan : of the model.
    model : the one that was traced.

    Returns
    -------
    By name of the layer, or of a norm in between, the norm; and by name of every other norm, why it
    cannot be folded.
    """
    modules = dict(model.named_modules())
    pairs: dict[str, str] = {}
    refused: dict[str, str] = {}
    for norm in plan.norm_inputs:  # in the order of their calls
        owner, why = _owner(plan, norm, modules, {n: before for before, n in pairs.items()})
        if why:
            refused[norm] = why
        else:
            pairs[owner] = norm
    return pairs, refused


def _owner(
    plan: Plan, norm: str, modules: Mapping[str, nn.Module], owners: Mapping[str, str]
) -> tuple[str, str]:
    """Returns the layer or norm that a norm can be folded into, or "" and why there is none.

    Parameters
    ----------
    plan, norm, modules : the norm's name in the plan, and the model's modules.
    owners : of the norms before it that can be folded.
    """
    module = modules[norm]
    feeding = plan.norm_inputs[norm]
    if None in feeding:
        return "", "it is not fed one layer's output and nothing else"
    if affine_of(module) is None:
        return "", "it has no fixed scale"
    if not plan.plain_norms.get(norm, False):
        return "", "it does more than its statistics say"
    names = [name for name in feeding if name is not None]
    if len(names) > 1:
        return "", f"it is fed the outputs of {', '.join(names)}"
    before = [norm]  # the norms from the layer to this one
    while (source := owners.get(names[0])) is not None:
        before, names = [names[0], *before], [source]
    layer = next((p for p in plan.layers if names[0] in (p.name, *p.also)), None)
    if layer is None and names[0] in plan.norm_inputs:
        return "", f"it is fed the output of {names[0]}, which stays"
    if layer is None or not layer.compressed:
        return "", f"{names[0]} stays as it is"
    if layer.also:
        return "", f"the weight of {layer.name} has several places"
    if norm in layer.step_norms:
        return "", "each time step has a BatchNorm of its own"
    owner = before[-2] if len(before) > 1 else layer.name
    if layer.norms[: len(before)] != tuple(before):
        return "", f"the output of {owner} is used elsewhere too"
    if len(before) > 1 and (modules[owner].weight is None or modules[owner].bias is None):
        return "", f"{owner} has no weight and bias to fold it into"
    return owner, ""


def foldable(
    model: nn.Module, pairs: Mapping[str, str], run: Callable[[nn.Module], Any]
) -> tuple[dict[str, str], dict[str, str]]:
    """Returns which BatchNorms can be folded without a change of what the model computes.

    Forward passes tell: with all of them folded, and where that changes something, with halves.

    Parameters
    ----------
    model : stays as it is.
    pairs : of `own_norms`.
    run : runs one whole sequence through a model.

    Returns
    -------
    Those of `pairs` that can be folded together; and by norm, why it cannot be.
    """
    accepted: dict[str, str] = {}
    refused: dict[str, str] = {}
    if not pairs:
        return accepted, refused
    ends = [norm for norm in pairs.values() if norm not in pairs]  # of several in a row, the last
    before = observe(model, run, ends)
    rounded: list[Observed] = []  # one, once it is asked for

    def tried(part: Mapping[str, str]) -> tuple[str, dict[str, str]]:
        """Returns an objection to a fold ("" for none), and what is read of norms that are gone."""
        trial = copy_of(model)
        modules = dict(trial.named_modules())
        stand_ins = {norm: _StandIn(modules[norm]) for norm in part.values()}
        fold_norms(trial, part, stand_ins)
        why = ""
        try:
            after = observe(trial, run, ends, before.spikes)
            difference = before.difference(after)
            if difference and not rounded:
                again = copy_of(model)
                with rounded_outputs(again, pairs):
                    rounded.append(observe(again, run, ends, before.spikes))
            if difference:
                difference = before.difference(after, rounded[0])
            if difference:
                why = f"the model computes something else without it: {difference}"
        except Exception as error:
            why = f"the model does not run without it ({type(error).__name__}: {error})"
        return why, {
            norm: f"the model reads its {', '.join(stand_in.read)}"
            for norm, stand_in in stand_ins.items()
            if stand_in.read
        }

    waiting = [dict(pairs)]
    while waiting:
        part = waiting.pop()
        why, read = tried({**accepted, **part})
        if read:  # that is no matter of halves: one run shows all of them
            refused |= read
            accepted, part = (
                {n: norm for n, norm in some.items() if norm not in read}
                for some in (accepted, part)
            )
            waiting += [part] if part else []
        elif not why:
            accepted |= part
        elif len(part) == 1:
            refused |= dict.fromkeys(part.values(), why)
        else:
            names, half = list(part), len(part) // 2
            waiting += [{n: part[n] for n in names[half:]}, {n: part[n] for n in names[:half]}]
    return {name: norm for name, norm in pairs.items() if name in accepted}, refused


class _StandIn(nn.Identity):  # type: ignore[misc]
    """An Identity in a norm's place that still has the norm's attributes, and notes which are read."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.__dict__["norm"] = norm  # no child: the model has one module less
        self.__dict__["read"] = {}  # by name, in order

    def __getattr__(self, name: str) -> Any:
        value = getattr(self.__dict__["norm"], name)
        self.__dict__["read"][name] = True
        return value


def fold_norms(
    model: nn.Module, pairs: Mapping[str, str], instead: Mapping[str, nn.Module] | None = None
) -> dict[str, Vector]:
    """Folds BatchNorms into the layers before them; an Identity replaces each wherever it is held.

    Parameters
    ----------
    model : it is changed.
    pairs : of `own_norms`. A norm behind a norm is folded into that one first.
    instead : by name of a norm, what replaces it in place of an Identity.

    Returns
    -------
    By name of the layer or norm, the factor of each row.
    """
    modules = dict(model.named_modules())
    scales = {}
    for name in _last_first(pairs):
        norm_name = pairs[name]
        norm = modules[norm_name]
        affine = affine_of(norm)
        assert affine is not None
        fold(modules[name], norm)
        new = nn.Identity() if instead is None else instead[norm_name]
        replace_module(model, norm, new.train(norm.training))
        scales[name] = affine[0]
    return scales


def _last_first(pairs: Mapping[str, str]) -> list[str]:
    """Returns the keys in an order in which each comes after the norm behind its norm."""
    order: list[str] = []
    for first in pairs:
        chain = [first]
        while pairs[chain[-1]] in pairs:
            chain.append(pairs[chain[-1]])
        order += [name for name in reversed(chain) if name not in order]
    return order


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


def fold(layer: nn.Module, norm: nn.Module) -> None:
    """Multiplies a layer's weight and bias by a norm's scale and adds its shift to the bias.

    The norm does nothing that is left to do after that. In place of the layer may be a norm.
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
