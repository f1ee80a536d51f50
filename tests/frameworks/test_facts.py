"""Adapters: neurons without a response, notes and errors."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from helpers import assert_close, eps
from neurons_of_frameworks import C, Make, T, _recurrent, describe
from torch import nn

from sbc_kernels.frameworks import adapter_of
from sbc_kernels.neurons import impulse_response

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import norse.torch as norse
    import sinabs.layers as sinabs
    import snntorch
    from norse.torch.functional.lif_box import LIFBoxParameters
    from norse.torch.module.coba_lif import CobaLIFCell
    from norse.torch.module.lif_correlation import LIFCorrelation
    from norse.torch.module.lif_mc import LIFMCRecurrentCell
    from norse.torch.module.snn import SNNCell
    from spikingjelly.activation_based import layer, neuron, rnn, surrogate


# ---- what has no response ----------------------------------------------------------------------


class _OwnNode(neuron.BaseNode):
    def single_step_functional_forward(self, inputs: Any, states: Any, **_: Any) -> Any:
        return (inputs[0],), states


class _OwnCharge(neuron.LIFNode):
    def neuronal_charge(self, x: Any) -> None:
        self.v = self.v + x**2


class _OwnStateful(sinabs.StatefulLayer):
    def __init__(self) -> None:
        super().__init__(["v_mem"])


def _core(x: Any, v: Any) -> Any:
    return x, v


UNKNOWN: dict[str, Make] = {
    "QIFNode": lambda: neuron.QIFNode(),
    "EIFNode": lambda: neuron.EIFNode(),
    "IzhikevichNode": lambda: neuron.IzhikevichNode(),
    "GatedLIFNode": lambda: neuron.GatedLIFNode(T),
    "MPBNLIFNode": lambda: neuron.MPBNLIFNode(out_features=C),
    "PSN": lambda: neuron.PSN(T),
    "MaskedPSN": lambda: neuron.MaskedPSN(2, T),
    "STBIFNode": lambda: neuron.STBIFNode(0.5, 8),
    "FewSpikeNode": lambda: neuron.FewSpikeNode(neuron.FewSpikeTable([1.0], [1.0], [1.0])),
    "FlexSN": lambda: neuron.FlexSN(_core, 1),
    "SpikingLSTMCell": lambda: rnn.SpikingLSTMCell(C, C),
    "own BaseNode": lambda: _OwnNode(),
    "SLSTM": lambda: snntorch.SLSTM(C, C),
    "SConv2dLSTM": lambda: snntorch.SConv2dLSTM(1, 1, 3),
    "DeltaLeaky": lambda: snntorch.DeltaLeaky(beta=0.8, init_hidden=True),
    "AssociativeLeaky": lambda: snntorch.AssociativeLeaky(C, 2, 2, 4),
    "Alpha beta 0": lambda: snntorch.Alpha(0.8, 0.0),
    "Izhikevich": lambda: norse.Izhikevich(norse.tonic_spiking),
    "IzhikevichCell": lambda: norse.IzhikevichCell(norse.tonic_spiking),
    "LIFEx": lambda: norse.LIFEx(),
    "LIFAdExCell": lambda: norse.LIFAdExCell(),
    "LIFAdExRecurrent": lambda: norse.LIFAdExRecurrent(C, C),
    "LIFMCRecurrentCell": lambda: LIFMCRecurrentCell(C, C),
    "CobaLIFCell": lambda: CobaLIFCell(C, C),
    "LIFCorrelation": lambda: LIFCorrelation(C, C),
    "own SNNCell": lambda: SNNCell(lambda x, s, p, dt: (x, s), lambda x: x, norse.LIFParameters()),
    "own StatefulLayer": lambda: _OwnStateful(),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_a_neuron_without_a_response_says_so(name: str) -> None:
    module = UNKNOWN[name]()
    adapter = adapter_of(module)
    assert adapter is not None
    facts = adapter.describe(module, (2, T, C) if name == "own StatefulLayer" else (T, 2, C))
    assert facts.neuron is None
    assert facts.notes
    assert type(module).__name__ in facts.notes[0]
    assert facts.threshold == 1.0
    adapter.reset(module)


NO_NEURONS: dict[str, Make] = {
    "Linear": lambda: nn.Linear(C, C),
    "BatchNorm": lambda: nn.BatchNorm1d(C),
    "Sequential of neurons": lambda: nn.Sequential(nn.Linear(C, C), neuron.IFNode()),
    "Sequential of snnTorch": lambda: nn.Sequential(snntorch.Leaky(0.9, init_hidden=True)),
    "step module Linear": lambda: layer.Linear(C, C, step_mode="m"),
    "SeqToANNContainer": lambda: layer.SeqToANNContainer(nn.Linear(C, C)),
    "MultiStepContainer": lambda: layer.MultiStepContainer(neuron.IFNode()),
    "LinearRecurrentContainer": lambda: layer.LinearRecurrentContainer(neuron.IFNode(), C, C),
    "ElementWiseRecurrentContainer": lambda: layer.ElementWiseRecurrentContainer(
        neuron.IFNode(), lambda x, y: x + y
    ),
    "SynapseFilter": lambda: layer.SynapseFilter(),
    "Dropout": lambda: layer.Dropout(),
    "surrogate": lambda: surrogate.Sigmoid(),
    "SpikingLSTM": lambda: rnn.SpikingLSTM(C, C, 1),
    "SequentialState": lambda: norse.SequentialState(nn.Linear(C, C), norse.LIFCell()),
    "Lift": lambda: norse.Lift(norse.LIFCell()),
    "LConv2d": lambda: norse.LConv2d(1, 1, 3),
    "Repeat": lambda: sinabs.Repeat(nn.Linear(C, C)),
    "SumPool2d": lambda: sinabs.SumPool2d(2),
    "NeuromorphicReLU": lambda: sinabs.NeuromorphicReLU(),
}


@pytest.mark.parametrize("name", NO_NEURONS)
def test_layers_and_containers_are_no_neurons(name: str) -> None:
    assert adapter_of(NO_NEURONS[name]()) is None


# ---- notes and errors --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "k", "threshold", "note"),
    [
        (lambda: snntorch.Leaky(torch.tensor([0.5, 1.5])), [1, 0.75], 1.0, "beta differs"),
        (
            lambda: snntorch.Synaptic(torch.tensor([0.25, 0.75]), 0.5),
            [1, 1.0],
            1.0,
            "alpha differs",
        ),
        (
            lambda: snntorch.Leaky(0.5, threshold=torch.tensor([0.5, 1.0])),
            [1, 0.5],
            0.75,
            "threshold differs",
        ),
        (lambda: snntorch.Leaky(0.5, state_quant=torch.round), [1, 0.5], 1.0, "quantization"),
        (lambda: sinabs.IAF(spike_threshold=torch.tensor([1.0, 3.0])), [1, 1], 2.0, "differs"),
        (lambda: sinabs.IAF(min_v_mem=-1.0), [1, 1], 1.0, "min_v_mem"),
        (
            lambda: norse.LIFBoxCell(LIFBoxParameters(tau_mem_inv=torch.tensor([250.0, 750.0]))),
            [0.5, 0.25],
            1.0,
            "tau_mem_inv differs",
        ),
        (lambda: neuron.IFNode(v_threshold=float("inf")), [1, 1], 1.0, "never reached"),
        (lambda: neuron.LIFNode(v_threshold=-1.0), [0.5, 0.25], 1.0, "not above rest"),
        (lambda: neuron.LIFNode(v_reset=-0.5), [0.5, 0.25], 1.5, "rest at -0.5"),
        (lambda: _OwnCharge(), [0.5, 0.25], 1.0, "_OwnCharge redefines neuronal_charge"),
        (lambda: neuron.KLIFNode(), [0.5, 0.25], 1.0, "negative potentials"),
        (
            lambda: snntorch.StateLeaky(0.0, C, kernel_truncation_steps=3),
            [1, np.exp(-1)],
            1.0,
            "after 3 steps",
        ),
        (
            lambda: snntorch.LeakyParallel(C, C, beta=0.5, weight_hh_enable=True),
            [1, 0.5],
            1.0,
            "off the diagonal",
        ),
    ],
)
def test_what_is_approximated_is_noted(
    make: Make, k: list[float], threshold: float, note: str
) -> None:
    facts = describe(make())
    assert facts.neuron is not None
    assert_close(impulse_response(facts.neuron, 2), np.array(k), 4 * eps(np.float32))
    assert_close(facts.threshold, threshold, eps(np.float32))
    assert any(note in line for line in facts.notes), facts.notes


def test_norses_recurrent_cells_have_weights_and_no_notes() -> None:
    """Their own weights are layers of the plan (tests/model/test_weight_uses.py)."""
    facts = describe(_recurrent(norse.LIFRecurrentCell))
    assert facts.neuron is not None
    assert_close(impulse_response(facts.neuron, 2), np.array([0.1, 0.17]), 4 * eps(np.float32))
    assert facts.notes == ()


def test_nothing_is_noted_where_nothing_is_approximated() -> None:
    for make in (lambda: neuron.LIFNode(), lambda: snntorch.Leaky(torch.tensor([0.9, 0.9]))):
        assert describe(make()).notes == ()


@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (lambda: neuron.IFNode(step_mode="m"), (T,)),
        (lambda: norse.LIF(), (T,)),
        (lambda: snntorch.StateLeaky(0.8, C), (C,)),
        (lambda: sinabs.IAF(), (T,)),
        (lambda: sinabs.IAFSqueeze(batch_size=5), (12, C)),
        (lambda: sinabs.IAFSqueeze(num_timesteps=5), (12, C)),
        (lambda: sinabs.IAFSqueeze(batch_size=2, num_timesteps=5), (12, C)),
        (lambda: sinabs.IAFSqueeze(batch_size=2), (0, C)),
        (lambda: sinabs.IAFSqueeze(batch_size=2), ()),
    ],
)
def test_a_shape_that_cannot_be(make: Make, shape: tuple[int, ...]) -> None:
    module = make()
    adapter = adapter_of(module)
    assert adapter is not None
    with pytest.raises(ValueError, match=r"got an input of shape .* accepted is"):
        adapter.describe(module, shape)


def test_reset_of_sinabs_leaves_other_buffers_alone() -> None:
    connect = nn.Linear(C, C)
    connect.register_buffer("mask", torch.ones(()))
    module = sinabs.LIFRecurrent(12.0, nn.Identity())
    module.rec_connect = connect
    adapter = adapter_of(module)
    assert adapter is not None
    module.v_mem = torch.ones(2, C)
    adapter.reset(module)
    assert module.v_mem.shape == (0,)
    assert connect.mask == 1
    assert set(module.state_dict()) >= {"v_mem"}
