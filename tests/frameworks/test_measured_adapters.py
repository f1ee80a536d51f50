"""What adapters and registrations say, against the response measured from autograd."""

from __future__ import annotations

import warnings
from typing import Any

import four_frameworks
import numpy as np
import pytest
import torch
from neurons_of_frameworks import CASES, T, shape_of_call
from torch import Tensor, nn

import sbc_kernels as sbc
from sbc_kernels.frameworks import NeuronFacts, adapter_of, registered
from sbc_kernels.model.adapter_check import measured_alone
from sbc_kernels.model.provenance import NeuronCall
from sbc_kernels.neurons import impulse_response

# Integrators have no spike function; these two detach their state; the last is one opaque operator.
UNSEEN = {
    *("LICell", "LI", "LILinearCell", "LIBoxCell", "ExpLeak", "ExpLeakSqueeze"),
    *("NonSpikingIFNode", "NonSpikingLIFNode", "NoisyNonSpikingIFNode"),
    *("OTTTLIFNode", "SLTTLIFNode"),
    "ILIFNode m",
}


def measured(module: Any) -> tuple[NeuronFacts, NeuronFacts | None]:
    adapter = adapter_of(module)
    assert adapter is not None
    shape = shape_of_call(module, T, 2)[0]
    facts = adapter.describe(module, shape)
    return facts, measured_alone(module, adapter, facts, NeuronCall(facts, [], False, 1, shape))


@pytest.mark.parametrize("name", CASES)
def test_measured_responses_are_those_of_the_adapters(name: str) -> None:
    _, make = CASES[name]
    torch.manual_seed(0)
    module = make()
    facts, found = measured(module)
    if type(module).__name__ in UNSEEN or name.split(" ", 1)[1] in UNSEEN:
        assert found is None or found.neuron is None
        return
    assert found is not None
    assert facts.neuron is not None
    assert found.neuron is not None, found.notes
    expected = impulse_response(facts.neuron, found.steps)
    np.testing.assert_allclose(
        impulse_response(found.neuron, found.steps), expected, rtol=0, atol=1e-6
    )


@pytest.mark.parametrize("name", four_frameworks.FRAMEWORKS)
def test_the_frameworks_give_no_warning(name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plan = sbc.trace(four_frameworks.network(name), four_frameworks.spikes())
    assert "measured" not in str(plan)


class Cell(nn.Module):
    """Keeps 0.8 of its potential."""

    def forward(self, currents: Tensor) -> Tensor:
        v, spikes = torch.zeros_like(currents[0]), []
        for current in currents:
            v = 0.8 * v + current
            spikes.append((v > 1).float())
            v = v * (1 - spikes[-1])
        return torch.stack(spikes)


class Net(nn.Module):
    """Calls the neuron, or its forward."""

    def __init__(self, *, by_name: bool = False) -> None:
        super().__init__()
        self.fc, self.n, self.out = nn.Linear(20, 16), Cell(), nn.Linear(16, 4)
        self.by_name = by_name

    def forward(self, x: Tensor) -> Tensor:
        current = self.fc(x)
        return self.out(self.n.forward(current) if self.by_name else self.n(current))


@pytest.fixture
def restored() -> Any:
    before = list(registered)
    yield
    registered[:] = before


@pytest.mark.usefixtures("restored")
def test_a_registration_that_is_wrong_warns_of_both() -> None:
    sbc.register_neuron(Cell, sbc.Leaky(0.9))
    with pytest.warns(UserWarning, match=r"0\.9.* measured is .*0\.8") as caught:
        plan = sbc.trace(Net(), torch.rand(6, 3, 20))
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert plan["fc"].neurons == (sbc.Leaky(0.9),)
    assert any("beta=0.9" in note and "beta=0.8" in note for note in plan["fc"].notes)


@pytest.mark.usefixtures("restored")
def test_a_registration_in_another_unit_is_right() -> None:
    sbc.register_neuron(Cell, sbc.LIF(5.0), threshold=0.2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plan = sbc.trace(Net(), torch.rand(6, 3, 20))
    assert plan["fc"].neurons == (sbc.LIF(5.0),)


@pytest.mark.usefixtures("restored")
def test_a_neuron_called_by_its_forward_is_seen() -> None:
    sbc.register_neuron(Cell, sbc.Leaky(0.8))
    plan = sbc.trace(Net(by_name=True), torch.rand(6, 3, 20))
    assert plan["fc"].consumers == ("n",)
    assert plan["fc"].neurons == (sbc.Leaky(0.8),)
    assert not plan["fc"].notes


@pytest.mark.usefixtures("restored")
def test_a_layer_registered_with_its_weight_inside_is_timed_as_registered() -> None:
    class LIFLayer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.W, self.n = nn.Linear(30, 8), Cell()

        def forward(self, x: Tensor) -> Tensor:
            return self.n(self.W(x).transpose(0, 1)).transpose(0, 1)

    sbc.register_neuron(LIFLayer, sbc.Leaky(0.8), time_axis=1)
    plan = sbc.trace(nn.Sequential(LIFLayer()), (torch.rand(4, 20, 30) < 0.2).float())
    assert plan["0.W"].layout.split((4, 20)) == (4, 20, 1)
    assert plan["0.W"].neurons == (sbc.Leaky(0.8),)
