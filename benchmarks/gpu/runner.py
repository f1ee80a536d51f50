"""Runs commands, each in a process of its own and with a time limit."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock

FAILED = ("failed", "too slow", "no time left")
_TAIL = 25  # lines shown of the output of a failed step


@dataclass(frozen=True)
class Done:
    """How a step ended: "ok", "skipped", or one of `FAILED`. `note` is the last line it printed."""

    name: str
    status: str
    seconds: float = 0.0
    note: str = ""


@dataclass(frozen=True)
class Step:
    """A command.

    `limit`: seconds. `note`: shown instead of the last line of output if the step succeeds.
    """

    name: str
    command: Sequence[str]
    limit: float
    note: str = ""


@dataclass
class Runner:
    """Runs steps until the deadline.

    Attributes
    ----------
    log : file that the output of all steps is appended to.
    deadline : a time of ``time.monotonic()``; no step starts or runs after it.
    only : parts of names; only steps with one of them in their name run. Empty runs everything.
    report : called after each step.
    done : how each step ended.
    """

    log: Path
    environment: Mapping[str, str]
    deadline: float
    only: Sequence[str] = ()
    report: Callable[[], None] = lambda: None
    done: list[Done] = field(default_factory=list)
    _writing: Lock = field(default_factory=Lock)
    _running: set[subprocess.Popen[str]] = field(default_factory=set)

    def wanted(self, name: str) -> bool:
        return not self.only or any(part in name for part in self.only)

    def run(self, name: str, command: Sequence[str], limit: float, note: str = "") -> Done | None:
        """Runs one step. Returns how it ended, or None if it is not selected."""
        done = self.run_together([Step(name, command, limit, note)])
        return done[0] if done else None

    def run_together(self, steps: Sequence[Step]) -> list[Done]:
        """Runs the selected steps at the same time. For steps that time nothing."""
        wanted = [step for step in steps if self.wanted(step.name)]
        if not wanted:
            return []
        with ThreadPoolExecutor(len(wanted)) as pool:
            futures = [pool.submit(self._try, step) for step in wanted]
            try:
                return [self._end(*future.result()) for future in futures]
            except BaseException:  # an interrupt reaches only this thread of this process
                for process in [*self._running]:
                    _stop(process)
                raise

    def _try(self, step: Step) -> tuple[Done, str]:
        """Runs one step, without reporting it. Returns how it ended, and its output."""
        name, limit = step.name, min(step.limit, self.deadline - time.monotonic())
        if limit < 1:
            return Done(name, "no time left"), ""
        print(f"{name} ...", flush=True)
        start = time.monotonic()
        code, output = self._run(step.command, limit)
        seconds = time.monotonic() - start
        with self._writing, self.log.open("a", encoding="utf-8") as file:
            file.write(f"\n==== {name}\n$ {shlex.join(step.command)}\n{output}")
        if code is None:
            return Done(name, "too slow", seconds, f"stopped after {limit:.0f} s"), output
        if code == 0:
            return Done(name, "ok", seconds, step.note or _last_line(output)), output
        return Done(name, "failed", seconds, _last_line(output)), output

    def _run(self, command: Sequence[str], limit: float) -> tuple[int | None, str]:
        """Returns the exit status, or None if the command was stopped, and its output."""
        try:
            process = subprocess.Popen(
                command,
                env=dict(self.environment),
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                start_new_session=True,
            )
        except OSError as error:
            return 127, f"{error}\n"
        self._running.add(process)
        try:
            output, _ = process.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            _stop(process)
            output, _ = process.communicate()
            return None, output
        finally:
            self._running.discard(process)
        return process.returncode, output

    def skip(self, name: str, why: str) -> None:
        if self.wanted(name):
            self._end(Done(name, "skipped", note=why))

    def _end(self, done: Done, output: str = "") -> Done:
        self.done.append(done)
        if done.status in FAILED:
            print("\n".join(output.splitlines()[-_TAIL:]))
        print(f"{done.name}: {done.status}, {done.seconds:.1f} s. {done.note}", flush=True)
        self.report()
        return done


def _stop(process: subprocess.Popen[str]) -> None:
    """Kills a process with its children."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def _last_line(output: str) -> str:
    lines = [line.strip(" =") for line in output.splitlines() if line.strip(" =")]
    return lines[-1][:200] if lines else ""
