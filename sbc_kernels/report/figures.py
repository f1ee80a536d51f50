"""The plots of a report with their captions and summaries."""

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
from .plots import Drawing, Panel, panels
from .schema import Comparison, Layer, Number, Report, total
from .tables import Table, curve_table, damping_of, error_at, neuron_table

__all__ = ["Plot", "plots_of"]

MULTIPLES = 12  # at most this many layers get a loss curve of their own


@dataclass(frozen=True)
class Plot:
    """One figure of the page.

    Attributes
    ----------
    key : the prefix of its HTML ids.
    title, caption : caption says what is shown and how to read it.
    summary : the data in one or two sentences.
    svg : the drawing.
    full : whether it takes the whole width of the page.
    legend : whether it shows the dense network (grey) behind the compressed one (colour).
    table : the values as numbers, where the table of layers does not show them.
    """

    key: str
    title: str
    caption: str
    summary: str
    svg: str
    full: bool
    legend: bool = False
    table: Table | None = None


def plots_of(report: Report) -> list[Plot]:
    """Returns the plots in the order of the page.

    Plots of spike rates and operations need a comparison and are left out of a report without one.
    """
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
    drawing = panels(
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
        "The fraction of each layer's weights that are zero, and the relative error of its neurons' "
        "input (root of the mean squared change over that of the input itself). A lower error at a "
        "higher sparsity is better.",
        f"{span('Sparsity', names, sparsity, percent)} {span('Error', names, error, percent)}",
        drawing.svg,
        drawing.full,
    )


def _curves(layers: Sequence[Layer]) -> Plot:
    if len(layers) > MULTIPLES:
        drawing = heat("curves", layers)
        caption = (
            "Each column is a layer. Sparsity increases upwards, and deeper colours are larger errors. "
            "The line marks the chosen sparsity of each layer; a line over pale colours is better."
        )
    else:
        drawing = small_multiples("curves", layers)
        caption = (
            "The error of each layer as its weights are pruned one by one. The dot marks the chosen "
            "sparsity; a dot before the steep part of the curve is better."
        )
        if any(layer.bits is not None for layer in layers):
            caption += " The distance between a dot and its curve is due to quantization."
    names = [layer.name for layer in layers]
    steep = [error_at(layer, 0.9) for layer in layers]
    return Plot(
        "curves",
        "Loss curves",
        caption,
        span("At 90 % sparsity the error is", names, steep, percent),
        drawing.svg,
        drawing.full,
        table=curve_table(layers),
    )


def _rates(comparison: Comparison) -> Plot:
    before, after = comparison.dense.spike_rates, comparison.compressed.spike_rates
    names = list(before)
    rates = [after.get(name) for name in names]
    labels = [f"{percent(before[n])} → {percent(v)}" for n, v in zip(names, rates, strict=True)]
    drawing = panels(
        "rates",
        names,
        [Panel("Spike rate", rates, labels, list(before.values()), dots=True, tick=_percent)],
    )
    changes = [
        None if v is None or before[n] is None else abs(v - (before[n] or 0.0))
        for n, v in zip(names, rates, strict=True)
    ]
    return Plot(
        "rates",
        "Spike rates, before and after",
        "The fraction of a neuron layer's outputs that are spikes. Dots that lie closer together are "
        "better: the neurons fire as often as before.",
        span("The rates changed by", names, changes, _points),
        drawing.svg,
        drawing.full,
        legend=True,
        table=neuron_table(comparison),
    )


def _synops(comparison: Comparison) -> Plot:
    before, after = comparison.dense, comparison.compressed
    names = list(before.synops)
    values = [after.synops.get(name) for name in names]
    drawing = _before_after("synops", "Operations a sample", names, before.synops, values, "")
    dense, small = total(before.synops.values()), total(values)
    return Plot(
        "synops",
        "Synaptic operations",
        "Non-zero weights met by spikes, per sample, as NeuroBench counts them. Shorter coloured bars "
        "are better.",
        f"In total {large(dense)} before and {large(small)} after"
        + (f", {ratio(dense, small)} fewer." if ratio(dense, small) else "."),
        drawing.svg,
        drawing.full,
        legend=True,
    )


def _bytes(layers: Sequence[Layer]) -> Plot:
    names = [layer.name for layer in layers]
    before = {layer.name: layer.dense_bytes for layer in layers}
    values = [layer.bytes for layer in layers]
    drawing = _before_after("bytes", "Bytes", names, before, values, "B")
    dense, small = total(before.values()), total(values)
    return Plot(
        "bytes",
        "Bytes",
        "Size of each layer's weight in the packed file. Shorter coloured bars are better.",
        f"In total {si(dense, 'B')} before and {si(small, 'B')} after"
        + (f", {ratio(dense, small)} smaller." if ratio(dense, small) else "."),
        drawing.svg,
        drawing.full,
        legend=True,
    )


def _seconds(layers: Sequence[Layer]) -> Plot:
    names, values = [layer.name for layer in layers], [layer.seconds for layer in layers]
    drawing = panels(
        "seconds",
        names,
        [Panel("Time", values, [duration(v) for v in values], tick=lambda v: f"{v:g} s")],
    )
    return Plot(
        "seconds",
        "Time",
        "Time to prune and quantize each layer, without the calibration passes. The longest bars show "
        "where a run could be made faster.",
        f"In total {duration(total(values))}. {span('A layer took', names, values, duration)}",
        drawing.svg,
        drawing.full,
    )


def _damping(layers: Sequence[Layer]) -> Plot:
    names = [layer.name for layer in layers]
    damping = [layer.damp_percent for layer in layers]
    retries = frozenset(i for i, layer in enumerate(layers) if layer.retries)
    silent = [layer.dead_share for layer in layers]
    drawing = panels(
        "damping",
        names,
        [
            Panel(
                "Damping",
                damping,
                [damping_of(layer) for layer in layers],
                dots=True,
                log=True,
                warn=retries,
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
        "Damping is added to the Hessian's diagonal, as a fraction of its mean. It was raised in the "
        "marked layers because the factorization failed. Silent inputs never fired during calibration, "
        "so nothing is known about their weights; layers with more than half of their inputs silent "
        "are marked. Lower damping and fewer silent inputs are better.",
        f"Damping was raised in {plural(len(retries), 'layer')}; {count(dead)} of "
        f"{count(sum(layer.inputs for layer in layers))} inputs were silent.",
        drawing.svg,
        drawing.full,
    )


def _before_after(
    key: str,
    title: str,
    names: Sequence[str],
    before: dict[str, Number],
    values: Sequence[Number],
    unit: str,
) -> Drawing:
    """Returns bars of one measure: the compressed network in front of the dense one."""
    dense = [before[name] for name in names]
    labels = [f"{si(b, unit)} → {si(v, unit)}" for b, v in zip(dense, values, strict=True)]
    return panels(key, names, [Panel(title, values, labels, dense, tick=lambda v: tick(v, unit))])


def _points(share: Number) -> str:
    """Returns a difference of two shares 0..1 in percentage points."""
    return UNKNOWN if share is None else f"{100 * share:.1f} points"


def _percent(share: float) -> str:
    """Returns the label of a scale's tick at a share 0..1."""
    return f"{100 * share:g} %"
