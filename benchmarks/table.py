"""Prints a pytest-benchmark JSON as a table: time, rate, share of the limit, ratio to the rival."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

HEADER = "| case | ours | rate | of the limit | rival | rival's time | ratio | target |"


def scaled(value: float, unit: str) -> str:
    for factor, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M")):
        if value >= factor:
            return f"{value / factor:.1f} {prefix}{unit}"
    return f"{value:.3g} {unit}"


def seconds(value: float) -> str:
    return f"{value:.2f} s" if value >= 1 else f"{1000 * value:.1f} ms"


def row(benchmark: dict[str, Any]) -> str:
    info = benchmark["extra_info"]
    limit, target = info["limit"], info["target"]
    fraction = f"{info['rate'] / limit:.0%} of {info['limit_name']}" if limit else "-"
    ratio, rival_time = "-", "-"
    if "ratio" in info:
        ratio, rival_time = f"{info['ratio']:.1f}×", seconds(info["rival_seconds"])
    goal = "-" if target is None else f"{target}× {'met' if info['ratio'] >= target else 'MISSED'}"
    case = info["case"] + (f" ({info['note']})" if info["note"] else "")
    cells = (
        case,
        seconds(benchmark["stats"]["median"]),
        scaled(info["rate"], info["unit"]),
        fraction,
        info["rival"],
        rival_time,
        ratio,
        goal,
    )
    return "| " + " | ".join(cells) + " |"


def table(report: dict[str, Any]) -> str:
    machine = report["machine_info"]
    cpu = machine.get("cpu", {})
    lines = [
        f"{cpu.get('brand_raw', machine.get('processor', 'unknown processor'))}, "
        f"{cpu.get('count', '?')} processors, Python {machine['python_version']}, "
        f"{report['datetime'][:10]}, commit {report['commit_info'].get('id', 'unknown')[:10]}",
        "",
        HEADER,
        "|---|---|---|---|---|---|---|---|",
        *(row(benchmark) for benchmark in report["benchmarks"]),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(table(json.loads(Path(sys.argv[1]).read_text())))
