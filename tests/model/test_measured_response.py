"""Responses measured from autograd, of neurons that nobody registered."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from own_neurons import OWN, InForward, Own, in_cells
from torch import nn

import sbc_kernels as sbc
from sbc_kernels.model.planned_layer import PlannedLayer
from sbc_kernels.neurons import impulse_response

pytestmark = pytest.mark.usefixtures("seed")
T = 6
WRITTEN = {
    "in forward": lambda step: InForward(step),
    "time first": lambda step: in_cells(step),
    "batch first": lambda step: in_cells(step, batch_first=True),
}


def active(net: nn.Module) -> nn.Module:
    """Weights that make neurons fire about every fifth time."""
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(4.0)
    return net


def example(written: str = "") -> torch.Tensor:
    x = (torch.rand(T, 5, 30) < 0.3).float()
    return x.transpose(0, 1) if written == "batch first" else x


def assert_response(layer: PlannedLayer, own: Own) -> None:
    assert layer.role == "spiking"
    assert len(layer.consumers) == 1
    assert layer.layout.steps == T
    (neuron,) = layer.neurons
    assert neuron is not None, layer.notes
    measured, expected = impulse_response(neuron, T), impulse_response(own.neuron, T)
    np.testing.assert_allclose(measured, expected, rtol=0, atol=1e-6)
    assert layer.threshold == pytest.approx(own.threshold, rel=1e-5)


@pytest.mark.parametrize("written", WRITTEN)
@pytest.mark.parametrize("own", OWN, ids=lambda own: own.step.__name__)
def test_own_neurons(own: Own, written: str) -> None:
    net = active(WRITTEN[written](own.step))
    plan = sbc.trace(net, example(written))
    assert len(plan.layers) == 2
    for layer in plan.layers:
        assert_response(layer, own)
        if written == "in forward":
            assert layer.layout.step_of_call == tuple(range(T))
        else:
            assert layer.layout.axis == (1 if written == "batch first" else 0)
        notes = [n for n in layer.notes if not n.startswith(own.note or "nothing")]
        assert not notes
        assert bool(layer.notes) == bool(own.note)
