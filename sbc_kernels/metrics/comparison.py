"""Comparison of a compressed model with the dense one, in one pass over the data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

from ..errors import ParameterError
from ..network.copies import Forward
from .activity import Activity, OnSpikes, VanRossum
from .operations import OperationCounter, SynapticOperations
from .passes import Model, Pass, each_batch, forward_of, labels_of
from .predictions import Readout, ReadoutFunction, count_hits

__all__ = ["Comparison", "Measured", "compare"]


@dataclass(frozen=True)
class Measured:
    """Measurements of one of the two models.

    Attributes
    ----------
    operations : the result of `synaptic_operations`.
    spike_rates : the result of `spike_rates`.
    accuracy : in percent; None if the data has no labels.
    """

    operations: SynapticOperations
    spike_rates: dict[str, float]
    accuracy: float | None

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Measured:
        """Returns the object of which `values` is the `dataclasses.asdict`."""
        operations = SynapticOperations.from_dict(values["operations"])
        return cls(operations, dict(values["spike_rates"]), values["accuracy"])


@dataclass(frozen=True)
class Comparison:
    """The result of `compare`.

    Attributes
    ----------
    samples : number of samples in the data.
    dense, compressed : the measurements of each model.
    van_rossum : distance between a neuron module's spike trains in the two models, by module: the mean
        over units and samples of ``sqrt(sum_t (k * (s - s'))_t^2 / sum_t k_t^2)``, with the neuron's
        own impulse response k. Equal trains have distance 0, one additional spike in the first step 1,
        and two spikes far apart sqrt(2). After van Rossum (Neural Computation 13(4):751-763, 2001).
        For leaky integrators the potentials are compared.
    agreement : percentage of the samples for which both models predict the same class.
    """

    samples: int
    dense: Measured
    compressed: Measured
    van_rossum: dict[str, float]
    agreement: float

    def to_dict(self) -> dict[str, Any]:
        """Returns a dictionary that JSON can hold."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Comparison:
        """Returns the comparison of which `values` is the `to_dict`, also after a trip through JSON.

        Raises
        ------
        ParameterError : `values` is anything else.
        """
        try:
            return cls(
                values["samples"],
                Measured.from_dict(values["dense"]),
                Measured.from_dict(values["compressed"]),
                dict(values["van_rossum"]),
                values["agreement"],
            )
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ParameterError(
                "values",
                values,
                "what Comparison.to_dict returns",
                shown=f"not a comparison ({error!r})",
            ) from error


def compare(
    dense: Model,
    compressed: Model,
    data: object,
    *,
    forward: Forward | None = None,
    readout: ReadoutFunction | None = None,
) -> Comparison:
    """Measures operations, spike rates, accuracy and agreement of two models in one pass.

    Parameters
    ----------
    dense, compressed : two torch models of the same structure; either may be a `CompressedModel`. They
        are left unchanged. A random encoding draws the same numbers for both.
    data, forward : as in `synaptic_operations`. Labels are class numbers, integers [N], and either all
        batches have them or none.
    readout : as in `accuracy`.

    Raises
    ------
    ParameterTypeError, ParameterError : a parameter is not accepted, or the two models differ in their
        structure.
    """
    distances, reads = VanRossum(), Readout(readout)
    forward = forward_of(forward, compressed, dense)
    first = _Model(dense, forward, distances.dense, "dense")
    second = _Model(compressed, forward, distances.compressed, "compressed")
    agreements = labelled_batches = batches = 0

    def run_both(index: int, batch: object) -> None:
        nonlocal agreements, labelled_batches, batches
        batches += 1
        labelled_batches += labels_of(batch) is not None
        if labelled_batches not in (0, batches):
            raise ParameterError(
                "data",
                data,
                "labels for all batches or for none",
                shown="a mixture of batches with labels and batches without",
            )
        predictions = [model.run(index, batch, reads) for model in (first, second)]
        distances.end_batch()
        if predictions[0].shape != predictions[1].shape:
            raise ParameterError(
                "compressed",
                predictions[1],
                "a model of the same structure as dense",
                shown=f"a model with {len(predictions[1])} predictions where dense has "
                f"{len(predictions[0])}",
            )
        agreements += int((predictions[0] == predictions[1]).sum())

    each_batch(data, run_both)
    samples, has_labels = first.passes.samples, bool(labelled_batches)
    return Comparison(
        samples,
        first.result(has_labels),
        second.result(has_labels),
        distances.result(),
        100.0 * agreements / samples,
    )


class _Model:
    """One of the two models while batches run through both, with its counters."""

    def __init__(
        self, model: Model, forward: Forward | None, on_spikes: OnSpikes, name: str
    ) -> None:
        self.counter, self.activity = OperationCounter(), Activity(on_spikes)
        self.passes = Pass(model, forward, self.counter, self.activity, name=name)
        self.right = 0

    def run(self, index: int, batch: object, reads: Readout) -> Tensor:
        """Runs a batch and returns the predictions, int64 [N]."""
        predictions, classes = reads(*self.passes.run_counted(index, batch))
        labels = labels_of(batch)
        if labels is not None:
            self.right += count_hits(predictions, classes, labels)
        return predictions

    def result(self, has_labels: bool) -> Measured:
        """Returns the measurements over all batches so far."""
        return Measured(
            self.counter.result(self.passes.samples),
            self.activity.rates(),
            100.0 * self.right / self.passes.samples if has_labels else None,
        )
