"""Measures what limits each kernel, with Nsight Compute's counters.

python -m gpu.profile watch KEY CSV FILE      runs ncu on a case; writes ncu's table, and JSON
python -m gpu.profile run KEY                 runs the case's work twice, for ncu to watch
"""

from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

NCU = "ncu"
_SECTIONS = (
    "SpeedOfLight",
    "ComputeWorkloadAnalysis",
    "MemoryWorkloadAnalysis",
    "Occupancy",
    "WarpStateStats",
)
# Columns of the table with the counters for each, as percent of the peak. The first existing
# counter is used.
SHARES = {
    "SM": ("sm__throughput.avg.pct_of_peak_sustained_elapsed",),
    "matrix units": ("sm__pipe_tensor_cycles_active.avg.pct_of_peak_sustained_active",),
    "memory": (
        "dram__throughput.avg.pct_of_peak_sustained_elapsed",
        "gpu__dram_throughput.avg.pct_of_peak_sustained_elapsed",
    ),
    "L2": ("lts__throughput.avg.pct_of_peak_sustained_elapsed",),
    "L1 and shared": ("l1tex__throughput.avg.pct_of_peak_sustained_active",),
    "warps": ("sm__warps_active.avg.pct_of_peak_sustained_active",),
}
_STALL = re.compile(r"issue_stalled_(\w+?)_per_issue_active\.ratio$")
_NAME = re.compile(
    r"(?:.*::)?(?:void )?(\w+)(?:<.*>)?(?:\(.*\))?$"
)  # the bare name of a kernel, without namespace, template arguments and parameters
_TIME = "gpu__time_duration.sum"
_SECONDS = {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1.0}
for _long, _short in (("nsecond", "ns"), ("usecond", "us"), ("msecond", "ms"), ("second", "s")):
    _SECONDS[_long] = _SECONDS[_short]


@dataclass(frozen=True)
class Watch:
    """The launches of a case to watch: `count` launches of these kernels, after the first `skip`."""

    key: str
    kernels: tuple[str, ...]
    skip: int
    count: int


# The launches of a sweep differ, so the watched ones are from its middle. The kernels alternate,
# and `skip` is a multiple of their number.
WATCHES = (
    Watch("order-large", ("panel", "factor", "update"), 45, 3),
    Watch("gram-large", ("filter_rows", "multiply_rows", "multiply_units", "add_partials"), 3, 3),
    Watch("quantize-large", ("_sweep", "_add_product"), 8, 2),
    Watch("solve-50", ("_update", "_factor", "_below"), 9, 3),
    Watch("gram-conv", ("filter_rows", "multiply_rows", "multiply_units", "add_partials"), 3, 3),
    Watch("gram-floats", ("filter_rows", "multiply_rows", "add_partials"), 3, 3),
)


@dataclass(frozen=True)
class Counters:
    """Counters of one launch.

    Attributes
    ----------
    shares : percent of the peak, by column of the table.
    stalls : reasons for which a warp waits, the longest first, each with the cycles that it takes
        between two instructions of a warp.
    """

    kernel: str
    seconds: float
    shares: dict[str, float]
    stalls: tuple[tuple[str, float], ...]


def command(watch: Watch) -> list[str]:
    """The command that runs ncu on a case. It leaves the clocks of the card as they are."""
    names = "|".join(watch.kernels)
    sections = [word for section in _SECTIONS for word in ("--section", section)]
    return [
        *(NCU, "--clock-control", "none", "--csv", "--page", "raw", *sections),
        *("-k", f"regex:^({names})$", "-s", str(watch.skip), "-c", str(watch.count)),
        *(sys.executable, "-m", "gpu.profile", "run", watch.key),
    ]


def read(text: str) -> list[Counters]:
    """Parses the output of ncu, which is a table among other lines."""
    lines = text.splitlines()
    start = next((k for k, line in enumerate(lines) if line.startswith('"ID"')), None)
    if start is None:
        raise ValueError("ncu printed no table")
    header, units, *rows = csv.reader(line for line in lines[start:] if line.startswith('"'))
    unit_of = dict(zip(header, units, strict=True))
    launches = []
    for row in rows:
        cells = dict(zip(header, row, strict=True))
        shares = {}
        for name, counters in SHARES.items():
            counter = next((c for c in counters if cells.get(c)), None)
            if counter is not None:
                shares[name] = _number(cells[counter])
        stalls = [
            (match[1], _number(cell))
            for name, cell in cells.items()
            if (match := _STALL.search(name)) and cell and match[1] != "selected"
        ]
        stalls.sort(key=lambda stall: -stall[1])
        seconds = _number(cells[_TIME]) * _SECONDS[unit_of[_TIME]]
        name = _NAME.match(cells["Kernel Name"])
        kernel = name[1] if name else cells["Kernel Name"]
        launches.append(Counters(kernel, seconds, shares, tuple(stalls[:3])))
    return launches


def _number(cell: str) -> float:
    return float(cell.replace(",", ""))


def run(key: str) -> None:
    from .contests import CONTESTS  # imports torch, which the report does not need
    from .device import Device

    ours = CONTESTS[key](Device.here()).ours
    for _ in range(2):
        ours()


def main() -> None:
    what, key, *files = sys.argv[1:]
    if what == "run":
        return run(key)
    watched = next(watch for watch in WATCHES if watch.key == key)
    done = subprocess.run(command(watched), stdout=subprocess.PIPE, text=True, check=False)
    table, counters_file = map(Path, files)
    table.write_text(done.stdout, encoding="utf-8")
    if done.returncode != 0:
        raise SystemExit(f"ncu ended with {done.returncode}: {done.stdout[-500:]}")
    launches = read(done.stdout)
    counters_file.write_text(json.dumps([asdict(counters) for counters in launches]))
    print(f"{len(launches)} kernels")
    return None


if __name__ == "__main__":
    main()
