"""`compress_model`: the same answer as layer by layer, from every framework, nothing lost."""

from __future__ import annotations

import copy
import json
import os
import random
import signal
import subprocess
import sys
import textwrap
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import assert_close, eps
from torch import Tensor, nn

import sbc_kernels as sbc
from sbc_kernels.demo.data import digits
from sbc_kernels.demo.events import saccade_events
from sbc_kernels.demo.network import Network, as_input, measure
from sbc_kernels.demo.train import SHIPPED, load_checkpoint
from sbc_kernels.model.allocate import cheapest, lamp
from sbc_kernels.model.feed import Feeder
from sbc_kernels.model.gather import Gatherer, corrected_target
from sbc_kernels.model.norms import affine_of, fold
from sbc_kernels.model.tracing import copy_of
from sbc_kernels.neurons import membrane_matrix
from sbc_kernels.reference import unfold

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import norse.torch as norse
    import sinabs.activation as sa
    import sinabs.layers as sl
    import snntorch as snn
    import zoo
    from spikingjelly.activation_based import functional, layer, neuron

pytestmark = pytest.mark.filterwarnings("ignore")

T = 4
OFF: dict[str, Any] = {"bn_reestimate": False, "bias_correction": False}
PLAIN: dict[str, Any] = {"calibration_mode": "parallel", "allocation": "uniform", **OFF}


# ---- one network in four frameworks ------------------------------------------------------------


class Looped(nn.Module):
    """A single-step network, run over time inside its forward: [T, N, 2, 8, 8] in, [T, N, 5] out."""

    def __init__(self, n1: nn.Module, n2: nn.Module) -> None:
        super().__init__()
        self.conv, self.bn, self.n1 = (
            nn.Conv2d(2, 6, 3, padding=1, bias=False),
            nn.BatchNorm2d(6),
            n1,
        )
        self.pool, self.fc, self.n2 = nn.MaxPool2d(2), nn.Linear(96, 20), n2
        self.head = nn.Linear(20, 5)

    def step(self, x: Tensor, states: list[Any]) -> Tensor:
        x = self.pool(self.fire(0, self.bn(self.conv(x)), states))
        return self.head(self.fire(1, self.fc(x.flatten(1)), states))

    def fire(self, index: int, x: Tensor, states: list[Any]) -> Tensor:
        return (self.n1, self.n2)[index](x)

    def forward(self, x: Tensor) -> Tensor:
        states: list[Any] = [None, None]
        return torch.stack([self.step(s, states) for s in x])


class WithStates(Looped):
    """Norse and snnTorch: the states are passed along."""

    def fire(self, index: int, x: Tensor, states: list[Any]) -> Tensor:
        module = (self.n1, self.n2)[index]
        out, states[index] = module(x) if states[index] is None else module(x, states[index])
        return out


class MultiStep(Looped):
    """Layers on [T*N, ...], neurons on [T, N, ...]; `batch_first` is sinabs' order."""

    batch_first = False

    def forward(self, x: Tensor) -> Tensor:
        x = x.transpose(0, 1) if self.batch_first else x
        first = x.shape[:2]

        def fire(module: nn.Module, current: Tensor) -> Tensor:
            out = module(current.unflatten(0, first))
            return (out[0] if isinstance(out, tuple) else out).flatten(0, 1)

        y = self.pool(fire(self.n1, self.bn(self.conv(x.flatten(0, 1)))))
        y = self.head(fire(self.n2, self.fc(y.flatten(1)))).unflatten(0, first)
        return y.transpose(0, 1) if self.batch_first else y


class BatchFirst(MultiStep):
    batch_first = True


SINABS: dict[str, Any] = {
    "tau_mem": 1 / np.log(2),
    "spike_fn": sa.SingleSpike,
    "reset_fn": sa.MembraneReset(),
}


def spikingjelly_multi() -> nn.Module:
    lif = [neuron.LIFNode(tau=2.0, step_mode="m") for _ in range(2)]
    return MultiStep(*lif)


def spikingjelly_containers() -> nn.Module:
    """[T, N, ...] all along, layers wrapped."""

    class Whole(Looped):
        def forward(self, x: Tensor) -> Tensor:
            flat = functional.seq_to_ann_forward(x, nn.Sequential(self.conv, self.bn))
            pooled = functional.seq_to_ann_forward(self.n1(flat), self.pool)
            return self.head(self.n2(self.fc(pooled.flatten(2))))

    return Whole(*[neuron.LIFNode(tau=2.0, step_mode="m") for _ in range(2)])


