"""The weight layers of a network, and the memory that their compression takes."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

from .plan_text import layer_json, plan_table, states_kept
from .planned_layer import PlannedLayer


@dataclass(frozen=True)
class Plan:
    """The weight layers of a network, as `trace` returns them. ``str(plan)`` is a table.

    Attributes
    ----------
    layers : every weight layer, in the order of their first calls, uncalled ones last.
    left_alone : names of other parameters of two or more axes, which compression does not touch.
    model_bytes : of parameters and buffers.
    neuron_steps : by name of each neuron, the time steps that one call of it takes.
    plain_norms : by name of each BatchNorm, whether it does what its statistics say, and no more.
    norm_inputs : by name of each BatchNorm, the layers or norms whose outputs it is fed, in the same
        order of channels; None among them stands for anything else.
    states : names of what else a forward leaves behind in the modules, which `compress_model` puts back
        before each batch. Neurons with a known reset are not among them.
    """

    layers: tuple[PlannedLayer, ...]
    left_alone: tuple[str, ...] = ()
    model_bytes: int = 0
    neuron_steps: dict[str, int] = field(default_factory=dict)
    plain_norms: dict[str, bool] = field(default_factory=dict)
    norm_inputs: dict[str, tuple[str | None, ...]] = field(default_factory=dict)
    states: tuple[str, ...] = ()

    @property
    def remarks(self) -> tuple[str, ...]:
        """Returns remarks on the network as a whole, for people."""
        return (states_kept(self.states),) if self.states else ()

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

    def groups(self, max_memory: int, method: str = "exact") -> list[list[PlannedLayer]]:
        """Returns the layers in groups whose Hessians are gathered in one pass.

        A group has as many layers as `max_memory` bytes hold beside the model, its activations and the
        largest layer's compression by `method`, and at least one.
        """
        work = max((layer.work_bytes(method) for layer in self.compressed), default=0)
        room = max_memory - self.fixed_bytes() - work
        groups: list[list[PlannedLayer]] = []
        used = room + 1
        for layer in self.compressed:
            need = layer.hessian_bytes()
            if used + need > room:
                groups.append([])
                used = 0
            groups[-1].append(layer)
            used += need
        return groups

    def fixed_bytes(self) -> int:
        """Returns the bytes of two copies of the model and of its activations."""
        flow = max((layer.activation_bytes() for layer in self.compressed), default=0)
        return 2 * self.model_bytes + 3 * flow

    def layer_bytes(self, layer: PlannedLayer, paired: bool, method: str = "exact") -> int:
        """Returns the bytes that a layer takes by itself, beside `fixed_bytes`."""
        if paired:
            return layer.paired_bytes(method)
        return max(layer.hessian_bytes() + layer.moment_bytes(), layer.work_bytes(method))

    def peak_bytes(self, max_memory: int, paired: bool = False, method: str = "exact") -> int:
        """Predicts the most bytes that `compress_model` takes, beside what the process had before.

        Parameters
        ----------
        max_memory : bytes, as in `compress_model`.
        paired : calibration mode "sequential": one layer at a time, with the inputs of the dense and of
            the compressed model side by side in one Hessian, which is four times as large.
        method : of layers that have none of their own.
        """
        groups = [[layer] for layer in self.compressed]
        if not paired:
            groups = self.groups(max_memory, method)
        peaks = [
            self.layer_bytes(layer, paired, method)
            + sum(other.hessian_bytes() for other in part if other is not layer)
            for part in groups
            for layer in part
        ]
        return self.fixed_bytes() + max(peaks, default=0)

    def to_json(self) -> str:
        """The plan as JSON."""
        return json.dumps(
            {
                "layers": [layer_json(layer) for layer in self.layers],
                "left_alone": self.left_alone,
                "model_bytes": self.model_bytes,
                "states": self.states,
            },
            default=str,
            indent=2,
        )

    def __str__(self) -> str:
        return "\n".join((plan_table(self.layers, self.left_alone), *self.remarks))
