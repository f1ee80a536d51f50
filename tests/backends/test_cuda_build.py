"""The CUDA kernels as nvcc makes them, and how they are called, without a GPU."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from sbc_kernels import _native

pytest.importorskip("triton")  # brings the disassembler
import cuda_kernels

from sbc_kernels.backends.triton.machine_code import cuobjdump

ROOT = Path(__file__).parents[2]
TABLE = ROOT / "benchmarks" / "results" / "cuda-kernels.md"
builds_cuda = pytest.mark.skipif(
    any(shutil.which(tool) is None for tool in ("nvcc", "cmake", "ninja", "c++filt")),
    reason="needs nvcc, cmake, ninja and c++filt",
)
calls_cuda = pytest.mark.skipif(not _native.with_cuda, reason="built without CUDA")


# ---- the compiler ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def objects() -> list[Path]:
    return cuda_kernels.build()


@builds_cuda
def test_as_in_the_table(objects: list[Path]) -> None:
    """No warnings, no spills; by the compiler of the table also as many registers."""
    assert {path.name for path in objects} == {
        path.name + ".o" for path in (ROOT / "csrc").glob("**/*.cu")
    }
    found = cuda_kernels.reports(objects)
    assert {(report.name, report.architecture) for report in found} == {
        ("multiply_units", "sm_90a"),
        *(
            (name, architecture)
            for name in cuda_kernels.KERNELS[1:]
            for architecture in ("sm_80", "sm_90", "sm_100")
        ),
    }
    made = cuda_kernels.table(found)
    known = TABLE.read_text()
    (version,) = re.findall(r"^By (nvcc [0-9.]+),", known, re.MULTILINE)
    compiler = cuda_kernels.compiler()
    if not compiler.startswith(f"{version}."):
        pytest.skip(f"{compiler} allocates registers in its own way; the table is {version}'s")
    assert made in known, "python benchmarks/cuda_kernels.py, and look at what changed"


@builds_cuda
def test_ptx_for_later_cards(objects: list[Path]) -> None:
    for path in objects:
        ptx = re.findall(r"\.(sm_\w+)\.ptx", cuobjdump("-lptx", path))
        assert ptx == ([] if path.name == "bytes_cuda.cu.o" else ["sm_100"])


def test_faults_are_named() -> None:
    sound = cuda_kernels.Report("panel<1>", "sm_90", 127, 0, 4192, ())
    assert "| panel<1> | sm_90 | 127 | 0 | 4192 |  |" in cuda_kernels.table([sound])
    spilling = cuda_kernels.Report("multiply_units", "sm_90a", 255, 8, 1024, ())
    with pytest.raises(RuntimeError, match=r"spills 8 bytes.*has no matrix instruction"):
        cuda_kernels.table([sound, spilling])


def configured(folder: Path, compiler: str, mode: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [
            "cmake",
            "-S",
            ROOT,
            "-B",
            folder,
            "-G",
            "Ninja",
            f"-DSBC_CUDA={mode}",
            "-DSBC_PYTHON=OFF",
        ],
        capture_output=True,
        text=True,
        env={**os.environ, "CUDACXX": compiler},
    )


@builds_cuda
def test_an_old_compiler_is_named(tmp_path: Path) -> None:
    old = tmp_path / "nvcc"
    old.write_text(
        '#!/bin/sh\nif [ "$*" = --version ]; then echo "release 12.4, V12.4.131"; exit; fi\n'
        f'exec {shutil.which("nvcc")} "$@"\n'
    )
    old.chmod(0o755)
    done = configured(tmp_path / "on", str(old), "ON")
    assert done.returncode != 0
    assert "nvcc 12.4; 12.8 or later is needed" in " ".join(done.stderr.split())
    done = configured(tmp_path / "auto", str(old), "AUTO")
    assert done.returncode == 0
    assert "nvcc 12.4; 12.8 or later is needed" in done.stdout
    assert "CUDA OFF" in done.stdout


# ---- the module ------------------------------------------------------------------------------------


@calls_cuda
@pytest.mark.skipif(shutil.which("ldd") is None, reason="needs ldd")
def test_nothing_of_cuda_is_linked() -> None:
    """Not even the driver's library, so that the module loads where there is none."""
    linked = subprocess.run(["ldd", _native.__file__], capture_output=True, text=True, check=True)
    assert "libstdc++" in linked.stdout
    assert not re.findall(r"lib(?:cud|cublas|cusolver|torch|c10|nv)\w*", linked.stdout)


