"""Classes that a spiking network predicts, and their accuracy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..errors import ParameterError, ParameterTypeError
from ..network.copies import Forward
from .passes import Model, Pass, each_batch, labels_of

__all__ = ["accuracy"]

ReadoutFunction = Callable[[Any], Tensor]


def accuracy(
    model: Model,
    data: object,
    *,
    forward: Forward | None = None,
    readout: ReadoutFunction | None = None,
) -> float:
    """Returns the percentage of samples whose predicted class is their label.

    Parameters
    ----------
    model, data, forward : as in `synaptic_operations`. Every batch is (inputs, labels); labels are
        class numbers, integers [N].
    readout : ``readout(output)`` converts the model's output to scores [N, classes]. By default, the
        first item of a tuple such as ``(spk_rec, mem_rec)`` is taken, a list of tensors [N, classes] is
        taken for time steps, and [T, N, classes] or [N, T, classes] is summed over time. The class of
        the largest score is predicted, of equal scores the first.

    Raises
    ------
    ParameterTypeError, ParameterError : a parameter is not accepted.
    ValueError : the scores hold NaN, have another shape, or their time axis is ambiguous.
    """
    passes, reads = Pass(model, forward), Readout(readout)
    hits = 0

    def count(index: int, batch: object) -> None:
        nonlocal hits
        labels = labels_of(batch)
        if labels is None:
            raise ParameterError(
                "data",
                batch,
                "batches (inputs, labels)",
                shown=f"without labels in batch {index}",
            )
        predictions, classes = reads(*passes.run_counted(index, batch))
        hits += count_hits(predictions, classes, labels)

    each_batch(data, count)
    return 100.0 * hits / passes.samples


def count_hits(predictions: Tensor, classes: int, labels: object) -> int:
    """Returns how many predictions, int64 [N], equal their label.

    Raises
    ------
    ParameterTypeError, ParameterError : the labels are no class numbers [N] in 0..classes-1.
    """
    accepted = f"class numbers as labels, integers [{len(predictions)}]"
    try:
        targets = torch.as_tensor(labels).to(predictions.device)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ParameterTypeError(
            "data", labels, accepted, shown=f"a batch whose labels are no array ({error})"
        ) from None
    if targets.is_floating_point() or targets.shape != predictions.shape:
        raise ParameterError(
            "data",
            labels,
            accepted,
            shown=f"a batch with labels {targets.dtype} of shape {list(targets.shape)}",
        )
    low, high = int(targets.min()), int(targets.max())
    if low < 0 or high >= classes:
        raise ParameterError(
            "data",
            labels,
            f"0..{classes - 1}, the classes that the model scores",
            shown=f"a batch with labels {low}..{high}",
        )
    return int((predictions == targets).sum())


class Readout:
    """Converts a model's outputs to predicted classes.

    It remembers which axis is time, for a later batch in which T equals the number of samples.
    """

    def __init__(self, function: ReadoutFunction | None) -> None:
        if function is not None and not callable(function):
            raise ParameterTypeError("readout", function, "a function, or None")
        self.function = function
        self.time: int | None = None

    def __call__(self, output: object, samples: int) -> tuple[Tensor, int]:
        """Returns the predictions, int64 [N], and the number of classes.

        Raises TypeError or ValueError if the output cannot be read as scores of `samples` samples.
        """
        source, accepted = "readout", f"[{samples}, classes] with two classes or more"
        if self.function is not None:
            scores = self.function(output)
        else:
            scores, source = self._scores(output, samples), "the model"
            accepted += ", or with a time axis before or after the first; or pass readout"
        if not isinstance(scores, Tensor):
            raise TypeError(
                f"{source} returns a {type(scores).__name__}; accepted is a tensor {accepted}"
            )
        if scores.ndim != 2 or len(scores) != samples or scores.shape[1] < 2:
            raise ValueError(
                f"{source} returns scores of shape {list(scores.shape)}; accepted is {accepted}"
            )
        if bool(scores.isnan().any()):
            raise ValueError(f"{source} returns NaN; accepted are scores without NaN")
        return scores.detach().double().argmax(dim=1), scores.shape[1]

    def _scores(self, output: object, samples: int) -> object:
        """Returns the scores in a model's output, with the time axis summed out."""
        while isinstance(output, (tuple, list)) and len(output):
            if isinstance(output, list) and all(
                isinstance(step, Tensor) and step.shape == (samples, *step.shape[-1:])
                for step in output
            ):
                return torch.stack(output).sum(dim=0, dtype=torch.float64)
            output = output[0]
        if not isinstance(output, Tensor) or output.ndim != 3:
            return output
        axes = [axis for axis in (0, 1) if output.shape[axis] == samples]
        if not axes:
            return output
        if len(axes) == 1:
            self.time = 1 - axes[0]
        if self.time is None:
            raise ValueError(
                f"the model returns {list(output.shape)} for {samples} samples, so the time axis is "
                "ambiguous; pass a readout, such as lambda output: output.sum(0)"
            )
        return output.sum(dim=self.time, dtype=torch.float64)
