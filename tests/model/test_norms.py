"""Which BatchNorms are one layer's own, and take its bias and follow it."""

from __future__ import annotations

import contextlib
import copy
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from helpers import assert_close
from nets import Net
from normed_networks import IMAGES, UNIFORM, conv, data, fc, lif, norm, outputs, plain_norm
from torch import Tensor, nn

import sbc_kernels as sbc
from sbc_kernels.model.following_norms import reestimate
from sbc_kernels.network.copies import copy_of
from sbc_kernels.network.watch import watching

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from spikingjelly.activation_based import layer, neuron

pytestmark = [
    pytest.mark.usefixtures("seed"),
    # Networks here are made to be saved, not to fire.
    pytest.mark.filterwarnings("ignore:no input spiked in calibration:RuntimeWarning"),
]


class TdBN(nn.Module):
    """As MS-ResNet and others write it: a copy with time behind the channels."""

    def __init__(self) -> None:
        super().__init__()
        self.bn = plain_norm(nn.BatchNorm3d)

    def forward(self, x: Tensor) -> Tensor:
        moved = x.permute(1, 2, 0, 3, 4).contiguous()
        return self.bn(moved).permute(2, 0, 1, 3, 4).contiguous()


class Shuffled(nn.Module):
    """Channels in another order: no row of the layer is a channel of the norm."""

    def __init__(self) -> None:
        super().__init__()
        self.bn = plain_norm(nn.BatchNorm1d)

    def forward(self, x: Tensor) -> Tensor:
        y = x.flatten(0, 1)
        y = y.view(-1, 2, 3).transpose(1, 2).reshape(-1, 6)
        return self.bn(y).unflatten(0, x.shape[:2])


def one_by_one(m: Any, x: Tensor) -> Tensor:
    return m.n(torch.stack([m.bn(m.c(step)) for step in x]))


def stacked_before(m: Any, x: Tensor) -> Tensor:
    y = torch.stack([m.c(step) for step in x])
    return m.n(m.bn(y.transpose(1, 2)).transpose(1, 2))


def flat(m: Any, x: Tensor) -> Tensor:
    return m.n(m.bn(m.c(x).flatten(0, 1)).unflatten(0, x.shape[:2]))


def with_other(m: Any, x: Tensor) -> Tensor:
    y = m.c(x)
    other = torch.zeros_like(y[:1]).detach()
    return m.n(m.bn(torch.cat([y, other]).flatten(0, 1)).unflatten(0, (len(x) + 1, -1)))


OWN: dict[str, tuple[Any, tuple[int, ...]]] = {
    "tdBN": (lambda: nn.Sequential(conv(), TdBN(), lif()), IMAGES),
    "container": (
        lambda: nn.Sequential(
            layer.SeqToANNContainer(nn.Conv2d(2, 6, 3, bias=False), plain_norm(nn.BatchNorm2d)),
            lif(),
        ),
        IMAGES,
    ),
    "two containers": (
        lambda: nn.Sequential(
            layer.SeqToANNContainer(nn.Conv2d(2, 6, 3, bias=False)),
            layer.SeqToANNContainer(plain_norm(nn.BatchNorm2d)),
            lif(),
        ),
        IMAGES,
    ),
    "flattened": (
        lambda: Net(flat, c=fc(bias=False), bn=plain_norm(nn.BatchNorm1d), n=lif()),
        (4, 5, 6),
    ),
    "step by step": (
        lambda: Net(one_by_one, c=fc(bias=False), bn=plain_norm(nn.BatchNorm1d), n=lif()),
        (4, 5, 6),
    ),
    "stacked, channels first": (
        lambda: Net(stacked_before, c=fc(bias=False), bn=plain_norm(nn.BatchNorm1d), n=lif()),
        (4, 5, 6),
    ),
}  # fmt: skip
NOT_OWN: dict[str, tuple[Any, tuple[int, ...]]] = {
    "shuffled": (lambda: nn.Sequential(fc(bias=False), Shuffled(), lif()), (4, 5, 6)),
    "with a constant": (
        lambda: Net(with_other, c=fc(bias=False), bn=plain_norm(nn.BatchNorm1d), n=lif()),
        (4, 5, 6),
    ),
}


@pytest.mark.parametrize("name", OWN)
def test_a_norm_of_the_layer_alone_takes_its_bias(name: str) -> None:
    """Whatever moves the elements in between: the mean takes the bias, and the norm folds."""
    build, shape = OWN[name]
    net, x = build(), data(*shape)
    plan = sbc.trace(net, x)
    (planned,) = plan.layers
    assert planned.direct
    assert planned.bias_entry == f"{planned.norms[0]}.running_mean"
    options = {"sparsity": 0.3, **UNIFORM}
    plain = sbc.compress_model(net, x, **options)
    folded = sbc.compress_model(net, x, fold=True, **options)
    assert "no bias takes part" not in str(plain.layers[0].notes)
    assert folded.folded == {planned.name: planned.norms[0]}
    for a, b in zip(outputs(folded.model, x), outputs(plain.model, x), strict=True):
        assert_close(a, b, 1e-5, name)