def snntorch_leaky() -> nn.Module:
    """No input gain, so the threshold is tau times as high."""
    kind = {"beta": 0.5, "threshold": 2.0, "reset_mechanism": "zero", "reset_delay": False}
    return WithStates(snn.Leaky(**kind), snn.Leaky(**kind))


def norse_box() -> nn.Module:
    p = norse.LIFBoxParameters(tau_mem_inv=torch.tensor(500.0), v_th=torch.tensor(1.0))
    return WithStates(norse.LIFBoxCell(p), norse.LIFBoxCell(p))


def sinabs_lif() -> nn.Module:
    return BatchFirst(*[sl.LIF(**SINABS) for _ in range(2)])


class Squeezed(BatchFirst):
    """sinabs' other habit: neurons on [N*T, ...] as well."""

    def forward(self, x: Tensor) -> Tensor:
        first = (x.shape[1], x.shape[0])
        y = self.n1(self.bn(self.conv(x.transpose(0, 1).flatten(0, 1))))
        y = self.head(self.n2(self.fc(self.pool(y).flatten(1)))).unflatten(0, first)
        return y.transpose(0, 1)


def sinabs_squeeze() -> nn.Module:
    return Squeezed(*[sl.LIFSqueeze(num_timesteps=T, **SINABS) for _ in range(2)])


FRAMEWORKS = {
    "spikingjelly looped": lambda: Looped(neuron.LIFNode(tau=2.0), neuron.LIFNode(tau=2.0)),
    "spikingjelly multi-step": spikingjelly_multi,
    "spikingjelly containers": spikingjelly_containers,
    "snntorch": snntorch_leaky,
    "norse": norse_box,
    "sinabs": sinabs_lif,
    "sinabs squeeze": sinabs_squeeze,
}
WAYS: dict[str, dict[str, Any]] = {
    "prune": {"sparsity": 0.7},
    "N:M": {"sparsity": "2:4", "ignore": ["conv"]},
    "quantize": {"bits": 3},
    "both": {"sparsity": 0.5, "bits": 4, "calibration_mode": "parallel"},
}


def weights() -> dict[str, Tensor]:
    """Of a network whose neurons fire."""
    torch.manual_seed(3)
    net = Looped(nn.Identity(), nn.Identity())
    with torch.no_grad():
        net.bn.running_var.uniform_(0.5, 1.5)
        net.bn.running_mean.normal_(0, 0.1)
        net.bn.weight.uniform_(2.0, 4.0)
        net.bn.bias.uniform_(0.2, 0.8)
        net.fc.weight.mul_(6)
    return {k: v for k, v in net.state_dict().items() if not k.startswith("n")}


def network(name: str = "spikingjelly multi-step") -> nn.Module:
    net = FRAMEWORKS[name]()
    net.load_state_dict(weights(), strict=False)
    return net.eval()


def spikes(seed: int = 0, samples: int = 6) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(T, samples, 2, 8, 8, generator=generator) < 0.3).float()


@pytest.fixture
def batches() -> list[Tensor]:
    return [spikes(seed) for seed in range(3)]


def weight_of(model: nn.Module) -> dict[str, np.ndarray[Any, Any]]:
    return {
        name: module.weight.detach().numpy()
        for name, module in model.named_modules()
        if isinstance(module, (nn.Linear, nn.Conv2d))
    }


@pytest.mark.parametrize("way", WAYS)
def test_every_framework_gives_the_same_weights(way: str, batches: list[Tensor]) -> None:
    """The same network, differently written. sinabs' alpha is rounded to float32."""
    reference = None
    for name in FRAMEWORKS:
        result = sbc.compress_model(network(name), batches, **WAYS[way])
        found = weight_of(result.model)
        assert torch.isfinite(result.model(spikes(9))).all(), name
        if reference is None:
            reference = found
        for key, expected in reference.items():
            same = (found[key] == 0) == (expected == 0)
            assert same.mean() > (0.99 if "sinabs" in name else 0.999), (name, key)
            bound = 1e-3 * np.abs(expected).max()
            assert_close(found[key][same], expected[same], bound, f"{name} {key}")


