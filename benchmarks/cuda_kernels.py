"""Compiles the CUDA kernels as for the wheel, with warnings as errors, and lists their resources.

python benchmarks/cuda_kernels.py       prints registers, shared memory and instructions
"""

from __future__ import annotations

import fcntl
import os
import re
import subprocess
import sys
from pathlib import Path

from sbc_kernels.backends.triton.aot import Report
from sbc_kernels.backends.triton.machine_code import functions

ROOT = Path(__file__).parents[1]
# sm_90a adds the warpgroup products, which exist on Hopper only.
ARCHITECTURES = ("sm_80", "sm_90", "sm_90a", "sm_100")
KERNELS = ("multiply_units", *(f"panel<{groups}>" for groups in (1, 2, 3, 4)))
MULTIPLY = ("multiply_units",)  # must have matrix instructions


def compiler() -> str:
    """Returns the name and version of the compiler, such as "nvcc 13.0.88"."""
    nvcc = os.environ.get("CUDACXX", "nvcc")
    text = subprocess.run([nvcc, "--version"], capture_output=True, text=True, check=True).stdout
    (version,) = re.findall(r"release [0-9.]+, V([0-9.]+)", text)
    return f"nvcc {version}"


def build() -> list[Path]:
    """Returns the object files with GPU code. Raises `subprocess.CalledProcessError` if that fails.

    They stay in build/, in a folder of this version of nvcc, so that Ninja compiles only what has
    changed since the last call. Processes that build at the same time wait for one another.
    """
    folder = ROOT / "build" / "cuda" / compiler().replace(" ", "-")
    folder.mkdir(parents=True, exist_ok=True)
    options = ("-DCMAKE_BUILD_TYPE=Release", "-DSBC_CUDA=ON", "-DSBC_WERROR=ON", "-DSBC_PYTHON=OFF")
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for command in (
            ["cmake", "-S", str(ROOT), "-B", str(folder), "-G", "Ninja", *options],
            ["cmake", "--build", str(folder), "--target", "sbc_cuda"],
            ["ninja", "-C", str(folder), "-t", "cleandead"],  # objects of files that were renamed
        ):
            subprocess.run(command, check=True, stdout=sys.stderr)
        return sorted(folder.glob("CMakeFiles/sbc_*.dir/**/*.cu.o"))


def reports(objects: list[Path]) -> list[Report]:
    """Returns one report a kernel and architecture, in the order of `KERNELS` and `ARCHITECTURES`."""
    every = [
        Report(
            _plain(function.name),
            function.architecture,
            function.registers,
            function.spilled,
            function.shared,
            function.tensor,
        )
        for path in objects
        for function in functions(path.read_bytes())
    ]
    return sorted(every, key=lambda r: (KERNELS.index(r.name), ARCHITECTURES.index(r.architecture)))


def _plain(mangled: str) -> str:
    """The bare name of a function in an anonymous namespace, such as "panel<3>"."""
    name = subprocess.run(["c++filt", mangled], capture_output=True, text=True, check=True).stdout
    match = re.search(r"(\w+(?:<\d+>)?)\(", name.replace("(anonymous namespace)", ""))
    if match is None:
        raise RuntimeError(f"c++filt turns {mangled} into {name!r}")
    return match[1]


def table(kernels: list[Report]) -> str:
    """The table as Markdown. Raises RuntimeError if a kernel has a fault, naming the faults."""
    faults = [fault for report in kernels for fault in report.faults(report.name in MULTIPLY)]
    if faults:
        raise RuntimeError("; ".join(faults))
    lines = [
        "| kernel | architecture | registers | spilled | shared bytes | matrix instructions |",
        "|---|---|---|---|---|---|",
        *(report.row() for report in kernels),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(table(reports(build())))
