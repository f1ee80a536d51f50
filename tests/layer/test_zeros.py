"""Weights that are zero from the start stay zero: a pruned layer that is quantized stays pruned."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from helpers import assert_close, damped_hessian, eps
from layers import as_numpy, layer_case
from spikingjelly.activation_based import neuron
from torch import nn

import sbc_kernels as sbc
from sbc_kernels.model.moments import Moments, corrected_target
from sbc_kernels.sparsity import parse_sparsity

QUANTIZED: dict[str, dict[str, Any]] = {
    "exact": {"bits": 4},
    "blocked": {"bits": 3, "method": "blocked", "act_order": False},
    "nearest": {"bits": 4, "method": "rtn"},
    "symmetric groups": {"bits": 2, "sym": True, "group_size": 4},
    "1 bit": {"bits": 1},
    "1 bit, nearest": {"bits": 1, "method": "rtn", "sym": True},
}


@pytest.mark.parametrize("option", QUANTIZED)
@pytest.mark.parametrize("name", ["linear", "grouped"])
def test_a_pruned_layer_stays_pruned(name: str, option: str) -> None:
    weight, spikes, geometry = layer_case(name, np.float32)
    pruned = sbc.compress_layer(weight, spikes, sparsity="2:4", **geometry)
    out = sbc.compress_layer(pruned.weight, spikes, **QUANTIZED[option], **geometry)
    assert np.array_equal(out.mask, pruned.mask)
    assert (out.weight[~pruned.mask] == 0).all()
    assert np.array_equal(out.compressed.to_dense(), out.weight)
    line = f"{(~pruned.mask).sum()} weights are zero from the start and stay zero"
    assert line in out.log


def test_zeros_of_other_floats() -> None:
    weight, spikes, _ = layer_case("linear")
    pruned = torch.tensor(weight).bfloat16()
    pruned[:, ::3] = 0
    out = sbc.compress_layer(pruned, torch.tensor(spikes), bits=4)
    assert ((out.weight == 0) | (pruned != 0)).all()
    assert not out.mask[:, ::3].any()


def test_compensation_knows_the_zeros() -> None:
    """With zeros held, later inputs make up for what rounding costs: less than rounding to nearest."""
    weight, spikes, _ = layer_case("linear", np.float32)
    pruned = sbc.compress_layer(weight, spikes, sparsity=0.5)
    losses = {
        method: sbc.compress_layer(pruned.weight, spikes, bits=3, method=method, grid="mse").loss
        for method in ("exact", "rtn")
    }
    assert losses["exact"].sum() < 0.9 * losses["rtn"].sum()


@pytest.mark.parametrize("bits", [1, 4])
def test_a_few_zeros_need_no_mask(bits: int) -> None:
    """A mask takes a bit a weight: the codes say it, except with 1 bit, which has no code of zero."""
    weight, spikes, _ = layer_case("linear", np.float32)
    weight[3, 5] = weight[7, 0] = 0
    out = sbc.compress_layer(weight, spikes, bits=bits)
    assert out.weight[3, 5] == out.weight[7, 0] == 0
    assert (out.mask is None) == (bits == 4)
    assert np.array_equal(out.compressed.to_dense(), out.weight)


@pytest.mark.parametrize("method", ["exact", "blocked", "magnitude"])
@pytest.mark.parametrize("bits", [None, 1, 4])
@pytest.mark.parametrize("sparsity", ["2:4", 0.6, 0.2, 0.0])
def test_zeros_are_among_the_pruned(method: str, bits: int | None, sparsity: float | str) -> None:
    weight, spikes, _ = layer_case("linear", np.float32)
    spikes[:, :, [1, 8]] = 0
    rng = np.random.default_rng(5)
    zeros = rng.random(weight.shape) < 0.3
    zeros[0], zeros[1] = True, False
    weight[zeros] = 0
    out = sbc.compress_layer(
        weight, spikes, sparsity=sparsity, bits=bits, method=method, block_size=8
    )
    keep, pattern = out.mask, parse_sparsity(sparsity)
    assert not keep[zeros].any()
    assert (out.weight[~keep] == 0).all()
    if pattern.of_m:
        kept = keep.reshape(-1, 4).sum(axis=1)
        available = (~zeros).reshape(-1, 4).sum(axis=1)
        assert (kept <= 2).all()
        assert (
            kept >= np.minimum(available, 2) - 1
        ).all()  # an input that never spiked may go, too
    elif method == "blocked":
        assert (~keep).sum() >= pattern.num_pruned(keep.size)
    else:
        assert (~keep).sum() == max(pattern.num_pruned(keep.size), zeros.sum())


def test_refit_keeps_zeros_and_is_the_least() -> None:
    rng = np.random.default_rng(1)
    H, cross = damped_hessian("correlated", 12), rng.standard_normal((12, 12))
    weight = rng.standard_normal((5, 12)) * (rng.random((5, 12)) < 0.5)
    target = corrected_target(weight, Moments(H[None], cross[None]), 0.5)
    ridge = 0.5 * np.diagonal(H).mean() * np.eye(12)
    gradient = target @ (H + ridge) - weight @ (cross + ridge)
    assert (target[weight == 0] == 0).all()
    bound = 1e4 * eps(np.float64) * np.abs(weight @ (cross + ridge)).max()
    assert_close(gradient[weight != 0], 0 * gradient[weight != 0], bound, "gradient on the kept")


@pytest.mark.parametrize("mode", ["sequential", "parallel"])
def test_a_pruned_model_stays_pruned(mode: str) -> None:
    torch.manual_seed(0)
    lif = [neuron.LIFNode(step_mode="m", v_threshold=0.2) for _ in range(2)]
    net = nn.Sequential(nn.Linear(16, 12), lif[0], nn.Linear(12, 8), lif[1])
    data = [(torch.rand(4, 20, 16) < 0.4).float()]
    pruned = sbc.compress_model(net, data, sparsity="2:4")
    later = sbc.compress_model(pruned.model, data, bits=3, calibration_mode=mode)
    for index in (0, 2):
        before, after = (as_numpy(m.model[index].weight) for m in (pruned, later))
        assert (after[before == 0] == 0).all()
        assert ((after.reshape(-1, 4) != 0).sum(axis=1) <= 2).all()
        assert not np.array_equal(before, after)