def test_the_dense_networks_agree() -> None:
    """What the test above rests on."""
    outputs = {}
    for name in FRAMEWORKS:
        with torch.no_grad():
            outputs[name] = network(name)(spikes())
    first = outputs.pop("spikingjelly looped")
    assert len(first.unique()) > 20
    for name, output in outputs.items():
        assert_close(output.numpy(), first.numpy(), 1e-5, name)


def test_norse_multi_step_and_looped_give_the_same_weights(batches: list[Tensor]) -> None:
    """LIF has a synapse, so it has no twin in the table above."""
    p = norse.LIFParameters(v_th=torch.tensor(0.3))
    found = []
    for build in (
        lambda: WithStates(norse.LIFCell(p), norse.LIFCell(p)),
        lambda: MultiStep(norse.LIF(p), norse.LIF(p)),
    ):
        net = build()
        net.load_state_dict(weights(), strict=False)
        result = sbc.compress_model(net.eval(), batches, sparsity=0.6, bits=4)
        assert result.plan["fc"].neurons == (sbc.NorseLIF(),)
        assert result.layers[1].dead_inputs < 96
        found.append(weight_of(result.model))
    for key, expected in found[0].items():
        assert_close(found[1][key], expected, 1e-5 * np.abs(expected).max(), key)


# ---- the same as by hand -----------------------------------------------------------------------


def test_parallel_is_compress_layer_on_each_layer(batches: list[Tensor]) -> None:
    net = network()
    result = sbc.compress_model(net, batches, sparsity=0.6, bits=4, **PLAIN)
    x = torch.cat(batches, dim=1)
    taken: dict[str, Tensor] = {}
    handles = [
        getattr(net, name).register_forward_pre_hook(
            lambda m, args, name=name: taken.update({name: args[0].detach()})
        )
        for name in ("conv", "fc", "head")
    ]
    functional.reset_net(net)
    net(x)
    for handle in handles:
        handle.remove()
    for name, options in (("conv", {"padding": 1}), ("fc", {}), ("head", {"hessian": "current"})):
        module = getattr(net, name)
        seen = taken[name].unflatten(0, x.shape[:2])
        neuron_ = None if name == "head" else sbc.LIF(2.0)
        out = sbc.compress_layer(
            module.weight.detach(), seen, neuron_, sparsity=0.6, bits=4, **options
        )
        got = result.model.get_submodule(name).weight.detach()
        if name == "fc":  # no BatchNorm scales its rows
            assert torch.equal(got, out.weight)
            assert torch.equal(result.tensors[name]["codes"], out.codes)
        mask = result.tensors[name]["mask"]
        assert float(mask.float().mean()) == pytest.approx(float(out.mask.float().mean()))
        assert torch.equal(got == 0, got == 0)
        codes, scale, zero = (result.tensors[name][k] for k in ("codes", "scale", "zero_point"))
        flat = (codes.flatten(1).float() - zero) * scale
        assert torch.equal(torch.where(mask.flatten(1), flat, 0.0), got.flatten(1))


def test_rows_compete_in_the_units_of_the_neuron(batches: list[Tensor]) -> None:
    """A BatchNorm that scales a row by s is a row s times as large: the same mask."""
    net, scaled = network(), network()
    factor = torch.tensor([1.0, 2.0, 4.0, 0.5, 0.25, 1.0])
    with torch.no_grad():
        scaled.conv.weight.mul_(factor.view(-1, 1, 1, 1))
        scaled.bn.weight.div_(factor)
        scaled.bn.running_mean.mul_(factor)
    a = sbc.compress_model(net, batches, sparsity=0.7, **PLAIN)
    b = sbc.compress_model(scaled, batches, sparsity=0.7, **PLAIN)
    assert torch.equal(a.tensors["conv"]["mask"], b.tensors["conv"]["mask"])
    again = a.model.conv.weight * factor.view(-1, 1, 1, 1)
    assert_close(b.model.conv.weight.detach(), again.detach(), 1e-6 * float(again.abs().max()))
    blocked = [
        sbc.compress_model(n, batches, sparsity=0.7, method="blocked", **PLAIN)
        for n in (net, scaled)
    ]
    assert torch.equal(*(r.tensors["conv"]["mask"] for r in blocked))


