"""What `trace` found in a model: its weight layers, and what each one's compression rests on."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from ..conv import Conv, regions
from ..neurons import Neuron
from .layout import Layout

__all__ = ["Layout", "Plan", "PlannedLayer"]

COMPRESSED = ("spiking", "head", "unresolved")


@dataclass(frozen=True)
class PlannedLayer:
    """One weight layer of the model.

    Attributes
    ----------
    name : as in ``model.named_modules()``.
    kind : "Linear", "Conv1d" or "Conv2d"; the class's name for what is not supported.
    role : "spiking" (its output is integrated by neurons), "head" (it reaches the output without a
        neuron), "unresolved" (neither; the current Hessian stands in), "never called", "unsupported",
        or "skipped" (by the user). The first three are compressed.
    shape : of the weight.
    conv : its geometry; None for a Linear layer.
    norms : BatchNorms between it and the next layer or neuron, nearest first.
    step_norms : BatchNorms of which each time step goes through its own (BNTT), in order of the steps.
    consumers : the neurons that integrate its output.
    neurons : their distinct impulse responses; (None,) is the current Hessian.
    threshold : of the consumers.
    layout, calls : how it is called in one forward.
    direct : whether the first of `norms` is fed this layer's output as it is, and nothing else.
    read_out : whether the output also reaches the network's output as it is.
    input_kind : "binary", "integer" (in -128..127) or "analog".
    input_rate : fraction of the input that is not 0.
    input_shape, output_shape : of its first call.
    also : names of further modules with the same weight.
    options : what `overrides` set for this layer.
    notes : what was approximated or assumed, for people.
    """

    name: str
    kind: str
    role: str
    shape: tuple[int, ...] = ()
    conv: Conv | None = None
    norms: tuple[str, ...] = ()
    step_norms: tuple[str, ...] = ()
    consumers: tuple[str, ...] = ()
    neurons: tuple[Neuron | None, ...] = (None,)
    threshold: float = 1.0
    layout: Layout = field(default_factory=lambda: Layout(1))
    calls: int = 0
    direct: bool = False
    read_out: bool = False
    input_kind: str = ""
    input_rate: float = 0.0
    input_shape: tuple[int, ...] = ()
    output_shape: tuple[int, ...] = ()
    also: tuple[str, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def compressed(self) -> bool:
        return self.role in COMPRESSED

    @property
    def size(self) -> int:
        return int(np.prod(self.shape)) if self.shape else 0

    @property
    def in_features(self) -> int:
        """Side of (one group's) Hessian."""
        return int(np.prod(self.shape[1:])) if self.shape else 0

    @property
    def groups(self) -> int:
        return 1 if self.conv is None else self.conv.groups

    def hessian_bytes(self) -> int:
        """What the sums of the Hessian of each of its neurons take while they are gathered."""
        d, groups = self.in_features, self.groups
        matrix = 8 * groups * d * d
        if self.conv is None or self.input_kind == "analog":
            return len(self.neurons) * matrix
        channels = d // self.conv.taps
        map_size = tuple(self.input_shape[-self.conv.dims :])
        shifts = sum(len(part.neighbours) for part in regions(self.conv, map_size))
        return len(self.neurons) * 8 * groups * shifts * channels * channels

    def work_bytes(self) -> int:
        """What its compression takes beside that: Hessians in both precisions, inverse, orders."""
        d = self.in_features
        return 8 * self.groups * d * d + 44 * d * d + 24 * self.size

    def activation_bytes(self) -> int:
        """Input and output of its calls, float32, at the size of the traced example."""
        calls = len(self.layout.step_of_call or (0,))
        return 4 * int(np.prod(self.output_shape)) + (4 + calls) * int(np.prod(self.input_shape))


@dataclass(frozen=True)
class Plan:
    """What `trace` found. ``str(plan)`` is a table.

    Attributes
    ----------
    layers : every weight layer, in the order of their first calls, uncalled ones last.
    left_alone : names of other parameters of two or more axes, which compression does not touch.
    model_bytes : of parameters and buffers.
    neuron_steps : by name of each neuron, the time steps that one call of it takes.
    plain_norms : by name of each BatchNorm, whether it does what its statistics say, and no more.
    """

    layers: tuple[PlannedLayer, ...]
    left_alone: tuple[str, ...] = ()
    model_bytes: int = 0
    neuron_steps: dict[str, int] = field(default_factory=dict)
    plain_norms: dict[str, bool] = field(default_factory=dict)

    def __getitem__(self, name: str) -> PlannedLayer:
        """The layer of that name. KeyError names the ones there are."""
        for layer in self.layers:
            if layer.name == name:
                return layer
        raise KeyError(
            f"no layer {name!r}; there are {', '.join(layer.name for layer in self.layers)}"
        )

    @property
    def compressed(self) -> tuple[PlannedLayer, ...]:
        """The layers that `compress_model` compresses."""
        return tuple(layer for layer in self.layers if layer.compressed)

    def groups(self, max_memory: int) -> list[list[PlannedLayer]]:
        """Layers whose Hessians are gathered in one pass over the calibration data.

        As many as `max_memory` bytes hold beside the model, its activations and the largest layer's
        compression; at least one.
        """
        room = max_memory - self.fixed_bytes()
        found: list[list[PlannedLayer]] = []
        used = room + 1
        for layer in self.compressed:
            need = layer.hessian_bytes()
            if used + need > room:
                found.append([])
                used = 0
            found[-1].append(layer)
            used += need
        return found

    def fixed_bytes(self) -> int:
        """Two copies of the model, its activations, and the largest layer's compression."""
        work = max((layer.work_bytes() for layer in self.compressed), default=0)
        flow = max((layer.activation_bytes() for layer in self.compressed), default=0)
        return 2 * self.model_bytes + 3 * flow + work

    def peak_bytes(self, max_memory: int, paired: bool = False) -> int:
        """Prediction of what `compress_model` takes at most, beside what the process had before.

        `paired` is calibration mode "sequential": one layer at a time, with the Hessian of the dense
        and the compressed prefix's inputs side by side, which is four times as large.
        """
        if paired:
            sums = [
                4 * layer.hessian_bytes() + 64 * layer.in_features**2 for layer in self.compressed
            ]
        else:
            sums = [
                sum(layer.hessian_bytes() for layer in part) for part in self.groups(max_memory)
            ]
        return self.fixed_bytes() + max(sums, default=0)

    def to_json(self) -> str:
        """The plan as JSON."""
        return json.dumps(
            {
                "layers": [
                    {
                        **{k: v for k, v in vars(layer).items() if k not in ("neurons", "layout")},
                        "conv": None if layer.conv is None else asdict(layer.conv),
                        "neurons": [None if n is None else repr(n) for n in layer.neurons],
                        "layout": asdict(layer.layout),
                    }
                    for layer in self.layers
                ],
                "left_alone": self.left_alone,
                "model_bytes": self.model_bytes,
            },
            default=str,
            indent=2,
        )

    def __str__(self) -> str:
        head = ("layer", "kind", "weight", "input", "T", "calls", "norms", "consumers", "Hessian")
        rows: list[tuple[str, ...]] = []
        for layer in self.layers:
            called = layer.calls > 0
            seen = f"{layer.input_kind} {100 * layer.input_rate:.0f} %" if called else ""
            consumers = layer.consumers or ((layer.role,) if layer.compressed else ())
            rows.append(
                (
                    layer.name,
                    layer.kind,
                    "x".join(map(str, layer.shape)),
                    seen,
                    str(layer.layout.steps) if called else "",
                    str(layer.calls),
                    _few(layer.norms + layer.step_norms),
                    _few(consumers),
                    _few([_hessian_name(n) for n in layer.neurons])
                    if layer.compressed
                    else layer.role,
                )
            )
        lines = text_table(head, rows, left=range(len(head)))
        lines += [f"{layer.name}: {note}" for layer in self.layers for note in layer.notes]
        if self.left_alone:
            lines.append(f"left alone: {', '.join(self.left_alone)}")
        return "\n".join(lines)


def entry(module: str, field: str) -> str:
    """The name of a module's tensor in the model's state; the model itself is called ""."""
    return f"{module}.{field}" if module else field


def text_table(
    head: tuple[str, ...], rows: Sequence[tuple[str, ...]], left: Collection[int]
) -> list[str]:
    """Lines of a table for a terminal; the columns `left` are flushed left, the others right."""
    table = [head, *rows]
    widths = [max(len(row[i]) for row in table) for i in range(len(head))]
    table.insert(1, tuple("-" * width for width in widths))
    lines = []
    for row in table:
        cells = (
            cell.ljust(width) if i in left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        lines.append("  ".join(cells).rstrip())
    return lines


def _few(names: Any, most: int = 3) -> str:
    names = list(names)
    rest = len(names) - most
    return ", ".join(names[:most]) + (f" and {rest} more" if rest > 0 else "")


def _hessian_name(neuron: Neuron | None) -> str:
    """As short as a table needs it: a decay that was a float32 has 16 digits otherwise."""
    if neuron is None:
        return "current"
    return re.sub(r"\d+\.\d{6,}(e-?\d+)?", lambda found: f"{float(found[0]):g}", repr(neuron))
