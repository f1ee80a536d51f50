"""The neurons of every framework and how each is run."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from sbc_kernels.frameworks import NeuronFacts, adapter_of

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import norse.torch as norse
    import sinabs.activation as sina
    import sinabs.layers as sinabs
    import snntorch
    from norse.torch.functional.lif_box import LIFBoxParameters
    from norse.torch.functional.reset import reset_subtract
    from sinabs.layers.alif import ALIFSqueeze
    from snntorch._neurons.leakykernel import LeakyKernel
    from spikingjelly.activation_based import neuron


T, C = 12, 4


Make = Callable[[], Any]


def run_spikingjelly(module: Any, x: Any) -> Any:
    if hasattr(module, "num_node"):
        module.T = len(x)  # the Noisy* neurons run T steps, whatever they are given
    if getattr(module, "step_mode", "m") == "m":
        out = module(x.clone())  # the ILC* neurons write into their input
        return torch.stack(out) if isinstance(out, list) else out
    return torch.stack([module(step) for step in x])


def spikingjelly_potential(module: Any, x: Any) -> Any:
    if isinstance(module, neuron.SlidingPSN):  # keeps no potential: what its surrogate is given
        module.surrogate_function = nn.Identity()
        return run_spikingjelly(module, x)[-1] - module.bias
    run_spikingjelly(module, x)
    return module.v * module.k if getattr(module, "scale_reset", False) else module.v


def parallel(module: Any) -> bool:
    return isinstance(module, (snntorch.LeakyParallel, LeakyKernel, snntorch.StateLeaky))


def run_snntorch(module: Any, x: Any) -> Any:
    if parallel(module):
        out = module(x)
        return out[0] if isinstance(out, tuple) else out
    return torch.stack(
        [step[0] if module.output or not module.init_hidden else step for step in map(module, x)]
    )


def snntorch_potential(module: Any, x: Any) -> Any:
    if isinstance(module, snntorch.StateLeaky):
        return module(x)[1][-1]
    if parallel(module):
        return module.rnn(x)[0][-1]
    run_snntorch(module, x)
    return module.mem


def norse_call(module: Any, x: Any) -> tuple[Any, Any]:
    if isinstance(module, (norse.LIF, norse.LI, norse.IAF, norse.LSNN)) or type(
        module
    ).__name__.endswith("Recurrent"):
        return module(x)
    spikes, state = [], None
    for step in x:
        out, state = module(step, state)
        spikes.append(out)
    return torch.stack(spikes), state


def run_norse(module: Any, x: Any) -> Any:
    return norse_call(module, x)[0]


def norse_potential(module: Any, x: Any) -> Any:
    state = norse_call(module, x)[1]
    return getattr(state, "lif", state).v


def run_sinabs(module: Any, x: Any) -> Any:
    N = x.shape[1]
    x = x.transpose(0, 1)
    if isinstance(module, sinabs.SqueezeMixin):
        return module(x.flatten(0, 1)).unflatten(0, (N, -1)).transpose(0, 1)
    return module(x).transpose(0, 1)


def sinabs_potential(module: Any, x: Any) -> Any:
    if getattr(module, "num_timesteps", -1) > 0:
        module.num_timesteps = len(x)
    run_sinabs(module, x)
    return module.v_mem


@dataclass(frozen=True)
class Framework:
    run: Callable[[Any, Any], Any]  # spikes [T, N, C]
    potential: Callable[[Any, Any], Any]  # the potential after the last step, [N, C]


SJ = Framework(run_spikingjelly, spikingjelly_potential)


ST = Framework(run_snntorch, snntorch_potential)


NO = Framework(run_norse, norse_potential)


SI = Framework(run_sinabs, sinabs_potential)


def fixed(module: Any, **parameters: Any) -> Any:
    """The module with parameters set, as training would leave them."""
    with torch.no_grad():
        for name, value in parameters.items():
            dict(module.named_parameters())[name.replace("__", ".")].copy_(torch.as_tensor(value))
    return module


def ilc(cls: Any, *args: Any, **kwargs: Any) -> Any:
    return fixed(cls(2, 2, *args, **kwargs), conn__weight=0.05, conn__bias=0.0)


def _recurrent(cls: Any, p: Any = None, **kwargs: Any) -> Any:
    """A recurrent neuron of Norse, whose input weights are the identity."""
    if p is not None:
        kwargs["p"] = p
    return fixed(cls(C, C, **kwargs), input_weights=torch.eye(C), recurrent_weights=0.01)


def linear(scale: float = 0.01) -> Any:
    return fixed(nn.Linear(C, C), weight=scale * torch.eye(C), bias=0.0)


def rleaky(cls: Any, *args: Any, **kwargs: Any) -> Any:
    module = cls(*args, linear_features=C, **kwargs)
    return fixed(module, recurrent__weight=0.01, recurrent__bias=0.0)


def parallel_leaky(cls: Any, beta: float) -> Any:
    module = cls(C, C, beta=beta)
    return fixed(module, rnn__weight_ih_l0=torch.eye(C), rnn__bias_ih_l0=0.0, rnn__bias_hh_l0=0.0)


class OwnLIF(neuron.LIFNode):
    pass


def _lif(**p: float) -> Any:
    return norse.LIFParameters(**{name: torch.as_tensor(value) for name, value in p.items()})


COMMON: dict[str, Make] = {
    "IFNode": lambda: neuron.IFNode(),
    "IFNode soft": lambda: neuron.IFNode(v_threshold=0.7, v_reset=None),
    "IFNode around 0.2": lambda: neuron.IFNode(v_reset=0.2),
    "LIFNode": lambda: neuron.LIFNode(),
    "LIFNode 7.3": lambda: neuron.LIFNode(7.3, v_threshold=0.5, v_reset=None),
    "LIFNode whole input": lambda: neuron.LIFNode(3.0, decay_input=False),
    "LIFNode around -0.3": lambda: neuron.LIFNode(2.5, v_reset=-0.3),
    "LIFNode of one's own": lambda: OwnLIF(3.0),
    "ParametricLIFNode": lambda: neuron.ParametricLIFNode(),
    "ParametricLIFNode 5": lambda: neuron.ParametricLIFNode(5.0, decay_input=False, v_reset=None),
    "ParametricLIFNode trained": lambda: fixed(neuron.ParametricLIFNode(), w=1.3),
    "CUBALIFNode": lambda: neuron.CUBALIFNode(),
    "CUBALIFNode equal": lambda: neuron.CUBALIFNode(0.6, 0.6, v_reset=None),
    "KLIFNode": lambda: fixed(neuron.KLIFNode(tau=3.0), k=0.8),
    "KLIFNode scaled reset": lambda: fixed(
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
    "SlidingPSN random": lambda: fixed(neuron.SlidingPSN(3), weight=[0.3, -0.2, 0.9], bias=-0.4),
}


def stepping(make: Make, step_mode: str) -> Make:
    def made() -> Any:
        module = make()
        module.step_mode = step_mode
        return module

    return made


CASES: dict[str, tuple[Framework, Make]] = {
    **{f"spikingjelly {n} s": (SJ, stepping(make, "s")) for n, make in COMMON.items()},
    **{f"spikingjelly {n} m": (SJ, stepping(make, "m")) for n, make in COMMON.items()},
    "spikingjelly OTTTLIFNode": (SJ, lambda: neuron.OTTTLIFNode(3.0).eval()),
    "spikingjelly SLTTLIFNode": (SJ, lambda: neuron.SLTTLIFNode(3.0).eval()),
    "spikingjelly ILCIFNode": (SJ, lambda: ilc(neuron.ILCIFNode)),
    "spikingjelly ILCLIFNode": (SJ, lambda: ilc(neuron.ILCLIFNode, 0.6)),
    "spikingjelly ILCCUBALIFNode": (SJ, lambda: ilc(neuron.ILCCUBALIFNode)),
    "spikingjelly NoisyCUBALIFNode": (SJ, lambda: neuron.NoisyCUBALIFNode(C, is_training=False)),
    "spikingjelly NoisyILCCUBALIFNode": (
        SJ,
        lambda: ilc(neuron.NoisyILCCUBALIFNode, is_training=False),
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
    "snntorch RLeaky": (ST, lambda: rleaky(snntorch.RLeaky, 0.8)),
    "snntorch RLeaky one to one": (ST, lambda: snntorch.RLeaky(0.8, V=0.2, all_to_all=False)),
    "snntorch RSynaptic": (ST, lambda: rleaky(snntorch.RSynaptic, 0.8, 0.5, init_hidden=True)),
    "snntorch LeakyParallel": (ST, lambda: parallel_leaky(snntorch.LeakyParallel, 0.7)),
    "snntorch LeakyKernel": (ST, lambda: parallel_leaky(LeakyKernel, 0.9)),
    "snntorch StateLeaky": (ST, lambda: snntorch.StateLeaky(0.8, C)),
    "snntorch LinearLeaky": (
        ST,
        lambda: fixed(
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
        lambda: fixed(norse.LILinearCell(C, C), input_weights=torch.eye(C)),
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
        lambda: fixed(
            sinabs.LIF(12.0, tau_syn=4.0, train_alphas=True, norm_input=False), alpha_mem=1.02
        ),
    ),
    "sinabs LIF trained alpha": (SI, lambda: sinabs.LIF(9.0, train_alphas=True)),
    "sinabs LIF growing": (
        SI,
        lambda: fixed(sinabs.LIF(9.0, train_alphas=True, norm_input=False), alpha_mem=1.05),
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
    "sinabs LIFRecurrent": (SI, lambda: sinabs.LIFRecurrent(12.0, linear(), tau_syn=3.0)),
    "sinabs IAFRecurrent": (SI, lambda: sinabs.IAFRecurrent(linear())),
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
    "sinabs ALIFRecurrent": (SI, lambda: sinabs.ALIFRecurrent(12.0, 30.0, linear())),
    "sinabs ExpLeak": (SI, lambda: sinabs.ExpLeak(12.0)),
    "sinabs ExpLeakSqueeze": (SI, lambda: sinabs.ExpLeakSqueeze(tau_mem=5.0, batch_size=2)),
}


POTENTIALS = {"LICell", "LI", "LILinearCell", "LIBoxCell", "ExpLeak"}


def shape_of_call(module: Any, steps: int, N: int) -> tuple[tuple[int, ...], tuple[int, int]]:
    """What one call of the module gets for [steps, N, C], and the (outer, steps) of it."""
    if isinstance(module, sinabs.SqueezeMixin):
        return (N * steps, C), (N, steps)
    if isinstance(module, sinabs.StatefulLayer):
        return (N, steps, C), (N, steps)
    package = type(module).__module__.split(".")[0]
    if package == "snntorch":
        whole = parallel(module)
    elif package == "norse":
        whole = not type(module).__name__.endswith("Cell")
    else:
        whole = getattr(module, "step_mode", "m") == "m"
    return ((steps, N, C), (1, steps)) if whole else ((N, C), (1, 1))


def describe(module: Any, steps: int = T, N: int = 2) -> NeuronFacts:
    adapter = adapter_of(module)
    assert adapter is not None
    assert adapter.is_neuron(module)
    return adapter.describe(module, shape_of_call(module, steps, N)[0])