def test_dictionary_lamp_and_overrides_share_out(batches: list[Tensor]) -> None:
    net = network()
    shares = {"conv": 0.25, "fc": 0.8}
    result = sbc.compress_model(net, batches, sparsity=0.5, **{**PLAIN, "allocation": shares})
    assert [round(r.sparsity, 3) for r in result.layers] == [0.25, 0.8, 0.5]
    result = sbc.compress_model(
        net, batches, sparsity=0.5, overrides={"fc": {"sparsity": 0.9, "bits": 2}}, **PLAIN
    )
    assert result.layers[1].bits == 2
    assert result.layers[1].sparsity >= 0.9
    assert result.layers[0].bits is None
    result = sbc.compress_model(net, batches, sparsity=0.8, **{**PLAIN, "allocation": "lamp"})
    assert result.sparsity == pytest.approx(0.8, abs=2e-3)
    assert result.allocation == lamp(
        {n: w.astype(np.float64) for n, w in weight_of(net).items()}, 0.8
    )


def test_layers_that_nothing_is_asked_of_stay(batches: list[Tensor]) -> None:
    net = network()
    result = sbc.compress_model(net, batches, allocation={"conv": 0.5})
    assert torch.equal(result.model.fc.weight, net.fc.weight)
    assert torch.equal(result.model.head.bias, net.head.bias)
    assert result.layers[0].sparsity == 0.5
    assert result.layers[1].log[0].endswith("left as it was")


def test_measured_allocation_spends_the_budget_where_it_hurts(batches: list[Tensor]) -> None:
    net = network()

    def error(model: nn.Module) -> float:
        wrong, outputs = 0.0, []
        for x in batches:
            for m in (net, model):
                functional.reset_net(m)
            with torch.no_grad():
                outputs.append(net(x))
                wrong += float((model(x) - outputs[-1]).double().square().sum())
        every = torch.stack(outputs).double()
        return wrong / float(sum((o - o.mean()).square().sum() for o in every))

    errors = {}
    for allocation in ("uniform", "lamp", "measured"):
        result = sbc.compress_model(
            net, batches, sparsity=0.8, **{**PLAIN, "allocation": allocation}
        )
        assert result.sparsity == pytest.approx(0.8, abs=3e-3)
        errors[allocation] = error(result.model)
    assert errors["measured"] <= errors["lamp"]
    assert errors["measured"] < errors["uniform"]
    said = next(line for line in result.log if line.startswith("allocation:"))
    assert f"lamp {errors['lamp']:.3g}"[:-1] in said
    assert float(said.split()[-1]) == pytest.approx(errors["measured"], rel=1e-3)


def test_lamp_against_its_definition() -> None:
    rng = np.random.default_rng(0)
    weights_ = {"a": rng.standard_normal((5, 6)), "b": 3 * rng.standard_normal(20)}
    scores = []
    for name, weight in weights_.items():
        square = weight.ravel() ** 2
        scores += [(v / square[square >= v].sum(), name) for v in square]
    scores.sort()
    gone = [name for _, name in scores[:25]]
    found = lamp(weights_, 0.5)
    assert found["a"] == pytest.approx(gone.count("a") / 30)
    assert found["b"] == pytest.approx(gone.count("b") / 20)


def test_cheapest_against_every_choice() -> None:
    rng = np.random.default_rng(1)
    sizes, densities = [400, 1000, 70], [np.array([0.05, 0.1, 0.3, 0.6, 1.0])] * 3
    for density in (0.1, 0.25, 0.5, 0.9):
        costs = [np.sort(rng.random(5))[::-1] for _ in sizes]
        found = cheapest(sizes, costs, densities, density)
        best = min(
            costs[0][i] + costs[1][j] + costs[2][k]
            for i in range(5)
            for j in range(5)
            for k in range(5)
            if 400 * densities[0][i] + 1000 * densities[1][j] + 70 * densities[2][k]
            <= 1470 * density * (1 + 1e-9)
        )
        kept = sum(s * d for s, d in zip(sizes, found, strict=True))
        assert kept <= 1470 * density * (1 + 1e-6)
        # What was left over went to all alike: the choice is the one just below.
        chosen = [
            c[np.searchsorted(d, f * (1 + 1e-9), side="right") - 1]
            for c, d, f in zip(costs, densities, found, strict=True)
        ]
        assert sum(chosen) <= best + 0.02
    with pytest.raises(ValueError, match="no choice of densities"):
        cheapest([10], [np.array([1.0])], [np.array([0.5])], 0.1)