@contextlib.contextmanager
def fed(module: nn.Module) -> Iterator[list[Tensor]]:
    """Collects what a module is fed."""
    inputs: list[Tensor] = []
    handle = module.register_forward_pre_hook(lambda _, args: inputs.append(args[0].detach()))
    try:
        yield inputs
    finally:
        handle.remove()


def shifted(net: nn.Module, planned: Any, shift: Tensor) -> nn.Module:
    """The same network where a bias of the layer and a mean of its norm make up for one another."""
    net = copy.deepcopy(net)
    with torch.no_grad():
        net.get_submodule(planned.name).bias = nn.Parameter(shift)
        net.get_submodule(planned.norms[0]).running_mean += shift
    return net


@pytest.mark.parametrize("name", [*OWN, *NOT_OWN])
def test_whose_a_norm_is_by_perturbation(name: str) -> None:
    build, shape = (OWN | NOT_OWN)[name]
    net, x = build(), data(*shape)
    (planned,) = sbc.trace(net, x).layers
    currents = []
    for model in (net, shifted(net, planned, torch.linspace(1, 2, 6))):
        neurons = [m for m in model.modules() if isinstance(m, neuron.LIFNode)]
        with fed(neurons[0]) as current:
            outputs(model, x)
        currents.append(current[0].numpy())
    change = np.abs(currents[1] - currents[0]).max() / np.abs(currents[0]).max()
    assert (change < 1e-5) == planned.direct == (name in OWN)


@pytest.mark.parametrize("name", NOT_OWN)
def test_a_norm_of_anything_else_keeps_its_mean(name: str) -> None:
    build, shape = NOT_OWN[name]
    net, x = build(), data(*shape)
    (planned,) = sbc.trace(net, x).layers
    assert planned.norms
    assert not planned.direct
    assert planned.bias_entry is None


class Speech(nn.Module):
    """A layer of speech networks, [T, N, d]: weight, BatchNorm and dynamics in one module."""

    def __init__(self, d_in: int, d_out: int) -> None:
        super().__init__()
        self.W, self.norm = fc(d_in, d_out, bias=False), plain_norm(nn.BatchNorm1d, d_out)

    def forward(self, x: Tensor) -> Tensor:
        v, spikes = torch.zeros(()), []
        for current in self.norm(self.W(x).flatten(0, 1)).unflatten(0, x.shape[:2]):
            v = 0.8 * v + current
            spike = (v > 1).float() + self.surrogate * v
            v = v * (1 - spike.detach())
            spikes.append(spike)
        return torch.stack(spikes)

    surrogate = 0.0


class CutSpeech(Speech):
    """Its spikes have no gradient."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).detach()


for kind in (Speech, CutSpeech):
    sbc.register_neuron(kind, sbc.Leaky(0.8))


@pytest.mark.parametrize("kind", [Speech, CutSpeech])
def test_a_norm_inside_a_neuron_is_the_layers(kind: Any) -> None:
    net, x = nn.Sequential(kind(12, 8)).eval(), data(8, 16, 12)
    plan = sbc.trace(net, x)
    assert plan["0.W"].norms == ("0.norm",)
    assert plan["0.W"].direct
    result = sbc.compress_model(net, x, sparsity=0.6, **UNIFORM)
    assert not torch.equal(result.model[0].norm.running_var, net[0].norm.running_var)
    folded = sbc.compress_model(net, x, sparsity=0.6, fold=True, **UNIFORM)
    assert folded.folded == {"0.W": "0.norm"}
    (expected,), (found,) = outputs(result.model, x), outputs(folded.model, x)
    assert 0.01 < expected.mean() < 0.99
    assert_close(found, expected, 1e-5)
    # Rows compete in units of the threshold: what a norm shrinks 1000 times goes first.
    with torch.no_grad():
        net[0].norm.weight[:4] *= 1e-3
    pruned = sbc.compress_model(net, x, sparsity=0.5, **UNIFORM).model[0].W.weight == 0
    assert pruned[:4].all()
    assert not pruned[4:].any()


# ---- a norm behind two layers ------------------------------------------------------------------


def summed(m: Any, x: Tensor) -> Tensor:
    return m.n(m.bn(m.c(x) + m.d(x)))


@pytest.mark.parametrize("mode", ["sequential", "parallel"])
def test_a_norm_behind_two_layers_has_the_statistics_of_both(mode: str) -> None:
    """In the end they are what follows from its input with both layers compressed, moved once."""
    net = Net(summed, c=fc(), d=fc(), bn=norm(), n=lif()).eval()
    batches = [data(4, 16, 6), data(4, 16, 6)]
    result = sbc.compress_model(net, batches, sparsity=0.5, calibration_mode=mode)
    assert result.plan["c"].norms == result.plan["d"].norms == ("bn",)
    statistics = []
    for model in (net, result.model):
        before = copy_of(model)
        # What the norm is fed while it has its own new statistics, or the dense model's.
        with watching({"bn": before.bn}) as watched:
            for batch in batches:
                outputs(before, batch)
        statistics.append(watched["bn"])
    expected = copy_of(net).bn
    reestimate(expected, *statistics)
    for field in ("running_var", "running_mean"):
        found, dense = getattr(result.model.bn, field), getattr(net.bn, field)
        assert_close(found.numpy(), getattr(expected, field).numpy(), 1e-5)
        assert not torch.allclose(found, dense, atol=1e-3)
