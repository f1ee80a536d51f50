"""Measures cases.

    python -m gpu.measure KEY FILE [KEY FILE ...]

Ours and the rivals take turns, so that they see the same card. A rival that fails, for want of memory
say, leaves a note and goes.
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
from .place import Clock, Place

WARM_UP = 2
BUDGET = 5.0  # seconds of rounds, unless there were fewer than three


@dataclass
class Entry:
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
    """Everyone, warmed up."""
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


def measure(contest: Contest, place: Place) -> dict[str, Any]:
    clock = place.clock()
    entries = entries_of(contest, place.size(WARM_UP, 1))
    rounds = place.size(contest.rounds, 1)
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


def measure_to(file: Path, key: str, place: Place) -> str:
    """In words how it went."""
    contest = CONTESTS[key](place)
    found = measure(contest, place)
    file.write_text(json.dumps(found))  # whatever happens to the rest
    if contest.rounds > 1:  # else there is no time for it
        found["kernels"] = place.kernels(contest.ours)
        file.write_text(json.dumps(found))
    failed = [c["name"] for c in found["contenders"] if not c["seconds"]]
    rounds = len(found["contenders"][0]["seconds"])
    return f"{rounds} rounds" + (f", failed: {', '.join(failed)}" if failed else "")


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(relativeCreated)d ms: %(message)s")
    place, said, failures = Place.here(), [], []
    for key, file in zip(sys.argv[1::2], sys.argv[2::2], strict=True):
        try:
            said.append(f"{key}: {measure_to(Path(file), key, place)}")
        except Exception as error:  # the others are not its fault
            traceback.print_exc()
            failures.append(f"{key}: {type(error).__name__}: {error}".splitlines()[0])
    if failures:
        raise SystemExit("; ".join(failures))
    print("; ".join(said))


if __name__ == "__main__":
    main()
