"""The interface of an allocation rule, and of the network whose budget it shares out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["Rule", "Shares", "Trial"]


class Trial(Protocol):
    """The layers that share one budget, and experiments on the network that they are part of.

    A rule that looks at sizes or weights alone costs nothing. The other methods run calibration
    passes, each when it is called.
    """

    @property
    def sizes(self) -> Mapping[str, int]:
        """Number of weights of each layer, in the order of the plan."""

    def weight(self, name: str) -> NDArray[np.float64]:
        """Returns the dense model's weight of one layer."""

    def prunings(self) -> Iterable[tuple[str, Callable[[float], Any]]]:
        """Yields each layer's name, with a function from a sparsity to the layer's weight pruned to it.

        The function is valid until the next layer is taken: its Hessian is then released. Calibration
        passes run when it is first called.
        """

    def loss(self, name: str, weight: Any) -> float:
        """Relative squared error of the network's outputs with this weight in one layer, all other
        layers dense. BatchNorms behind the layer are re-estimated where the run does so."""

    def known(self, key: Sequence[Any], measure: Callable[[], float]) -> float:
        """Returns ``measure()``, or, where a checkpoint has it from a run that was stopped, its value
        without measuring it again. `key` is what is measured, as JSON has it; `distance` does this by
        itself."""

    def distance(self, sparsities: Mapping[str, float]) -> float:
        """Returns the relative squared error of the outputs of the network at these sparsities."""

    def progress(self, label: str, total: int) -> Callable[[], None]:
        """A progress bar: call the result once for each of `total` steps."""


class Shares(NamedTuple):
    """The decision of a rule: the sparsity of each layer, and remarks for people."""

    sparsities: dict[str, float]
    notes: list[str]


@dataclass(frozen=True)
class Rule:
    """A way to share one sparsity out over the layers of a network.

    Attributes
    ----------
    share : returns the shares for a trial and the fraction of all its weights to prune.
    doc : one line of help.
    takes_pattern : whether "N:M", or no sparsity at all, may come with it; then every layer gets that,
        and `share` is not called.
    expensive : whether a checkpoint keeps the shares, so that a resumed run need not repeat the trials.
    """

    share: Callable[[Trial, float], Shares]
    doc: str
    takes_pattern: bool = False
    expensive: bool = False
