"""`CompressedModel.save` and `load_compressed`: small, bit-identical, and safe to open."""

from __future__ import annotations

import itertools
import json
import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from nets import Net
from safetensors.numpy import load, save
from torch import Tensor, nn

import sbc_kernels as sbc
from sbc_kernels.files import packed, read_metadata
from sbc_kernels.files.packed import HEADER, checksum

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from four_frameworks import FRAMEWORKS, network, spikes
    from spikingjelly.activation_based import functional, layer, neuron


# Networks here are made to be saved, not to fire.
pytestmark = pytest.mark.filterwarnings("ignore:no input spiked in calibration:RuntimeWarning")


def conv_net() -> nn.Module:
    """[T, N, 2, 8, 8] to [T, N, 5]; one BatchNorm has scales below 0 and one of exactly 0."""
    torch.manual_seed(0)
    net = nn.Sequential(
        layer.Conv2d(2, 8, 3, padding=1, bias=False),
        layer.BatchNorm2d(8),
        neuron.LIFNode(tau=2.0),
        layer.AvgPool2d(2),
        layer.Conv2d(8, 8, 3, padding=1, groups=2),
        layer.BatchNorm2d(8),
        neuron.IFNode(),
        layer.Flatten(),
        layer.Linear(128, 20),
        neuron.LIFNode(tau=2.0),
        layer.Linear(20, 5),
    )
    functional.set_step_mode(net, "m")
    with torch.no_grad():
        net[1].weight.uniform_(-2, 2)
        net[1].running_var.uniform_(0.1, 1)
        net[5].weight.uniform_(-2, 2)
        net[5].weight[3] = 0.0
    return net.eval()


def bits_of(state: dict[str, Tensor]) -> dict[str, tuple[torch.dtype, tuple[int, ...], bytes]]:
    return {
        name: (
            t.dtype,
            tuple(t.shape),
            t.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes(),
        )
        for name, t in state.items()
    }


def scramble(net: nn.Module) -> nn.Module:
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.normal_()
    return net


WAYS: dict[str, dict[str, Any]] = {
    "pruned": {"sparsity": 0.8},
    "quantized": {"bits": 3},
    "one bit": {"bits": 1, "sym": True},
    "both": {"sparsity": 0.5, "bits": 4},
    "in groups": {"bits": 4, "group_size": 9},
    "N:M": {"sparsity": "1:2", "bits": 2},
    "magnitude": {"sparsity": 0.9, "method": "magnitude"},
    "a layer of its own": {"sparsity": 0.9, "overrides": {"8": {"bits": 8}}, "ignore": ["10"]},
}


@pytest.mark.parametrize("fold", [False, True], ids=["", "folded"])
@pytest.mark.parametrize("way", WAYS)
def test_bit_identical(tmp_path: Path, way: str, fold: bool) -> None:
    x = (torch.rand(4, 6, 2, 8, 8) < 0.3).float()
    result = sbc.compress_model(conv_net(), x, **WAYS[way], fold=fold)
    size = result.save(path := tmp_path / "net.safetensors")
    assert size == path.stat().st_size == result.footprint().bytes
    wanted = bits_of(result.model.state_dict())
    for name, weight in result.weights.items():  # the two forms of a weight are one, to the bit
        assert bits_of({"": weight.to_dense()})[""] == wanted[f"{name}.weight"]
        assert result.tensors[name].keys() == weight.parts().keys()
    assert bits_of(sbc.load_compressed(path)) == wanted
    other = scramble(conv_net())
    assert sbc.load_compressed(other, path) is other
    assert bits_of(other.state_dict()) == wanted
    for net in (result.model, other):
        functional.reset_net(net)
    with torch.no_grad():
        assert torch.equal(result.model(x), other(x))


