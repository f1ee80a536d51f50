"""Passes of the calibration data through a network. No other file runs the network on all batches."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import Tensor, nn

from ..errors import ParameterError
from ..network.batches import Mark, changed_data, mark_of
from ..network.copies import Forward, undisturbed
from .feeder import Feeder
from .plan import Plan
from .sequences import Take


class Calibration:
    """The calibration data, and the passes over it that a compression needs.

    Each pass starts from fresh states and draws the same random numbers.

    Parameters
    ----------
    batches : iterated anew for each pass.
    forward : ``forward(model, batch)`` runs one whole sequence; None for ``model(batch)``.
    plan : of the network; the dense model and all copies of it have the same.
    """

    def __init__(self, batches: Iterable[Any], forward: Forward | None, plan: Plan) -> None:
        self.batches = batches
        self.forward = forward
        self.layers = {layer.name: layer for layer in plan.layers}
        self.neuron_steps = plan.neuron_steps
        self.states = plan.states
        self._marks: list[Mark] = []  # of the batches, to know them again in the next pass
        self._count: int | None = None  # of the batches, after the first pass

    def inputs(self, model: nn.Module, takes: Mapping[str, Take]) -> None:
        """Hands each batch's input of some layers on, and ends a batch after the last of them.

        Parameters
        ----------
        takes : by layer name, called with sequences [T, samples, d_in] or [T, samples, C, *map], as
            integers of one byte where the values allow it.
        """
        feeder = self._feeder(model)
        self.each(lambda index, batch: feeder.feed(index, batch, takes, self.layers))

    def paired_inputs(
        self,
        dense: nn.Module,
        compressed: nn.Module,
        name: str,
        take: Callable[[Tensor, Tensor], None],
    ) -> None:
        """Hands one layer's inputs in two models on: ``take(compressed's, dense's)`` for each batch."""
        first, second = self._feeder(dense), self._feeder(compressed)
        waiting: deque[Tensor] = deque()

        def pair(spikes: Tensor) -> None:
            take(spikes, waiting.popleft())

        def feed(index: int, batch: Any) -> None:
            waiting.clear()
            first.feed(index, batch, {name: waiting.append}, self.layers)
            second.feed(index, batch, {name: pair}, self.layers)

        self.each(feed)

    def outputs(self, model: nn.Module, take: Callable[[Any], None] | None = None) -> int:
        """Runs all batches to the end, for hooks that watch the model or for its outputs.

        Parameters
        ----------
        take : called with what the model returns for each batch, unless a hook ended it earlier.

        Returns
        -------
        The number of batches.
        """
        feeder, taken = self._feeder(model), take or _ignored
        return self.each(lambda index, batch: feeder.feed(index, batch, {}, self.layers, taken))

    def _feeder(self, model: nn.Module) -> Feeder:
        return Feeder(model, self.forward, self.neuron_steps, self.states)

    def each(self, feed: Callable[[int, Any], None]) -> int:
        """Calls ``feed(index, batch)`` for all batches of a pass, and returns their number.

        Raises
        ------
        ParameterError : a ValueError; the batches are not those of the first pass.
        """
        index = -1
        with undisturbed():
            for index, batch in enumerate(self.batches):
                mark = mark_of(batch)
                if self._count is None and index == len(self._marks):
                    self._marks.append(mark)
                elif index >= len(self._marks) or mark != self._marks[index]:
                    raise changed_data("calibration", self.batches, str(index))
                feed(index, batch)
        if self._count is None:
            self._count = index + 1
        if index + 1 != self._count:
            raise ParameterError(
                "calibration",
                self.batches,
                "accepted are the same batches each time",
                verb="has",
                shown=f"{self._count} batches the first time it is iterated, and then {index + 1}",
            )
        return index + 1


def _ignored(output: Any) -> None:
    """Takes no notice of an output."""
