"""Adapters of SpikingJelly, snnTorch, Norse and sinabs, against the neurons those frameworks run."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from helpers import assert_close, eps
from torch import nn

from sbc_kernels.frameworks import NeuronFacts, adapter_of
from sbc_kernels.neurons import impulse_response

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import norse.torch as norse
    import sinabs.activation as sina
    import sinabs.layers as sinabs
    import snntorch
    from norse.torch.functional.lif_box import LIFBoxParameters
    from norse.torch.functional.reset import reset_subtract
    from norse.torch.module.coba_lif import CobaLIFCell
    from norse.torch.module.lif_correlation import LIFCorrelation
    from norse.torch.module.lif_mc import LIFMCRecurrentCell
    from norse.torch.module.snn import SNNCell
    from sinabs.layers.alif import ALIFSqueeze
    from snntorch._neurons.leakykernel import LeakyKernel
    from spikingjelly.activation_based import layer, neuron, rnn, surrogate

pytestmark = pytest.mark.filterwarnings("ignore")

T, C = 12, 4
Make = Callable[[], Any]


# ---- how each framework is run: x is [T, N, C] -------------------------------------------------


def _run_spikingjelly(module: Any, x: Any) -> Any:
    if hasattr(module, "num_node"):
        module.T = len(x)  # the Noisy* neurons run T steps, whatever they are given
    if getattr(module, "step_mode", "m") == "m":
        out = module(x.clone())  # the ILC* neurons write into their input
        return torch.stack(out) if isinstance(out, list) else out
    return torch.stack([module(step) for step in x])


def _spikingjelly_potential(module: Any, x: Any) -> Any:
    if isinstance(module, neuron.SlidingPSN):  # keeps no potential: what its surrogate is given
        module.surrogate_function = nn.Identity()
        return _run_spikingjelly(module, x)[-1] - module.bias
    _run_spikingjelly(module, x)
    return module.v * module.k if getattr(module, "scale_reset", False) else module.v


def _parallel(module: Any) -> bool:
    return isinstance(module, (snntorch.LeakyParallel, LeakyKernel, snntorch.StateLeaky))


def _run_snntorch(module: Any, x: Any) -> Any:
    if _parallel(module):
        out = module(x)
        return out[0] if isinstance(out, tuple) else out
    return torch.stack(
        [step[0] if module.output or not module.init_hidden else step for step in map(module, x)]
    )


def _snntorch_potential(module: Any, x: Any) -> Any:
    if isinstance(module, snntorch.StateLeaky):
        return module(x)[1][-1]
    if _parallel(module):
        return module.rnn(x)[0][-1]
    _run_snntorch(module, x)
    return module.mem


def _norse_call(module: Any, x: Any) -> tuple[Any, Any]:
    if isinstance(module, (norse.LIF, norse.LI, norse.IAF, norse.LSNN)) or type(
        module
    ).__name__.endswith("Recurrent"):
        return module(x)
    spikes, state = [], None
    for step in x:
        out, state = module(step, state)
        spikes.append(out)
    return torch.stack(spikes), state


def _run_norse(module: Any, x: Any) -> Any:
    return _norse_call(module, x)[0]


def _norse_potential(module: Any, x: Any) -> Any:
    state = _norse_call(module, x)[1]
    return getattr(state, "lif", state).v


def _run_sinabs(module: Any, x: Any) -> Any:
    N = x.shape[1]
    x = x.transpose(0, 1)
    if isinstance(module, sinabs.SqueezeMixin):
        return module(x.flatten(0, 1)).unflatten(0, (N, -1)).transpose(0, 1)
    return module(x).transpose(0, 1)


def _sinabs_potential(module: Any, x: Any) -> Any:
    if getattr(module, "num_timesteps", -1) > 0:
        module.num_timesteps = len(x)
    _run_sinabs(module, x)
    return module.v_mem


@dataclass(frozen=True)
class Framework:
    run: Callable[[Any, Any], Any]  # spikes [T, N, C]
    potential: Callable[[Any, Any], Any]  # the potential after the last step, [N, C]


SJ = Framework(_run_spikingjelly, _spikingjelly_potential)
ST = Framework(_run_snntorch, _snntorch_potential)
NO = Framework(_run_norse, _norse_potential)
SI = Framework(_run_sinabs, _sinabs_potential)


# ---- the neurons -------------------------------------------------------------------------------


def _fixed(module: Any, **parameters: Any) -> Any:
    """The module with parameters set, as training would leave them."""
    with torch.no_grad():
        for name, value in parameters.items():
            dict(module.named_parameters())[name.replace("__", ".")].copy_(torch.as_tensor(value))
    return module


def _ilc(cls: Any, *args: Any, **kwargs: Any) -> Any:
    return _fixed(cls(2, 2, *args, **kwargs), conn__weight=0.05, conn__bias=0.0)


def _recurrent(cls: Any, p: Any = None, **kwargs: Any) -> Any:
    """A recurrent neuron of Norse, whose input weights are the identity."""
    if p is not None:
        kwargs["p"] = p
    return _fixed(cls(C, C, **kwargs), input_weights=torch.eye(C), recurrent_weights=0.01)


def _linear(scale: float = 0.01) -> Any:
    return _fixed(nn.Linear(C, C), weight=scale * torch.eye(C), bias=0.0)


def _rleaky(cls: Any, *args: Any, **kwargs: Any) -> Any:
    module = cls(*args, linear_features=C, **kwargs)
    return _fixed(module, recurrent__weight=0.01, recurrent__bias=0.0)


def _parallel_leaky(cls: Any, beta: float) -> Any:
    module = cls(C, C, beta=beta)
    return _fixed(module, rnn__weight_ih_l0=torch.eye(C), rnn__bias_ih_l0=0.0, rnn__bias_hh_l0=0.0)


class _OwnLIF(neuron.LIFNode):
    pass


def _lif(**p: float) -> Any:
    return norse.LIFParameters(**{name: torch.as_tensor(value) for name, value in p.items()})


_COMMON: dict[str, Make] = {
    "IFNode": lambda: neuron.IFNode(),
    "IFNode soft": lambda: neuron.IFNode(v_threshold=0.7, v_reset=None),
    "IFNode around 0.2": lambda: neuron.IFNode(v_reset=0.2),
    "LIFNode": lambda: neuron.LIFNode(),
    "LIFNode 7.3": lambda: neuron.LIFNode(7.3, v_threshold=0.5, v_reset=None),
    "LIFNode whole input": lambda: neuron.LIFNode(3.0, decay_input=False),
    "LIFNode around -0.3": lambda: neuron.LIFNode(2.5, v_reset=-0.3),
    "LIFNode of one's own": lambda: _OwnLIF(3.0),
    "ParametricLIFNode": lambda: neuron.ParametricLIFNode(),
    "ParametricLIFNode 5": lambda: neuron.ParametricLIFNode(5.0, decay_input=False, v_reset=None),
    "ParametricLIFNode trained": lambda: _fixed(neuron.ParametricLIFNode(), w=1.3),
    "CUBALIFNode": lambda: neuron.CUBALIFNode(),
    "CUBALIFNode equal": lambda: neuron.CUBALIFNode(0.6, 0.6, v_reset=None),
    "KLIFNode": lambda: _fixed(neuron.KLIFNode(tau=3.0), k=0.8),
    "KLIFNode scaled reset": lambda: _fixed(
        neuron.KLIFNode(True, 3.0, decay_input=False, v_reset=None), k=1.4
    ),
    "ILIFNode": lambda: neuron.ILIFNode(),
    "LIAFNode": lambda: neuron.LIAFNode(torch.relu, True, tau=4.0),
    "ComplementaryLIFNode": lambda: neuron.ComplementaryLIFNode(3.0),
    "HalfThresholdIFNode": lambda: neuron.HalfThresholdIFNode(1.5),
    "ActivationAwareIFNode": lambda: neuron.ActivationAwareIFNode(1.5, 0.25),
    "TernaryIFNode": lambda: neuron.TernaryIFNode(),
    "TernaryLIFNode": lambda: neuron.TernaryLIFNode(3.0, decay_input=False),
    "SimpleIFNode": lambda: neuron.SimpleIFNode(),
    "SimpleLIFNode": lambda: neuron.SimpleLIFNode(3.0, decay_input=True),
    "RAFNode": lambda: neuron.RAFNode(-0.1, 0.7),
    "SlidingPSN": lambda: neuron.SlidingPSN(5),
    "SlidingPSN random": lambda: _fixed(neuron.SlidingPSN(3), weight=[0.3, -0.2, 0.9], bias=-0.4),
}


def _stepping(make: Make, step_mode: str) -> Make:
    def made() -> Any:
        module = make()
        module.step_mode = step_mode
        return module

    return made


CASES: dict[str, tuple[Framework, Make]] = {
    **{f"spikingjelly {n} s": (SJ, _stepping(make, "s")) for n, make in _COMMON.items()},
    **{f"spikingjelly {n} m": (SJ, _stepping(make, "m")) for n, make in _COMMON.items()},
    "spikingjelly OTTTLIFNode": (SJ, lambda: neuron.OTTTLIFNode(3.0).eval()),
    "spikingjelly SLTTLIFNode": (SJ, lambda: neuron.SLTTLIFNode(3.0).eval()),
    "spikingjelly ILCIFNode": (SJ, lambda: _ilc(neuron.ILCIFNode)),
    "spikingjelly ILCLIFNode": (SJ, lambda: _ilc(neuron.ILCLIFNode, 0.6)),
    "spikingjelly ILCCUBALIFNode": (SJ, lambda: _ilc(neuron.ILCCUBALIFNode)),
    "spikingjelly NoisyCUBALIFNode": (SJ, lambda: neuron.NoisyCUBALIFNode(C, is_training=False)),
    "spikingjelly NoisyILCCUBALIFNode": (
        SJ,
        lambda: _ilc(neuron.NoisyILCCUBALIFNode, is_training=False),
    ),
    "spikingjelly NonSpikingIFNode": (SJ, lambda: neuron.NonSpikingIFNode()),
    "spikingjelly NonSpikingLIFNode": (SJ, lambda: neuron.NonSpikingLIFNode(3.0)),
    "spikingjelly NoisyNonSpikingIFNode": (
        SJ,
        lambda: neuron.NoisyNonSpikingIFNode(C, is_training=False),
    ),
    "snntorch Leaky": (ST, lambda: snntorch.Leaky(0.9)),
    "snntorch Leaky 0": (ST, lambda: snntorch.Leaky(0.0, reset_mechanism="zero")),
    "snntorch Leaky above 1": (ST, lambda: snntorch.Leaky(1.3, reset_mechanism="none")),
    "snntorch Leaky hidden": (ST, lambda: snntorch.Leaky(0.7, threshold=0.4, init_hidden=True)),
    "snntorch Leaky learned": (
        ST,
        lambda: snntorch.Leaky(torch.tensor([0.8] * C), learn_beta=True, learn_threshold=True),
    ),
    "snntorch Leaky at once": (ST, lambda: snntorch.Leaky(0.8, reset_delay=False)),
    "snntorch Synaptic": (ST, lambda: snntorch.Synaptic(0.8, 0.6)),
    "snntorch Synaptic equal": (ST, lambda: snntorch.Synaptic(0.7, 0.7, init_hidden=True)),
    "snntorch Alpha": (ST, lambda: snntorch.Alpha(0.9, 0.8)),
    "snntorch Alpha far": (ST, lambda: snntorch.Alpha(0.95, 0.1, reset_mechanism="none")),
    "snntorch Lapicque RC": (ST, lambda: snntorch.Lapicque(R=5.1, C=1.3, time_step=0.5)),
    "snntorch Lapicque beta": (ST, lambda: snntorch.Lapicque(beta=0.8)),
    "snntorch Lapicque beta R": (ST, lambda: snntorch.Lapicque(beta=0.8, R=2.0)),
    "snntorch Lapicque beta C": (ST, lambda: snntorch.Lapicque(beta=0.6, C=3.0, time_step=0.2)),
    "snntorch RLeaky": (ST, lambda: _rleaky(snntorch.RLeaky, 0.8)),
    "snntorch RLeaky one to one": (ST, lambda: snntorch.RLeaky(0.8, V=0.2, all_to_all=False)),
    "snntorch RSynaptic": (ST, lambda: _rleaky(snntorch.RSynaptic, 0.8, 0.5, init_hidden=True)),
    "snntorch LeakyParallel": (ST, lambda: _parallel_leaky(snntorch.LeakyParallel, 0.7)),
    "snntorch LeakyKernel": (ST, lambda: _parallel_leaky(LeakyKernel, 0.9)),
    "snntorch StateLeaky": (ST, lambda: snntorch.StateLeaky(0.8, C)),
    "snntorch LinearLeaky": (
        ST,
        lambda: _fixed(
            snntorch.LinearLeaky(0.6, C, C), linear__weight=torch.eye(C), linear__bias=0.0
        ),
    ),
    "norse LIFCell": (NO, lambda: norse.LIFCell()),
    "norse LIFCell slow": (NO, lambda: norse.LIFCell(_lif(tau_mem_inv=40.0, v_th=0.3), dt=0.002)),
    "norse LIF": (NO, lambda: norse.LIF()),
    "norse LIF equal": (NO, lambda: norse.LIF(_lif(tau_mem_inv=150.0, tau_syn_inv=150.0))),
    "norse LIF around -0.5": (NO, lambda: norse.LIF(_lif(v_leak=-0.5, v_reset=-0.7))),
    "norse LIFRecurrentCell": (NO, lambda: _recurrent(norse.LIFRecurrentCell)),
    "norse LIFRecurrent": (NO, lambda: _recurrent(norse.LIFRecurrent, _lif(tau_syn_inv=300.0))),
    "norse LIFRefracCell": (NO, lambda: norse.LIFRefracCell()),
    "norse LIFRefracRecurrentCell": (NO, lambda: _recurrent(norse.LIFRefracRecurrentCell)),
    "norse LIFRefracRecurrent": (NO, lambda: _recurrent(norse.LIFRefracRecurrent)),
    "norse LIFBoxCell": (NO, lambda: norse.LIFBoxCell()),
    "norse LIFBoxCell subtract": (
        NO,
        lambda: norse.LIFBoxCell(
            LIFBoxParameters(tau_mem_inv=torch.tensor(30.0), reset_method=reset_subtract), dt=0.01
        ),
    ),
    "norse IAFCell": (NO, lambda: norse.IAFCell()),
    "norse IAF": (NO, lambda: norse.IAF(norse.IAFParameters(v_th=torch.tensor(0.4)))),
    "norse LICell": (NO, lambda: norse.LICell()),
    "norse LI": (NO, lambda: norse.LI(dt=0.002)),
    "norse LILinearCell": (
        NO,
        lambda: _fixed(norse.LILinearCell(C, C), input_weights=torch.eye(C)),
    ),
    "norse LIBoxCell": (NO, lambda: norse.LIBoxCell()),
    "norse LSNNCell": (NO, lambda: norse.LSNNCell()),
    "norse LSNN": (NO, lambda: norse.LSNN(norse.LSNNParameters(tau_syn_inv=torch.tensor(90.0)))),
    "norse LSNNRecurrentCell": (NO, lambda: _recurrent(norse.LSNNRecurrentCell)),
    "norse LSNNRecurrent": (NO, lambda: _recurrent(norse.LSNNRecurrent)),
    "sinabs LIF": (SI, lambda: sinabs.LIF(12.0)),
    "sinabs LIF whole input": (SI, lambda: sinabs.LIF(12.0, norm_input=False)),
    "sinabs LIF synapse": (SI, lambda: sinabs.LIF(12.0, tau_syn=4.0)),
    "sinabs LIF trained alphas": (
        SI,
        lambda: _fixed(
            sinabs.LIF(12.0, tau_syn=4.0, train_alphas=True, norm_input=False), alpha_mem=1.02
        ),
    ),
    "sinabs LIF trained alpha": (SI, lambda: sinabs.LIF(9.0, train_alphas=True)),
    "sinabs LIF growing": (
        SI,
        lambda: _fixed(sinabs.LIF(9.0, train_alphas=True, norm_input=False), alpha_mem=1.05),
    ),
    "sinabs LIF channels": (SI, lambda: sinabs.LIF(torch.tensor([8.0] * C), shape=(2, C))),
    "sinabs LIF single spikes": (
        SI,
        lambda: sinabs.LIF(
            12.0,
            spike_threshold=torch.tensor(0.3),
            spike_fn=sina.SingleSpike,
            reset_fn=sina.MembraneReset(),
            min_v_mem=-1.0,
        ),
    ),
    "sinabs LIFSqueeze batch": (SI, lambda: sinabs.LIFSqueeze(tau_mem=12.0, batch_size=2)),
    "sinabs LIFSqueeze steps": (SI, lambda: sinabs.LIFSqueeze(tau_mem=12.0, num_timesteps=T)),
    "sinabs IAF": (SI, lambda: sinabs.IAF()),
    "sinabs IAF synapse": (SI, lambda: sinabs.IAF(tau_syn=6.0)),
    "sinabs IAFSqueeze": (SI, lambda: sinabs.IAFSqueeze(batch_size=2)),
    "sinabs LIFRecurrent": (SI, lambda: sinabs.LIFRecurrent(12.0, _linear(), tau_syn=3.0)),
    "sinabs IAFRecurrent": (SI, lambda: sinabs.IAFRecurrent(_linear())),
    "sinabs ALIF": (SI, lambda: sinabs.ALIF(12.0, 30.0)),
    "sinabs ALIF synapse": (SI, lambda: sinabs.ALIF(12.0, 30.0, tau_syn=5.0)),
    "sinabs ALIF synapse whole input": (
        SI,
        lambda: sinabs.ALIF(12.0, 30.0, tau_syn=5.0, norm_input=False),
    ),
    "sinabs ALIFSqueeze": (
        SI,
        lambda: ALIFSqueeze(tau_mem=12.0, tau_adapt=30.0, num_timesteps=T),
    ),
    "sinabs ALIFRecurrent": (SI, lambda: sinabs.ALIFRecurrent(12.0, 30.0, _linear())),
    "sinabs ExpLeak": (SI, lambda: sinabs.ExpLeak(12.0)),
    "sinabs ExpLeakSqueeze": (SI, lambda: sinabs.ExpLeakSqueeze(tau_mem=5.0, batch_size=2)),
}
POTENTIALS = {"LICell", "LI", "LILinearCell", "LIBoxCell", "ExpLeak"}


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> tuple[Framework, Make]:
    return CASES[request.param]


def _shape_of_call(module: Any, steps: int, N: int) -> tuple[tuple[int, ...], tuple[int, int]]:
    """What one call of the module gets for [steps, N, C], and the (outer, steps) of it."""
    if isinstance(module, sinabs.SqueezeMixin):
        return (N * steps, C), (N, steps)
    if isinstance(module, sinabs.StatefulLayer):
        return (N, steps, C), (N, steps)
    package = type(module).__module__.split(".")[0]
    if package == "snntorch":
        whole = _parallel(module)
    elif package == "norse":
        whole = not type(module).__name__.endswith("Cell")
    else:
        whole = getattr(module, "step_mode", "m") == "m"
    return ((steps, N, C), (1, steps)) if whole else ((N, C), (1, 1))


def _describe(module: Any, steps: int = T, N: int = 2) -> NeuronFacts:
    adapter = adapter_of(module)
    assert adapter is not None
    assert adapter.is_neuron(module)
    return adapter.describe(module, _shape_of_call(module, steps, N)[0])


def _fires(module: Any) -> bool:
    """Whether its output is spikes; the others answer with their potential."""
    name = type(module).__name__.removesuffix("Squeeze")
    return "NonSpiking" not in name and name not in POTENTIALS


@torch.no_grad()
def test_response_is_the_membrane_potential(case: tuple[Framework, Make]) -> None:
    framework, make = case
    facts = _describe(make())
    assert facts.neuron is not None, facts.notes
    k = impulse_response(facts.neuron, T)
    size = 0.25 * facts.threshold / np.abs(k).max()
    x = torch.zeros(T, 2, C)
    x[0] = size

    def trace(x: Any) -> Any:
        steps = [framework.potential(make(), x[: t + 1]) for t in range(T)]
        return np.stack([np.broadcast_to(v.reshape(-1, C)[:1].numpy(), (1, C)) for v in steps])

    got, rest = trace(x).astype(np.float64), trace(torch.zeros_like(x)).astype(np.float64)
    bound = 4 * T * eps(np.float32) * np.abs(np.concatenate([got, rest])).max() / size
    assert_close((got - rest)[:, 0] / size, np.repeat(k[:, None], C, 1), bound)


def _fires_at(framework: Framework, module: Any, facts: NeuronFacts, factor: float) -> bool:
    """Whether two impulses, whose potential peaks at `factor` times the threshold, make it fire."""
    assert facts.neuron is not None
    two = impulse_response(facts.neuron, T)
    two[3:] += two[:-3].copy()
    x = torch.zeros(T, 2, C)
    x[[0, 3]] = factor * facts.threshold / two.max()
    return bool((framework.run(module, x) != 0).any())


@torch.no_grad()
@pytest.mark.parametrize("factor", [0.999, 1.001])
def test_it_fires_from_the_threshold_on(case: tuple[Framework, Make], factor: float) -> None:
    framework, make = case
    module = make()
    facts = _describe(module)
    if _fires(module):
        assert _fires_at(framework, module, facts, factor) == (factor > 1)
    else:
        assert facts.threshold == 1.0


@torch.no_grad()
@pytest.mark.parametrize("factor", [0.999, 1.001])
@pytest.mark.parametrize(
    "make",
    [
        lambda: neuron.DSRIFNode(T),
        lambda: neuron.DSRLIFNode(T, tau=2.0, delta_t=0.5),
        lambda: neuron.DSRLIFNode(T, v_threshold=0.4, v_threshold_lower_bound=0.2),
    ],
)
def test_dsr_which_shows_no_potential_fires_from_the_threshold_on(
    make: Make, factor: float
) -> None:
    module = make()
    assert _fires_at(SJ, module, _describe(module), factor) == (factor > 1)


@torch.no_grad()
def test_reset_makes_it_new(case: tuple[Framework, Make]) -> None:
    framework, make = case
    module = make()
    adapter = adapter_of(module)
    assert adapter is not None
    facts = _describe(module)
    assert facts.neuron is not None
    generator = torch.Generator().manual_seed(1)
    drive = 3 * facts.threshold / float(np.abs(impulse_response(facts.neuron, T)).max())
    before = drive * torch.rand(T, 2, C, generator=generator)
    after = drive * torch.rand(
        T, 2 if getattr(module, "batch_size", -1) > 0 else 3, C, generator=generator
    )
    assert framework.run(module, before).any()
    adapter.reset(module)
    state = torch.random.get_rng_state()
    again = framework.run(module, after)
    assert torch.equal(torch.random.get_rng_state(), state)
    new = framework.run(make(), after)
    assert torch.equal(again, new)
    assert again.any()
    adapter.reset(module)
    adapter.reset(module)
    assert torch.equal(framework.run(module, after), new)


def test_reset_drops_the_graph_of_the_run_before(case: tuple[Framework, Make]) -> None:
    framework, make = case
    module = make()
    adapter = adapter_of(module)
    assert adapter is not None
    for _ in range(2):  # the second backward would run through the first's freed graph
        x = torch.rand(T, 2, C, requires_grad=True)
        (framework.run(module, x) + x).sum().backward()  # some have no gradient in eval mode
        adapter.reset(module)
    if not hasattr(module, "rec_connect"):  # sinabs cannot copy those at all
        copy.deepcopy(module)  # refused where a tensor with a graph is left


@pytest.mark.parametrize("N", [1, 3])
def test_outer_and_steps(case: tuple[Framework, Make], N: int) -> None:
    module = case[1]()
    if getattr(module, "batch_size", -1) > 0:
        N = module.batch_size
    for steps in (1, T) if getattr(module, "num_timesteps", -1) < 0 else (T,):
        facts = _describe(module, steps, N)
        assert (facts.outer, facts.steps) == _shape_of_call(module, steps, N)[1]


def test_a_response_outlives_a_copy_of_the_module(case: tuple[Framework, Make]) -> None:
    facts = _describe(case[1]())
    assert copy.deepcopy(facts) == facts
    assert _describe(case[1]()) == facts
    assert hash(facts.neuron) == hash(copy.deepcopy(facts).neuron)
    assert facts.threshold > 0


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
        (lambda: _recurrent(norse.LIFRecurrentCell), [0.1, 0.17], 1.0, "weights"),
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
    facts = _describe(make())
    assert facts.neuron is not None
    assert_close(impulse_response(facts.neuron, 2), np.array(k), 4 * eps(np.float32))
    assert_close(facts.threshold, threshold, eps(np.float32))
    assert any(note in line for line in facts.notes), facts.notes


def test_nothing_is_noted_where_nothing_is_approximated() -> None:
    for make in (lambda: neuron.LIFNode(), lambda: snntorch.Leaky(torch.tensor([0.9, 0.9]))):
        assert _describe(make()).notes == ()


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