@pytest.mark.parametrize("way", ["quantized", "one bit", "in groups"])
def test_codes_follow_a_folded_norm(way: str) -> None:
    """Also through a scale below 0: the levels change ends."""
    x = (torch.rand(4, 6, 2, 8, 8) < 0.3).float()
    result = sbc.compress_model(conv_net(), x, **WAYS[way], fold=True)
    assert result.folded == {"0": "1", "4": "5"}
    assert "codes" not in result.tensors["4"]  # a scale of 0 has no code
    assert any("codes are gone" in line for line in result.log)
    weight, parts = result.model[0].weight.detach(), result.tensors["0"]
    groups = parts["scale"].shape[1]
    scale, zero = (parts[key].repeat_interleave(18 // groups, 1) for key in ("scale", "zero_point"))
    assert bool((scale > 0).all())
    assert torch.equal(((parts["codes"].flatten(1) - zero) * scale).view_as(weight), weight)


def test_folding_moves_weights_by_rounding_only() -> None:
    x = (torch.rand(4, 6, 2, 8, 8) < 0.3).float()
    plain = sbc.compress_model(conv_net(), x, bits=3)
    folded = sbc.compress_model(conv_net(), x, bits=3, fold=True)
    norm = plain.model[1]
    factor = norm.weight / (norm.running_var + norm.eps).sqrt()
    wanted = plain.model[0].weight * factor[:, None, None, None]
    assert torch.allclose(folded.model[0].weight, wanted, rtol=4 * torch.finfo().eps, atol=0)


@pytest.mark.parametrize("name", FRAMEWORKS)
def test_every_framework(tmp_path: Path, name: str) -> None:
    net = network(name)
    net(spikes(0))  # neurons may keep states among the buffers; they are not part of a model
    result = sbc.compress_model(net, spikes(1), sparsity=0.6, bits=4)
    result.save(path := tmp_path / "net")
    fresh = sbc.load_compressed(scramble(network(name)), path)
    loaded, kept = fresh.state_dict(), result.model.state_dict()
    for key, value in network(name).state_dict().items():
        if value.numel():
            assert bits_of({key: loaded[key]}) == bits_of({key: kept[key]}), key


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("way", ["pruned", "quantized", "both"])
def test_other_dtypes(tmp_path: Path, dtype: torch.dtype, way: str) -> None:
    def build() -> nn.Module:
        torch.manual_seed(0)
        lif = neuron.LIFNode(tau=2.0, step_mode="m")
        return Net(
            lambda m, x: m.b(m.n(m.a(x))), a=nn.Linear(64, 64), n=lif, b=nn.Linear(64, 9)
        ).to(dtype)

    x = (torch.rand(4, 8, 64) < 0.3).to(dtype)
    result = sbc.compress_model(build(), x, **WAYS[way])
    result.save(path := tmp_path / "net")
    assert bits_of(sbc.load_compressed(path)) == bits_of(result.model.state_dict())
    other = sbc.load_compressed(scramble(build()), path)
    assert bits_of(other.state_dict()) == bits_of(result.model.state_dict())
    spent, dense = result.footprint().layers["a"]
    assert dense == 64 * 64 * dtype.itemsize
    assert spent < dense * (0.3 if way == "pruned" else 0.3 * 32 / (8 * dtype.itemsize))


def tied_net() -> nn.Module:
    torch.manual_seed(0)
    lif = [neuron.LIFNode(tau=2.0, step_mode="m") for _ in range(2)]
    net = Net(
        lambda m, x: m.n2(m.first(m.n1(m.last(x)))),
        first=nn.Linear(30, 30),
        last=nn.Linear(30, 30),
        n1=lif[0],
        n2=lif[1],
    )
    net.first.weight = net.last.weight
    return net


def test_tied_weights_are_stored_once(tmp_path: Path) -> None:
    result = sbc.compress_model(tied_net(), (torch.rand(4, 8, 30) < 0.3).float(), bits=2)
    result.save(path := tmp_path / "net")
    metadata = read_metadata(path)
    assert metadata["aliases"] == {"first.weight": "last.weight"}  # `last` is called first
    stored = load(path.read_bytes())
    assert {key for key in stored if "weight" in key} >= {"last.weight:codes"}
    assert not any(key.startswith("first.weight") for key in stored)
    other = sbc.load_compressed(scramble(tied_net()), path)
    assert other.first.weight is other.last.weight
    assert torch.equal(other.last.weight, result.model.last.weight)


@pytest.mark.parametrize("way", ["pruned", "quantized", "both"])
def test_file_holds_little_more_than_its_information(tmp_path: Path, way: str) -> None:
    """Within 10 % of entropy of the mask, survivors or codes, grids, and the tensors left alone."""
    torch.manual_seed(0)
    lif = neuron.LIFNode(tau=2.0, step_mode="m")
    net = Net(lambda m, x: m.b(m.n(m.a(x))), a=nn.Linear(900, 500), n=lif, b=nn.Linear(500, 10))
    how = {
        "pruned": {"sparsity": 0.97},
        "quantized": {"bits": 2},
        "both": {"sparsity": 0.9, "bits": 4},
    }
    result = sbc.compress_model(net, (torch.rand(3, 16, 900) < 0.2).float(), **how[way])
    information = 0.0  # bits
    for record in result.layers:
        parts, size = result.tensors[record.name], math.prod(record.shape)
        kept = size
        if "mask" in parts:
            kept = int(parts["mask"].sum())
            p = kept / size
            information -= (
                size * (p * math.log2(p) + (1 - p) * math.log2(1 - p)) if 0 < p < 1 else 0
            )
        information += kept * (record.bits or 32)
        if "codes" in parts:
            information += parts["scale"].numel() * (32 + record.bits)
        information += 32 * len(getattr(net, record.name).bias)
    size = result.save(tmp_path / "net")
    assert information / 8 <= size < 1.1 * information / 8


def test_report_is_in_the_file(tmp_path: Path) -> None:
    x = (torch.rand(4, 6, 2, 8, 8) < 0.3).float()
    result = sbc.compress_model(conv_net(), x, sparsity=0.8)
    result.save(path := tmp_path / "net")
    report = read_metadata(path)["report"]
    assert report == result.report()
    assert report["footprint"]["bytes"] == path.stat().st_size
    assert report["layers"][0]["name"] == "0"
    curve = report["layers"][0]["curve"]
    assert curve[0] == [0.0, 0.0]
    assert curve[-1][0] == 1.0
    assert curve[-1][1] == pytest.approx(1.0)
    assert all(a[1] <= b[1] for a, b in itertools.pairwise(curve))
    dense = sum(t.numel() * t.element_size() for t in result.model.state_dict().values())
    assert report["footprint"]["dense_bytes"] == dense
    json.dumps(report, allow_nan=False)


def test_files_of_one_result_are_equal_and_code_each_tensor_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = (torch.rand(4, 6, 2, 8, 8) < 0.3).float()
    result = sbc.compress_model(conv_net(), x, sparsity=0.8, overrides={"8": {"bits": 4}})
    coded: list[Any] = []
    original = packed.pack

    def pack(tensor: Any) -> Any:
        coded.append(tensor)
        return original(tensor)

    monkeypatch.setattr("sbc_kernels.files.packed.pack", pack)
    result.save(tmp_path / "first")
    assert len(coded) == len(result.weights) == 4
    monkeypatch.setattr("sbc_kernels.model.stamp.datetime", None)  # nobody asks for the time again
    result.save(tmp_path / "second")
    first, second = ((tmp_path / name).read_bytes() for name in ("first", "second"))
    assert first == second == result.packed_file().data
    assert result.packed_file().report == result.report()
    assert result.report()["created"] == result.stamp.created


def test_equal_runs_give_equal_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With SOURCE_DATE_EPOCH; what was measured is left out of the file and stays in the result."""
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1234567890")
    x = (torch.rand(4, 6, 2, 8, 8) < 0.3).float()
    for name in ("first", "second"):
        result = sbc.compress_model(conv_net(), x, sparsity=0.8, bits=4, fold=True)
        result.save(tmp_path / name)
        result.to_html(tmp_path / f"{name}.html")
        assert result.seconds > 0
        assert all(layer.seconds > 0 for layer in result.layers)
    for ending in ("", ".html"):
        first, second = ((tmp_path / f"{name}{ending}") for name in ("first", "second"))
        assert first.read_bytes() == second.read_bytes()
    report = read_metadata(tmp_path / "first")["report"]
    assert report["created"] == "2009-02-13T23:31:30+00:00"
    assert report["seconds"] is None
    assert all(layer["seconds"] is None for layer in report["layers"])


@pytest.mark.parametrize("text", ["", "soon", "1.5", "9" * 30])
def test_source_date_epoch_that_is_no_time(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", text)
    with pytest.raises(sbc.ParameterError, match=f"SOURCE_DATE_EPOCH is '{text}'; accepted is"):
        sbc.compress_model(conv_net(), torch.ones(2, 2, 2, 8, 8))


# ---- what is refused ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    x = (torch.rand(4, 6, 2, 8, 8) < 0.3).float()
    result = sbc.compress_model(conv_net(), x, sparsity=0.8, bits=4)
    path = tmp_path_factory.mktemp("saved") / "net"
    result.save(path)
    return path.read_bytes()


def untouched(net: nn.Module, path: Path, match: str) -> None:
    before = bits_of(net.state_dict())
    with pytest.raises(ValueError, match=match):
        sbc.load_compressed(net, path)
    assert bits_of(net.state_dict()) == before


@given(at=st.floats(0, 1, exclude_max=True))
@settings(max_examples=60)
def test_truncated(saved: bytes, tmp_path_factory: pytest.TempPathFactory, at: float) -> None:
    path = tmp_path_factory.getbasetemp() / "short"
    path.write_bytes(saved[: int(at * len(saved))])
    untouched(conv_net(), path, "not a whole safetensors file")


@given(
    places=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=4)
)
@settings(max_examples=150)
def test_damaged_anywhere(
    saved: bytes,
    tmp_path_factory: pytest.TempPathFactory,
    places: list[tuple[float, int]],
) -> None:
    """Half of the changes hit the header: each is refused by name, or is a change of values alone."""
    data, head = bytearray(saved), 8 + int.from_bytes(saved[:8], "little")
    for index, (at, value) in enumerate(places):
        data[int(at * (head if index % 2 else len(data)))] = value
    path = tmp_path_factory.getbasetemp() / "damaged"
    path.write_bytes(data)
    try:
        state = sbc.load_compressed(conv_net(), path).state_dict()
    except ValueError as error:
        assert str(path) in str(error)  # noqa: PT017 - or it is no error
    else:
        assert {k: v.shape for k, v in state.items()} == {
            k: v.shape for k, v in conv_net().state_dict().items()
        }


def rewritten(saved: bytes, path: Path, change: Callable[[Any, Any], None]) -> Path:
    head = 8 + int.from_bytes(saved[:8], "little")
    header = json.loads(json.loads(saved[8:head])["__metadata__"][HEADER])
    parts = load(saved)
    change(parts, header)
    header["checksum"] = checksum(parts)
    path.write_bytes(save(parts, {HEADER: json.dumps(header)}))
    return path


CHANGES: dict[str, tuple[Callable[[Any, Any], None], str]] = {
    "version": (lambda p, h: h.update(version=99), "version is 99; accepted is 1"),
    "huge": (
        lambda p, h: h["tensors"]["8.weight"].update(shape=[1 << 30, 1 << 30]),
        "'8.weight' is torch.float32",
    ),
    "no report": (lambda p, h: h["metadata"].pop("report"), "holds no model"),
    "no casts": (lambda p, h: h["metadata"].pop("casts"), "KeyError"),
    "cast to code": (lambda p, h: h["metadata"]["casts"].update({"8.bias": "load"}), "no dtype"),
    "cast to nothing": (lambda p, h: h["metadata"]["casts"].update({"8.bias": "x.y"}), "no attri"),
    "alias of nothing": (lambda p, h: h["metadata"]["aliases"].update(a="b"), "KeyError"),
    "aliases no table": (lambda p, h: h["metadata"].update(aliases=["a"]), "no table of names"),
    "folded nowhere": (
        lambda p, h: h["metadata"]["folded"].update({"0": "77"}),
        "has no '0' and '77'",
    ),
    "a tensor less": (lambda p, h: p.pop("8.bias"), "has no tensor for '8.bias'"),
    "a tensor more": (lambda p, h: p.update(z=np.zeros(1)), "a tensor for 'z', which this model"),
    "another shape": (
        lambda p, h: p.update({"8.bias": np.zeros(3, np.float32)}),
        r"'8.bias' is torch.float32 \[3\] in it, and torch.float32 \[20\] here",
    ),
    "another dtype": (lambda p, h: p.update({"8.bias": np.zeros(20)}), "torch.float64"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_refused_by_name(saved: bytes, tmp_path: Path, change: str) -> None:
    rewrite, match = CHANGES[change]
    untouched(conv_net(), rewritten(saved, tmp_path / "net", rewrite), match)


def test_wrong_model_and_wrong_calls(saved: bytes, tmp_path: Path) -> None:
    path = tmp_path / "net"
    path.write_bytes(saved)
    untouched(tied_net(), path, "is of another model: it has no tensor for 'first.weight'")
    untouched(conv_net().half(), path, "torch.float16")
    with pytest.raises(FileNotFoundError, match="no such file"):
        sbc.load_compressed(conv_net(), tmp_path / "nowhere")
    with pytest.raises(TypeError, match="path is missing, and model is a Sequential"):
        sbc.load_compressed(conv_net())
    with pytest.raises(TypeError, match="model is a str; accepted is"):
        sbc.load_compressed("net", path)
    with pytest.raises(TypeError, match="_orig_mod"):
        sbc.load_compressed(torch.compile(conv_net()), path)


@pytest.mark.parametrize(("way", "what"), [("pruned", "mask"), ("quantized", "codes")])
def test_a_weight_that_was_changed_since(tmp_path: Path, way: str, what: str) -> None:
    x = (torch.rand(4, 6, 2, 8, 8) < 0.3).float()
    result = sbc.compress_model(conv_net(), x, **WAYS[way])
    with torch.no_grad():
        result.model[8].weight += 0.01
    with pytest.raises(ValueError, match=f"'8.weight' is not what its {what} say"):
        result.save(tmp_path / "net")
    assert not list(tmp_path.iterdir())


def test_a_changed_value_is_noticed(saved: bytes, tmp_path: Path) -> None:
    """One bit of the tensors, anywhere."""
    path, head = tmp_path / "net", 8 + int.from_bytes(saved[:8], "little")
    for at in range(head, len(saved), 97):
        data = bytearray(saved)
        data[at] ^= 1
        path.write_bytes(data)
        with pytest.raises(ValueError, match="a checksum differs"):
            sbc.load_compressed(path)


def test_untied_weights_do_not_go_into_a_tied_model(tmp_path: Path) -> None:
    net = tied_net()
    net.first.weight = nn.Parameter(net.first.weight.detach().clone())
    result = sbc.compress_model(net, (torch.rand(4, 8, 30) < 0.3).float(), sparsity=0.5)
    result.save(path := tmp_path / "net")
    untouched(tied_net(), path, "one tensor here, differ in it")


def test_a_neuron_is_no_folded_norm(tmp_path: Path) -> None:
    x = (torch.rand(4, 6, 2, 8, 8) < 0.3).float()
    sbc.compress_model(conv_net(), x, sparsity=0.5, fold=True).save(path := tmp_path / "net")
    net = conv_net()
    net[1] = neuron.IFNode(step_mode="m")
    untouched(net, path, "'1' was a BatchNorm that was folded, and is a IFNode here")


@pytest.mark.filterwarnings("ignore:for .*copying from a non-meta parameter:UserWarning")
def test_a_folded_bias_goes_where_its_layer_is(tmp_path: Path) -> None:
    x = (torch.rand(4, 6, 2, 8, 8) < 0.3).float()
    sbc.compress_model(conv_net(), x, sparsity=0.5, fold=True).save(path := tmp_path / "net")
    net = sbc.load_compressed(conv_net().to("meta"), path)
    assert {parameter.device.type for parameter in net.parameters()} == {"meta"}


def test_a_model_that_is_one_layer(tmp_path: Path) -> None:
    x = (torch.rand(6, 20) < 0.3).float()
    result = sbc.compress_model(nn.Linear(20, 8), x, sparsity=0.5, bits=4)
    result.save(path := tmp_path / "net")
    assert bits_of(sbc.load_compressed(path)) == bits_of(result.model.state_dict())
    assert sbc.metrics.footprint(path) == result.footprint()
    assert set(result.footprint().layers) == {""}


class Storing(nn.Linear):
    def get_extra_state(self) -> Any:
        return {"a": 1}

    def set_extra_state(self, state: Any) -> None:
        pass


@pytest.mark.parametrize(
    ("build", "match"),
    [
        (lambda: Storing(20, 8), "'a._extra_state' that is a dict; accepted in a file are tensors"),
        (lambda: nn.Linear(20, 8), "'a.z' that is torch.complex64, torch.strided"),
    ],
)
def test_states_that_no_file_keeps(tmp_path: Path, build: Any, match: str) -> None:
    net = Net(lambda m, x: m.a(x), a=build())
    if not isinstance(net.a, Storing):
        net.a.register_buffer("z", torch.zeros(2, dtype=torch.complex64))
    result = sbc.compress_model(net, (torch.rand(6, 20) < 0.3).float(), sparsity=0.5)
    with pytest.raises(TypeError, match=match):
        result.save(tmp_path / "net")
