"""Measures cases.

    python -m gpu.measure KEY FILE [KEY FILE ...]

Ours and the rivals take turns, so that they run on the card in the same state. A rival that fails,
for lack of memory for example, is dropped and leaves a note.
"""

from __future__ import annotations

import json
import logging
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .contests import CONTESTS, Contest
from .device import Clock, Device

WARM_UP = 2
BUDGET = 5.0  # seconds after which no further round starts, provided that there are three


@dataclass
class Entry:
    """A contender while it is measured. `run` is None for a rival that failed."""

    name: str
    run: Callable[[], Any] | None
    scale: float = 1.0
    seconds: list[float] = field(default_factory=list)
    peak: int = 0
    note: str = ""

    def data(self) -> dict[str, Any]:
        return {"name": self.name, "seconds": self.seconds, "peak": self.peak, "note": self.note}

    def take(self, clock: Clock) -> None:
        assert self.run is not None
        sample = clock.measure(self.run)
        self.seconds.append(sample.seconds * self.scale)
        self.peak = max(self.peak, sample.peak)


def entries_of(contest: Contest, warm_up: int) -> list[Entry]:
    """All contenders, warmed up."""
    for _ in range(1 if contest.warm else warm_up):
        (contest.warm or contest.ours)()
    entries = [Entry("ours", contest.ours)]
    for rival in contest.rivals:
        entry = Entry(rival.name, None, rival.scale)
        entries.append(entry)
        try:
            run = rival.prepare()
            for _ in range(warm_up):
                run()
            entry.run = run
        except Exception as error:
            entry.note = f"{type(error).__name__}: {error}".splitlines()[0][:150]
    return entries


def measure(contest: Contest, device: Device) -> dict[str, Any]:
    clock = device.clock()
    entries = entries_of(contest, device.size(WARM_UP, 1))
    rounds = device.size(contest.rounds, 1)
    start = time.monotonic()
    for done in range(rounds):
        if done >= 3 and time.monotonic() - start > BUDGET:
            break
        for entry in entries:
            if entry.run is not None:
                entry.take(clock)
    return {
        "work": contest.work,
        "unit": contest.unit,
        "limit": contest.limit,
        "contenders": [entry.data() for entry in entries],
    }


def measure_to(file: Path, key: str, device: Device) -> str:
    """Measures a case, writes its results to `file`, and returns a summary in words."""
    contest = CONTESTS[key](device)
    results = measure(contest, device)
    file.write_text(json.dumps(results))  # kept even if profiling fails
    if contest.rounds > 1:  # otherwise there is no time for a profile
        results["kernels"] = device.kernels(contest.ours)
        file.write_text(json.dumps(results))
    failed = [c["name"] for c in results["contenders"] if not c["seconds"]]
    rounds = len(results["contenders"][0]["seconds"])
    return f"{rounds} rounds" + (f", failed: {', '.join(failed)}" if failed else "")


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(relativeCreated)d ms: %(message)s")
    device, summaries, failures = Device.here(), [], []
    for key, file in zip(sys.argv[1::2], sys.argv[2::2], strict=True):
        try:
            summaries.append(f"{key}: {measure_to(Path(file), key, device)}")
        except Exception as error:  # a failing case must not stop the others
            traceback.print_exc()
            failures.append(f"{key}: {type(error).__name__}: {error}".splitlines()[0])
    if failures:
        raise SystemExit("; ".join(failures))
    print("; ".join(summaries))


if __name__ == "__main__":
    main()