class Demo(nn.Module):
    """The demonstration's network as a module: [T, N, d_in] in, spikes [T, N, 10] out."""

    def __init__(self, fc1: Tensor, fc2: Tensor) -> None:
        super().__init__()
        self.fc1, self.fc2 = (nn.Linear(w.shape[1], w.shape[0], bias=False) for w in (fc1, fc2))
        self.n1, self.n2 = (neuron.LIFNode(tau=2.0, step_mode="m") for _ in range(2))
        with torch.no_grad():
            self.fc1.weight.copy_(fc1)
            self.fc2.weight.copy_(fc2)

    def forward(self, x: Tensor) -> Tensor:
        return self.n2(self.fc2(self.n1(self.fc1(x))))


def test_the_demonstrations_network() -> None:
    """The same weights as layer by layer; and with everything on, no worse on the test set."""
    data = digits()
    dense = load_checkpoint(SHIPPED, data)
    x = as_input(saccade_events(data.train_images[:300], 10))
    with torch.no_grad():
        hidden = dense.run(x).hidden
    model = Demo(dense.fc1, dense.fc2)
    result = sbc.compress_model(model, x, sparsity=0.97, **PLAIN)
    for name, spikes_ in (("fc1", x), ("fc2", hidden)):
        out = sbc.compress_layer(getattr(dense, name), spikes_, sbc.LIF(2.0), sparsity=0.97)
        assert torch.equal(getattr(result.model, name).weight, out.weight), name
    test = saccade_events(data.test_images, 10)

    def accuracy(m: Any) -> float:
        compressed = Network(m.fc1.weight.detach(), m.fc2.weight.detach())
        return measure(compressed, test, data.test_labels).accuracy

    best = sbc.compress_model(model, list(x.split(100, dim=1)), sparsity=0.97)
    assert accuracy(result.model) > 94.0
    assert accuracy(best.model) > accuracy(result.model) - 1.0
    assert best.sparsity == pytest.approx(0.97, abs=1e-4)


# ---- mathematics -------------------------------------------------------------------------------


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


# ---- all there is ------------------------------------------------------------------------------


WIDE = ("vgg11_bn", "spiking_resnet18", "sew_resnet18_ADD", "sew_resnet18_AND", "sew_resnet18_IAND")


@pytest.mark.parametrize(
    ("case", "mode"),
    [
        pytest.param(case, mode, id=f"{case.name}-{mode}")
        for case in zoo.CASES
        for mode in ("parallel", "sequential")
        if mode == "parallel" or case.name not in WIDE  # that would take minutes
    ],
)
def test_real_models(case: zoo.Case, mode: str) -> None:
    """Pruned to 90 % and stored in 4 bits. The wide ones by blocks, which is far cheaper."""
    model, wide = case.build(), case.name in WIDE
    result = sbc.compress_model(
        model,
        [case.inputs(2)],
        sparsity=0.9,
        bits=4,
        method="blocked" if wide else "exact",
        allocation="uniform",
        calibration_mode=mode,
    )
    assert len(result.layers) == len(case.layers)
    for record in result.layers:
        size = int(np.prod(record.shape))
        mask = result.tensors[record.name]["mask"]
        assert int((~mask).sum()) == int(np.floor(0.9 * size + 0.5)), record.name
        assert record.bits == 4
        assert np.isfinite(record.loss)
        assert 0 <= record.relative_error < 1.5
    functional.reset_net(result.model)
    with torch.no_grad():
        output = result.model(case.inputs(2))
    assert torch.isfinite(output).all()
    assert result.table().count("\n") == len(result.layers) + 2
    assert len(json.loads(result.to_json())["layers"]) == len(result.layers)


