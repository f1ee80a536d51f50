"""Compiles the CUDA kernels as for the wheel, with warnings as errors, and lists their resources.

python benchmarks/cuda_kernels.py [folder]      prints registers, shared memory and instructions
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from sbc_kernels.backends.triton.aot import MATRIX_INSTRUCTION, Report, cuobjdump

ROOT = Path(__file__).parents[1]
# sm_90a adds the warpgroup products, which exist on Hopper only.
ARCHITECTURES = ("sm_80", "sm_90", "sm_90a", "sm_100")
KERNELS = ("multiply_units", *(f"panel<{groups}>" for groups in (1, 2, 3, 4)))
MULTIPLY = ("multiply_units",)  # must have matrix instructions
# The lines of `cuobjdump -res-usage` that name an architecture or describe a function.
_USAGE = re.compile(
    r"^arch = (?P<arch>\w+)|"
    r"Function (?P<name>\w+):\s+REG:(?P<registers>\d+) STACK:(?P<stack>\d+) SHARED:(?P<shared>\d+) "
    r"LOCAL:(?P<local>\d+)",
    re.MULTILINE,
)
# The lines of `cuobjdump -sass` that begin an architecture or a function.
_CODE = re.compile(r"^arch = (?P<arch>\w+)|^\s*Function : (?P<name>\w+)$", re.MULTILINE)


def build(folder: Path) -> list[Path]:
    """The object files with GPU code. Raises `subprocess.CalledProcessError` if the build fails."""
    options = ("-DCMAKE_BUILD_TYPE=Release", "-DSBC_CUDA=ON", "-DSBC_WERROR=ON", "-DSBC_PYTHON=OFF")
    for command in (
        ["cmake", "-S", str(ROOT), "-B", str(folder), "-G", "Ninja", *options],
        ["cmake", "--build", str(folder), "--target", "sbc_cuda"],
    ):
        subprocess.run(command, check=True, stdout=sys.stderr)
    return sorted(folder.glob("CMakeFiles/sbc_*.dir/**/*.cu.o"))


def reports(objects: list[Path]) -> list[Report]:
    """One report per kernel and architecture, in the order of `KERNELS` and `ARCHITECTURES`."""
    every = [report for path in objects for report in _reports_of(path)]
    return sorted(every, key=lambda r: (KERNELS.index(r.name), ARCHITECTURES.index(r.architecture)))


def _reports_of(path: Path) -> list[Report]:
    instructions = _instructions(cuobjdump("-sass", path))
    of_file = []
    architecture = ""
    for match in _USAGE.finditer(cuobjdump("-res-usage", path)):
        if match["arch"]:
            architecture = match["arch"]
            continue
        registers, shared, stack, local = (
            int(match[group]) for group in ("registers", "shared", "stack", "local")
        )
        tensor = instructions[architecture, match["name"]]
        of_file.append(
            Report(_plain(match["name"]), architecture, registers, stack + local, shared, tensor)
        )
    return of_file


def _instructions(code: str) -> dict[tuple[str, str], tuple[str, ...]]:
    """The matrix instructions of each architecture and function."""
    instructions = {}
    architecture = ""
    heads = list(_CODE.finditer(code))
    for head, following in zip(heads, [*heads[1:], None], strict=True):
        if head["arch"]:
            architecture = head["arch"]
            continue
        body = code[head.end() : following.start() if following else None]
        names = tuple(sorted(set(MATRIX_INSTRUCTION.findall(body))))
        instructions[architecture, head["name"]] = names
    return instructions


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
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "build" / "cuda"
    sys.stdout.write(table(reports(build(folder))))
