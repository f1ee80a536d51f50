"""Describes this machine. Needs nothing but Python, so that it can name missing packages.

python -m gpu.machine       prints torch's description of the first GPU as JSON
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

# Import names of the packages that the package and its tests need, and of those that its build needs.
NEEDED = ("torch", "triton", "numpy", "array_api_compat", "pytest", "hypothesis")
TO_BUILD = ("setuptools", "scikit_build_core", "pybind11")
TOOLS = ("cmake", "ninja", "c++")
OPTIONAL = ("nvcc", "ncu", "compute-sanitizer", "nvidia-smi")
UNKNOWN = "not yet run"


@dataclass(frozen=True)
class Machine:
    """The machine, as described in the head of the table."""

    device: str
    details: str
    driver: str
    cuda: str
    devices: int
    packages: str
    date: str
    commit: str


def missing(names: tuple[str, ...]) -> list[str]:
    """The missing ones of these packages, by the name under which they are installed."""
    return [name.replace("_", "-") for name in names if find_spec(name) is None]


def missing_tools(path: str | None = None) -> list[str]:
    return [tool for tool in TOOLS if shutil.which(tool, path=path) is None]


def version_of(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "missing"


def look(dry: bool, environment: Mapping[str, str]) -> Machine:
    """Describes this machine. Raises RuntimeError if there is no GPU, or no torch that sees it."""
    packages = ("torch", "triton", "numpy", "array-api-compat")
    about: dict[str, Any] = {}
    if not dry:
        about = _ask_torch(environment)
    return Machine(
        device=about.get("name", UNKNOWN),
        details=about.get("details", UNKNOWN),
        driver=UNKNOWN if dry else _driver(),
        cuda=about.get("cuda", UNKNOWN),
        devices=about.get("count", 0),
        packages=", ".join(
            [f"Python {sys.version.split()[0]}", *(f"{p} {version_of(p)}" for p in packages)]
        ),
        date=datetime.now(UTC).date().isoformat(),
        commit=_commit(),
    )


def _ask_torch(environment: Mapping[str, str]) -> dict[str, Any]:
    """Describes the GPU. A process of its own asks torch, so that this one creates no CUDA context."""
    done = subprocess.run(
        [sys.executable, "-m", "gpu.machine"],
        env=dict(environment),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    if done.returncode != 0:
        last = (done.stderr.strip() or "it says nothing").splitlines()[-1]
        raise RuntimeError(f"torch of {sys.executable} sees no GPU: {last}")
    description: dict[str, Any] = json.loads(done.stdout)
    return description


def _driver() -> str:
    if shutil.which("nvidia-smi") is None:
        return "unknown (no nvidia-smi)"
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    done = subprocess.run(query, capture_output=True, text=True, timeout=60, check=False)
    lines = done.stdout.split()
    return lines[0] if done.returncode == 0 and lines else "unknown"


def _commit() -> str:
    if os.environ.get("COMMIT"):
        return os.environ["COMMIT"]
    root = Path(__file__).parents[2]

    def git(*command: str) -> str:
        done = subprocess.run(
            ["git", "-C", root, *command], capture_output=True, text=True, check=False
        )
        return done.stdout.strip() if done.returncode == 0 else ""

    if shutil.which("git") is None or not git("rev-parse", "HEAD"):
        return "unknown"
    changes = " with changes" if git("status", "--porcelain", "--untracked-files=no") else ""
    return git("rev-parse", "HEAD")[:10] + changes


def main() -> None:
    import torch

    about = torch.cuda.get_device_properties(0)
    details = (
        f"sm_{about.major}{about.minor}, {about.multi_processor_count} multiprocessors, "
        f"{about.total_memory / 2**30:.0f} GiB, {about.L2_cache_size / 2**20:.0f} MiB of L2"
    )
    description = {
        "name": about.name,
        "details": details,
        "cuda": torch.version.cuda,
        "count": torch.cuda.device_count(),
    }
    print(json.dumps(description))


if __name__ == "__main__":
    main()
