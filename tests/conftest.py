"""Fixtures: every backend that runs here, and thread counts that are put back."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from hypothesis import settings

import sbc_kernels as sbc

# The same examples in every run, nothing written next to the sources, no clock on a busy machine.
settings.register_profile("sbc", deadline=None, derandomize=True, database=None, max_examples=40)
settings.load_profile("sbc")


@pytest.fixture(params=sbc.available_backends())
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def set_threads() -> Iterator[Callable[[int], None]]:
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)
