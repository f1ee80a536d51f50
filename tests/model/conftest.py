"""Fixtures: calibration data of the networks in every framework, a fixed seed."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import Tensor

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from four_frameworks import (
        spikes,
    )


@pytest.fixture
def batches() -> list[Tensor]:
    return [spikes(seed) for seed in range(3)]


@pytest.fixture
def seed() -> None:
    torch.manual_seed(0)
