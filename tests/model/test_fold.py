"""BatchNorms folded into the layers before them, wherever they are held, and those that stay."""

from __future__ import annotations

import importlib
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import assert_close
from nets import Net
from normed_networks import (
    IMAGES,
    UNIFORM,
    ScaledNorm,
    data,
    fc,
    lif,
    norm,
    outputs,
    plain_norm,
    two_places,
)
from torch import Tensor, nn

import sbc_kernels as sbc
from sbc_kernels.model.fold import foldable
from sbc_kernels.model.modes import compress

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from spikingjelly.activation_based import neuron

compress_module: Any = importlib.import_module("sbc_kernels.model.compress")

pytestmark = [
    pytest.mark.usefixtures("seed"),
    # Networks here are made to be saved, not to fire.
    pytest.mark.filterwarnings("ignore:no input spiked in calibration:RuntimeWarning"),
]


def shared_twice() -> Net:
    bn = norm()
    net = Net(lambda m, x: m.seq(x), c=fc(), bn=bn, n=lif())
    net.seq = nn.Sequential(net.c, bn, net.n)
    return net


def read_out(m: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    y = m.c(x)
    return m.n(m.bn(y)), y


FOLDS = {
    "plain": lambda: Net(lambda m, x: m.n(m.bn(m.c(x))), c=fc(), bn=norm(), n=lif()),
    "added in place": lambda: Net(
        lambda m, x: m.n(m.bn(m.c(x).add_(x))), c=fc(), bn=norm(), n=lif()
    ),
    "read out too": lambda: Net(read_out, c=fc(), bn=norm(), n=lif()),
    "registered twice": shared_twice,
    "tied": two_places,
    "scaled norm": lambda: Net(
        lambda m, x: m.n(m.bn(m.c(x))), c=fc(), bn=ScaledNorm(6, step_mode="m"), n=lif()
    ),
}


@pytest.mark.parametrize("name", FOLDS)
def test_folding_changes_no_output(name: str) -> None:
    net, x = FOLDS[name](), data()
    options = {"sparsity": 0.3, **UNIFORM}
    plain = sbc.compress_model(net, x, **options)
    folded = sbc.compress_model(net, x, fold=True, **options)
    for a, b in zip(outputs(folded.model, x), outputs(plain.model, x), strict=True):
        assert_close(a, b, 1e-4, name)
    idle = [m for m in folded.model.modules() if isinstance(m, nn.Identity)]
    assert bool(idle) == (name in ("plain", "registered twice"))
    assert bool(folded.log) == (not idle) or name == "registered twice"


def test_folded_codes_still_give_the_weight() -> None:
    net = FOLDS["plain"]()
    with torch.no_grad():
        net.bn.weight[0] = -1.0
    result = sbc.compress_model(net, data(), bits=4, fold=True, **UNIFORM)
    t = result.tensors["c"]
    weight = (t["codes"].float() - t["zero_point"]) * t["scale"]
    assert_close(weight.numpy(), result.model.c.weight.detach().numpy(), 1e-5)


# ---- norms wherever they are held --------------------------------------------------------------


def blocks(m: Any, x: Tensor) -> Tensor:
    """As published networks for speech: forward goes through a plain list."""
    for c, bn, n in m.blocks:
        x = n(bn(c(x)))
    return x


def eager() -> nn.Module:
    return neuron.LIFNode(2.0, v_threshold=0.1, step_mode="m")


def in_lists() -> Net:
    net = Net(blocks)
    net.blocks = [[fc(bias=False), norm(), eager()], (fc(bias=False), norm(), eager())]
    net.all = nn.ModuleList([m for block in net.blocks for m in block])
    return net


def in_dict() -> Net:
    net = Net(lambda m, x: m.by_name["n"](m.by_name["bn"](m.by_name["c"](x))))
    net.by_name = {"c": fc(bias=False), "bn": norm(), "n": eager()}
    net.all = nn.ModuleList(net.by_name.values())
    return net


class Holder:
    """A plain object with parts of a network."""

    def __init__(self, bn: nn.Module) -> None:
        self.bn = bn


def in_object() -> Net:
    net = Net(lambda m, x: m.n(m.parts.bn(m.c(x))), c=fc(), bn=norm(), n=lif())
    net.parts = Holder(net.bn)
    return net


def in_a_row() -> Net:
    """As a re-parametrised convolution with a norm of its own is put before another norm."""
    net = Net(lambda m, x: m.n(m.bns(m.c(x))), c=fc(bias=False), n=eager())
    net.bns = nn.Sequential(norm(), norm(), norm())
    return net


HELD = {
    "in a row": in_a_row,
    "lists": in_lists,
    "dict": in_dict,
    "object": in_object,
    "registered twice": shared_twice,
}


@pytest.mark.parametrize("name", HELD)
def test_a_norm_is_folded_wherever_it_is_held(name: str, tmp_path: Path) -> None:
    """The one that runs; and the file answers as the result does."""
    net, x = HELD[name](), data()
    options = {"sparsity": 0.3, **UNIFORM}
    plain = sbc.compress_model(net, x, **options)
    folded = sbc.compress_model(net, x, fold=True, **options)
    norms = [m for m in net.modules() if isinstance(m, nn.BatchNorm1d)]
    assert len(folded.folded) == len(norms)
    assert not folded.unfolded
    (expected,), (found,) = outputs(plain.model, x), outputs(folded.model, x)
    assert expected.any()
    assert_close(found, expected, 1e-5)
    folded.save(path := tmp_path / "net")
    torch.manual_seed(1)
    (loaded,) = outputs(sbc.load_compressed(HELD[name](), path), x)
    assert np.array_equal(loaded, found)


# ---- norms that stay ---------------------------------------------------------------------------


class PaddedNorm(nn.Module):
    """As re-parametrised convolutions have it: the border is what the norm makes of 0.

    It hands the norm's statistics on, and is no second norm for that.
    """

    running_mean = property(lambda self: self.bn.running_mean)
    running_var = property(lambda self: self.bn.running_var)
    eps = property(lambda self: self.bn.eps)

    def __init__(self, features: int) -> None:
        super().__init__()
        self.bn = plain_norm(nn.BatchNorm2d, features)

    def forward(self, x: Tensor) -> Tensor:
        bn = self.bn
        y = nn.functional.pad(bn(x), [1] * 4)
        edge = bn.bias - bn.running_mean * bn.weight / torch.sqrt(bn.running_var + bn.eps)
        y[:, :, 0], y[:, :, -1] = edge.view(1, -1, 1), edge.view(1, -1, 1)
        y[:, :, :, 0], y[:, :, :, -1] = edge.view(1, -1, 1), edge.view(1, -1, 1)
        return y


class WeightedByNorm(nn.Module):
    """Reads its norm's running mean, which an Identity of another kind could have too."""

    def __init__(self) -> None:
        super().__init__()
        self.bn = norm()

    def forward(self, x: Tensor) -> Tensor:
        mean = getattr(self.bn, "running_mean", torch.zeros(6))
        return self.bn(x) + mean


def repeated(m: Any, x: Tensor) -> Tensor:
    return m.n(m.body(x.flatten(0, 1)).unflatten(0, x.shape[:2]))


def padded() -> Net:
    body = nn.Sequential(
        nn.Conv2d(2, 6, 1, bias=False), PaddedNorm(6),
        nn.Conv2d(6, 6, 3, bias=False), plain_norm(nn.BatchNorm2d),
    )  # fmt: skip
    return Net(repeated, body=body, n=lif())


def both_sides(m: Any, x: Tensor) -> Tensor:
    return m.n(m.bn(m.c(x))) + m.n2(m.bn(m.d(x)))


def hidden_use(m: Any, x: Tensor) -> Tensor:
    """What autograd does not see: only the outputs tell."""
    y = m.c(x)
    return m.n(m.bn(y)) + y.detach()


def a_norm_a_step(m: Any, x: Tensor) -> Tensor:
    return m.n(torch.stack([bn(m.c(step)) for bn, step in zip(m.bns, x, strict=True)]))


def between_two(m: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    y = m.bn(m.c(x))
    return m.n(m.b2(y)), y


STAYING: dict[str, tuple[Any, tuple[int, ...], dict[str, str], int]] = {
    "padding wrapper": (padded, IMAGES, {"body.1.bn": "the model reads its bias, running_mean"}, 1),
    "attribute read": (
        lambda: nn.Sequential(fc(), WeightedByNorm(), lif()),
        (4, 5, 6),
        {"1.bn": "the model reads its running_mean"},
        0,
    ),
    "of two layers": (
        lambda: Net(both_sides, c=fc(), d=fc(), bn=norm(), n=lif(), n2=lif()),
        (4, 5, 6),
        {"bn": "it is fed the outputs of c, d"},
        0,
    ),
    "read out too": (
        FOLDS["read out too"],
        (4, 5, 6),
        {"bn": "the output of c is used elsewhere too"},
        0,
    ),
    "used behind autograd": (
        lambda: Net(hidden_use, c=fc(), bn=norm(), n=lif()),
        (4, 5, 6),
        {"bn": "the output changes by"},
        0,
    ),
    "scaled": (FOLDS["scaled norm"], (4, 5, 6), {"bn": "does more than its statistics say"}, 0),
    "one a time step": (
        lambda: Net(
            a_norm_a_step,
            c=fc(),
            bns=nn.ModuleList(plain_norm(nn.BatchNorm1d) for _ in range(4)),
            n=lif(),
        ),
        (4, 5, 6),
        {f"bns.{step}": "each time step has a BatchNorm of its own" for step in range(4)},
        0,
    ),
    "behind one that stays": (
        lambda: Net(
            lambda m, x: m.n(m.b2(m.bn(m.c(x) + x))), c=fc(), bn=norm(), b2=norm(), n=lif()
        ),
        (4, 5, 6),
        {"bn": "not fed one layer's output", "b2": "it is fed the output of bn, which stays"},
        0,
    ),
    "read between two": (
        lambda: Net(between_two, c=fc(), bn=norm(), b2=norm(), n=lif()),
        (4, 5, 6),
        {"b2": "the output of bn is used elsewhere too"},
        1,
    ),
    "sum": (
        lambda: Net(lambda m, x: m.n(m.bn(m.c(x) + x)), c=fc(), bn=norm(), n=lif()),
        (4, 5, 6),
        {"bn": "not fed one layer's output and nothing else"},
        0,
    ),
}


@pytest.mark.parametrize("name", STAYING)
def test_a_norm_that_cannot_be_folded_stays_by_name(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others are folded, the reason is known before the work, and no output changes."""
    build, shape, reasons, others = STAYING[name]
    net, x = build(), data(*shape)
    options = {"sparsity": 0.3, **UNIFORM}
    plain = sbc.compress_model(net, x, **options)
    known: dict[str, str] = {}

    def foldable_first(*args: Any) -> Any:
        accepted, refused = foldable(*args)
        known.update(refused)
        return accepted, refused

    def compress_later(run: Any) -> None:
        monkeypatch.setattr(compress_module, "foldable", foldable)
        compress(run)

    monkeypatch.setattr(compress_module, "foldable", foldable_first)
    monkeypatch.setattr(compress_module, "compress", compress_later)
    result = sbc.compress_model(net, x, fold=True, **options)
    assert list(result.unfolded) == list(reasons)
    for bn, reason in reasons.items():
        assert reason in result.unfolded[bn]
        assert f"{bn} is not folded: {result.unfolded[bn]}" in result.log
        assert isinstance(result.model.get_submodule(bn), nn.modules.batchnorm._BatchNorm)
    assert known == {bn: why for bn, why in result.unfolded.items() if "the model" in why}
    assert len(result.folded) == others
    for a, b in zip(outputs(result.model, x), outputs(plain.model, x), strict=True):
        assert_close(a, b, 1e-5, name)


def test_spikes_that_a_rounding_moves_do_not_keep_a_norm() -> None:
    """Potentials lie at the threshold itself: half the spikes hang on the last bit."""
    net = Net(lambda m, x: m.n2(m.b2(m.d(m.n(m.bn(m.c(x)))))),
        c=fc(), d=fc(), bn=norm(), b2=norm(), n=neuron.IFNode(step_mode="m"), n2=lif())  # fmt: skip
    x = data(4, 50, 6)
    with torch.no_grad():
        net.n.v_threshold = float(net.bn(net.c(x)).flatten().median())
    result = sbc.compress_model(net, x, bits=8, fold=True, **UNIFORM)
    assert result.folded == {"c": "bn", "d": "b2"}


class Stream(nn.Module):
    """A residual stream of currents that ends in a head without a neuron."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.bn1, self.n = fc(bias=False), norm(), lif()
        self.fc2, self.bn2, self.head = fc(bias=False), norm(), fc(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        stream = self.bn1(self.fc1(x))
        return self.head(stream + self.bn2(self.fc2(self.n(stream))))


def test_a_norm_that_magnifies_roundings_is_folded() -> None:
    """Large means and a variance next to 0: the network's own last bits are worth 1 %."""
    net = Net(lambda m, x: m.n(m.bn(m.c(x))), c=fc(), bn=norm(), n=lif())
    with torch.no_grad():
        net.c.bias.fill_(1e5)
        net.bn.running_mean.fill_(1e5)
        net.bn.running_var.zero_()
    result = sbc.compress_model(net, data(4, 50, 6), bits=8, fold=True, bn_reestimate=False)
    assert result.folded == {"c": "bn"}


class Unknown(nn.Module):
    """A neuron of nobody's that keeps its potential from one forward to the next."""

    v: Any = 0.0

    def forward(self, x: Tensor) -> Tensor:
        spikes = []
        for step in x:
            self.v = 0.5 * self.v + step
            spike = (self.v > 0.3).float()
            self.v = self.v * (1 - spike)
            spikes.append(spike)
        return torch.stack(spikes)


def test_a_network_of_unknown_neurons_is_folded() -> None:
    """What it keeps between forwards is no difference between them."""
    net = nn.Sequential(fc(), norm(), Unknown(), fc(), norm(), Unknown()).eval()
    result = sbc.compress_model(net, data(4, 50, 6), sparsity=0.3, fold=True, **UNIFORM)
    assert result.folded == {"0": "1", "3": "4"}
    assert not result.unfolded


def test_norms_on_a_residual_stream_are_folded_and_exported() -> None:
    net, x = Stream().eval(), data()
    plain = sbc.compress_model(net, x, sparsity=0.3, **UNIFORM)
    result = sbc.compress_model(net, x, sparsity=0.3, fold=True, **UNIFORM)
    assert result.folded == {"fc1": "bn1", "fc2": "bn2"}
    assert_close(outputs(result.model, x)[0], outputs(plain.model, x)[0], 1e-5)
