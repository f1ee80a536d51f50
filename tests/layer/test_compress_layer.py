"""One layer from end to end: what comes back, in every form of input."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from helpers import (
    assert_close,
    layouts,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from layers import LAYERS, OPTIONS, assert_consistent, conv_of, layer_case

import sbc_kernels as sbc
from sbc_kernels import layer
from sbc_kernels.ops import reference

# ---- what comes back ---------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("option", OPTIONS)
def test_numpy_answers(dtype: Any, option: str) -> None:
    for name in LAYERS:
        weight, spikes, geometry = layer_case(name, dtype)
        out = sbc.compress_layer(weight, spikes, sbc.LIF(), **OPTIONS[option], **geometry)
        assert_consistent(out, weight, OPTIONS[option])


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
@pytest.mark.parametrize("option", OPTIONS)
def test_torch_answers(dtype: str, option: str) -> None:
    for name in ("linear", "grouped"):
        weight, spikes, geometry = layer_case(name)
        tensor = torch.tensor(weight).to(getattr(torch, dtype)).requires_grad_()
        out = sbc.compress_layer(
            tensor, torch.tensor(spikes), sbc.LIF(), **OPTIONS[option], **geometry
        )
        assert_consistent(out, tensor, OPTIONS[option])
        for part in (out.weight, out.mask, out.codes, out.scale, out.zero_point, out.loss):
            assert part is None or isinstance(part, torch.Tensor)
            assert part is None or part.device.type == "cpu"
            assert part is None or not part.requires_grad


@settings(max_examples=150)
@given(st.data())
def test_any_layer(data: st.DataObject) -> None:
    """Small layers of any shape with dead, silent and saturated inputs."""
    d_out, d = data.draw(st.integers(1, 6), "d_out"), data.draw(st.integers(1, 20), "d_in")
    T, N = data.draw(st.integers(1, 5), "T"), data.draw(st.integers(1, 9), "N")
    rng = np.random.default_rng(data.draw(st.integers(0, 999), "seed"))
    spikes = rng.random((T, N, d)) < rng.choice([0, 0.3, 1], d)
    spikes[0, 0, data.draw(st.integers(0, d - 1))] = True
    weight = rng.standard_normal((d_out, d)).astype(data.draw(st.sampled_from(["f4", "f8"])))
    chosen: dict[str, Any] = {"method": data.draw(st.sampled_from(["exact", "blocked"]), "method")}
    job = data.draw(
        st.sampled_from(["N:M", "fraction", "bits", "N:M, bits", "fraction, bits"]), "job"
    )
    if "N:M" in job:
        of_m = data.draw(st.sampled_from([m for m in range(1, d + 1) if d % m == 0]), "M")
        chosen["sparsity"] = f"{data.draw(st.integers(0, of_m), 'N')}:{of_m}"
    elif "fraction" in job:
        chosen["sparsity"] = data.draw(st.floats(0, 1), "sparsity")
    if "bits" in job:
        chosen["bits"] = data.draw(st.integers(1, 8), "bits")
        chosen["group_size"] = data.draw(st.sampled_from([-1, 1, d]), "group_size")
    out = sbc.compress_layer(weight, spikes, sbc.LIF(), **chosen)
    assert_consistent(out, weight, chosen)


def test_defaults_are_said() -> None:
    weight, spikes, _ = layer_case("linear")
    out = sbc.compress_layer(weight, spikes)
    log = "\n".join(out.log)
    assert "LIF(tau=2.0)" in log
    assert "90 %" in log
    assert "exact integers" in log
    assert out.damp_percent == 0.01
    assert (out.weight == 0).sum() == 259  # 90 % of 288
    explicit = sbc.compress_layer(weight, spikes, sbc.LIF(2.0), sparsity=0.9, method="exact")
    assert np.array_equal(out.weight, explicit.weight)
    assert "neither sparsity nor bits" not in "\n".join(explicit.log)


def test_log_says_how() -> None:
    weight, spikes, _ = layer_case("linear")
    analog = spikes * np.random.default_rng(0).random(spikes.shape)
    out = sbc.compress_layer(
        weight, analog, sbc.IF(), sparsity="2:4", bits=4, group_size=8, sym=True
    )
    log = "\n".join(out.log)
    for said in ("IF()", "60 samples", "float64 matrix products", "2:4", "exact OBS", "4 bits"):
        assert said in log
    for said in ("mse grid", "symmetric", "group_size 8"):
        assert said in log
    current = sbc.compress_layer(weight, spikes, hessian="current")
    assert "Hessian: current" in "\n".join(current.log)
    assert "LIF" not in "\n".join(current.log)


@pytest.mark.parametrize("method", ["exact", "blocked", "magnitude"])
def test_nothing_to_prune_changes_nothing(method: str) -> None:
    weight, spikes, _ = layer_case("linear", np.float32)
    out = sbc.compress_layer(weight, spikes, sparsity=0.0, method=method)
    assert np.array_equal(out.weight, weight)
    assert out.mask.all()
    assert (out.loss == 0).all()
    everything = sbc.compress_layer(weight, spikes, sparsity=1.0, method=method)
    assert (everything.weight == 0).all()


@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (5, 1), (1, 1, 1), (1, 1, 1, 1)])
@pytest.mark.parametrize("option", ["default", "blocked", "4 bits", "1 bit", "exact, 4 bits"])
def test_one_element_layers(shape: tuple[int, ...], option: str) -> None:
    weight = np.linspace(-1, 2, int(np.prod(shape)), dtype=np.float32).reshape(shape)
    spikes = np.ones((2, 1, *shape[1:]), dtype=bool)
    out = sbc.compress_layer(weight, spikes, **OPTIONS[option])
    assert_consistent(out, weight, OPTIONS[option])


# ---- input in every form -----------------------------------------------------------------------


@pytest.mark.parametrize("option", ["default", "blocked, 4 bits"])
def test_layouts(option: str) -> None:
    for name in ("linear", "grouped"):
        weight, spikes, geometry = layer_case(name, np.float32)
        wanted = sbc.compress_layer(weight, spikes, **OPTIONS[option], **geometry)
        forms = zip(layouts(weight).items(), layouts(spikes.astype("f4")).values(), strict=True)
        for (form, other), moved in forms:
            out = sbc.compress_layer(other, moved, **OPTIONS[option], **geometry)
            assert np.array_equal(out.weight, wanted.weight), form
            assert np.array_equal(out.loss, wanted.loss), form


@pytest.mark.parametrize("option", OPTIONS)
def test_inputs_are_left_alone(option: str) -> None:
    for name in ("linear", "grouped"):
        weight, spikes, geometry = layer_case(name)
        spikes = spikes.astype(np.float32) * np.float32(0.5)
        copies = weight.copy(), spikes.copy()
        out = sbc.compress_layer(weight, spikes, **OPTIONS[option], **geometry)
        assert np.array_equal(weight, copies[0])
        assert np.array_equal(spikes, copies[1])
        assert not np.shares_memory(out.weight, weight)
        tensors = torch.tensor(weight), torch.tensor(spikes)
        sbc.compress_layer(*tensors, **OPTIONS[option], **geometry)
        assert np.array_equal(tensors[0].numpy(), copies[0])
        assert np.array_equal(tensors[1].numpy(), copies[1])


@pytest.mark.parametrize("name", ["linear", "conv2d", "grouped"])
def test_a_fed_hessian_is_the_spikes(name: str) -> None:
    weight, spikes, geometry = layer_case(name)
    hessian = sbc.SpikeHessian(sbc.IF(), conv=conv_of(weight, geometry))
    for batch in np.array_split(spikes, 3, axis=1):
        hessian.update(batch)
    direct = sbc.compress_layer(weight, spikes, sbc.IF(), sparsity="2:4", bits=4, **geometry)
    for neuron in (None, sbc.IF()):  # and it is not used up
        fed = sbc.compress_layer(weight, hessian, neuron, sparsity="2:4", bits=4, **geometry)
        assert np.array_equal(fed.weight, direct.weight)
        assert np.array_equal(fed.loss, direct.loss)
    assert "3 batch(es)" in "\n".join(fed.log)
    assert hessian.num_samples == spikes.shape[1]


def test_a_hessian_without_neuron_is_the_current_one() -> None:
    weight, spikes, _ = layer_case("linear")
    fed = sbc.SpikeHessian().update(torch.tensor(spikes))  # of another framework than W
    out = sbc.compress_layer(weight, fed, hessian="current", sparsity=0.5)
    direct = sbc.compress_layer(weight, spikes, hessian="current", sparsity=0.5)
    assert isinstance(out.weight, np.ndarray)
    assert np.array_equal(out.weight, direct.weight)


@pytest.mark.parametrize("kind", ["negative", "ternary", "analog", "counts", "large"])
def test_spikes_of_other_kinds(kind: str) -> None:
    weight, spikes, _ = layer_case("linear")
    sign = np.where(np.arange(24) % 2, -1, 1)
    form = {
        "negative": -spikes.astype(np.int8),
        "ternary": spikes * sign.astype(np.int8),
        "analog": spikes * np.linspace(0.1, 2, 24),
        "counts": spikes.astype(np.int64) * 100,
        "large": spikes.astype(np.int64) * 100_000,
    }[kind]
    for option in ("exact", "4 bits"):
        out = sbc.compress_layer(weight, form, sbc.IF(), **OPTIONS[option])
        assert_consistent(out, weight, OPTIONS[option])
        measured = reference.output_error(weight, out.weight, form, sbc.IF())
        size = reference.output_error(
            0 * weight, np.abs(out.weight - weight), np.abs(form), sbc.IF()
        )
        assert_close(out.loss, measured, 2.0**-40 * size, kind)
    if kind in ("negative", "counts", "large"):  # a common factor decides nothing
        plain = sbc.compress_layer(weight, spikes, sbc.IF(), sparsity=0.6)
        out = sbc.compress_layer(weight, form, sbc.IF(), sparsity=0.6)
        assert np.array_equal(out.mask, plain.mask)


def test_the_weight_is_converted_and_checked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    checked: list[str] = []
    require_finite = layer.require_finite

    def spy(values: Any, name: str) -> None:
        checked.append(name)
        require_finite(values, name)

    monkeypatch.setattr(layer, "require_finite", spy)
    rng = np.random.default_rng(0)
    sbc.compress_layer(rng.standard_normal((4, 6)), rng.random((3, 5, 6)) < 0.5, sparsity=0.5)
    assert checked == ["W"]
