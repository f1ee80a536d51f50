"""What `trace` found in a model: its weight layers, and what each one's compression rests on."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..conv import Conv, regions
from ..neurons import Neuron

__all__ = ["Layout", "Plan", "PlannedLayer"]

COMPRESSED = ("spiking", "head", "unresolved")


@dataclass(frozen=True)
class Layout:
    """How the calls of a weight layer during one forward hold the time steps.

    Attributes
    ----------
    steps : T; 1 where the time steps do not matter (current Hessian).
    step_of_call : for a loop over time, the step of each call; None where every call holds all steps.
    axis : the leading axis that is time; None where it is flattened together with others.
    inner : flattened, the positions of one step that lie together; 0 where all of one step do.
    delay : steps that a recurrent layer's input comes before the current it makes.
    """

    steps: int
    step_of_call: tuple[int, ...] | None = None
    axis: int | None = None
    inner: int = 0
    delay: int = 0

    def split(self, lead: tuple[int, ...]) -> tuple[int, int, int]:
        """The leading axes as (outer, steps, inner). ValueError where the steps do not fit."""
        T = self.steps
        if self.axis is not None:
            if len(lead) <= self.axis or lead[self.axis] != T:
                raise ValueError(
                    f"a layer's input has leading axes {list(lead)}; accepted are {T} time steps, as "
                    f"in the example, on axis {self.axis}"
                )
            return math.prod(lead[: self.axis]), T, math.prod(lead[self.axis + 1 :])
        leading, block = math.prod(lead), T * max(self.inner, 1)
        if leading % block:
            raise ValueError(
                f"a layer's input has {leading} leading positions; accepted with {T} time steps, as "
                f"in the example, is a multiple of {block}"
            )
        return (leading // block, T, self.inner) if self.inner else (1, T, leading // T)


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
    layout: Layout = Layout(1)
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


def layout_of(
    calls: list[tuple[tuple[int, ...], NDArray[np.int64]]],
    steps: int,
    batch_first: bool,
    one_sample: bool,
) -> tuple[Layout | None, str]:
    """The layout that the calls' step tables show; None where they show that there is none.

    Parameters
    ----------
    calls : of each call, its leading axes and `LayerCall.step_of`.
    steps : T as the consumers tell it.
    batch_first : the consumers' own axes, which decide what the tables leave open.
    one_sample : whether the example was a batch of one, which leaves more open.

    Returns
    -------
    The layout, and a note where something was assumed ("" otherwise).
    """
    tables = [table for _, table in calls]
    if any((table == -2).any() for table in tables):
        return None, "its output mixes time steps before it is integrated"
    known = [np.unique(table[table >= 0]) for table in tables]
    if len(calls) > 1 and all(k.size == 1 for k in known):  # a loop over time
        return Layout(steps, tuple(int(k[0]) % steps for k in known)), ""
    found: set[Layout] = set()
    open_ = False
    for lead, table in calls:
        options = [
            layout for layout in _candidates(lead, steps, batch_first) if _fits(layout, lead, table)
        ]
        if not options:
            return None, f"its calls do not hold the {steps} time steps in an order that is known"
        if options[0].axis is None and not options[0].inner:
            # Flattened, and one step's positions lie together: of a batch of one, or time first.
            others = [layout for layout in options if layout.inner]
            open_ = open_ or (bool(others) and steps > 1 and one_sample)
            if batch_first and others:
                options = others
        found.add(options[0])
    if len(found) != 1:
        return None, "its calls differ in where the time axis is"
    unseen = steps > 1 and all(k.size == 0 for k in known)
    axis = "second" if batch_first else "first"
    assumed = f"time assumed to be the {axis} axis"
    if open_ and not unseen:
        assumed += ": the example is a batch of one"
    return found.pop(), assumed if unseen or open_ else ""


def _candidates(lead: tuple[int, ...], steps: int, batch_first: bool) -> list[Layout]:
    """Ways to hold the steps: on an axis of their own, or flattened."""
    own = [Layout(steps, None, at) for at, extent in enumerate(lead) if extent == steps]
    own = own[::-1] if batch_first else own
    rest, left = divmod(math.prod(lead), steps)
    flat = [] if left else [i for i in range(1, rest + 1) if rest % i == 0]
    return [
        *(own if len(lead) > 1 else []),
        *([Layout(steps)] if flat else []),
        *(Layout(steps, inner=i) for i in flat),
    ]


def _fits(layout: Layout, lead: tuple[int, ...], table: NDArray[np.int64]) -> bool:
    outer, steps, inner = layout.split(lead)
    expected = np.broadcast_to(np.arange(steps)[None, :, None], (outer, steps, inner)).ravel()
    return bool(((table < 0) | (table == expected)).all())
