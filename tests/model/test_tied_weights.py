"""One tensor under several names, in whatever form: compressed where every use agrees."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from nets import Net
from torch import Tensor, nn
from traced_networks import First, strong

import sbc_kernels as sbc


def data() -> Tensor:
    return (torch.rand(4, 12, 6, generator=torch.Generator().manual_seed(1)) < 0.4).float()


def zeros(weight: Tensor) -> float:
    return float((weight == 0).float().mean())


def pair(how: str = "parameter") -> Net:
    """a -> n -> b -> n2 -> c, where b has a's weight."""
    torch.manual_seed(0)
    parts = {"a": strong(), "n": First(), "b": strong(), "n2": First(), "c": strong(6, 3)}
    net = Net(lambda m, x: m.c(m.n2(m.b(m.n(m.a(x))))), **parts)
    same = net.a.weight
    net.b.weight = same if how == "parameter" else nn.Parameter(same.data)
    return net


@pytest.mark.parametrize("how", ["parameter", "memory"])
def test_a_second_linear(how: str, tmp_path: Path) -> None:
    net = pair(how)
    result = sbc.compress_model(net, data(), sparsity=0.5)
    assert result.plan["a"].also == ("b",)
    assert set(result.plan["a"].consumers) == {"n", "n2"}
    model = result.model
    assert model.a.weight.data_ptr() == model.b.weight.data_ptr() != net.a.weight.data_ptr()
    assert zeros(model.b.weight) == pytest.approx(0.5, abs=0.1)
    result.save(tmp_path / "m.safetensors")
    back = sbc.load_compressed(pair(how), tmp_path / "m.safetensors")
    assert torch.equal(back.a.weight, model.a.weight)
    assert torch.equal(back.b.weight, model.a.weight)


@pytest.mark.parametrize("name", ["a", "b"])
def test_what_is_asked_of_one_name_holds_for_both(name: str) -> None:
    net = pair()
    result = sbc.compress_model(net, data(), sparsity=0.5, ignore=[name])
    assert torch.equal(result.model.a.weight, net.a.weight)
    assert result.plan["a"].role == "skipped"
    result = sbc.compress_model(net, data(), bits=4, overrides={name: {"bits": 8}})
    assert {record.name: record.bits for record in result.layers} == {"a": 8, "c": 4}
    both = {"a": {"bits": 8}, "b": {"bits": 8, "sym": True}}
    result = sbc.compress_model(net, data(), bits=4, overrides=both)
    assert result.plan["a"].options == {"bits": 8, "sym": True}


def test_contradicting_overrides_are_refused() -> None:
    with pytest.raises(ValueError, match=r"'a' and 'b', which have one weight, bits=8 and bits=4"):
        sbc.trace(pair(), data(), overrides={"a": {"bits": 8}, "b": {"bits": 4}})