PANEL = {
    **dict.fromkeys(("matrix", "weight", "diagonal", "floor", "state", "ids", "lines"), 0),
    **dict.fromkeys(("unit", "order", "loss", "matrix_stride", "tile", "device", "stream"), 0),
    "rows": 2,
    "lines_stride": 1024,
    "width": 40,
    "side": 64,
    "num_pruned": 20,
    "m": 33,
    "count": 16,
    "done": 4,
}
MULTIPLY = {
    **dict.fromkeys(("planes", "units", "pairs", "partials", "device", "stream"), 0),
    "rows": 256,
    "num_units": 1,
    "slots": 1,
    "channels": 256,
}


@calls_cuda
@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("rows", -1, "rows is -1"),
        ("width", 6145, "width is 6145"),
        ("m", 41, "m is 41"),
        ("m", 0, "count is 16"),
        ("count", 34, "count is 34"),
        ("count", 17, "done is 4"),
        ("done", 5, "done is 5"),
        ("num_pruned", 1 << 31, "num_pruned is"),
        ("side", 62, "side and lines_stride are 62 and 1024"),
        ("side", 44, "m, rounded up, is 48"),
        ("side", 1 << 25, "side is"),
        ("lines_stride", 1020, "side times count is 1024"),
        ("lines_stride", 1026, "side and lines_stride are 64 and 1026"),
        ("tile", 3, "tile is 3"),
        ("tile", 2, "tile is 2"),
        ("tile", 64, "tile is 64"),
        ("tile", -8, "tile is -8"),
        ("matrix", 2, "matrix is at address 2; accepted are multiples of 4"),
        ("weight", 8, "weight is at address 8"),
        ("diagonal", 4, "diagonal is at address 4"),
        ("state", 8, "state is at address 8"),
        ("lines", 8, "lines is at address 8"),
        ("order", 1, "order is at address 1"),
        ("matrix_stride", 1 << 40, "matrix_stride is"),
    ],
)
def test_a_panel_that_cannot_be(name: str, value: int, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        _native.order_panel(**{**PANEL, name: value})


@calls_cuda
@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("rows", -1, "rows is -1"),
        ("rows", 1 << 31, "rows is"),
        ("num_units", 1 << 30, "num_units is"),
        ("slots", -1, "slots is -1"),
        ("channels", 1 << 31, "channels is"),
        ("device", -1, "device is -1"),
        ("planes", 8, "planes is at address 8; accepted are multiples of 16"),
        ("units", 2, "units is at address 2"),
        ("partials", 4, "partials is at address 4"),
    ],
)
def test_products_that_cannot_be(name: str, value: int, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        _native.multiply_bytes(**{**MULTIPLY, name: value})


@calls_cuda
@pytest.mark.skipif(bool(_native.with_cuda and _native.cuda_devices()), reason="there is a GPU")
@pytest.mark.parametrize(
    ("launch", "arguments"), [("order_panel", PANEL), ("multiply_bytes", MULTIPLY)]
)
def test_without_a_gpu_it_says_so(launch: str, arguments: dict[str, Any]) -> None:
    with pytest.raises(RuntimeError, match=r"^cuda\w+: "):
        getattr(_native, launch)(**arguments)
    assert _native.cuda_devices() == []
    assert not getattr(_native, f"runs_{launch}")(0)


@calls_cuda
def test_nothing_to_do_is_done_without_a_gpu() -> None:
    _native.order_panel(**{**PANEL, "rows": 0})
    _native.order_panel(**{**PANEL, "count": 0})
    _native.multiply_bytes(**{**MULTIPLY, "num_units": 0})
