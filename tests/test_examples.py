"""The examples run as a reader would run them, and print plausible results."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import sbc_kernels
from sbc_kernels.files import read_packed

EXAMPLES = Path(__file__).parents[1] / "examples"
ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": str(Path(sbc_kernels.__file__).parents[1]),  # the package that is tested here
    "OMP_NUM_THREADS": "1",
}
PAIR = re.compile(r"^([\w-]+): ([\d.,]+)(?: %)? before, ([\d.,]+)(?: %)? after$", re.M)


def run(
    name: str, folder: Path, without: str = "nothing"
) -> tuple[str, dict[str, tuple[float, float]]]:
    """Runs an example. Returns its output, and the numbers of its lines "name: x before, y after".

    `without` is a module that the example must not import.
    """
    script = str(EXAMPLES / f"{name}.py")
    code = (
        f"import runpy, sys; sys.argv = [{script!r}]; "
        f"runpy.run_path({script!r}, run_name='__main__'); assert {without!r} not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-W", "ignore", "-c", code],
        cwd=folder,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    pairs = {
        quantity: (float(before.replace(",", "")), float(after.replace(",", "")))
        for quantity, before, after in PAIR.findall(done.stdout)
    }
    return done.stdout, pairs


def value(out: str, quantity: str) -> float:
    match = re.search(rf"^{quantity}: ([\d.]+)", out, re.M)
    assert match, out
    return float(match[1])


def test_every_example_is_tested() -> None:
    source = Path(__file__).read_text(encoding="utf-8")
    assert [p.stem for p in EXAMPLES.glob("*.py") if f'run("{p.stem}"' not in source] == []


def test_spikingjelly_conv(tmp_path: Path) -> None:
    out, pairs = run("spikingjelly_conv", tmp_path)
    before, after = pairs["accuracy"]
    assert before > 97
    assert after > before - 5
    assert pairs["accumulates"][1] < pairs["accumulates"][0] / 5
    assert pairs["multiply-accumulates"][1] < pairs["multiply-accumulates"][0]  # the analog layer
    file = tmp_path / "digits-conv.safetensors"
    assert pairs["bytes"] == (pairs["bytes"][0], file.stat().st_size)
    assert pairs["bytes"][1] < pairs["bytes"][0] / 2
    assert value(out, "loaded") == after
    assert "90.00 % of 9,872 weights are zero" in out
    assert "</html>" in (tmp_path / "digits-conv.html").read_text(encoding="utf-8")


def test_snntorch_net(tmp_path: Path) -> None:
    out, pairs = run("snntorch_net", tmp_path)
    before, after = pairs["accuracy"]
    assert before > 94
    assert after > before - 4
    assert value(out, "rounded to nearest") > 50
    assert "codes: [100, 64], 0 to 3" in out
    file = tmp_path / "digits-2-bit.safetensors"
    assert pairs["bytes"] == (pairs["bytes"][0], file.stat().st_size)
    assert pairs["bytes"][1] < pairs["bytes"][0] / 3


def test_numpy_arrays(tmp_path: Path) -> None:
    out, pairs = run("numpy_arrays", tmp_path, without="torch")
    before, after = pairs["accuracy"]
    assert before > 97
    assert after > before - 1.5
    file = tmp_path / "digits.safetensors"
    assert pairs["bytes"] == (414_720, file.stat().st_size)
    assert pairs["bytes"][1] < pairs["bytes"][0] / 20
    assert set(read_packed(file)[0]) == {"fc1", "fc2"}
    assert "pruned 90 % by exact OBS" in out


def test_jax_arrays(tmp_path: Path) -> None:
    out, pairs = run("jax_arrays", tmp_path)
    before, after = pairs["accuracy"]
    assert before > 97
    assert after > before - 2
    assert after > value(out, "by magnitude")
    assert "a jax.Array: True, float32" in out
    assert value(out, "kept") == 1
    assert list(tmp_path.iterdir()) == []
