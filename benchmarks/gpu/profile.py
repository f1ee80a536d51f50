"""What holds each kernel up, by Nsight Compute's counters.

python -m gpu.profile watch KEY CSV FILE      ncu's table, and what is taken from it as JSON
python -m gpu.profile run KEY                 the case's work, twice: what ncu watches
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
# A share of the peak in percent, by what the table calls it: the first counter that there is.
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
)  # without what C++ says around it
_TIME = "gpu__time_duration.sum"
_SECONDS = {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1.0}
for _long, _short in (("nsecond", "ns"), ("usecond", "us"), ("msecond", "ms"), ("second", "s")):
    _SECONDS[_long] = _SECONDS[_short]


@dataclass(frozen=True)
class Watch:
    """Of a case, which launches are watched: `count` of these kernels after the first `skip`."""

    key: str
    kernels: tuple[str, ...]
    skip: int
    count: int


# Launches of a sweep differ, so those are taken from its middle. Kernels take turns, and `skip` is a
# multiple of their number.
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
    """Of one launch. `shares`: percent of the peak. `stalls`: what a warp waits for, by the cycles
    that pass from one of its instructions to the next, most first."""

    kernel: str
    seconds: float
    shares: dict[str, float]
    stalls: tuple[tuple[str, float], ...]


def command(watch: Watch) -> list[str]:
    """Clocks are left as they are."""
    names = "|".join(watch.kernels)
    sections = [word for section in _SECTIONS for word in ("--section", section)]
    return [
        *(NCU, "--clock-control", "none", "--csv", "--page", "raw", *sections),
        *("-k", f"regex:^({names})$", "-s", str(watch.skip), "-c", str(watch.count)),
        *(sys.executable, "-m", "gpu.profile", "run", watch.key),
    ]


def read(text: str) -> list[Counters]:
    """Of what ncu printed, which is its table among other lines."""
    lines = text.splitlines()
    start = next((k for k, line in enumerate(lines) if line.startswith('"ID"')), None)
    if start is None:
        raise ValueError("ncu printed no table")
    header, units, *rows = csv.reader(line for line in lines[start:] if line.startswith('"'))
    unit_of = dict(zip(header, units, strict=True))
    found = []
    for row in rows:
        cells = dict(zip(header, row, strict=True))
        shares = {}
        for name, counters in SHARES.items():
            known = next((c for c in counters if cells.get(c)), None)
            if known is not None:
                shares[name] = _number(cells[known])
        stalls = [
            (match[1], _number(cell))
            for name, cell in cells.items()
            if (match := _STALL.search(name)) and cell and match[1] != "selected"
        ]
        stalls.sort(key=lambda stall: -stall[1])
        seconds = _number(cells[_TIME]) * _SECONDS[unit_of[_TIME]]
        name = _NAME.match(cells["Kernel Name"])
        kernel = name[1] if name else cells["Kernel Name"]
        found.append(Counters(kernel, seconds, shares, tuple(stalls[:3])))
    return found


def _number(cell: str) -> float:
    return float(cell.replace(",", ""))


def run(key: str) -> None:
    from .contests import CONTESTS  # what imports torch: the report needs none
    from .place import Place

    ours = CONTESTS[key](Place.here()).ours
    for _ in range(2):
        ours()


def main() -> None:
    what, key, *files = sys.argv[1:]
    if what == "run":
        return run(key)
    watched = next(watch for watch in WATCHES if watch.key == key)
    done = subprocess.run(command(watched), stdout=subprocess.PIPE, text=True, check=False)
    table, answer = map(Path, files)
    table.write_text(done.stdout, encoding="utf-8")
    if done.returncode != 0:
        raise SystemExit(f"ncu ended with {done.returncode}: {done.stdout[-500:]}")
    found = read(done.stdout)
    answer.write_text(json.dumps([asdict(counters) for counters in found]))
    print(f"{len(found)} kernels")
    return None


if __name__ == "__main__":
    main()
