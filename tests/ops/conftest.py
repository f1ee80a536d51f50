"""The ops of every backend that runs here, one after the other."""

from __future__ import annotations

import pytest
from on_backends import HERE, Ops


@pytest.fixture(scope="session", params=HERE, ids=lambda ops: ops.name)
def ops(request: pytest.FixtureRequest) -> Ops:
    backend: Ops = request.param
    return backend
