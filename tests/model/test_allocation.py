"""`compress_model`: how sparsity is shared out; real models."""

from __future__ import annotations

import json
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import sbc_kernels as sbc
from sbc_kernels.demo.data import digits
from sbc_kernels.demo.events import saccade_events
from sbc_kernels.demo.network import Network, as_input, measure
from sbc_kernels.demo.train import SHIPPED, load_checkpoint
from sbc_kernels.model.allocation.lamp import lamp_sparsities
from sbc_kernels.model.allocation.programme import cheapest_densities

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import zoo
    from four_frameworks import (
        PLAIN,
        network,
        weight_of,
    )
    from spikingjelly.activation_based import functional, neuron


# ---- the same as by hand -----------------------------------------------------------------------


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