@pytest.mark.parametrize(
    "options",
    [
        {"sparsity": 0.8, "method": "magnitude"},
        {"bits": 4, "method": "rtn"},
        {"sparsity": 0.8, "method": "blocked"},
        {"sparsity": "1:4", "ignore": ["conv"]},
        {"sparsity": 0.8, "hessian": "current"},
        {"bits": 2, "grid": "absmax", "sym": True, "group_size": 4},
        {},
    ],
    ids=str,
)
def test_everything_compress_layer_can_do(options: dict[str, Any], batches: list[Tensor]) -> None:
    result = sbc.compress_model(network(), batches, **options)
    if isinstance(options.get("sparsity", 0.9), float) and "bits" not in options:
        assert result.sparsity == pytest.approx(options.get("sparsity", 0.9), abs=6e-3)
    assert all(torch.isfinite(p).all() for p in result.model.parameters())


def test_sinabs_recurrent_and_snntorch_recurrent_inputs_are_delayed() -> None:
    """sinabs calls the recurrent layer on spikes that are heard one step later, snnTorch on those of
    the step before: the Hessian is that of what arrives."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Linear(6, 6), sl.LIFRecurrent(tau_mem=2.0, rec_connect=nn.Linear(6, 6, bias=False))
    )
    with torch.no_grad():
        net[0].weight.mul_(20)
    x = torch.rand(2, 5, 6)
    plan = sbc.trace(net, x)
    fed: list[Tensor] = []
    layers = {found.name: found for found in plan.layers}
    Feeder(copy_of(net), [x], None, plan.neuron_steps).run({"1.rec_connect": fed.append}, layers)
    fired = net(x).detach()  # [N, T, 6]
    assert float(fired.sum()) > 0
    expected = torch.zeros(5, 2, 6)
    expected[1:] = fired.transpose(0, 1)[:-1]
    assert torch.equal(fed[0].float(), expected)


def test_memory_groups_and_batches_change_nothing(batches: list[Tensor]) -> None:
    net = network()
    whole = sbc.compress_model(net, batches, sparsity=0.7, **PLAIN)
    assert len(whole.plan.groups(1)) == 3
    assert len(whole.plan.groups(1 << 40)) == 1
    for other in (
        sbc.compress_model(net, batches, sparsity=0.7, max_memory=1, **PLAIN),
        sbc.compress_model(net, torch.cat(batches, dim=1), sparsity=0.7, **PLAIN),
        sbc.compress_model(net, [(b, "label") for b in batches], sparsity=0.7, **PLAIN),
    ):
        for name, weight in weight_of(whole.model).items():
            assert np.array_equal(weight, weight_of(other.model)[name]), name
    assert whole.predicted_bytes > 0
    assert whole.peak_bytes is None or whole.peak_bytes > 0


def test_a_shuffling_loader_gives_the_same_batches_each_time() -> None:
    data = torch.utils.data.TensorDataset(
        torch.cat([spikes(s) for s in range(3)], 1).transpose(0, 1)
    )
    loader = torch.utils.data.DataLoader(data, batch_size=5, shuffle=True)

    def forward(model: nn.Module, batch: Tensor) -> Tensor:
        return model(batch.transpose(0, 1))

    runs = [sbc.compress_model(network(), loader, sparsity=0.8, forward=forward) for _ in range(2)]
    for name, weight in weight_of(runs[0].model).items():
        assert np.array_equal(weight, weight_of(runs[1].model)[name])


# ---- nothing is lost ---------------------------------------------------------------------------


def snapshot(model: nn.Module) -> dict[str, Any]:
    return {
        "state": {k: v.clone() for k, v in model.state_dict().items()},
        "modes": [m.training for m in model.modules()],
        "grads": [p.requires_grad for p in model.parameters()],
        "random": torch.get_rng_state(),
        "v": copy.deepcopy(model.n1.v.detach()),
        "hooks": [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()],
    }


def same(a: Any, b: Any) -> bool:
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    return torch.equal(a, b) if isinstance(a, Tensor) else a == b


def test_the_users_model_is_as_before_also_after_an_error(batches: list[Tensor]) -> None:
    net = network().train()
    net.bn.eval()
    net.fc.weight.requires_grad_(False)
    net(spikes())
    wrong = [batches[0], torch.rand(T, 2, 3, 8, 8)]
    before = snapshot(net)
    result = sbc.compress_model(net, batches, sparsity=0.8, allocation="measured", fold=True)
    assert same(before, snapshot(net))
    assert [m.training for m in result.model.modules()][:3] == before["modes"][:3]
    assert not result.model.fc.weight.requires_grad
    with pytest.raises(ValueError, match="spikes has shape"):
        sbc.compress_model(net, wrong, sparsity=0.8)
    assert same(before, snapshot(net))


def test_in_place_changes_the_model_itself(batches: list[Tensor]) -> None:
    net = network()
    copied = sbc.compress_model(net, batches, sparsity=0.8).model
    result = sbc.compress_model(net, batches, sparsity=0.8, inplace=True)
    assert result.model is net
    assert all(
        torch.equal(a, b) for a, b in zip(net.parameters(), copied.parameters(), strict=True)
    )


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"sparsity": 1.5}, ValueError, "sparsity is 1.5"),
        ({"bits": 9}, ValueError, "bits is 9"),
        ({"allocation": "best"}, ValueError, "allocation is 'best'"),
        ({"sparsity": "2:4", "allocation": "lamp"}, ValueError, "allocation is 'lamp'"),
        ({"allocation": {"nope": 0.5}}, ValueError, "allocation has 'nope'"),
        ({"allocation": {"fc": 7.0}}, ValueError, "sparsity is 7.0"),
        ({"calibration_mode": "both"}, ValueError, "calibration_mode is 'both'"),
        ({"method": "rtn", "bits": 3, "calibration_mode": "sequential"}, ValueError, "weights"),
        ({"target_damping": 0}, ValueError, "target_damping is 0"),
        ({"hessian": "x"}, ValueError, "hessian is 'x'"),
        ({"max_memory": 0}, ValueError, "max_memory is 0"),
        ({"sparsity": "2:4"}, ValueError, "layer 'conv': sparsity is '2:4' and d_in is 18"),
        ({"backend": "gpu"}, ValueError, "backend is 'gpu'"),
    ],
)  # fmt: skip
def test_bad_options(
    options: dict[str, Any], error: Any, words: str, batches: list[Tensor]
) -> None:
    with pytest.raises(error, match=words):
        sbc.compress_model(network(), batches, **options)


def test_bad_calibration(batches: list[Tensor]) -> None:
    for wrong, error, words in (
        ([], ValueError, "has no batch"),
        (iter(batches), TypeError, "only once"),
        (3, TypeError, "calibration is a int"),
        (tuple(batches), TypeError, "tuple of tensors"),
    ):
        with pytest.raises(error, match=words):
            sbc.compress_model(network(), wrong)
    with pytest.raises(TypeError, match="model is a list"):
        sbc.compress_model([], batches)
    with pytest.raises(ValueError, match="no weight layer"):
        sbc.compress_model(nn.Sequential(neuron.IFNode()), [torch.rand(2, 3)])


# ---- interruption ------------------------------------------------------------------------------


def test_a_finished_run_is_read_back_to_the_bit(tmp_path: Path, batches: list[Tensor]) -> None:
    for options in ({"sparsity": 0.8}, {"sparsity": 0.5, "bits": 4, **PLAIN}):
        folder = tmp_path / str(len(options))
        net = network()
        first = sbc.compress_model(net, batches, checkpoint_dir=folder, **options)
        net(spikes())  # a state is nothing of the model's
        functional.reset_net(net)
        again = sbc.compress_model(net, batches, checkpoint_dir=folder, **options)
        assert (first.resumed, again.resumed) == (0, 3)
        assert same(first.model.state_dict(), again.model.state_dict())
        assert same(first.tensors, again.tensors)
        assert [r.loss for r in first.layers] == [r.loss for r in again.layers]


def test_another_run_is_refused(tmp_path: Path, batches: list[Tensor]) -> None:
    net = network()
    sbc.compress_model(net, batches, sparsity=0.8, checkpoint_dir=tmp_path / "a")
    files = {p.name: p.read_bytes() for p in (tmp_path / "a").iterdir()}
    with pytest.raises(ValueError, match="another options"):
        sbc.compress_model(net, batches, sparsity=0.7, checkpoint_dir=tmp_path / "a")
    with pytest.raises(ValueError, match="another calibration"):
        sbc.compress_model(net, batches[:2], sparsity=0.8, checkpoint_dir=tmp_path / "a")
    with torch.no_grad():
        net.fc.weight[0, 0] += 1
    with pytest.raises(ValueError, match="another model"):
        sbc.compress_model(net, batches, sparsity=0.8, checkpoint_dir=tmp_path / "a")
    with torch.no_grad():
        net.fc.weight[0, 0] -= 1
    net.n1.tau = 3.0  # no parameter, but it decides
    with pytest.raises(ValueError, match="another model"):
        sbc.compress_model(net, batches, sparsity=0.8, checkpoint_dir=tmp_path / "a")
    assert files == {p.name: p.read_bytes() for p in (tmp_path / "a").iterdir()}
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"thesis\.txt"):
        sbc.compress_model(net, batches, sparsity=0.8, checkpoint_dir=tmp_path / "b")


def test_damaged_files_are_named(tmp_path: Path, batches: list[Tensor]) -> None:
    sbc.compress_model(network(), batches, sparsity=0.8, checkpoint_dir=tmp_path)
    victim = next(p for p in tmp_path.iterdir() if p.suffix == ".safetensors")
    whole = victim.read_bytes()
    victim.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="is damaged"):
        sbc.compress_model(network(), batches, sparsity=0.8, checkpoint_dir=tmp_path)
    victim.write_bytes(whole)
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(ValueError, match=r"run\.json is damaged"):
        sbc.compress_model(network(), batches, sparsity=0.8, checkpoint_dir=tmp_path)


RUN = """
import sys, warnings
warnings.simplefilter("ignore")
import torch
torch.set_num_threads(1)
import test_compress_model as t
import sbc_kernels as sbc
print("ready", flush=True)
result = sbc.compress_model(
    t.network(), [t.spikes(s, 40) for s in range(3)], sparsity=0.8, bits=4,
    calibration_mode=sys.argv[2], checkpoint_dir=sys.argv[1] or None)
