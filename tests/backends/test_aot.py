"""Every Triton kernel, compiled for GPUs that need not be there: no spills, and what the table says."""

from __future__ import annotations

import re
import sys
from collections import defaultdict
from pathlib import Path

import pytest

if sys.platform != "linux":
    pytest.skip("Triton is for Linux", allow_module_level=True)

from sbc_kernels.backends.triton import aot, machine_code
from sbc_kernels.backends.triton.device import SHARED_BYTES, Build, interpreted

TABLE = Path(__file__).parents[2] / "benchmarks" / "results" / "ahead-of-time.md"

pytestmark = [
    pytest.mark.skipif(
        interpreted(), reason="TRITON_INTERPRET is set: there is nothing to compile"
    ),
]


def builds_by_kernel() -> dict[tuple[str, str], list[Build]]:
    """Returns the builds by architecture and kernel: tests of 0.1 to 5 s that two processors share."""
    groups = defaultdict(list)
    for architecture in aot.ARCHITECTURES:
        for build in aot.builds(architecture):
            groups[architecture, build.name.partition(" ")[0]].append(build)
    return groups


KERNELS = builds_by_kernel()


def rows(architecture: str, kernel: str) -> set[str]:
    """Returns the rows on record."""
    return {
        line
        for line in TABLE.read_text().splitlines()
        if line.startswith(f"| {kernel} ") and f" | {architecture} | " in line
    }


@pytest.mark.parametrize(("architecture", "kernel"), KERNELS)
def test_as_in_the_table(architecture: str, kernel: str) -> None:
    """Registers, spills, shared memory and matrix instructions of every build are those on record."""
    lines = set()
    for build in KERNELS[architecture, kernel]:
        report = aot.compile_build(build, architecture)
        assert not report.faults(build.tensor_cores)
        lines.add(report.row())
    assert lines == rows(architecture, kernel), (
        "python -m sbc_kernels.backends.triton.aot > TABLE, and look at what changed"
    )


def test_the_table_has_no_other_kernels() -> None:
    pairs = re.findall(r"^\| (\w+/\w+).*? \| (sm_\w+) \|", TABLE.read_text(), re.MULTILINE)
    assert {(architecture, kernel) for kernel, architecture in pairs} == set(KERNELS)


@pytest.mark.parametrize("architecture", aot.ARCHITECTURES)
def test_every_op_is_compiled(architecture: str) -> None:
    ops = {kernel.partition("/")[0] for of, kernel in KERNELS if of == architecture}
    assert {"spike_gram", "obs_order", "obs_solve", "obs_quantize"} <= ops


def test_faults_are_found() -> None:
    sound = aot.Report("op/kernel", "sm_90", 128, 0, 1024, ("IGMMA",))
    assert not sound.faults(tensor_cores=True)
    spilled = aot.Report("op/kernel", "sm_90", 255, 16, SHARED_BYTES["sm_90"] + 1, ())
    assert spilled.faults(tensor_cores=True) == [
        "op/kernel on sm_90 spills 16 bytes a thread",
        f"op/kernel on sm_90 needs {SHARED_BYTES['sm_90'] + 1} bytes of shared memory",
        "op/kernel on sm_90 has no matrix instruction",
    ]


def test_a_binary_is_disassembled_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A kept result is used for the same binary and the same disassembler only."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    texts = {
        "-res-usage": "arch = sm_80\n Function f:\n  REG:9 STACK:8 SHARED:64 LOCAL:4 CONSTANT[0]:600",
        "-sass": "arch = sm_80\n\tFunction : f\n  IMMA.16832.S8.S8 R4\n  HMMA.1688 R8\n  IMMA R4",
    }
    flags = []

    def tool(flag: str, path: Path) -> str:
        flags.append(flag)
        return texts[flag]

    def read(
        binary: bytes, version: bytes, disassemble: bool = True
    ) -> list[machine_code.Function]:
        flags.clear()
        monkeypatch.setattr(machine_code, "_version", lambda: version)
        return machine_code.functions(binary, disassemble)

    monkeypatch.setattr(machine_code, "cuobjdump", tool)
    function = machine_code.Function("f", "sm_80", 9, 12, 64, ("HMMA", "IMMA"))
    for binary, version in ((b"one", b"12"), (b"two", b"12"), (b"one", b"13")):
        assert read(binary, version) == [function]
        assert flags == ["-res-usage", "-sass"]
        assert read(binary, version) == [function]
        assert flags == []
    assert read(b"one", b"12", disassemble=False) == [function._replace(tensor=())]
    assert flags == ["-res-usage"]
