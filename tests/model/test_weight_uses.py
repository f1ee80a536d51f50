"""Weights that a forward uses outside of Linear modules are layers like any other."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from nets import Net
from torch import Tensor, nn
from traced_networks import First, Single, strong

import sbc_kernels as sbc
from sbc_kernels.files.footprint import footprint

norse = pytest.importorskip("norse.torch")

Run = Callable[[Any, Tensor], Tensor]


def data(d: int = 6, T: int = 4, N: int = 12) -> Tensor:
    return (torch.rand(T, N, d, generator=torch.Generator().manual_seed(1)) < 0.4).float()


class Weights(nn.Module):
    """Parameters of no layer: [d_out, d_in], and the same transposed."""

    def __init__(self, dense: nn.Linear) -> None:
        super().__init__()
        self.own = nn.Parameter(dense.weight.detach().clone())
        self.flipped = nn.Parameter(dense.weight.detach().t().contiguous())
        self.bias = nn.Parameter(dense.bias.detach().clone())


def products(form: str) -> Run:
    """A network's first layer, written in different ways."""
    ways: dict[str, Run] = {
        "F.linear": lambda m, x: F.linear(x, m.fc.weight, m.fc.bias),
        "module.forward": lambda m, x: m.fc.forward(x),
        "parameter": lambda m, x: F.linear(x, m.raw.own, m.raw.bias),
        "@ weight.t()": lambda m, x: x @ m.raw.own.t() + m.fc.bias,
        "@ weight.T": lambda m, x: x @ m.raw.own.T + m.fc.bias,
        "weight @": lambda m, x: (m.raw.own @ x.mT).mT + m.fc.bias,
        "@ transposed": lambda m, x: x @ m.raw.flipped + m.fc.bias,
        "addmm": lambda m, x: torch.addmm(m.raw.bias, x.flatten(0, 1), m.raw.flipped).view(
            *x.shape[:2], -1
        ),
        "einsum": lambda m, x: torch.einsum("tni,io->tno", x, m.raw.flipped) + m.fc.bias,
        "einsum, mixed": lambda m, x: (
            torch.einsum("oi,t...i->ot...", m.raw.own, x).movedim(0, -1) + m.fc.bias
        ),
        "tensordot": lambda m, x: torch.tensordot(x, m.raw.own, dims=([2], [1])) + m.fc.bias,
        "inner": lambda m, x: torch.inner(x, m.raw.own) + m.fc.bias,
    }
    return ways[form]


FORMS = {
    "F.linear": ("fc", False),
    "module.forward": ("fc", False),
    "parameter": ("raw.own", False),
    "@ weight.t()": ("raw.own", False),
    "@ weight.T": ("raw.own", False),
    "weight @": ("raw.own", False),
    "@ transposed": ("raw.flipped", True),
    "addmm": ("raw.flipped", True),
    "einsum": ("raw.flipped", True),
    "einsum, mixed": ("raw.own", False),
    "tensordot": ("raw.own", False),
    "inner": ("raw.own", False),
}


def network(run: Run | None = None) -> Net:
    """fc -> neuron -> out, its first layer as `run` says, otherwise its module."""
    torch.manual_seed(0)
    fc, out = strong(6, 8), strong(8, 3)
    first = run or (lambda m, x: m.fc(x))
    return Net(lambda m, x: m.out(m.n(first(m, x))), fc=fc, raw=Weights(fc), n=First(), out=out)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("options", [{"sparsity": 0.5}, {"bits": 3}, {"sparsity": 0.5, "bits": 4}])
