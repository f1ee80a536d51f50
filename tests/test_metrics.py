"""Synaptic operations and connection sparsity against counts by hand and by brute force."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sbc_kernels.metrics import connection_sparsity, synaptic_operations


def brute_force(weight: np.ndarray, spikes: np.ndarray, weighted: bool) -> float:
    """One synapse, one sample, one time step at a time."""
    total = 0.0
    for step in spikes.reshape(-1, spikes.shape[-1]):
        for i, s in enumerate(step):
            for w in weight[:, i]:
                if s != 0 and w != 0:
                    total += abs(float(s)) if weighted else 1
    return total


def test_by_hand() -> None:
    weight = np.array([[1.0, 0.0, 2.0], [0.0, 0.0, -1.0]])
    spikes = np.array([[[1, 1, 1]], [[0, 1, 1]]], np.uint8)
    assert synaptic_operations(weight, spikes) == 3 + 2


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("dtype", [np.bool_, np.uint8, np.int8, np.float32])
def test_brute_force(dtype: type, weighted: bool) -> None:
    rng = np.random.default_rng(1)
    weight = rng.normal(size=(5, 7)) * (rng.random((5, 7)) < 0.4)
    low = 0 if dtype in (np.bool_, np.uint8) else -3
    spikes = rng.integers(low, 4, (4, 3, 7)).astype(dtype)
    counted = synaptic_operations(weight, spikes, weighted=weighted)
    assert counted == brute_force(weight, spikes, weighted)
    assert isinstance(counted, float if weighted and dtype is np.float32 else int)
    as_torch = torch.from_numpy(weight), torch.from_numpy(spikes)
    assert synaptic_operations(*as_torch, weighted=weighted) == counted


def test_int8_extremes_do_not_overflow() -> None:
    spikes = np.full((1000, 1), -128, np.int8)
    assert synaptic_operations(np.ones((2, 1)), spikes, weighted=True) == 2 * 128 * 1000


def test_layout_does_not_matter() -> None:
    rng = np.random.default_rng(2)
    weight, spikes = rng.normal(size=(4, 6)), rng.integers(0, 2, (3, 5, 6))
    assert synaptic_operations(np.asfortranarray(weight), spikes[::-1, ::-1]) == 4 * spikes.sum()


def test_connection_sparsity() -> None:
    a, b = np.array([[0.0, -0.0], [1.0, np.nan]]), torch.zeros(4)
    assert connection_sparsity(a) == 0.5
    assert connection_sparsity(a, b) == 0.75


def test_errors_name_what_is_wrong() -> None:
    with pytest.raises(ValueError, match=r"spikes have shape \[2, 4\]; accepted is \[..., 3\]"):
        synaptic_operations(np.ones((2, 3)), np.ones((2, 4)))
    with pytest.raises(ValueError, match=r"weight has shape \[2, 3, 1\]"):
        synaptic_operations(np.ones((2, 3, 1)), np.ones((2, 3)))
    with pytest.raises(ValueError, match="weights are empty"):
        connection_sparsity(np.zeros((0, 3)))
    with pytest.raises(TypeError, match="spikes"):
        synaptic_operations(np.ones((2, 3)), "spikes")
