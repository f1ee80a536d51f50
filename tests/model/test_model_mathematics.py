"""What a layer's decision in a model rests on, against float64 and direct measurement."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from helpers import assert_close, eps
from torch import Tensor, nn

import sbc_kernels as sbc
from sbc_kernels.model.fold import fold
from sbc_kernels.model.gatherer import Gatherer
from sbc_kernels.model.moments import corrected_target
from sbc_kernels.model.norms import affine_of
from sbc_kernels.neurons import membrane_matrix
from sbc_kernels.ops.reference import unfold

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from four_frameworks import (
        PLAIN,
        T,
        network,
        spikes,
    )
    from spikingjelly.activation_based import functional, layer, neuron


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("paired", [False, True])
def test_moments_against_float64(groups: int, paired: bool) -> None:
    """Hessian, cross moment and bias column of a convolution, from the unfolded filtered input."""
    rng = np.random.default_rng(0)
    net = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1, stride=2, groups=groups), neuron.LIFNode(3.0))
    functional.set_step_mode(net, "s")
    x, other = (
        torch.from_numpy((rng.random((T, 3, 4, 5, 5)) < 0.4).astype(np.uint8)) for _ in range(2)
    )
    plan = sbc.trace(net, x.float(), forward=lambda m, b: torch.stack([m(step) for step in b]))
    planned = plan["0"]
    gatherer = Gatherer(planned, planned.neurons, paired=paired, with_bias=True, backend=None)
    gatherer.take(x, other if paired else None)
    got = gatherer.moments()
    assert planned.conv is not None
    M = membrane_matrix(sbc.LIF(3.0), T)

    def filtered(spikes_: Tensor, group: int) -> Any:
        mine = np.split(spikes_.numpy().astype(np.float64), groups, axis=2)[group]
        rows = [unfold(step, planned.conv) for step in mine]
        return np.tensordot(M, np.stack(rows), axes=1).reshape(-1, rows[0].shape[-1])

    on = np.repeat(M.sum(axis=1), 3 * 9)
    for g in range(groups):
        Y = filtered(x, g)
        scale = 2 / 3
        assert_close(got.hessian[g], scale * Y.T @ Y, 1e-9 * np.abs(Y.T @ Y).max())
        assert got.constant is not None
        assert_close(got.constant[g], scale * Y.T @ on, 1e-9 * np.abs(Y.T @ on).max())
        assert got.constant_energy == pytest.approx(scale * on @ on)
        centred = got.centred()
        both = np.column_stack([Y, on])
        H = scale * both.T @ both
        schur = H[:-1, :-1] - np.outer(H[:-1, -1], H[-1, :-1]) / H[-1, -1]
        assert_close(centred.hessian[g], schur, 1e-8 * np.abs(H).max())
        if paired:
            assert got.cross is not None
            D = filtered(other, g)
            assert_close(got.cross[g], scale * D.T @ Y, 1e-9 * np.abs(D.T @ Y).max())
        else:
            assert got.cross is None


def test_the_refit_is_the_ridge_regression() -> None:
    rng = np.random.default_rng(2)
    planned = sbc.trace(nn.Sequential(nn.Linear(7, 3), nn.Linear(3, 2)), torch.rand(5, 7)).layers[0]
    gatherer = Gatherer(planned, (None,), paired=True, with_bias=False, backend=None)
    dense = torch.from_numpy(rng.standard_normal((2, 40, 7)))
    now = dense + 0.3 * torch.from_numpy(rng.standard_normal((2, 40, 7)))
    gatherer.take(now, dense)
    moments = gatherer.moments()
    W = rng.standard_normal((3, 7))
    target = corrected_target(W, moments, 0.5)
    Y, Yc = (t.numpy().reshape(-1, 7) for t in (dense, now))
    ridge = 0.5 * 2 / 40 * np.trace(Yc.T @ Yc) / 7

    def objective(V: Any) -> float:
        return float(2 / 40 * ((Y @ W.T - Yc @ V.T) ** 2).sum() + ridge * ((V - W) ** 2).sum())

    for _ in range(20):
        assert objective(target) <= objective(target + 1e-3 * rng.standard_normal(W.shape))
    assert objective(target) < objective(W)


def test_bias_correction_keeps_the_mean_and_lowers_the_error(batches: list[Tensor]) -> None:
    """The filtered output error of fc, measured directly, with and without its bias taking part."""
    net = network()
    on = sbc.compress_model(
        net, batches, sparsity=0.8, calibration_mode="parallel", bn_reestimate=False, ignore=["head"],
        overrides={"conv": {"skip": True}},
    )  # fmt: skip
    off = sbc.compress_model(net, batches, sparsity=0.8, ignore=["conv", "head"], **PLAIN)
    taken: list[Tensor] = []
    handle = net.fc.register_forward_pre_hook(lambda m, args: taken.append(args[0].detach()))
    for x in batches:
        functional.reset_net(net)
        net(x)
    handle.remove()
    X = torch.stack([t.unflatten(0, (T, 6)) for t in taken]).transpose(0, 1).flatten(1, 2).double()
    M = torch.from_numpy(membrane_matrix(sbc.LIF(2.0), T))

    def error(model: Any) -> Tensor:
        change = model.fc.weight.double() - net.fc.weight.double()
        shift = model.fc.bias.double() - net.fc.bias.double()
        return torch.einsum("ts,snd->tnd", M, X @ change.T + shift).detach()

    assert float(error(on.model).square().sum()) < float(error(off.model).square().sum())
    weights_of_time = (M.T @ M.sum(1))[:, None, None]
    mean = (
        torch.linalg.solve(M, error(on.model).flatten(1)).view(T, -1, 20) * weights_of_time
    ).sum((0, 1))
    assert_close(mean.numpy(), np.zeros(20), 1e-4)
    assert torch.equal(off.model.fc.bias, net.fc.bias)
    loss = float(error(on.model).square().sum()) / 18
    assert on.layers[0].loss == pytest.approx(loss, rel=1e-4)


def test_bias_of_a_layer_without_one_goes_to_its_batchnorm(batches: list[Tensor]) -> None:
    net = network()
    result = sbc.compress_model(
        net, batches, sparsity=0.8, calibration_mode="parallel", bn_reestimate=False
    )
    assert result.model.conv.bias is None
    assert not torch.equal(result.model.bn.running_mean, net.bn.running_mean)
    assert torch.equal(result.model.bn.running_var, net.bn.running_var)


def test_batchnorm_statistics_follow_the_calibration_data(batches: list[Tensor]) -> None:
    """What reaches each neuron has, over the calibration data, the dense model's mean and variance."""
    net = network()
    for mode in ("parallel", "sequential"):
        result = sbc.compress_model(
            net, batches, sparsity=0.8, calibration_mode=mode, bias_correction=False
        )
        moments = []
        for model in (net, result.model):
            seen: list[Tensor] = []
            handle = model.bn.register_forward_hook(
                lambda m, a, out, seen=seen: seen.append(out.detach())
            )
            for x in batches:
                functional.reset_net(model)
                model(x)
            handle.remove()
            flat = torch.cat(seen).transpose(0, 1).flatten(1)
            moments.append(torch.stack([flat.mean(1), flat.std(1)]))
        emptied = (result.model.conv.weight == 0).flatten(1).all(1)
        assert_close(moments[1][0].numpy(), moments[0][0].numpy(), 1e-4, mode)
        moments[0][1, emptied] = 0.0
        assert_close(moments[1][1].numpy(), moments[0][1].numpy(), 1e-4, mode)


