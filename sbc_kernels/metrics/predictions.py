"""Which class a spiking network names, and how often that is right."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..network.copies import Forward
from .passes import Pass, each_batch, labels_of

__all__ = ["accuracy"]

ReadoutFunction = Callable[[Any], Tensor]


def accuracy(
    model: Any,
    data: Any,
    *,
    forward: Forward | None = None,
    readout: ReadoutFunction | None = None,
) -> float:
    """How many samples are given their label's class, in percent.

    Parameters
    ----------
    model, data, forward : as in `synaptic_operations`; every batch is (inputs, labels), labels class
        numbers [N].
    readout : ``readout(output)`` makes what the model answers into scores [N, classes]. Without it, of
        a tuple the first item is taken (``(spk_rec, mem_rec)``), a list of tensors [N, classes] is one
        of time steps, and time is summed out of [T, N, classes] and [N, T, classes]. The largest score
        is the prediction, the first of several.

    Raises
    ------
    TypeError, ValueError : naming the parameter, what came and what is accepted. NaN among the scores
        is a ValueError.
    """
    run, reads = Pass(model, forward), Readout(readout)
    right = 0

    def count(index: int, batch: Any) -> None:
        nonlocal right
        labels = labels_of(batch)
        if labels is None:
            raise ValueError(
                f"data has a batch ({index}) without labels; accepted are batches (inputs, labels)"
            )
        predictions, classes = reads(*run.run_counted(index, batch))
        right += count_right(predictions, classes, labels)

    each_batch(data, count)
    return 100.0 * right / run.samples


def count_right(predictions: Tensor, classes: int, labels: Any) -> int:
    """How many predictions int64 [N] are the labels. TypeError, ValueError if labels are no classes."""
    accepted = f"accepted are class numbers, integers [{len(predictions)}]"
    try:
        wanted = torch.as_tensor(labels).to(predictions.device)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"data has labels that are no array ({error}); {accepted}") from None
    if wanted.is_floating_point() or wanted.shape != predictions.shape:
        raise ValueError(
            f"data has labels {wanted.dtype} of shape {list(wanted.shape)}; {accepted}"
        )
    if int(wanted.min()) < 0 or int(wanted.max()) >= classes:
        raise ValueError(
            f"data has labels {int(wanted.min())}..{int(wanted.max())}; accepted is 0..{classes - 1}, "
            "as the model scores"
        )
    return int((predictions == wanted).sum())


class Readout:
    """From what a model answers to the class of each sample. Remembers which axis was time."""

    def __init__(self, function: ReadoutFunction | None) -> None:
        if function is not None and not callable(function):
            raise TypeError(f"readout is {function!r}; accepted is a function, or None")
        self.function = function
        self.time: int | None = None

    def __call__(self, output: Any, samples: int) -> tuple[Tensor, int]:
        """(predictions int64 [N], number of classes)."""
        whose, accepted = "readout answers", f"[{samples}, classes], two classes or more"
        if self.function is not None:
            scores = self.function(output)
        else:
            scores, whose = self._scores(output, samples), "the model answers"
            accepted += ", or with a time axis before or after the first; or pass readout"
        if not isinstance(scores, Tensor):
            raise TypeError(f"{whose} a {type(scores).__name__}; accepted is a tensor {accepted}")
        if scores.ndim != 2 or len(scores) != samples or scores.shape[1] < 2:
            raise ValueError(f"{whose} {list(scores.shape)}; accepted is {accepted}")
        if bool(scores.isnan().any()):
            raise ValueError(f"{whose} NaN; accepted are scores")
        return scores.detach().double().argmax(dim=1), scores.shape[1]

    def _scores(self, output: Any, samples: int) -> Any:
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
                f"the model answers {list(output.shape)} for {samples} samples: which axis is time "
                "cannot be told; accepted is a readout, such as lambda output: output.sum(0)"
            )
        return output.sum(dim=self.time, dtype=torch.float64)