def test_a_product_is_compressed_as_the_module_is(
    form: str, options: dict[str, Any], tmp_path: Path
) -> None:
    name, transposed = FORMS[form]
    # Where the bias is added by another operation, it takes no part.
    options = {**options, "bias_correction": False}
    expected = sbc.compress_model(network(), data(), **options)
    net = network(products(form))
    result = sbc.compress_model(net, data(), **options)
    planned = result.plan[name]
    assert (planned.role, planned.consumers, planned.transposed) == ("spiking", ("n",), transposed)
    assert planned.layout.steps == 4
    weight = dict(result.model.named_parameters())[planned.weight_entry]
    weight = weight.t() if transposed else weight
    assert torch.equal(weight, expected.model.fc.weight)
    assert torch.equal(result.model.out.weight, expected.model.out.weight)
    stored = result.weights[name].converted(lambda part: part.detach().cpu().numpy())
    assert np.array_equal(stored.to_dense(), expected.model.fc.weight.detach().numpy())

    result.save(tmp_path / "model.safetensors")
    again = sbc.load_compressed(network(products(form)), tmp_path / "model.safetensors")
    for key, value in result.model.state_dict().items():
        assert torch.equal(again.state_dict()[key], value)
    assert name in footprint(tmp_path / "model.safetensors").layers
    # Codes and masks take in the file what they take of a Linear layer.
    own, plain = result.footprint().layers[name], expected.footprint().layers["fc"]
    assert own[1] == plain[1]
    assert own[0] <= plain[0] + 8


def test_a_bias_in_the_product_takes_part() -> None:
    expected = sbc.compress_model(network(), data(), sparsity=0.5)
    for form in ("F.linear", "module.forward", "parameter"):
        result = sbc.compress_model(network(products(form)), data(), sparsity=0.5)
        layer = result.plan[FORMS[form][0]]
        assert layer.bias_entry == ("raw.bias" if form == "parameter" else "fc.bias")
        state = result.model.state_dict()
        assert torch.equal(state[layer.weight_entry], expected.model.fc.weight)
        assert torch.equal(state[layer.bias_entry], expected.model.fc.bias)


@pytest.mark.parametrize("mode", ["parallel", "sequential"])
@pytest.mark.parametrize("functional", ["forward", "conv2d"])
def test_convolutions(mode: str, functional: str) -> None:
    def net(run: Run) -> Net:
        torch.manual_seed(0)
        conv = nn.Conv2d(2, 4, 3, stride=2, padding=1, groups=2)
        return Net(
            lambda m, x: m.n(run(m, x.flatten(0, 1)).unflatten(0, (4, 6))), conv=conv, n=First()
        )

    runs: dict[str, Run] = {
        "forward": lambda m, x: m.conv.forward(x),
        "conv2d": lambda m, x: F.conv2d(x, m.conv.weight, m.conv.bias, 2, 1, groups=2),
    }
    x = (torch.rand(4, 6, 2, 5, 5, generator=torch.Generator().manual_seed(2)) < 0.4).float()
    options = {"sparsity": 0.5, "calibration_mode": mode}
    expected = sbc.compress_model(net(lambda m, x: m.conv(x)), x, **options)
    result = sbc.compress_model(net(runs[functional]), x, **options)
    assert result.plan["conv"].functional
    assert torch.equal(result.model.conv.weight, expected.model.conv.weight)


def test_recurrence_in_a_loop(tmp_path: Path) -> None:
    """``s @ V.weight.t()``, one step a call, against a module V in its place."""

    def net(step: Run) -> Net:
        def run(m: Any, x: Tensor) -> Tensor:
            s, out = torch.zeros(x.shape[1], 8), []
            for now in x:
                s = m.n(m.W(now) + step(m, s))
                out.append(s)
            return torch.stack(out)

        torch.manual_seed(0)
        return Net(run, W=strong(6, 8), V=strong(8, 8, bias=False), n=Single())

    x = data()
    expected = sbc.compress_model(net(lambda m, s: m.V(s)), x, sparsity=0.5)
    result = sbc.compress_model(
        net(lambda m, s: s @ m.V.weight.t()), x, sparsity=0.5, checkpoint_dir=tmp_path
    )
    assert result.plan["V"].layout == expected.plan["V"].layout
    assert result.plan["V"].consumers == ("n",)
    for name in ("W", "V"):
        assert torch.equal(getattr(result.model, name).weight, getattr(expected.model, name).weight)
    again = sbc.compress_model(
        net(lambda m, s: s @ m.V.weight.t()), x, sparsity=0.5, checkpoint_dir=tmp_path
    )
    assert again.resumed == 2
    assert torch.equal(again.model.V.weight, result.model.V.weight)


