"""SpikingJelly's neurons up to 0.0.0.0.12, recognized in whoever's copy of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import older_neurons as old
import pytest
import torch
from helpers import assert_close, eps
from torch import Tensor, nn

import sbc_kernels as sbc
from sbc_kernels.frameworks import adapter_of

pytestmark = pytest.mark.filterwarnings("ignore:no input spiked in calibration:RuntimeWarning")

HIGH = 1e6  # no spike
MULTI: dict[str, Callable[..., Any]] = {
    "IF": old.MultiStepIFNode,
    "LIF": lambda **o: old.MultiStepLIFNode(tau=3.0, **o),
    "LIF, input as it is": lambda **o: old.MultiStepLIFNode(tau=3.0, decay_input=False, **o),
    "PLIF": lambda **o: old.MultiStepParametricLIFNode(init_tau=5.0, **o),
}


@pytest.mark.parametrize("v_reset", [0.0, None, -0.5])
@pytest.mark.parametrize("name", MULTI)
def test_responses_are_those_of_the_neuron(name: str, v_reset: float | None) -> None:
    if v_reset == -0.5 and name in ("IF", "PLIF"):
        v_reset = 0.5 if name == "IF" else 0.0
    rest = v_reset or 0.0
    module = MULTI[name](v_threshold=HIGH, v_reset=v_reset)
    adapter: Any = adapter_of(module)
    facts = adapter.describe(module, (8, 1, 1))
    current = torch.zeros(8, 1, 1)
    current[0] = 1.0
    module(current)
    measured = (module.v_seq.flatten().detach() - rest).numpy()
    assert_close(measured, facts.neuron.impulse_response(8), 8 * eps("float32"), name)
    assert (facts.outer, facts.steps) == (1, 8)
    assert facts.threshold == HIGH - rest
    adapter.reset(module)
    assert module.v == rest


def networks() -> tuple[nn.Module, nn.Module]:
    """The same network, all steps a call and one step a call."""
    torch.manual_seed(0)
    layers = [nn.Linear(24, 16), nn.Linear(16, 12), nn.Linear(12, 5)]
    every = [old.MultiStepLIFNode(v_threshold=0.3), old.MultiStepIFNode(v_threshold=0.5)]
    single = [old.LIFNode(v_threshold=0.3), old.IFNode(v_threshold=0.5)]
    one, other = (
        nn.Sequential(layers[0], nodes[0], layers[1], nodes[1], layers[2])
        for nodes in (every, single)
    )
    return one, other


def stepwise(model: Any, x: Tensor) -> Tensor:
    return torch.stack([model(step) for step in x])


def test_networks_of_both_modes_are_compressed_alike() -> None:
    batches = [(torch.rand(6, 20, 24) < 0.3).float() for _ in range(3)]
    every, single = networks()
    plan = sbc.trace(every, batches[0])
    assert [layer.role for layer in plan.layers] == ["spiking", "spiking", "head"]
    assert plan["0"].neurons == (sbc.LIF(2.0),)
    assert plan["2"].neurons == (sbc.IF(),)
    assert plan["0"].layout.steps == 6
    # Its potentials are reset by its own method; those that it shows are put back.
    assert set(plan.states) == {"1.v_seq", "3.v_seq"}
    results = [
        sbc.compress_model(every, batches, sparsity=0.5, calibration_mode="parallel"),
        sbc.compress_model(
            single, batches, sparsity=0.5, calibration_mode="parallel", forward=stepwise
        ),
    ]
    for index in (0, 2):
        pair = [result.model[index].weight for result in results]
        assert torch.equal(*pair)
        assert float((pair[0] == 0).float().mean()) > 0.2
    assert isinstance(every[1].v, float)  # type: ignore[index]


def test_neurons_without_a_linear_response_are_neurons() -> None:
    net = nn.Sequential(nn.Linear(24, 16), old.MultiStepQIFNode())
    layer = sbc.trace(net, torch.rand(6, 20, 24)).layers[0]
    assert layer.consumers == ("1",)
    assert "MultiStepQIFNode has no linear, time-invariant subthreshold response" in layer.notes


def test_modules_that_only_look_alike_are_none() -> None:
    class BaseNode(nn.Module):
        """Of a graph, say."""

    assert adapter_of(BaseNode()) is None
    assert adapter_of(old.MemoryModule()) is None
    assert adapter_of(old.LIFNode()) is not None
