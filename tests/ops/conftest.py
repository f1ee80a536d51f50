"""The ops of every backend that runs here, one after the other."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from interpreted import interpreted, small_tiles
from on_backends import HERE, Ops


@pytest.fixture(scope="module", params=HERE, ids=lambda ops: ops.name)
def ops(request: pytest.FixtureRequest) -> Iterator[Ops]:
    """With tiles of a few dozen weights where Triton runs, so that small problems have many."""
    backend: Ops = request.param
    if not backend.on_gpu:
        yield backend
        return
    with small_tiles():
        yield backend


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """In the interpreter the backends for a CPU have had their turn: only tests of `ops` are left."""
    if not interpreted():
        return
    here = Path(__file__).parent
    again = [
        item
        for item in items
        if here in item.path.parents and "ops" not in getattr(item, "fixturenames", ())
    ]
    config.hook.pytest_deselected(items=again)
    items[:] = [item for item in items if item not in again]