def test_norses_recurrent_cell_against_plain_modules() -> None:
    """A cell with weights of its own, against the same equations with two Linear layers."""
    torch.manual_seed(0)
    cell = norse.LIFRecurrentCell(6, 8)
    with torch.no_grad():
        cell.input_weights.mul_(8)

    def looped(m: Any, x: Tensor) -> Tensor:
        out, state = [], None
        for now in x:
            z, state = m.cell(now, state)
            out.append(z)
        return torch.stack(out)

    def plain(m: Any, x: Tensor) -> Tensor:
        z, out, state = torch.zeros(x.shape[1], 8), [], None
        for now in x:
            z, state = m.cell(m.W(now) + m.V(z), state)
            out.append(z)
        return torch.stack(out)

    W, V = strong(6, 8, bias=False), strong(8, 8, bias=False)
    with torch.no_grad():
        W.weight.copy_(cell.input_weights)
        V.weight.copy_(cell.recurrent_weights)
    x = data(T=8)
    expected = sbc.compress_model(Net(plain, W=W, V=V, cell=norse.LIFCell()), x, sparsity=0.5)
    result = sbc.compress_model(Net(looped, cell=cell), x, sparsity=0.5)
    assert result.plan.left_alone == ()
    names = {"cell.input_weights": "W", "cell.recurrent_weights": "V"}
    for name, other in names.items():
        assert result.plan[name].consumers == ("cell",)
        assert result.plan[name].neurons == expected.plan[other].neurons
        assert result.plan[name].layout.steps == expected.plan[other].layout.steps == 8
        new = dict(result.model.named_parameters())[name]
        assert torch.equal(new, expected.model.get_submodule(other).weight)


def test_norses_sequence_and_readout() -> None:
    torch.manual_seed(0)
    net = norse.SequentialState(norse.LIFRecurrent(6, 8), strong(8, 3), norse.LI())
    plan = sbc.trace(net, data())
    assert [layer.name for layer in plan.compressed] == [
        "0.input_weights",
        "0.recurrent_weights",
        "1",
    ]
    assert {layer.layout.steps for layer in plan.layers} == {4}

    def run(m: Any, x: Tensor) -> Tensor:
        state, out = None, []
        for now in x:
            v, state = m.readout(m.fc(now), state)
            out.append(v)
        return torch.stack(out)

    plan = sbc.trace(Net(run, fc=strong(6, 8), readout=norse.LILinearCell(8, 3)), data())
    assert plan["readout.input_weights"].consumers == ("readout",)


