"""`compress_model`: the same answer as layer by layer, from every framework, nothing lost."""

from __future__ import annotations

import json
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
from sbc_kernels.demo.data import digits
from sbc_kernels.demo.events import saccade_events
from sbc_kernels.demo.network import Network, as_input, measure
from sbc_kernels.demo.train import SHIPPED, load_checkpoint
from sbc_kernels.model.allocation.lamp import lamp_sparsities
from sbc_kernels.model.allocation.programme import cheapest_densities
from sbc_kernels.model.passes import Feeder
from sbc_kernels.network.copies import copy_of

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import norse.torch as norse
    import sinabs.layers as sl
    import zoo
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

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture
def batches() -> list[Tensor]:
    return [spikes(seed) for seed in range(3)]


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
    assert result.allocation == lamp_sparsities(
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
    found = lamp_sparsities(weights_, 0.5)
    assert found["a"] == pytest.approx(gone.count("a") / 30)
    assert found["b"] == pytest.approx(gone.count("b") / 20)


def test_cheapest_against_every_choice() -> None:
    rng = np.random.default_rng(1)
    sizes, densities = [400, 1000, 70], [np.array([0.05, 0.1, 0.3, 0.6, 1.0])] * 3
    for density in (0.1, 0.25, 0.5, 0.9):
        costs = [np.sort(rng.random(5))[::-1] for _ in sizes]
        found = cheapest_densities(sizes, costs, densities, density)
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
        cheapest_densities([10], [np.array([1.0])], [np.array([0.5])], 0.1)


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


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_named(value: float) -> None:
    net = nn.Linear(6, 4)
    x = torch.rand(5, 6)
    x[2, 3] = value
    with pytest.raises(
        ValueError, match="first calibration batch, makes the model itself an input"
    ):
        sbc.compress_model(net, x, sparsity=0.5)
    with torch.no_grad():
        net.weight[0, 0] = value
    with pytest.raises(ValueError, match="model has a weight that is NaN or infinite"):
        sbc.trace(net, torch.rand(5, 6))
