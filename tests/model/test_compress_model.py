"""`compress_model`: the same answer as layer by layer, from every framework, nothing lost."""

from __future__ import annotations

import subprocess
import sys
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from helpers import assert_close
from torch import Tensor, nn

import sbc_kernels as sbc
from sbc_kernels.model.feeder import Feeder
from sbc_kernels.network.copies import copy_of

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import norse.torch as norse
    import sinabs.layers as sl
    from four_frameworks import (
        FRAMEWORKS,
        PLAIN,
        MultiStep,
        T,
        WithStates,
        network,
        same,
        snapshot,
        spikes,
        weight_of,
        weights,
    )
    from spikingjelly.activation_based import functional, neuron


WAYS: dict[str, dict[str, Any]] = {
    "prune": {"sparsity": 0.7},
    "N:M": {"sparsity": "2:4", "ignore": ["conv"]},
    "quantize": {"bits": 3},
    "both": {"sparsity": 0.5, "bits": 4, "calibration_mode": "parallel"},
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
    again = a.model.conv.weight.detach() * factor.view(-1, 1, 1, 1)
    assert_close(b.model.conv.weight.detach(), again, 1e-6 * float(again.abs().max()))
    blocked = [
        sbc.compress_model(n, batches, sparsity=0.7, method="blocked", **PLAIN)
        for n in (net, scaled)
    ]
    assert torch.equal(*(r.tensors["conv"]["mask"] for r in blocked))


# ---- all there is ------------------------------------------------------------------------------


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
    feeder = Feeder(copy_of(net), None, plan.neuron_steps)
    feeder.feed(0, x, {"1.rec_connect": fed.append}, layers)
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
    least = whole.plan.peak_bytes(1, PLAIN["calibration_mode"] == "sequential")
    assert len(whole.plan.groups(least)) > 1
    with pytest.raises(sbc.ParameterError, match=f"max_memory is 1 and .* at least {least}"):
        sbc.compress_model(net, batches, sparsity=0.7, max_memory=1, **PLAIN)
    for other in (
        sbc.compress_model(net, batches, sparsity=0.7, max_memory=least, **PLAIN),
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


def test_kernels_are_named_and_files_are_alike_on_every_processor(batches: list[Tensor]) -> None:
    results = {
        name: sbc.compress_model(
            network(), batches, sparsity=0.5, bits=4, backend=name, progress=False
        )
        for name in sbc.available_backends("cpu")
    }
    for name, out in results.items():
        assert set(out.kernels) == {
            "spike_gram", "solve_positive", "inverse", "obs_order", "obs_solve", "upper_factor",
            "obs_quantize",
        }  # fmt: skip
        assert name in out.kernels["spike_gram"]
        report = out.report()
        assert "kernels" not in report
        for layer in report["layers"]:
            assert not any("kernels" in line for line in layer["log"])


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
    with pytest.raises(ValueError, match=r"number 1 .* 'conv' an input of 3 features or channels"):
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
        ({"allocation": {"fc": 7.0}}, ValueError, r"allocation\['fc'\] is 7.0"),
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
        ([], ValueError, "calibration is empty"),
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
        "import sys, sbc_kernels; assert not {'torch', 'scipy'} & sys.modules.keys(); "
        "sbc_kernels.compress_model; assert 'torch' in sys.modules"
    )
    subprocess.run([sys.executable, "-P", "-c", code], check=True)  # the installed one
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        sbc.nothing  # noqa: B018


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_named(value: float) -> None:
    net = nn.Linear(6, 4)
    x = torch.rand(5, 6)
    x[2, 3] = value
    with pytest.raises(ValueError, match="the example, that makes the model itself an input"):
        sbc.compress_model(net, x, sparsity=0.5)
    with torch.no_grad():
        net.weight[0, 0] = value
    with pytest.raises(ValueError, match="model has a weight that is NaN or infinite"):
        sbc.trace(net, torch.rand(5, 6))