def test_sequential_first_layer_is_parallels(batches: list[Tensor]) -> None:
    net = network()
    a = sbc.compress_model(net, batches, sparsity=0.7, **PLAIN)
    b = sbc.compress_model(
        net, batches, sparsity=0.7, **{**PLAIN, "calibration_mode": "sequential"}
    )
    assert torch.equal(a.model.conv.weight, b.model.conv.weight)
    assert not torch.equal(a.model.fc.weight, b.model.fc.weight)


def test_affine_and_fold() -> None:
    torch.manual_seed(0)
    for linear, norm, shape in (
        (nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), (2, 3, 6, 6)),
        (nn.Linear(3, 4), nn.BatchNorm1d(4, affine=False), (2, 3)),
    ):
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2)
        x = torch.rand(shape)
        expected = norm.eval()(linear(x)).detach()
        fold(linear, norm)
        assert_close(linear(x).detach().numpy(), expected.numpy(), 64 * eps(np.float32))
    assert affine_of(nn.BatchNorm2d(3, track_running_stats=False)) is None
    assert affine_of(layer.ThresholdDependentBatchNorm2d(1.0, 0.5, 3).eval()) is not None
    assert affine_of(layer.TemporalEffectiveBatchNorm2d(4, 3).eval()) is None


def test_a_factor_a_time_step_scales_the_membrane() -> None:
    """TEBN: the Hessian is that of ``M diag(p) X``."""
    torch.manual_seed(0)
    net = nn.Sequential(
        layer.Conv2d(2, 3, 3, bias=False),
        layer.TemporalEffectiveBatchNorm2d(T, 3),
        neuron.LIFNode(2.0),
    )
    functional.set_step_mode(net, "m")
    with torch.no_grad():
        net[1].scale.copy_(torch.tensor([1.0, 3.0, 0.5, 0.0]))
        net[1].running_var.uniform_(0.5, 2)
    x = spikes()
    result = sbc.compress_model(net, x, sparsity=0.5, **PLAIN)
    p = np.array([1.0, 3.0, 0.5, 0.0]).reshape(-1, 1, 1, 1, 1)
    scaled = sbc.SpikeHessian(sbc.LIF(2.0), conv=sbc.Conv((3, 3)), in_channels=2)
    H = scaled.update(x.numpy() * p).matrix()
    change = (result.model[0].weight - net[0].weight).detach().double().flatten(1).numpy()
    assert result.layers[0].loss == pytest.approx(0.5 * np.trace(change @ H @ change.T), rel=1e-6)


