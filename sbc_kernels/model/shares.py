"""The sparsity of each layer of a run: by the user's rule or mapping, under the overrides."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import ParameterError, inside, naming_layer
from ..method.fields import Sparsity
from .allocation import ALLOCATIONS, Rule
from .progress import logger
from .run import Run
from .trial import RunTrial

Sparsities = dict[str, float | str | None]  # by layer name

_STORED = "#allocation"  # the shares' name in a checkpoint


def share_out(run: Run) -> None:
    """Sets the run's sparsities. Overrides win; a pattern is the same in every layer.

    Raises
    ------
    ParameterError : the allocation names a layer that is not compressed or gives it no sparsity, or a
        layer's options do not go together with its sparsity.
    """
    default, allocation = run.settings.sparsity, run.settings.allocation
    own = {
        name: layer.options["sparsity"]
        for name, layer in run.layers.items()
        if "sparsity" in layer.options
    }
    run.sparsities = {name: own.get(name, default) for name in run.layers}
    if isinstance(allocation, Mapping):
        unknown = [name for name in allocation if name not in run.layers]
        if unknown:
            raise ParameterError(
                "allocation",
                allocation,
                f"accepted are {', '.join(run.layers)}",
                verb="has",
                shown=f"{unknown[0]!r}, which is no compressed layer",
            )
        for name, value in allocation.items():
            with inside("allocation"):
                sparsity = Sparsity()(name, value)
            if name not in own:
                run.sparsities[name] = sparsity
    elif isinstance(default, float):
        layers = [name for name in run.layers if name not in own]
        if layers:
            run.sparsities |= _shares(run, ALLOCATIONS[allocation], layers, default)
    for name, share in run.sparsities.items():
        options = run.options(name)  # before any work, what does not go together is refused
        if options is not None:
            layer = run.layers[name]
            with naming_layer(name):
                options.require_fits((layer.shape[0], layer.in_features))
        if isinstance(share, (int, float)):
            logger.debug("%s: sparsity %.4f", name, share)


def _shares(run: Run, rule: Rule, layers: list[str], sparsity: float) -> Sparsities:
    """The rule's shares, from the checkpoint where an earlier run has paid for them."""

    def kept(_: object, header: dict[str, Any]) -> tuple[Sparsities, list[str]]:
        return _checked(run, header["shares"], layers), [str(note) for note in header["notes"]]

    stored = run.ledger.checkpoint.load(_STORED, kept) if rule.expensive else None
    if stored is not None:
        run.log += stored[1]
        return stored[0]
    trial = RunTrial(run, {name: run.layers[name] for name in layers}, sparsity)
    answer, notes = rule.share(trial, sparsity)
    shares = _checked(run, answer, layers)
    run.log += notes
    if rule.expensive:
        run.ledger.checkpoint.save(_STORED, {}, {"shares": shares, "notes": notes})
    return shares


def _checked(run: Run, sparsities: Mapping[str, float], layers: list[str]) -> Sparsities:
    """Returns a rule's sparsities, checked; they must be of exactly these layers."""
    name = run.settings.allocation
    for wrong, text in (
        ([layer for layer in layers if layer not in sparsities], "gave no sparsity for"),
        ([layer for layer in sparsities if layer not in layers], "gave a sparsity for"),
    ):
        if wrong:
            raise ParameterError(
                "allocation",
                name,
                f"a rule that gives one to each of {', '.join(layers)}",
                shown=f"{name!r}, which {text} {wrong[0]!r}",
            )
    with inside("allocation"):
        return {layer: Sparsity()(layer, sparsities[layer]) for layer in layers}


def fractions_of(run: Run) -> dict[str, float]:
    """The sparsities of a run that are fractions."""
    return {n: float(s) for n, s in run.sparsities.items() if isinstance(s, (int, float))}
