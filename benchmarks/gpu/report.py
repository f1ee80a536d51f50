"""Writes the table of results as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from .cases import CASES, Case, Contender, Outcome
from .machine import UNKNOWN, Machine
from .profile import SHARES, WATCHES, Counters
from .runner import Done

HEADER = (
    "| case | who | median | spread | rounds | peak memory | rate | of the limit | ours is faster "
    "| target |",
    "|---|---|---|---|---|---|---|---|---|---|",
)
_LEGEND = (
    "Times: CUDA events after warm-up, ours and rivals in turns, L2 flushed before each. *spread*: the "
    "inter-quartile range. *peak memory*: beside the inputs. *rate* counts the work of the usual "
    "algorithm (of a Gram matrix one triangle, two operations a multiply-add), *of the limit* is its "
    "share of the rate above. *ours is faster*: the median over rounds of rival's time / ours."
)


def scaled(value: float, unit: str) -> str:
    for factor, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M")):
        if value >= factor:
            return f"{value / factor:.1f} {prefix}{unit}"
    return f"{value:.3g} {unit}"


def duration(value: float) -> str:
    if value >= 1:
        return f"{value:.2f} s"
    return f"{1000 * value:.2f} ms" if value >= 0.001 else f"{1e6 * value:.1f} µs"


def _line(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", "/") for cell in cells) + " |"


def head(machine: Machine, dry: bool) -> list[str]:
    return [
        f"# Kernels on {machine.device}" if not dry else "# Kernels on a GPU: not yet run",
        "",
        f"{machine.details}; driver {machine.driver}, CUDA {machine.cuda}, {machine.packages}; "
        f"{machine.date}, commit {machine.commit}. `benchmarks/gpu.sh{' --dry-run' if dry else ''}`.",
        "",
    ]


def _targets(case: Case, outcome: Outcome | None, dry: bool) -> str:
    if not case.targets:
        return "-"
    if dry or outcome is None:
        return ", ".join(f"{target.text}: {UNKNOWN}" for target in case.targets)
    words = {True: "met", False: "MISSED", None: "not measured"}
    return ", ".join(f"{target.text}: {words[target.met(outcome)]}" for target in case.targets)


def _times(contender: Contender, dry: bool) -> tuple[str, str, str, str]:
    if not contender.seconds:
        return f"failed: {contender.note}", "-", "0", "-"
    rounds = str(len(contender.seconds))
    if dry:
        return "dry run", "dry run", rounds, "dry run"
    spread = "-" if contender.spread is None else duration(contender.spread)
    return duration(contender.median), spread, rounds, f"{contender.peak / 1e9:.2f} GB"


def rows(case: Case, outcome: Outcome | None, failure: str, dry: bool) -> list[str]:
    """The line of ours, and one line for each rival."""
    target = _targets(case, outcome, dry)
    if outcome is None:
        return [_line(case.title, "ours", failure or UNKNOWN, *["-"] * 6, target)]
    rate = fraction = "-"
    if outcome.rate is not None:
        rate = "dry run" if dry else scaled(outcome.rate, outcome.unit)
        share = "dry run" if dry else "?" if outcome.fraction is None else f"{outcome.fraction:.0%}"
        fraction = f"{share} of {outcome.limit}"
    lines = [_line(case.title, "ours", *_times(outcome.ours, dry), rate, fraction, "", target)]
    for rival in outcome.rivals:
        ratio = outcome.ratio(rival)
        faster = "-" if ratio is None else "dry run" if dry else f"{ratio:.1f}×"
        lines.append(_line("", rival.name, *_times(rival, dry), "", "", faster, ""))
    return lines


def _kernels(
    selected: Sequence[Case], kernels: Mapping[str, Sequence[tuple[str, int, float]]]
) -> list[str]:
    """The kernels of each case that take at least a hundredth of its time."""
    lines = [
        "Where ours spends it, of one run under torch's profiler:",
        "",
        "| case | kernel | launches | time | share |",
        "|---|---|---|---|---|",
    ]
    for case in selected:
        launches = kernels.get(case.key, ())
        total = sum(seconds for _, _, seconds in launches)
        large = [kernel for kernel in launches if kernel[2] >= 0.01 * total]
        lines += [
            _line(case.title, name[:60], str(count), duration(seconds), f"{seconds / total:.0%}")
            for name, count, seconds in large
        ] or [_line(case.title, "not profiled" if case.key in kernels else UNKNOWN, "-", "-", "-")]
    return lines


def _counters(selected: Sequence[Case], counters: Mapping[str, Sequence[Counters]]) -> list[str]:
    names = tuple(SHARES)
    lines = [
        "What holds a kernel up, by Nsight Compute: shares of the peak; and of the cycles from one "
        "instruction of a warp to its next, what it waits for.",
        "",
        _line("case", "kernel", "time", *names, "waits for"),
        _line(*["---"] * (4 + len(names))),
    ]
    for case in selected:
        if case.key not in {watch.key for watch in WATCHES}:
            continue
        lines += [
            _line(
                case.title,
                launch.kernel,
                duration(launch.seconds),
                *(
                    f"{launch.shares[name]:.0f} %" if name in launch.shares else "-"
                    for name in names
                ),
                ", ".join(f"{stall} {cycles:.1f}" for stall, cycles in launch.stalls),
            )
            for launch in counters.get(case.key, ())
        ] or [_line(case.title, UNKNOWN, *["-"] * (2 + len(names)))]
    return lines


def report(
    machine: Machine,
    done: Sequence[Done],
    limits: Mapping[str, float],
    outcomes: Mapping[str, Outcome],
    *,
    dry: bool,
    selected: Sequence[Case] = CASES,
    kernels: Mapping[str, Sequence[tuple[str, int, float]]] | None = None,
    counters: Mapping[str, Sequence[Counters]] | None = None,
) -> str:
    failures = {step.name: f"{step.status}: {step.note}" for step in done if step.status != "ok"}
    lines = head(machine, dry)
    lines += ["| step | result | seconds | last line |", "|---|---|---|---|"]
    lines += [
        _line(step.name, step.status, "dry run" if dry else f"{step.seconds:.1f}", step.note)
        for step in done
    ]
    lines += ["", "| limit | measured |", "|---|---|"]
    for name, rate in limits.items():
        unit = "B/s, read and written" if name == "copy" else "OP/s"
        lines.append(_line(name, "dry run" if dry else scaled(rate, unit)))
    lines += ["", _LEGEND, "", *HEADER]
    for case in selected:
        # If a process dies, another continues with the cases that are left: the last failure counts.
        failure = next((note for name, note in [*failures.items()][::-1] if case.name in name), "")
        lines += rows(case, outcomes.get(case.key), failure, dry)
    lines += ["", *_kernels(selected, kernels or {}), "", *_counters(selected, counters or {})]
    return "\n".join(lines) + "\n"
