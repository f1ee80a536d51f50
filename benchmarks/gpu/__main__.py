"""Runs all steps of the GPU benchmark. See gpu.sh."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

from . import machine as machines
from .cases import CASES, Case, Outcome
from .profile import NCU, WATCHES, Counters, Watch, command
from .report import head, report
from .runner import FAILED, Runner, Step

ROOT = Path(__file__).parents[2]
SECONDS = 570.0  # time limit for all steps together
SANITIZER = "compute-sanitizer"
# The machine has versions of its own, whose warnings should not fail the tests.
PYTEST = ("-m", "pytest", "-q", "-W", "default", "-p", "no:cacheprovider", "tests/gpu", "tests/ops")


class Files:
    """Paths of everything that is written."""

    def __init__(self, dry: bool) -> None:
        out = os.environ.get("OUT")
        self.work = ROOT / "build" / ("gpu-dry-run" if dry else "gpu")
        self.site = self.work / "site"  # the package that is built here
        self.wheels = self.work / "wheels"
        self.logs = Path(out) if out else self.work
        self.tables = Path(out) if out else self.work if dry else ROOT / "benchmarks" / "results"
        for folder in (self.work, self.logs, self.tables):
            folder.mkdir(parents=True, exist_ok=True)
        self.log = self.logs / "gpu.log"
        self.log.write_text("")
        self.limits = self.work / "limits.json"
        self.limits.unlink(missing_ok=True)
        for case in CASES:
            for file in (self.case(case.key), self.counters(case.key)):
                file.unlink(missing_ok=True)

    def case(self, key: str) -> Path:
        return self.work / f"{key}.json"

    def counters(self, key: str) -> Path:
        return self.work / f"{key}.counters.json"


def environment_of(files: Files, dry: bool) -> dict[str, str]:
    """Environment variables of the steps.

    The package built here takes precedence over an installed one.
    """
    environment = dict(os.environ)
    folders = [str(Path(sys.executable).parent), environment["PATH"], "/usr/local/cuda/bin"]
    if dry:
        environment.update(TRITON_INTERPRET="1", OMP_NUM_THREADS="1")
    else:
        environment.pop("TRITON_INTERPRET", None)
        sources = (str(files.site), str(files.wheels), environment["PYTHONPATH"])
        environment["PYTHONPATH"] = os.pathsep.join(sources)
        environment["TRITON_CACHE_DIR"] = str(files.work / "triton")
        folders.insert(0, str(files.wheels / "bin"))
    environment["PATH"] = os.pathsep.join(folders)
    return environment


def pip(*arguments: str) -> list[str]:
    return [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--disable-pip-version-check",
        "--no-index",
        *arguments,
    ]


def build_command(files: Files) -> list[str]:
    return pip("--no-deps", "--no-build-isolation", "--target", str(files.site), ".")


def take_wheels(files: Files) -> None:
    """Installs all wheels in the folder WHEELS, if it is set."""
    folder = os.environ.get("WHEELS")
    if folder:
        wheels = sorted(map(str, Path(folder).glob("*.whl")))
        subprocess.run(pip("--no-deps", "--target", str(files.wheels), *wheels), check=False)
        sys.path.insert(0, str(files.wheels))


def check(files: Files, dry: bool, path: str) -> None:
    """Prints the tools and packages of this machine. Exits with 2 if a required one is missing."""
    needed = machines.NEEDED if dry else (*machines.NEEDED, *machines.TO_BUILD)
    if not dry:
        for folder in (files.site, files.wheels):
            shutil.rmtree(folder, ignore_errors=True)
        take_wheels(files)
    for tool in (*machines.TOOLS, *machines.OPTIONAL):
        print(f"{tool}: {shutil.which(tool, path=path) or 'missing'}")
    for name in (*machines.NEEDED, *machines.TO_BUILD):
        package = name.replace("_", "-")
        print(f"{package}: {machines.version_of(package)}")
    lacking = machines.missing(needed) + ([] if dry else machines.missing_tools(path))
    if lacking:
        print(
            f"missing: {', '.join(lacking)}. Install them for {sys.executable}, or set WHEELS to a "
            "folder that has their wheels.",
            file=sys.stderr,
        )
        raise SystemExit(2)


def walk(runner: Runner, files: Files, dry: bool, devices: int) -> None:
    """Runs the steps, the most important ones first, as the time may run out before the last."""
    python = sys.executable
    build = build_command(files)
    if dry:  # pip checks every option before it prints the help
        print(f"would build with: {shlex.join(build)}")
        runner.run("build", [*build[:-1], "--help"], 60, note="its options are known to pip")
    else:
        runner.run("build", build, 180)
    check_kernels(runner, dry)
    if devices < 2:
        runner.skip("tests for two GPUs", f"{devices} GPUs")
    runner.run("limits", [python, "-m", "gpu.limits", str(files.limits)], 45)
    wanted = [case for case in CASES if runner.wanted(case.name)]
    measure_together(runner, files, [case for case in wanted if not case.is_alone])
    for case in wanted:
        if case.is_alone:
            measure_together(runner, files, [case])
    for watched in WATCHES:
        profile(runner, files, dry, watched)


def check_kernels(runner: Runner, dry: bool) -> None:
    """Checks the kernels' results. Nothing is timed here, so all checks run at the same time."""
    python = sys.executable
    pytest = [python, *PYTEST, *(["--collect-only"] if dry else [])]
    if not dry and find_spec("xdist") is not None:  # most of the time compiles kernels
        pytest += ["-n", str(min(12, os.cpu_count() or 1))]
    watch = [SANITIZER, "--tool", "memcheck", "--error-exitcode", "9", python, "-m", "gpu.smoke"]
    steps = [
        Step("ops against the host", [python, "-m", "gpu.smoke"], 90),
        Step("tests", pytest, 120),
        # With torch's caching allocator, tensors share an allocation and memcheck misses accesses
        # between them.
        Step("sanitizer", ["env", "PYTORCH_NO_CUDA_MEMORY_CACHING=1", *watch], 75),
    ]
    if dry:
        print(f"would watch with: {shlex.join(watch)}")
        runner.skip("sanitizer", "dry run")
        steps.pop()
    elif shutil.which(SANITIZER, path=runner.environment["PATH"]) is None:
        runner.skip("sanitizer", f"there is no {SANITIZER}")
        steps.pop()
    runner.run_together(steps)


