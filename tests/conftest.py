"""Fixtures: every backend that runs here, and thread counts that are put back."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import replace

# NumPy's and SciPy's BLAS, before either is imported. Matrices here are small, and threads that
# spin for one another cost 8 times the work on a busy machine. The kernels' own threads stay.
for name in ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(name, "1")
# PyTorch's: workers of pytest-xdist share the processors, so a thread that waits sleeps.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import pytest  # noqa: E402
import torch  # noqa: E402
from hypothesis import settings  # noqa: E402

import sbc_kernels as sbc  # noqa: E402
from sbc_kernels.backends.registry import BACKENDS  # noqa: E402

# The same examples in every run, nothing written next to the sources, no clock on a busy machine.
settings.register_profile("sbc", deadline=None, derandomize=True, database=None, max_examples=40)
settings.load_profile("sbc")


@pytest.fixture(params=sbc.available_backends("cpu"))
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(
    params=[name for name in sbc.available_backends("cpu") if name in ("amx", "portable")]
)
def amx(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The backend that multiplies bytes; also with its kernels in plain C++, which run anywhere."""
    kernels = replace(BACKENDS["amx"], isa=request.param)
    monkeypatch.setitem(BACKENDS, "amx", kernels)
    return "amx"


@pytest.fixture
def set_threads() -> Iterator[Callable[[int], None]]:
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)