class Language(nn.Module):
    """An embedding whose weight the head has, as its own or through a function."""

    def __init__(self, functional: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.emb, self.n, self.fc, self.n2 = nn.Embedding(20, 6), First(), strong(), First()
        self.functional = functional
        if not functional:
            self.head = nn.Linear(6, 20, bias=False)
            self.head.weight = self.emb.weight

    def forward(self, tokens: Tensor) -> Tensor:
        h = self.n2(self.fc(self.n(2 * self.emb(tokens))))
        return F.linear(h, self.emb.weight) if self.functional else self.head(h)


@pytest.mark.parametrize("functional", [False, True])
def test_embedding_and_head(functional: bool, tmp_path: Path) -> None:
    net, tokens = Language(functional), torch.arange(40).reshape(4, 10) % 20
    result = sbc.compress_model(net, [tokens], sparsity=0.5)
    assert torch.equal(result.model.emb.weight, net.emb.weight)
    assert [record.name for record in result.layers] == ["fc"]
    text = " ".join(result.log)
    for name in ("emb",) if functional else ("emb", "head"):
        assert not result.plan[name].compressed
        assert f"{name}: " in text
    assert "embedding" in text.lower()
    result.save(tmp_path / "m.safetensors")
    back = sbc.load_compressed(Language(functional), tmp_path / "m.safetensors")
    assert torch.equal(back.fc.weight, result.model.fc.weight)
    if not functional:
        assert back.head.weight is back.emb.weight
        asked = sbc.compress_model(net, [tokens], sparsity=0.5, overrides={"head": {"skip": False}})
        assert torch.equal(asked.model.head.weight, asked.model.emb.weight)
        assert zeros(asked.model.emb.weight) > 0


def test_a_transposed_view(tmp_path: Path) -> None:
    def autoencoder() -> Net:
        torch.manual_seed(0)
        net = Net(
            lambda m, x: m.out(m.n2(5 * m.dec(m.n(m.enc(x))))),
            enc=strong(6, 8, bias=False),
            n=First(),
            dec=strong(8, 6, bias=False),
            n2=First(),
            out=strong(6, 3),
        )
        net.dec.weight = nn.Parameter(net.enc.weight.t())
        return net

    net = autoencoder()
    result = sbc.compress_model(net, data(), sparsity=0.5)
    for name, other in (("enc", "dec"), ("dec", "enc")):
        assert result.plan[name].role == "unsupported"
        assert f"shares memory with '{other}.weight'" in result.plan[name].notes[0]
    model = result.model
    assert torch.equal(model.enc.weight, net.enc.weight)
    assert model.dec.weight.data_ptr() == model.enc.weight.data_ptr()  # still one memory
    result.save(tmp_path / "m.safetensors")
    back = sbc.load_compressed(autoencoder(), tmp_path / "m.safetensors")
    for key, value in model.state_dict().items():
        assert torch.equal(back.state_dict()[key], value)

    apart = autoencoder()
    apart.dec.weight = nn.Parameter(apart.dec.weight.detach().clone())
    sbc.compress_model(apart, data(), sparsity=0.5).save(tmp_path / "apart.safetensors")
    before = net.enc.weight.clone()
    with pytest.raises(
        ValueError, match=r"'enc\.weight' and 'dec\.weight', which share memory here"
    ):
        sbc.load_compressed(net, tmp_path / "apart.safetensors")
    assert torch.equal(net.enc.weight, before)


@pytest.mark.parametrize("functional", ["transposed", "view of a convolution", "ConvTranspose"])
def test_uses_that_differ_leave_the_weight_alone(functional: str) -> None:
    torch.manual_seed(0)
    if functional == "transposed":
        net = Net(lambda m, x: m.n2(m.n(m.a(x)) @ m.a.weight), a=strong(), n=First(), n2=First())
        reason = "several ways"
    elif functional == "view of a convolution":
        net = Net(
            lambda m, x: m.n2(F.linear(m.n(m.a(x.mT).mT), m.a.weight.view(6, 6))),
            a=nn.Conv1d(6, 6, 1),
            n=First(),
            n2=First(),
        )
        reason = "linear reads its weight"
    else:
        net = Net(
            lambda m, x: m.n2(m.up(m.n(m.a(x.mT))).mT),
            a=nn.Conv1d(6, 6, 1),
            n=First(),
            up=nn.ConvTranspose1d(6, 6, 1),
            n2=First(),
        )
        net.up.weight = net.a.weight
        reason = "conv_transpose1d reads its weight, which 'up.weight' is as well"
    plan = sbc.trace(net, data())
    assert not plan["a"].compressed
    assert reason in plan["a"].notes[0]


@pytest.mark.parametrize("overlapping", [True, False])
def test_slices_of_one_memory(overlapping: bool) -> None:
    """Of a flat buffer, as sharded training keeps it: apart they are layers like any other."""
    torch.manual_seed(0)
    flat = torch.randn(72)
    net = pair()
    net.a.weight = nn.Parameter(flat[:36].view(6, 6))
    start = 18 if overlapping else 36
    net.b.weight = nn.Parameter(flat[start : start + 36].view(6, 6))
    result = sbc.compress_model(net, data(), sparsity=0.5)
    for name in ("a", "b"):
        assert result.plan[name].compressed != overlapping
        assert (zeros(getattr(result.model, name).weight) > 0) != overlapping
    if overlapping:
        assert torch.equal(result.model.a.weight.view(-1)[18:], result.model.b.weight.view(-1)[:18])


def test_the_same_weight_called_and_used_by_a_function() -> None:
    """One layer at two places, whether the second is a call or a product."""

    def net(second: Any) -> Net:
        torch.manual_seed(0)
        parts = {"a": strong(), "n": First(), "n2": First()}
        return Net(lambda m, x: m.n2(second(m, m.n(m.a(x)))), **parts)

    expected = sbc.compress_model(net(lambda m, s: m.a(s)), data(), sparsity=0.5)
    result = sbc.compress_model(
        net(lambda m, s: F.linear(s, m.a.weight, m.a.bias)), data(), sparsity=0.5
    )
    assert result.plan["a"].calls == 2
    assert torch.equal(result.model.a.weight, expected.model.a.weight)
