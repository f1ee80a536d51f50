"""BatchNorms folded into the layers before them, in the model that is handed back."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import torch
from torch import nn

from .norms import affine_of, fold
from .plan import Plan
from .provenance import tensors_in
from .tracing import reset_states, undisturbed

__all__ = ["fold_norms"]


def fold_norms(
    model: nn.Module,
    plan: Plan,
    run: Callable[[nn.Module], Any] | None,
    only: Collection[str] | None = None,
) -> tuple[list[str], list[str]]:
    """Folds each BatchNorm that follows one layer and nothing else; puts an Identity in its place.

    Parameters
    ----------
    model : is changed.
    plan : of it.
    run : a forward pass that shows which norms are fed a layer's output as it is, and afterwards that
        the model still runs; None to believe `only`.
    only : names of norms to fold; None for all that can be.

    Returns
    -------
    Names of the norms that were folded, and notes about those that were not.

    Raises
    ------
    ValueError : the model does not run any more.
    """
    modules = dict(model.named_modules())
    first = [(layer.name, layer.norms[0]) for layer in plan.compressed if layer.norms]
    pairs = [(layer, norm) for layer, norm in first if only is None or norm in only]
    notes = []
    if run is not None:
        direct = _fed_directly(model, pairs, run)
        uses = [norm for layer in plan.compressed for norm in layer.norms]
        for layer, norm in list(pairs):
            fixed = affine_of(modules[norm])
            why = (
                "no fixed scale" if fixed is None or len(fixed[0]) != len(modules[layer].weight)
                else "several layers before it" if uses.count(norm) > 1
                else "something between it and the layer" if norm not in direct
                else ""
            )  # fmt: skip
            if why:
                notes.append(f"{norm} is not folded into {layer}: {why}")
                pairs.remove((layer, norm))
    for layer, norm in pairs:
        fold(modules[layer], modules[norm])
        owner, _, field = norm.rpartition(".")
        setattr(modules[owner], field, nn.Identity().train(modules[norm].training))
    if run is not None:
        try:
            with undisturbed(model), torch.no_grad():
                reset_states(model)
                run(model)
                reset_states(model)
        except Exception as error:
            raise ValueError(
                f"fold is True, but the model does not run without its BatchNorms ({error}); accepted "
                "is False"
            ) from error
    return [norm for _, norm in pairs], notes


def _fed_directly(
    model: nn.Module, pairs: list[tuple[str, str]], run: Callable[[nn.Module], Any]
) -> set[str]:
    """Norms that are fed the very memory that their layer answered with, every time."""
    modules = dict(model.named_modules())
    last: dict[str, tuple[int, int]] = {}
    verdicts: dict[str, list[bool]] = {norm: [] for _, norm in pairs}
    handles = []
    for layer, norm in pairs:

        def answered(_: Any, args: Any, output: Any, layer: str = layer) -> None:
            (tensor,) = tensors_in(output)
            last[layer] = (tensor.data_ptr(), tensor.numel())

        def fed(_: Any, args: Any, layer: str = layer, norm: str = norm) -> None:
            tensor = tensors_in(args)[0]
            verdicts[norm].append(last.get(layer) == (tensor.data_ptr(), tensor.numel()))

        handles.append(modules[layer].register_forward_hook(answered))
        handles.append(modules[norm].register_forward_pre_hook(fed))
    try:
        with undisturbed(model), torch.no_grad():
            reset_states(model)
            run(model)
            reset_states(model)
    finally:
        for handle in handles:
            handle.remove()
    return {norm for norm, seen in verdicts.items() if seen and all(seen)}
