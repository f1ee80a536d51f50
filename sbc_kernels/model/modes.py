"""The ways through the layers of a network, by the name that users give."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import nn

from .parallel import parallel
from .progress import Progress
from .run import Run
from .sequential import sequential

_BY_NAME: dict[str, Callable[[Run], None]] = {"parallel": parallel, "sequential": sequential}


def compress(run: Run) -> None:
    """Compresses all layers of a run in the mode that was asked for."""
    _BY_NAME[run.settings.calibration_mode](run)


def compressed_with(run: Run, sparsities: Mapping[str, float]) -> nn.Module:
    """Returns the network that the run would produce with other sparsities of some layers."""
    trial = Run(
        run.dense,
        run.plan,
        run.calibration,
        run.settings,
        Progress(False),
        dense_norms=run.dense_norms,
    )
    trial.sparsities = {**run.sparsities, **sparsities}
    compress(trial)
    return trial.work
