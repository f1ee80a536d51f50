"""Which plots a report gets, and what is said about each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .curves import heat, small_multiples
from .format import (
    UNKNOWN,
    count,
    duration,
    large,
    percent,
    plural,
    ratio,
    si,
    span,
    tick,
)
from .plots import Drawn, Panel, panels
from .schema import Comparison, Layer, Number, Report, total
from .tables import Table, curve_table, damped, error_at, neuron_table

__all__ = ["Plot", "plots_of"]

MULTIPLES = 12  # at most this many layers get a loss curve of their own


@dataclass(frozen=True)
class Plot:
    """`what` says what is seen and what is good; `summary` puts the data into a sentence."""

    key: str
    title: str
    what: str
    summary: str
    svg: str
    full: bool
    legend: bool = False  # of the dense network's grey and the compressed one's colour
    table: Table | None = None  # the same as numbers, where the table of layers lacks them


def plots_of(report: Report) -> list[Plot]:
    """In the order of the page. What rests on a comparison is left out where there is none."""
    layers, comparison = report.layers, report.comparison
    if not layers:
        return []
    plots = [_sparsity(layers)]
    if comparison is not None and comparison.dense.synops:
        plots.append(_synops(comparison))
    if any(layer.bytes is not None for layer in layers):
        plots.append(_bytes(layers))
    if comparison is not None and comparison.dense.spike_rates:
        plots.append(_rates(comparison))
    if any(layer.curve for layer in layers):
        plots.append(_curves([layer for layer in layers if layer.curve]))
    return [*plots, _seconds(layers), _damping(layers)]


def _sparsity(layers: Sequence[Layer]) -> Plot:
    names = [layer.name for layer in layers]
    sparsity = [layer.sparsity for layer in layers]
    error = [layer.relative_error for layer in layers]
    drawn = panels(
        "sparsity",
        names,
        [
            Panel("Sparsity", sparsity, [percent(v) for v in sparsity], top=1.0, tick=_percent),
            Panel("Error", error, [percent(v) for v in error], tick=_percent),
        ],
    )
    return Plot(
        "sparsity",
        "Sparsity and error",
        "How much of each layer is zero, and how far its neurons' input moved for it (root of the mean "
        "squared change over that of the input itself). Good is a small error at a high sparsity.",
        f"{span('Sparsity', names, sparsity, percent)} {span('Error', names, error, percent)}",
        drawn.svg,
        drawn.full,
    )


def _curves(layers: Sequence[Layer]) -> Plot:
    if len(layers) > MULTIPLES:
        drawn = heat("curves", layers)
        what = (
            "Each column is a layer. From the bottom up more of it is pruned, and the colour deepens "
            "with the error; the line is where the layer was left. Good is a line that stays on pale "
            "ground."
        )
    else:
        drawn = small_multiples("curves", layers)
        what = (
            "Each layer's error as more and more of its weights go, in the exact order; the dot is "
            "where the layer was left. Good is a dot before the curve turns steep."
        )
        if any(layer.bits is not None for layer in layers):
            what += " What lies between a dot and its curve is the quantization's part."
    names = [layer.name for layer in layers]
    steep = [error_at(layer, 0.9) for layer in layers]
    return Plot(
        "curves",
        "Loss curves",
        what,
        span("At 90 % sparsity the error is", names, steep, percent),
        drawn.svg,
        drawn.full,
        table=curve_table(layers),
    )


def _rates(comparison: Comparison) -> Plot:
    before, after = comparison.dense.spike_rates, comparison.compressed.spike_rates
    names = list(before)
    changed = [after.get(name) for name in names]
    words = [f"{percent(before[n])} → {percent(v)}" for n, v in zip(names, changed, strict=True)]
    drawn = panels(
        "rates",
        names,
        [Panel("Spike rate", changed, words, list(before.values()), dots=True, tick=_percent)],
    )
    moved = [
        None if v is None or before[n] is None else abs(v - (before[n] or 0.0))
        for n, v in zip(names, changed, strict=True)
    ]
    return Plot(
        "rates",
        "Spike rates, before and after",
        "The share of a neuron layer's outputs that are spikes. Good is a short way between the two "
        "dots: the network still says what it said.",
        span("The rates moved by", names, moved, _points),
        drawn.svg,
        drawn.full,
        legend=True,
        table=neuron_table(comparison),
    )


def _synops(comparison: Comparison) -> Plot:
    before, after = comparison.dense, comparison.compressed
    names = list(before.synops)
    values = [after.synops.get(name) for name in names]
    drawn = _before_after("synops", "Operations a sample", names, before.synops, values, "")
    dense, small = total(before.synops.values()), total(values)
    return Plot(
        "synops",
        "Synaptic operations",
        "Spikes times the weights that they meet, a sample, as NeuroBench counts them. Good is a "
        "coloured bar that is short beside the grey one.",
        f"Together {large(dense)} before and {large(small)} after"
        + (f", {ratio(dense, small)} fewer." if ratio(dense, small) else "."),
        drawn.svg,
        drawn.full,
        legend=True,
    )


def _bytes(layers: Sequence[Layer]) -> Plot:
    names = [layer.name for layer in layers]
    before = {layer.name: layer.dense_bytes for layer in layers}
    values = [layer.bytes for layer in layers]
    drawn = _before_after("bytes", "Bytes", names, before, values, "B")
    dense, small = total(before.values()), total(values)
    return Plot(
        "bytes",
        "Bytes",
        "What each layer's weight takes in the packed file. Good is a coloured bar that is short "
        "beside the grey one.",
        f"Together {si(dense, 'B')} before and {si(small, 'B')} after"
        + (f", {ratio(dense, small)} smaller." if ratio(dense, small) else "."),
        drawn.svg,
        drawn.full,
        legend=True,
    )


def _seconds(layers: Sequence[Layer]) -> Plot:
    names, values = [layer.name for layer in layers], [layer.seconds for layer in layers]
    drawn = panels(
        "seconds",
        names,
        [Panel("Time", values, [duration(v) for v in values], tick=lambda v: f"{v:g} s")],
    )
    return Plot(
        "seconds",
        "Time",
        "What deciding each layer took, calibration passes not counted. A long bar is where a faster "
        "run would have to save.",
        f"Together {duration(total(values))}. {span('A layer took', names, values, duration)}",
        drawn.svg,
        drawn.full,
    )


def _damping(layers: Sequence[Layer]) -> Plot:
    names = [layer.name for layer in layers]
    damping = [layer.damp_percent for layer in layers]
    retried = frozenset(i for i, layer in enumerate(layers) if layer.retries)
    silent = [layer.dead_share for layer in layers]
    drawn = panels(
        "damping",
        names,
        [
            Panel(
                "Damping",
                damping,
                [damped(layer) for layer in layers],
                dots=True,
                log=True,
                warn=retried,
            ),
            Panel(
                "Silent inputs",
                silent,
                [f"{layer.dead_inputs:,} of {layer.inputs:,}" for layer in layers],
                top=1.0,
                warn=frozenset(i for i, share in enumerate(silent) if share > 0.5),
                tick=_percent,
            ),
        ],
    )
    dead = sum(layer.dead_inputs for layer in layers)
    return Plot(
        "damping",
        "Damping and warnings",
        "Damping is what was added to the Hessian's diagonal, as a fraction of its mean; it is raised, "
        "and marked, where the factorisation failed. A silent input never fired in calibration, so "
        "nothing is known of its weights; more than half is marked. Good is low damping and few "
        "silent inputs.",
        f"Damping was raised in {plural(len(retried), 'layer')}; {count(dead)} of "
        f"{count(sum(layer.inputs for layer in layers))} inputs were silent.",
        drawn.svg,
        drawn.full,
    )


def _before_after(
    key: str,
    title: str,
    names: Sequence[str],
    before: dict[str, Number],
    values: Sequence[Number],
    unit: str,
) -> Drawn:
    dense = [before[name] for name in names]
    words = [f"{si(b, unit)} → {si(v, unit)}" for b, v in zip(dense, values, strict=True)]
    return panels(key, names, [Panel(title, values, words, dense, tick=lambda v: tick(v, unit))])


def _points(share: Number) -> str:
    return UNKNOWN if share is None else f"{100 * share:.1f} points"


def _percent(share: float) -> str:
    """On a scale."""
    return f"{100 * share:g} %"
