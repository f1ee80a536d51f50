"""BatchNorms whose statistics follow what the compressed layers before them produce."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from ..network.state import entry
from ..network.watch import Statistics, watching
from .ledger import Ledger
from .passes import Calibration

_FIELDS = ("running_mean", "running_var")


class DenseNorms:
    """Statistics of what BatchNorms are fed in the dense model: one pass, when first needed.

    Parameters
    ----------
    dense : the model.
    names : of the norms.
    calibration : the data.

    Attributes
    ----------
    statistics : by name of the norm, in the order in which they are called.
    calls : by name of the norm, how often it is called in one forward.
    forwards : batches of a pass.
    """

    def __init__(self, dense: nn.Module, names: Iterable[str], calibration: Calibration) -> None:
        self.dense = dense
        self.calibration = calibration
        modules = dict(dense.named_modules())
        self.modules = {name: modules[name] for name in names}
        self.statistics: dict[str, Statistics] = {}
        self.calls: dict[str, int] = {}
        self.forwards = 0

    def measure(self) -> None:
        """Runs the pass, unless an earlier call did."""
        if self.statistics or not self.modules:
            return
        order: list[str] = []
        with watching(self.modules, each=lambda name, _: order.append(name)) as statistics:
            self.forwards = self.calibration.outputs(self.dense)
        self.statistics = {n: statistics[n] for n in dict.fromkeys((*order, *self.modules))}
        self.calls = {n: max(s.calls // self.forwards, 1) for n, s in statistics.items()}


class FollowingNorms:
    """The BatchNorms of the copy that is being compressed, and their new statistics.

    Parameters
    ----------
    layers : that are compressed, with the norms behind each of them that follow it.
    dense : statistics of the dense model, shared by all copies of it.
    work : the copy.
    ledger : where new statistics are entered.
    """

    def __init__(
        self,
        layers: Mapping[str, Sequence[str]],
        dense: DenseNorms,
        work: nn.Module,
        ledger: Ledger,
    ) -> None:
        self.layers = layers
        self.dense = dense
        self.work = work
        self.modules: dict[str, nn.Module] = dict(work.named_modules())
        self.ledger = ledger
        self.layers_before: dict[str, list[str]] = {}
        for name, norms in layers.items():
            for norm in norms:
                self.layers_before.setdefault(norm, []).append(name)

    def has_followed(self, norm: str) -> bool:
        """Whether the ledger has new statistics with every layer before the norm."""
        finished = [self.ledger.finished.get(name) for name in self.layers_before[norm]]
        variance = entry(norm, "running_var")
        return all(layer is not None and variance in layer.entries for layer in finished)

    def follow(self, norms: Sequence[str]) -> Iterator[str]:
        """Gives BatchNorms new statistics, from calibration passes; yields each that has them.

        They follow one another in the order of their calls, because what one is fed depends on those
        before it. That takes a pass each. For a single batch one pass suffices: all that a norm is fed
        is there when it is called.
        """
        if not norms:
            return
        self.dense.measure()
        ordered = [norm for norm in self.dense.statistics if norm in norms]
        calls = self.dense.calls
        single = self.dense.forwards == 1 and all(calls[norm] == 1 for norm in norms)
        for together in [ordered] if single else [[norm] for norm in ordered]:
            watched = {norm: self.modules[norm] for norm in together}
            expected = {norm: calls[norm] for norm in together}
            with watching(watched, expected, self.move if single else None) as after:
                self.dense.calibration.outputs(self.work)
            if not single:
                self.move(together[0], after[together[0]])
            yield from together

    def move(self, name: str, after: Statistics) -> None:
        """Gives one BatchNorm the statistics that follow from what it is now fed."""
        norm, dense = self.modules[name], self.dense.modules[name]
        with torch.no_grad():
            for field in _FIELDS:
                getattr(norm, field).copy_(getattr(dense, field))
        reestimate(norm, self.dense.statistics[name], after)
        entries: dict[str, Tensor] = {
            entry(name, field): getattr(norm, field).detach().clone() for field in _FIELDS
        }
        self.ledger.add_entries(entries, self.layers_before[name])


def reestimate(norm: nn.Module, before: Statistics, after: Statistics) -> None:
    """Gives a BatchNorm statistics with which its output has the dense model's mean and variance.

    ``var = var_dense * var_after / var_before``; the mean is such that the calibration samples come to
    lie as far from beta as before, in units of the spread. The training set's statistics are kept,
    and the calibration set's own sampling error cancels. A channel without any weight left keeps its
    mean output.

    Parameters
    ----------
    norm : with the dense model's statistics; it is changed.
    before, after : statistics of its input in the dense and in the compressed model.
    """
    with torch.no_grad():
        mean, var = norm.running_mean.double(), norm.running_var.double()
        floor = torch.finfo(torch.float32).tiny
        new = var * (after.var + floor) / (before.var + floor)
        spread = torch.sqrt((new + norm.eps) / (var + norm.eps))
        norm.running_mean.copy_(after.mean - (before.mean - mean) * spread)
        norm.running_var.copy_(new)
