"""The cases: their titles in the table, their targets and their time limits.

`contests` defines what each case runs, by the same key.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median, quantiles
from typing import Any

# Rivals that targets refer to.
UNFOLD_FP32 = "filter, unfold, fp32 GEMM"
OBC = "OBC's rank-1 loop"


@dataclass(frozen=True)
class Contender:
    """Measurements of one contender.

    `seconds` has the time of each round, scaled to the whole problem.
    """

    name: str
    seconds: tuple[float, ...]
    peak: int
    note: str = ""

    @property
    def median(self) -> float:
        return median(self.seconds)

    @property
    def spread(self) -> float | None:
        """The inter-quartile range, or None if there are fewer than three rounds."""
        if len(self.seconds) < 3:
            return None
        low, _, high = quantiles(self.seconds, method="inclusive")
        return high - low


@dataclass(frozen=True)
class Outcome:
    """Measurements of a case.

    Attributes
    ----------
    work, unit : work done by ours and its unit; 0 if the table should show no rate.
    limit, limit_rate : name of the card's limit, and its measured value.
    """

    ours: Contender
    rivals: tuple[Contender, ...]
    work: float
    unit: str
    limit: str
    limit_rate: float | None

    @classmethod
    def of(cls, data: Mapping[str, Any], limits: Mapping[str, float]) -> Outcome:
        """Builds an outcome from the JSON that `measure` wrote."""
        ours, *rivals = (
            Contender(c["name"], tuple(c["seconds"]), c["peak"], c["note"])
            for c in data["contenders"]
        )
        return cls(
            ours,
            tuple(rivals),
            data["work"],
            data["unit"],
            data["limit"],
            limits.get(data["limit"]),
        )

    @property
    def rate(self) -> float | None:
        return self.work / self.ours.median if self.work else None

    @property
    def fraction(self) -> float | None:
        return self.rate / self.limit_rate if self.rate and self.limit_rate else None

    def ratio(self, rival: Contender) -> float | None:
        """The median over rounds of the rival's time / ours, or None if the rival has no rounds."""
        pairs = list(zip(rival.seconds, self.ours.seconds, strict=False))
        return median(theirs / ours for theirs, ours in pairs) if pairs else None


@dataclass(frozen=True)
class Target:
    """A target. ``met`` returns None if the quantity was not measured."""

    text: str
    met: Callable[[Outcome], bool | None]


def seconds(most: float) -> Target:
    text = f"≤ {most:g} s" if most >= 1 else f"≤ {1000 * most:g} ms"
    return Target(text, lambda outcome: outcome.ours.median <= most)


def gigabytes(most: float, why: str = "") -> Target:
    return Target(f"≤ {most:g} GB{why}", lambda outcome: outcome.ours.peak <= most * 1e9)


def share(least: float, limit: str) -> Target:
    def met(outcome: Outcome) -> bool | None:
        return None if outcome.fraction is None else outcome.fraction >= least

    return Target(f"≥ {100 * least:g} % of {limit}", met)


def times_faster(least: float, rival: str) -> Target:
    def met(outcome: Outcome) -> bool | None:
        ratios = [outcome.ratio(r) for r in outcome.rivals if r.name.startswith(rival)]
        return None if not ratios or ratios[0] is None else ratios[0] >= least

    return Target(f"≥ {least:g}× {rival}", met)


@dataclass(frozen=True)
class Case:
    """One case. `limit`: time limit in seconds. `is_alone`: runs in a process of its own."""

    key: str
    title: str
    targets: tuple[Target, ...] = ()
    limit: float = 20
    is_alone: bool = False

    @property
    def name(self) -> str:
        return f"case {self.key}"


CASES = (
    Case(
        "gram-large",
        "Gram d=4608, 10⁶ rows, integer traces",
        (share(0.6, "int8"),),
    ),
    Case(
        "gram-conv",
        "conv Gram 3×3, 256 channels, 28×28, T=4, 256 samples",
        (times_faster(10, UNFOLD_FP32), gigabytes(1.8, " (unfolded: 1.85 GB in bytes)")),
    ),
    Case(
        "order-large",
        "exact order 512×4608, all removed, in 15 GB",
        (seconds(1), gigabytes(16), times_faster(100, OBC)),
    ),
    Case(
        "quantize-large",
        "quantize 4096×4096, 4 bit, group 128, Cholesky included",
        (seconds(0.025),),
    ),
    Case(
        "sew-resnet152",
        "SEW-ResNet152, all layers, 97 %, exact, 32 images 224×224",
        (seconds(60),),
        limit=120,
        is_alone=True,
    ),
    Case("gram-linear", "Gram of a linear layer d=128, T=10, 1000 samples, LIF 2"),
    Case("gram-fixed-point", "Gram d=1152, T=4, 4096 samples, LIF 1.7 (in fixed point)"),
    Case("gram-floats", "Gram d=1152, T=4, 4096 samples, analog input"),
    Case("order-small", "exact order 64×1152, all removed"),
    Case("quantize-wide", "quantize 512×4608, 4 bit, Cholesky included"),
    Case("solve-50", "obs_solve 500×2312 at 50 %"),
    Case("solve-90", "obs_solve 500×2312 at 90 %"),
    Case("solve-97", "obs_solve 500×2312 at 97 %"),
)