def test_one_batchnorm_a_time_step_scales_the_membrane() -> None:
    """BNTT: each step goes through its own BatchNorm, here ``p_t s_c`` apart from the mean."""
    torch.manual_seed(0)
    p, s = torch.tensor([1.0, 3.0, 0.5, 2.0]), torch.tensor([1.0, 0.2, 5.0])

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(2, 3, 3, bias=False)
            self.bn = nn.ModuleList(nn.BatchNorm2d(3) for _ in range(T))
            self.n = neuron.LIFNode(2.0)

        def forward(self, x: Tensor) -> Tensor:
            return torch.stack([self.n(self.bn[t](self.conv(x[t]))) for t in range(T)])

    net = Net().eval()
    with torch.no_grad():
        for t, norm in enumerate(net.bn):
            norm.weight.copy_(p[t] * s)
    x = spikes()
    plan = sbc.trace(net, x)
    assert plan["conv"].step_norms == tuple(f"bn.{t}" for t in range(T))
    result = sbc.compress_model(net, x, sparsity=0.5, **PLAIN)
    # The rows' geometric mean goes to the steps' factors: the losses are in that unit.
    q = (p * s.log().mean().exp()).double().numpy() / np.sqrt(1 + net.bn[0].eps)
    scaled = sbc.SpikeHessian(sbc.LIF(2.0), conv=sbc.Conv((3, 3)), in_channels=2)
    H = scaled.update(x.numpy() * q.reshape(-1, 1, 1, 1, 1)).matrix()
    change = (result.model.conv.weight - net.conv.weight).detach().double().flatten(1).numpy()
    assert result.layers[0].loss == pytest.approx(0.5 * np.trace(change @ H @ change.T), rel=1e-5)
    rows = result.tensors["conv"]["mask"].flatten(1).sum(1)
    assert rows[2] > rows[1]  # a row that is scaled up keeps more


def test_fold_gives_the_same_network_without_norms(batches: list[Tensor]) -> None:
    net = network()
    options = {"sparsity": 0.6, "calibration_mode": "parallel", "allocation": "uniform"}
    plain = sbc.compress_model(net, batches, **options)
    folded = sbc.compress_model(net, batches, fold=True, **options)
    assert isinstance(folded.model.bn, nn.Identity)
    assert folded.model.conv.bias is not None
    assert float((folded.model.conv.weight == 0).float().mean()) >= 0.6
    x = spikes(5)
    for model in (plain.model, folded.model):
        functional.reset_net(model)
    assert_close(folded.model(x).detach().numpy(), plain.model(x).detach().numpy(), 1e-4)
