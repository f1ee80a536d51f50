"""Damaged and hostile files by the thousand: read, or refused with an error that is documented."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import sbc_kernels

HERE = Path(__file__).parent
FILES = {  # that are refused, at least; where 0 a reader copes with each
    "header": 1000,
    "arrays": 300,
    "bytes": 700,
    "header's text": 200,
    "deep": 3,
    "layer": 400,
    "layer's bytes": 300,
    "run.json": 50,
    "lock": 0,
    "trials": 0,
    "report": 500,
    "toml": 300,
    "table of toml": 50,
    "table of json": 50,
    "config": 20,
    "neuron": 100,
    "bytes as text": 50,
}


def test_ten_thousand_damaged_files() -> None:
    """In a process with a quarter of a gigabyte beside what its modules take; none takes long."""
    roots = [str(Path(sbc_kernels.__file__).parents[1]), str(HERE), str(HERE.parent / "report")]
    done = subprocess.run(
        [sys.executable, str(HERE / "fuzz.py"), "1"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([*roots, *sys.path])},
    )
    assert done.returncode == 0, done.stderr[-4000:]
    told = json.loads(done.stdout.splitlines()[-1])
    counts = told["counts"]
    assert sum(counts.values()) >= 10_000
    for kind, least in FILES.items():
        assert counts.get(f"{kind} refused", 0) >= least, kind
        assert counts.get(f"{kind} refused", 0) + counts.get(f"{kind} read", 0) > 0, kind
    assert told["slowest"][0] < 10.0, told["slowest"]
