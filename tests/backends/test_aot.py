"""Every Triton kernel, compiled for GPUs that need not be there: no spills, and what the table says."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

if sys.platform != "linux":
    pytest.skip("Triton is for Linux", allow_module_level=True)

from sbc_kernels.backends.triton import aot
from sbc_kernels.backends.triton.device import SHARED_BYTES, interpreted

TABLE = Path(__file__).parents[2] / "benchmarks" / "results" / "ahead-of-time.md"

pytestmark = [
    pytest.mark.skipif(
        interpreted(), reason="TRITON_INTERPRET is set: there is nothing to compile"
    ),
]


def rows(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("| ")]


@pytest.mark.parametrize("architecture", aot.ARCHITECTURES)
def test_as_in_the_table(architecture: str) -> None:
    """Registers, spills, shared memory and matrix instructions of every build are those on record."""
    known = {row for row in rows(TABLE.read_text()) if f"| {architecture} |" in row}
    found = set()
    for build in aot.builds(architecture):
        report = aot.compile_build(build, architecture)
        assert not report.faults(build.tensor_cores)
        found.add(report.row())
    assert found == known, (
        "python -m sbc_kernels.backends.triton.aot > TABLE, and look at what changed"
    )


def test_every_op_is_compiled() -> None:
    for architecture in aot.ARCHITECTURES:
        names = {build.name.partition("/")[0] for build in aot.builds(architecture)}
        assert {"spike_gram", "obs_order", "obs_solve", "obs_quantize"} <= names


def test_faults_are_found() -> None:
    sound = aot.Report("op/kernel", "sm_90", 128, 0, 1024, ("IGMMA",))
    assert not sound.faults(tensor_cores=True)
    spilled = aot.Report("op/kernel", "sm_90", 255, 16, SHARED_BYTES["sm_90"] + 1, ())
    assert spilled.faults(tensor_cores=True) == [
        "op/kernel on sm_90 spills 16 bytes a thread",
        f"op/kernel on sm_90 needs {SHARED_BYTES['sm_90'] + 1} bytes of shared memory",
        "op/kernel on sm_90 has no matrix instruction",
    ]