def measure_together(runner: Runner, files: Files, cases: list[Case]) -> None:
    """Measures cases in one process, as starting a process takes longer than most cases.

    If the process dies, another one continues with the case after the one that was being measured.
    """
    while cases:
        measured = [word for case in cases for word in (case.key, str(files.case(case.key)))]
        name = ", ".join(case.name for case in cases)
        limit = sum(case.limit for case in cases)
        runner.run(name, [sys.executable, "-m", "gpu.measure", *measured], limit)
        reached = [k for k, case in enumerate(cases) if files.case(case.key).exists()]
        if not reached:
            cases = cases[1:]
            continue
        was_over = "kernels" in json.loads(files.case(cases[reached[-1]].key).read_text())
        cases = cases[reached[-1] + (2 if was_over else 1) :]


def profile(runner: Runner, files: Files, dry: bool, watched: Watch) -> None:
    name = f"profile {watched.key}"
    if dry:
        print(f"would profile with: {shlex.join(command(watched))}")
        runner.skip(name, "dry run")
    elif shutil.which(NCU, path=runner.environment["PATH"]) is None:
        runner.skip(name, f"there is no {NCU}")
    else:
        to = (files.logs / f"{watched.key}.csv", files.counters(watched.key))
        watch = [sys.executable, "-m", "gpu.profile", "watch", watched.key, *map(str, to)]
        runner.run(name, watch, 45)


def main() -> int:
    parser = argparse.ArgumentParser(prog="benchmarks/gpu.sh", description=__doc__)
    parser.add_argument("--dry-run", action="store_true")
    parser.add_argument(
        "--only", default="", help="parts of the names of steps and cases, separated by commas"
    )
    parser.add_argument("--seconds", type=float, default=SECONDS, help="time limit for all steps")
    options = parser.parse_args()
    dry, only = options.dry_run, tuple(filter(None, options.only.split(",")))
    start = time.monotonic()
    deadline = start + options.seconds
    files = Files(dry)
    environment = environment_of(files, dry)
    check(files, dry, environment["PATH"])
    try:
        machine = machines.look(dry, environment)
    except RuntimeError as error:
        print(f"{error}. --dry-run needs none.", file=sys.stderr)
        return 2
    print("\n".join(head(machine, dry)))

    outcomes: dict[str, Outcome] = {}
    device = machine.device.replace("NVIDIA ", "").replace(" ", "-").lower()
    table = files.tables / ("dry-run.md" if dry else f"{machine.date}-{device}-gpu.md")
    runner = Runner(files.log, environment, deadline, only)
    selected = [case for case in CASES if runner.wanted(case.name)]

    def write() -> None:
        """Writes the table.

        Called after every step, so that nothing is lost if this process is stopped.
        """
        limits = json.loads(files.limits.read_text()) if files.limits.exists() else {}
        kernels, counters = {}, {}
        for case in selected:
            if files.case(case.key).exists():
                data = json.loads(files.case(case.key).read_text())
                outcomes[case.key] = Outcome.of(data, limits)
                kernels[case.key] = data.get("kernels", [])
            if files.counters(case.key).exists():
                data = json.loads(files.counters(case.key).read_text())
                counters[case.key] = [Counters(**launch) for launch in data]
        text = report(
            machine,
            runner.done,
            limits,
            outcomes,
            dry=dry,
            selected=selected,
            kernels=kernels,
            counters=counters,
        )
        table.write_text(text, encoding="utf-8")

    runner.report = write
    write()
    walk(runner, files, dry, machine.devices)
    print(table.read_text(encoding="utf-8"))
    print(f"{table}, {files.log}; {time.monotonic() - start:.0f} s")
    return 1 if any(step.status in FAILED for step in runner.done) else 0


if __name__ == "__main__":
    sys.exit(main())
