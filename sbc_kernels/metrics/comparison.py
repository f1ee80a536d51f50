"""A compressed model beside the dense one, in one pass over the data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ..network.copies import Forward
from .activity import Activity, OnSpikes, VanRossum
from .operations import OperationCounter, SynapticOperations
from .passes import Pass, each_batch, forward_of, labels_of
from .predictions import Readout, ReadoutFunction, count_right

__all__ = ["Comparison", "Measured", "compare"]


@dataclass(frozen=True)
class Measured:
    """One of two models.

    Attributes
    ----------
    operations : of `synaptic_operations`.
    spike_rates : of `spike_rates`.
    accuracy : in percent; None where the data has no labels.
    """

    operations: SynapticOperations
    spike_rates: dict[str, float]
    accuracy: float | None

    @classmethod
    def from_dict(cls, told: Mapping[str, Any]) -> Measured:
        """Of what `dataclasses.asdict` gave."""
        operations = SynapticOperations.from_dict(told["operations"])
        return cls(operations, dict(told["spike_rates"]), told["accuracy"])


@dataclass(frozen=True)
class Comparison:
    """What `compare` measured.

    Attributes
    ----------
    samples : of the data.
    dense, compressed : of each model.
    van_rossum : by neuron module, how far its spike trains in the two models are apart: the mean over
        units and samples of ``sqrt(sum_t (k * (s - s'))_t^2 / sum_t k_t^2)``, with the neuron's own
        impulse response k. In spikes: one more at the first step is 1, two far apart are
        sqrt(2), the same trains 0. After van Rossum (Neural Computation 13(4):751-763, 2001). Of
        leaky integrators it is the potentials that are compared.
    agreement : samples for which both models predict the same class, in percent.
    """

    samples: int
    dense: Measured
    compressed: Measured
    van_rossum: dict[str, float]
    agreement: float

    def to_dict(self) -> dict[str, Any]:
        """As JSON knows it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, told: Mapping[str, Any]) -> Comparison:
        """The inverse of `to_dict`, also after a trip through JSON. ValueError for anything else."""
        try:
            return cls(
                told["samples"],
                Measured.from_dict(told["dense"]),
                Measured.from_dict(told["compressed"]),
                dict(told["van_rossum"]),
                told["agreement"],
            )
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"told is no comparison ({error!r}); accepted is what Comparison.to_dict gives"
            ) from error


def compare(
    dense: Any,
    compressed: Any,
    data: Any,
    *,
    forward: Forward | None = None,
    readout: ReadoutFunction | None = None,
) -> Comparison:
    """Operations, spike rates and accuracy of two models, and how far they agree, in one pass.

    Parameters
    ----------
    dense, compressed : two torch models of the same structure, or a `CompressedModel`. They stay as
        they are. A random encoding draws the same for both.
    data, forward : as in `synaptic_operations`. Labels are class numbers [N], for all batches or none.
    readout : as in `accuracy`.

    Raises
    ------
    TypeError, ValueError : naming the parameter, what came and what is accepted.
    """
    apart, reads = VanRossum(), Readout(readout)
    forward = forward_of(forward, compressed, dense)
    first = _Model(dense, forward, apart.dense, "dense")
    second = _Model(compressed, forward, apart.compressed, "compressed")
    same = labelled = batches = 0

    def both(index: int, batch: Any) -> None:
        nonlocal same, labelled, batches
        batches += 1
        labelled += labels_of(batch) is not None
        if labelled not in (0, batches):
            raise ValueError(
                "data has batches with labels and batches without; accepted are all or none"
            )
        predictions = [model.run(index, batch, reads) for model in (first, second)]
        apart.end_batch()
        if predictions[0].shape != predictions[1].shape:
            raise ValueError("compressed answers for another number of samples than dense does")
        same += int((predictions[0] == predictions[1]).sum())

    each_batch(data, both)
    return Comparison(
        first.ran.samples,
        first.result(bool(labelled)),
        second.result(bool(labelled)),
        apart.result(),
        100.0 * same / first.ran.samples,
    )


class _Model:
    """One of two models while batches run through both."""

    def __init__(self, model: Any, forward: Forward | None, on_spikes: OnSpikes, name: str) -> None:
        self.counter, self.activity = OperationCounter(), Activity(on_spikes)
        self.ran = Pass(model, forward, self.counter, self.activity, name=name)
        self.right = 0

    def run(self, index: int, batch: Any, reads: Readout) -> Any:
        """The predictions, int64 [N]."""
        predictions, classes = reads(*self.ran.run_counted(index, batch))
        labels = labels_of(batch)
        if labels is not None:
            self.right += count_right(predictions, classes, labels)
        return predictions

    def result(self, labelled: bool) -> Measured:
        return Measured(
            self.counter.result(self.ran.samples),
            self.activity.rates(),
            100.0 * self.right / self.ran.samples if labelled else None,
        )