def test_what_cannot_be_replaced_is_named() -> None:
    class Attending(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.part, self.masked, self.both = strong(), strong(), strong()
            self.low, self.rank = strong(6, 2), strong(6, 6)
            self.idle = strong()
            self.attention = nn.MultiheadAttention(6, 1)
            self.n = First()

        def forward(self, x: Tensor) -> Tensor:
            h = F.pad(F.linear(x, self.part.weight[:4]), (0, 2))
            h = h + x @ self.masked.weight.clone().fill_diagonal_(0)
            h = h + self.both(x) + x @ self.both.weight
            h = h + x @ (self.rank.weight @ self.low.weight.t()).repeat(1, 3)
            return self.n(h + self.attention(x, x, x)[0])

    with pytest.raises(ValueError, match="no weight layer that can be compressed") as caught:
        sbc.compress_model(Attending(), data(), sparsity=0.5)
    plan = sbc.trace(Attending(), data())
    reasons = {
        "part": "used by linear, never whole",
        "masked": "used by clone",
        "both": "used in several ways",
        "rank": "used by matmul",
        "low": "used by matmul",
        "idle": "not called in the forward pass",
        "attention.out_proj": "used by multi_head_attention_forward",
    }
    for name, reason in reasons.items():
        assert not plan[name].compressed
        assert reason in plan[name].notes[0], plan[name].notes
        assert name in str(caught.value)
    assert plan.left_alone == ("attention.in_proj_weight",)
    assert sum("not called" in note for layer in plan.layers for note in layer.notes) == 1


def test_overrides_reach_parameters_by_their_entry() -> None:
    net = network(products("parameter"))
    result = sbc.compress_model(
        net, data(), sparsity=0.5, overrides={"raw.own": {"sparsity": 0.25}}
    )
    assert {record.name: record.sparsity for record in result.layers}["raw.own"] == 0.25
    result = sbc.compress_model(net, data(), sparsity=0.5, ignore=["raw.own"])
    assert torch.equal(result.model.raw.own, net.raw.own)
    with pytest.raises(ValueError, match="no_such"):
        sbc.compress_model(net, data(), ignore=["no_such"])


def test_nir_says_what_it_cannot_hold(tmp_path: Path) -> None:
    pytest.importorskip("nir")
    for form, words in (
        ("F.linear", "Call the layer's module"),
        ("parameter", "multiplies by 'raw.own', a parameter of no Linear layer"),
    ):
        result = sbc.compress_model(network(products(form)), data(), bits=4)
        with pytest.raises(ValueError, match=words):
            result.to_nir(tmp_path / "net.nir")


def test_operations_are_those_of_the_module() -> None:
    labels = torch.zeros(12)
    expected = sbc.metrics.synaptic_operations(network(), [(data(), labels)] * 2)
    for form in ("F.linear", "module.forward", "@ transposed", "weight @"):
        counted = sbc.metrics.synaptic_operations(network(products(form)), [(data(), labels)] * 2)
        assert counted.layers == {
            FORMS[form][0]: expected.layers["fc"],
            "out": expected.layers["out"],
        }


def test_measured_allocation_takes_part() -> None:
    plain, net = network(), network(products("@ transposed"))
    options = {"sparsity": 0.5, "allocation": "measured", "bias_correction": False}
    expected = sbc.compress_model(plain, data(), **options)
    result = sbc.compress_model(net, data(), **options)
    assert list(result.allocation.values()) == list(expected.allocation.values())
    assert torch.equal(result.model.raw.flipped.t(), expected.model.fc.weight)


def test_ordinary_models_run_without_the_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    from sbc_kernels.model import feeder

    def refuse(*args: Any) -> None:
        raise AssertionError("no layer is functional")

    monkeypatch.setattr(feeder, "_Products", refuse)
    sbc.compress_model(network(), data(), sparsity=0.5)
    with pytest.raises(AssertionError, match="no layer is functional"):
        sbc.compress_model(network(products("F.linear")), data(), sparsity=0.5)


# ---- layers that use their weight in another form ----------------------------------------------


class Standardized(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        w = self.weight
        return F.linear(x, (w - w.mean(1, keepdim=True)) / w.std(1, keepdim=True), self.bias)


class Sign(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, w: Tensor) -> Tensor:
        return w.sign()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad


class Binary(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, Sign.apply(self.weight), self.bias)


class Quantizing(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        soft = self.weight
        hard = (soft * 8).round() / 8
        return F.linear(x, (hard - soft).detach() + soft, self.bias)


class Scaled(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * F.linear(x, self.weight)


@pytest.mark.parametrize("kind", [Standardized, Binary, Quantizing, Scaled])
@pytest.mark.parametrize("silent", [0, 1, 4])
def test_unusual_layers_are_known_from_silence(kind: type[nn.Linear], silent: int) -> None:
    """In a loop over time, whose first `silent` steps of four are zeros at the layer."""

    def run(m: Any, x: Tensor) -> Tensor:
        return torch.stack([m.n2(m.odd(step)) for step in m.n(m.fc(x))])

    torch.manual_seed(0)
    net = Net(run, fc=strong(), n=First(), odd=kind(6, 6), n2=Single())
    with torch.no_grad():
        net.fc.bias.zero_()
        net.fc.weight.abs_().mul_(5)
    x = torch.ones(4, 3, 6)
    x[:silent] = 0
    plan = sbc.trace(net, x)
    assert plan["odd"].role == "unsupported"
    assert "more than multiply by its weight" in plan["odd"].notes[0]
    assert plan["fc"].compressed


def test_a_plain_subclass_is_compressed_from_silence() -> None:
    class Plain(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return F.linear(x, self.weight.to(x.dtype), self.bias)

    net = Net(lambda m, x: m.n(m.fc(x)), fc=Plain(6, 6), n=First())
    assert sbc.trace(net, torch.zeros(3, 2, 6))["fc"].compressed


# ---- constants ---------------------------------------------------------------------------------


def test_a_frozen_layer_among_others_is_left_alone() -> None:
    torch.manual_seed(0)
    net = Net(lambda m, x: m.fixed(m.n(m.fc(x))), fc=strong(6, 8), n=First(), fixed=strong(8, 3))
    net.fixed.weight.requires_grad_(False)
    result = sbc.compress_model(net, data(), sparsity=0.5)
    assert torch.equal(result.model.fixed.weight, net.fixed.weight)
    assert "requires no gradient" in result.plan["fixed"].notes[0]
    assert any("fixed" in line and "requires no gradient" in line for line in result.log)
    asked = sbc.compress_model(net, data(), sparsity=0.5, overrides={"fixed": {"skip": False}})
    assert int((asked.model.fixed.weight == 0).sum()) > 0
    assert not asked.model.fixed.weight.requires_grad


def test_a_model_that_is_frozen_as_a_whole_is_compressed() -> None:
    expected = sbc.compress_model(network(), data(), sparsity=0.5)
    result = sbc.compress_model(network().requires_grad_(False), data(), sparsity=0.5)
    assert torch.equal(result.model.fc.weight, expected.model.fc.weight)
    assert torch.equal(result.model.out.weight, expected.model.out.weight)


# ---- products that are no layer ----------------------------------------------------------------


@pytest.mark.parametrize(
    "first",
    [
        lambda m, x: torch.bmm(x, m.raw.flipped.expand(x.shape[0], -1, -1)),
        lambda m, x: (
            F.linear(x[..., :3], m.raw.own[:, :3]) + F.linear(x[..., 3:], m.raw.own[:, 3:])
        ),
        lambda m, x: torch.vmap(lambda row: row @ m.raw.flipped)(x),
    ],
    ids=["bmm", "slices", "vmap"],
)
def test_a_parameter_that_is_multiplied_by_in_parts_is_named(first: Run) -> None:
    net = Net(lambda m, x: m.out(m.n(first(m, x))), n=First(), out=strong(8, 3))
    net.raw = Weights(strong(6, 8))
    plan = sbc.trace(net, data())
    (layer,) = [layer for layer in plan.layers if layer.name.startswith("raw.")]
    assert layer.role == "unsupported"
    assert "never whole and unchanged in a product; it stays as it is" in layer.notes[0]
    assert plan["out"].compressed


def test_a_layer_that_is_called_in_a_transform_is_refused_by_name() -> None:
    net = Net(lambda m, x: m.n(torch.vmap(m.fc)(x)), fc=strong(6, 8), n=First())
    with pytest.raises(sbc.ParameterError, match=r"model calls 'fc' inside torch\.vmap"):
        sbc.trace(net, data())


@pytest.mark.parametrize(
    ("module", "run"),
    [
        (nn.GRU(6, 6), lambda m, x: m(x)[0]),
        (nn.LSTMCell(6, 6), lambda m, x: torch.stack([m(now)[0] for now in x])),
        (nn.MultiheadAttention(6, 2), lambda m, x: m(x, x, x)[0]),
    ],
    ids=["GRU", "LSTMCell", "MultiheadAttention"],
)
def test_weights_of_other_modules_are_named(module: nn.Module, run: Run) -> None:
    net = Net(lambda m, x: m.n(m.fc(run(m.other, x))), other=module, fc=strong(6, 8), n=First())
    plan = sbc.trace(net, data())
    assert plan["other"].role == "unsupported"
    assert plan["other"].notes[0].startswith(f"{type(module).__name__} is not compressed")
    assert plan["fc"].compressed
