"""Fixtures: a folder with a network and data, and a compressed file made of them."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from commands import CAL, NET, good


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with net.py, cal.npz (30 samples) and test.npz (20), labelled."""
    folder = tmp_path_factory.mktemp("cli")
    (folder / "net.py").write_text(NET)
    rng = np.random.default_rng(0)
    for name, count in (("cal", 30), ("test", 20)):
        x = rng.random((6, count, 20)) < 0.3
        np.savez(folder / f"{name}.npz", x=x, y=rng.integers(0, 4, count))
    return folder


@pytest.fixture
def place(files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fresh folder with those files, where commands are run."""
    for file in files.iterdir():
        if file.is_file():
            shutil.copy(file, tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def packed(files: Path) -> Path:
    """A model.safetensors of 75 % sparsity and 4 bits, with its comparison."""
    here = Path.cwd()
    os.chdir(files)
    try:
        asked = ("--sparsity", "0.75", "--bits", "4", "--out", "small", "-q")
        good("compress", *CAL, "--test", "test.npz", *asked)
    finally:
        os.chdir(here)
    return files / "small" / "model.safetensors"
