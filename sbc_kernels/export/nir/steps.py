"""Time steps and samples of the nodes' inputs and outputs.

A row is one position of a tensor's leading axes, which are samples, time steps or both. Only a neuron
knows which of them its rows are; other nodes pass on what is known of their inputs' rows. NIR's edges
have no delay, so rows that meet in a node must be of one step and one sample.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...frameworks import NeuronFacts
from .refusals import ModelRefused

__all__ = ["RowTimes", "StepTracker", "has_one_leading_axis"]

Index = NDArray[np.int64]
Shape = tuple[int, ...]

_OTHER_STEP = (
    "fed with an output of another time step, or of another sample; accepted is the same step: "
    "NIR's edges have no delay, and recurrence is not exported"
)


@dataclass
class RowTimes:
    """Time steps and samples of the rows of one node's input and output.

    Attributes
    ----------
    step, sample : [rows], -1 where no neuron has set them yet.
    roots : each [rows], the row of the model's input that a row comes from, -1 for none. Empty once
        a neuron has set step and sample.
    """

    step: Index
    sample: Index
    roots: list[Index]

    @classmethod
    def unknown(cls, rows: int, roots: Sequence[Index] = ()) -> RowTimes:
        """Returns the times of rows that no neuron has set yet."""
        return cls(np.full(rows, -1, dtype=np.int64), np.full(rows, -1, dtype=np.int64), [*roots])


class StepTracker:
    """Times of all outputs so far.

    Attributes
    ----------
    outputs : the times of each output's rows, in the order of the outputs; the model's input first.
    """

    def __init__(self) -> None:
        self.outputs: list[RowTimes] = [RowTimes.unknown(0)]
        self._steps: dict[str, int] = {}  # time steps of each neuron so far
        self._uses: list[
            tuple[Index, Index, Index]
        ] = []  # rows of the model's input, steps, samples

    def set_input_rows(self, rows: int) -> None:
        """Tells how many rows the model's input has."""
        self.outputs[0] = RowTimes.unknown(rows, [np.arange(rows)])

    def merged(self, terms: Sequence[tuple[Index, Index]], what: str) -> RowTimes:
        """Returns the times of a node's input.

        Parameters
        ----------
        terms : of each summand, the output that each row comes from (negative for none) and the row
            of that output.
        what : label of the node.

        Raises
        ------
        ValueError : rows of different steps or samples are added up.
        """
        times = RowTimes.unknown(terms[0][0].size)
        roots: dict[bytes, Index] = {}
        for outputs, rows in terms:
            for number in np.unique(outputs[outputs >= 0]):
                source, here = self.outputs[number], np.flatnonzero(outputs == number)
                for into, value in (
                    (times.step, source.step[rows[here]]),
                    (times.sample, source.sample[rows[here]]),
                ):
                    both = (into[here] >= 0) & (value >= 0)
                    if (into[here] != value)[both].any():
                        raise ModelRefused(f"model has {what}, {_OTHER_STEP}")
                    into[here] = np.maximum(into[here], value)
                for root in source.roots:
                    from_input = np.full(times.step.size, -1, dtype=np.int64)
                    from_input[here] = root[rows[here]]
                    roots[from_input.tobytes()] = from_input
        times.roots = list(roots.values())
        return times

    def tell(
        self, name: str, facts: NeuronFacts, shape: Shape, own: Shape, times: RowTimes, what: str
    ) -> None:
        """Fills in the times of a neuron's input, which the neuron knows.

        Parameters
        ----------
        name : of the neuron.
        facts : what its adapter says of an input of this shape.
        shape : of the input.
        own : of one sample at one time step.
        times : of the input's rows; is filled in.
        what : label of the neuron.

        Raises
        ------
        ValueError : the input has further axes, or rows come from another step or sample.
        """
        rows = times.step.size
        inner = rows // (facts.outer * facts.steps)
        most = 1 if has_one_leading_axis(facts, shape) else 2
        if len(shape) - len(own) > most or inner * facts.outer * facts.steps != rows:
            raise ModelRefused(
                f"model has {what}, fed with {list(shape)}, of which {list(own)} is one output of the "
                "node before it; accepted are no axes but time and samples beside it: NIR has no layer "
                "that is applied along another axis"
            )
        row = np.arange(rows)
        step = row // inner % facts.steps + self._steps.get(name, 0)
        sample = row // (inner * facts.steps) * inner + row % inner
        self._steps[name] = self._steps.get(name, 0) + facts.steps
        known_rows = times.step >= 0
        if (times.step != step)[known_rows].any() or (times.sample != sample)[known_rows].any():
            raise ModelRefused(f"model has {what}, {_OTHER_STEP}")
        for root in times.roots:
            here = root >= 0
            self._uses.append((root[here], step[here], sample[here]))
        times.step, times.sample, times.roots = step, sample, []

    def require_input_in_step(self) -> None:
        """Raises ValueError unless each row of the model's input reaches the neurons at one step, or
        each row at every step."""
        if not self._uses:
            return
        uses = np.stack([np.concatenate(part) for part in zip(*self._uses, strict=True)])
        samples_of_row = np.unique(np.unique(uses[[0, 2]], axis=1)[0], return_counts=True)[1]
        steps_of_row = np.unique(np.unique(uses[:2], axis=1)[0], return_counts=True)[1]
        every = max(self._steps.values())
        if (samples_of_row > 1).any() or set(steps_of_row) not in ({1}, {every}):
            raise ModelRefused(
                "model's input reaches its neurons at several time steps, but not at all of them; "
                f"accepted are inputs that hold each of the {every} steps once, or one for all steps"
            )


def has_one_leading_axis(facts: NeuronFacts, shape: Shape) -> bool:
    """Returns whether samples and steps of a neuron's input share an axis: one step, or flattened."""
    one_step = facts.outer == 1 and facts.steps == 1 and shape[0] != 1
    return one_step or (facts.outer > 1 and shape[0] == facts.outer * facts.steps)
