"""Small tiles for the tests of the Triton kernels."""

from __future__ import annotations

from collections.abc import Iterator

import interpreted
import pytest


@pytest.fixture
def small_tiles() -> Iterator[None]:
    """Several panels, tiles and programs of a layer that the interpreter can walk."""
    with interpreted.small_tiles():
        yield
