"""Compiles the CUDA kernels as the wheel does, warnings as errors, and reads what came of them.

python benchmarks/cuda_kernels.py [folder]      the table of registers, shared memory and instructions
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from sbc_kernels.backends.triton.aot import MATRIX_INSTRUCTION, Report, cuobjdump

ROOT = Path(__file__).parents[1]
# sm_90a has the warpgroup products, which are Hopper's alone.
ARCHITECTURES = ("sm_80", "sm_90", "sm_90a", "sm_100")
KERNELS = ("multiply_units", *(f"panel<{groups}>" for groups in (1, 2, 3, 4)))
MULTIPLY = ("multiply_units",)  # must have matrix instructions
# How `cuobjdump -res-usage` tells of an architecture and a function.
_USAGE = re.compile(
    r"^arch = (?P<arch>\w+)|"
    r"Function (?P<name>\w+):\s+REG:(?P<registers>\d+) STACK:(?P<stack>\d+) SHARED:(?P<shared>\d+) "
    r"LOCAL:(?P<local>\d+)",
    re.MULTILINE,
)
# How `cuobjdump -sass` begins an architecture and a function.
_CODE = re.compile(r"^arch = (?P<arch>\w+)|^\s*Function : (?P<name>\w+)$", re.MULTILINE)


def build(folder: Path) -> list[Path]:
    """The objects with code for GPUs. Raises `subprocess.CalledProcessError` where the build fails."""
    options = ("-DCMAKE_BUILD_TYPE=Release", "-DSBC_CUDA=ON", "-DSBC_WERROR=ON", "-DSBC_PYTHON=OFF")
    for command in (
        ["cmake", "-S", str(ROOT), "-B", str(folder), "-G", "Ninja", *options],
        ["cmake", "--build", str(folder), "--target", "sbc_cuda"],
    ):
        subprocess.run(command, check=True, stdout=sys.stderr)
    return sorted(folder.glob("CMakeFiles/sbc_*.dir/**/*.cu.o"))


def reports(objects: list[Path]) -> list[Report]:
    """What each kernel came to, in the order of `KERNELS` and `ARCHITECTURES`."""
    found = [report for path in objects for report in _reports_of(path)]
    return sorted(found, key=lambda r: (KERNELS.index(r.name), ARCHITECTURES.index(r.architecture)))


def _reports_of(path: Path) -> list[Report]:
    instructions = _instructions(cuobjdump("-sass", path))
    found = []
    architecture = ""
    for match in _USAGE.finditer(cuobjdump("-res-usage", path)):
        if match["arch"]:
            architecture = match["arch"]
            continue
        registers, shared, stack, local = (
            int(match[what]) for what in ("registers", "shared", "stack", "local")
        )
        tensor = instructions[architecture, match["name"]]
        found.append(
            Report(_plain(match["name"]), architecture, registers, stack + local, shared, tensor)
        )
    return found


def _instructions(code: str) -> dict[tuple[str, str], tuple[str, ...]]:
    """The matrix instructions by architecture and function."""
    found = {}
    architecture = ""
    heads = list(_CODE.finditer(code))
    for head, following in zip(heads, [*heads[1:], None], strict=True):
        if head["arch"]:
            architecture = head["arch"]
            continue
        body = code[head.end() : following.start() if following else None]
        found[architecture, head["name"]] = tuple(sorted(set(MATRIX_INSTRUCTION.findall(body))))
    return found


def _plain(mangled: str) -> str:
    """ "panel<3>" of a function in a namespace without a name."""
    named = subprocess.run(["c++filt", mangled], capture_output=True, text=True, check=True).stdout
    match = re.search(r"(\w+(?:<\d+>)?)\(", named.replace("(anonymous namespace)", ""))
    if match is None:
        raise RuntimeError(f"c++filt makes {named!r} of {mangled}")
    return match[1]


def table(found: list[Report]) -> str:
    """As Markdown. Raises RuntimeError naming the faults."""
    faults = [fault for report in found for fault in report.faults(report.name in MULTIPLY)]
    if faults:
        raise RuntimeError("; ".join(faults))
    lines = [
        "| kernel | architecture | registers | spilled | shared bytes | matrix instructions |",
        "|---|---|---|---|---|---|",
        *(report.row() for report in found),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    where = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "build" / "cuda"
    sys.stdout.write(table(reports(build(where))))