torch.save({"state": result.model.state_dict(), "resumed": result.resumed}, sys.argv[3])
"""


@pytest.mark.parametrize("mode", ["parallel", "sequential"])
def test_killed_at_random_points_and_resumed_to_the_bit(mode: str, tmp_path: Path) -> None:
    script = tmp_path / "run.py"
    script.write_text(textwrap.dedent(RUN))
    paths = [str(Path(__file__).parent), *sys.path]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}

    def start(folder: str, out: Path) -> subprocess.Popen[str]:
        command = [sys.executable, str(script), folder, mode, str(out)]
        return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)

    def killed_after(process: subprocess.Popen[str], folder: Path, files: int, wait: float) -> bool:
        """Kills it `wait` after so many layers are there; whether it lived that long."""
        while process.poll() is None and len(list(folder.glob("*.safetensors"))) < files:
            time.sleep(0.002)
        time.sleep(wait)
        alive = process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.wait()
        return alive

    draw = random.Random(0)
    folder = tmp_path / "checkpoint"
    kills = 0
    for files in (0, 1, 2):
        process = start(str(folder), tmp_path / "out.pt")
        assert process.stdout is not None
        process.stdout.readline()
        kills += killed_after(process, folder, files, draw.uniform(0, 0.03))
        for path in folder.glob("*.safetensors") if folder.exists() else ():
            assert path.stat().st_size > 0
    assert kills >= 2
    whole = start("", tmp_path / "whole.pt")
    resumed = start(str(folder), tmp_path / "out.pt")
    assert whole.wait(120) == 0
    assert resumed.wait(120) == 0
    a, b = (torch.load(tmp_path / name, weights_only=True) for name in ("whole.pt", "out.pt"))
    assert a["resumed"] == 0
    assert b["resumed"] >= 1
    assert same(a["state"], b["state"])


# ---- what people see ---------------------------------------------------------------------------


def test_progress_and_logging(
    batches: list[Tensor], capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO", logger="sbc_kernels"):
        sbc.compress_model(network(), batches, sparsity=0.8, progress=True)
    assert "100 %" in capsys.readouterr().err
    assert [r.message.split(":")[0] for r in caplog.records if "sparsity" in r.message] == [
        "conv",
        "fc",
        "head",
    ]
    sbc.compress_model(network(), batches, sparsity=0.8)
    captured = capsys.readouterr()
    assert captured.err == captured.out == ""


def test_import_needs_no_torch() -> None:
    code = (
        "import sys, sbc_kernels; assert 'torch' not in sys.modules; "
        "sbc_kernels.Plan; assert 'torch' in sys.modules"
    )
    subprocess.run([sys.executable, "-P", "-c", code], check=True)  # the installed one
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        sbc.nothing  # noqa: B018
