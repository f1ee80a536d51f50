"""Networks that are exported as NIR graphs, and what fires in them and in the graphs."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Callable
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sbc_kernels.export.nir.graph import nir_graph, write_nir
from sbc_kernels.grid import Grid
from sbc_kernels.network.copies import reset_states
from sbc_kernels.weights import Quantized

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import nir
    import norse.torch as norse
    import sinabs.activation as sa
    import sinabs.layers as sl
    import sinabs.nir
    import snntorch as snn
    from snntorch.import_nir import import_from_nir as snntorch_reader
    from spikingjelly.activation_based import functional, neuron
    from spikingjelly.activation_based.nir_exchange import import_from_nir as spikingjelly_reader


T, SAMPLES = 5, 1000


Spikes = dict[str, np.ndarray[Any, Any]]  # by neuron, [T, N, ...]


class Chain(nn.Module):
    """[T, N, 2, 8, 8] in, [T, N, 5] out: a loop over time, states passed along where there are any."""

    def __init__(self, make: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.conv, self.n1 = nn.Conv2d(2, 4, 3, stride=2, padding=1), make()
        self.fc, self.n2 = nn.Linear(64, 20, bias=False), make()
        self.head, self.n3 = nn.Linear(20, 5), make()

    def step(self, x: Tensor, fire: Callable[[str, Tensor], Tensor]) -> Tensor:
        x = fire("n1", self.conv(x)).flatten(1)
        return fire("n3", self.head(fire("n2", self.fc(x))))

    def forward(self, x: Tensor) -> Tensor:
        states: dict[str, tuple[Any, ...]] = {}

        def fire(name: str, current: Tensor) -> Tensor:
            out = getattr(self, name)(current, *states.get(name, ()))
            if not isinstance(out, tuple):
                return out
            states[name] = out[1:]
            return out[0]

        return torch.stack([self.step(s, fire) for s in x])


class Residual(Chain):
    """A neuron fed by two layers, and a layer fed by two neurons."""

    def __init__(self, make: Callable[[], nn.Module]) -> None:
        super().__init__(make)
        self.side, self.block, self.n4 = nn.Linear(64, 20), nn.Linear(20, 20), make()

    def step(self, x: Tensor, fire: Callable[[str, Tensor], Tensor]) -> Tensor:
        x = fire("n1", self.conv(x)).flatten(1)
        y = fire("n2", self.fc(x) + self.side(x))
        y += fire("n4", self.block(y))
        return fire("n3", self.head(y))


class BatchFirst(Chain):
    """sinabs' order, [N, T, ...] for neurons."""

    def forward(self, x: Tensor) -> Tensor:
        x = x.transpose(0, 1)
        y = self.conv(x.flatten(0, 1)).unflatten(0, x.shape[:2])
        y = self.fc(self.n1(y).flatten(2))
        return self.n3(self.head(self.n2(y))).transpose(0, 1)


class MultiStep(Chain):
    """SpikingJelly's order, [T, N, ...] for neurons."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.n1(functional.seq_to_ann_forward(x, self.conv)).flatten(2)
        return self.n3(self.head(self.n2(self.fc(y))))


def sinabs_hard(tau: float | None) -> nn.Module:
    hard = {"spike_fn": sa.SingleSpike, "reset_fn": sa.MembraneReset()}
    return sl.IAF(**hard) if tau is None else sl.LIF(tau_mem=tau, **hard)


def norse_box() -> nn.Module:
    return norse.LIFBoxCell(norse.LIFBoxParameters(tau_mem_inv=torch.tensor(500.0)))


def norse_lif() -> nn.Module:
    rates = {"tau_mem_inv": torch.tensor(500.0), "tau_syn_inv": torch.tensor(250.0)}
    return norse.LIFCell(norse.LIFParameters(**rates))


IF, LIF, CUBA = "IF", "LIF", "CubaLIF"


HARD = {"reset_mechanism": "zero", "reset_delay": False}


SOURCES: dict[str, tuple[str, Callable[[], nn.Module], float]] = {  # node, network, weights' scale
    "spikingjelly IFNode": (IF, lambda: Chain(neuron.IFNode), 2.0),
    "spikingjelly LIFNode": (LIF, lambda: Chain(lambda: neuron.LIFNode(tau=2.0)), 5.0),
    "spikingjelly LIFNode, v_threshold 1.5, v_reset -0.25": (
        LIF,
        lambda: Chain(lambda: neuron.LIFNode(tau=4.0, v_threshold=1.5, v_reset=-0.25)),
        12.0,
    ),
    "spikingjelly LIFNode, input not decayed": (
        LIF,
        lambda: Chain(lambda: neuron.LIFNode(tau=2.0, decay_input=False)),
        3.0,
    ),
    "spikingjelly ParametricLIFNode": (LIF, lambda: Chain(neuron.ParametricLIFNode), 5.0),
    "spikingjelly CUBALIFNode": (CUBA, lambda: Chain(neuron.CUBALIFNode), 1.0),
    "spikingjelly multi-step": (
        LIF,
        lambda: MultiStep(lambda: neuron.LIFNode(tau=2.0, step_mode="m")),
        5.0,
    ),
    "snntorch Leaky": (LIF, lambda: Chain(lambda: snn.Leaky(beta=0.5, **HARD)), 3.0),
    "snntorch Leaky, reset late, hidden": (
        LIF,
        lambda: Chain(lambda: snn.Leaky(beta=0.75, reset_mechanism="zero", init_hidden=True)),
        2.0,
    ),
    "snntorch Synaptic": (
        CUBA,
        lambda: Chain(lambda: snn.Synaptic(alpha=0.5, beta=0.75, **HARD)),
        2.0,
    ),
    "norse LIFBoxCell": (LIF, lambda: Chain(norse_box), 5.0),
    "norse LIFCell": (CUBA, lambda: Chain(norse_lif), 4.0),
    "norse IAFCell": (IF, lambda: Chain(norse.IAFCell), 2.0),
    "sinabs LIF": (LIF, lambda: BatchFirst(lambda: sinabs_hard(1 / np.log(2))), 5.0),
    "sinabs IAF": (IF, lambda: BatchFirst(lambda: sinabs_hard(None)), 2.0),
}


def seeded(build: Callable[[], nn.Module], scale: float) -> nn.Module:
    torch.manual_seed(1)
    net = build().eval()
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, (nn.Linear, nn.Conv1d, nn.Conv2d)):
                rows = torch.rand(len(module.weight), *[1] * (module.weight.ndim - 1)) + 0.6
                module.weight.mul_(scale * rows)
                if module.bias is not None:
                    module.bias.mul_(scale).add_(0.04 * scale)
    return net


def quantized(net: nn.Module, bits: int = 4, *, alike: bool = False) -> dict[str, Quantized]:
    """Half of the weights away, the others on grids whose scales are powers of two: whatever a
    framework computes with them is exact. `alike`: one scale a layer instead of one a row."""
    weights = {}
    for name, module in net.named_modules():
        if not isinstance(module, (nn.Linear, nn.Conv1d, nn.Conv2d)):
            continue
        flat = module.weight.detach().flatten(1)
        span = flat.abs().max() if alike else flat.abs().amax(1, keepdim=True)
        span = span.clamp_min(2**-20)  # a row of zeros
        scale = torch.exp2(torch.log2(span / 2 ** (bits - 1)).ceil()).expand(len(flat), 1).clone()
        zero = torch.full_like(scale, 2.0 ** (bits - 1))
        mask = flat.abs() >= flat.abs().median()
        codes = (flat / scale + zero).round().clamp(0, 2**bits - 1)
        with torch.no_grad():
            weight = torch.where(mask, (codes - zero) * scale, 0.0)
            module.weight.copy_(weight.reshape(module.weight.shape))
            if module.bias is not None:
                module.bias.copy_((module.bias * 64).round() / 64)
        shape = module.weight.shape
        weights[name] = Quantized(
            codes.to(torch.uint8).reshape(shape), Grid(bits, scale, zero, -1), mask.reshape(shape)
        )
    return weights


def inputs(samples: int = SAMPLES, *shape: int, seed: int = 0) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return (torch.rand(T, samples, *(shape or (2, 8, 8)), generator=draw) < 0.4).float()


@contextlib.contextmanager
def listening(module: nn.Module, names: list[str]) -> Any:
    """What the modules of these names answer, a list for each."""
    heard: dict[str, list[Tensor]] = {name: [] for name in names}
    known = dict(module.named_modules())
    handles = [
        known[name].register_forward_hook(
            lambda _, args, out, into=heard[name]: into.append(
                (out[0] if isinstance(out, tuple) else out).detach().clone()
            )
        )
        for name in names
    ]
    yield heard
    for handle in handles:
        handle.remove()


def neurons(graph: Any) -> list[str]:
    return [name for name, node in graph.nodes.items() if hasattr(node, "v_threshold")]


def as_steps(answers: list[Tensor], samples: int) -> np.ndarray[Any, Any]:
    """[T, N, ...] of one answer a step, or of one answer [T, N, ...], [N, T, ...] or [N*T, ...]."""
    if len(answers) == T:
        return torch.stack(answers).numpy()
    (whole,) = answers
    if whole.shape[0] == samples * T:
        whole = whole.unflatten(0, (samples, T))
    return (whole if whole.shape[:2] == (T, samples) else whole.transpose(0, 1)).numpy()


def fired(net: nn.Module, x: Tensor, names: list[str]) -> Spikes:
    reset_states(net)
    with torch.no_grad(), listening(net, names) as heard:
        net(x)
    reset_states(net)
    return {name: as_steps(answers, x.shape[1]) for name, answers in heard.items()}


def read_back(reader: str, path: Path, x: Tensor) -> Spikes:
    """What every neuron fires in a framework that read the file."""
    graph = nir.read(path)
    names = neurons(graph)
    with contextlib.redirect_stdout(io.StringIO()):
        if reader == "spikingjelly":
            module = spikingjelly_reader(graph, dt=1e-4)
        elif reader == "snntorch":
            module = snntorch_reader(graph)
        elif reader == "norse":
            module = norse.from_nir(graph, dt=1e-4, ignore_warnings=True)
        else:
            module = sinabs.nir.from_nir(graph, num_timesteps=T)
    inside = {name: name.replace(".", "_") for name in names}
    with torch.no_grad(), listening(module, list(inside.values())) as heard:
        if reader == "sinabs":
            module(x.transpose(0, 1).flatten(0, 1))
        else:
            state = None
            for step in x:
                _, state = module(step, state)
    return {name: as_steps(heard[key], x.shape[1]) for name, key in inside.items()}


def interpret(graph: Any, x: Tensor, dt: float = 1e-4) -> Spikes:
    """NIR's equations by Euler steps in float64, nothing else."""
    before: dict[str, set[str]] = {name: set() for name in graph.nodes}
    for source, target in graph.edges:
        before[target].add(source)
    order = list(TopologicalSorter(before).static_order())
    v: dict[str, Any] = {}
    i: dict[str, Any] = {}
    spikes: dict[str, list[Any]] = {name: [] for name in neurons(graph)}
    for step in x.double().numpy():
        out: dict[str, Any] = {}
        for name in order:
            node = graph.nodes[name]
            given = sum(out[source] for source in before[name]) if before[name] else step
            kind = type(node).__name__
            if kind in ("IF", "LIF", "CubaLIF"):
                rest = node.v_reset if kind == "IF" else node.v_leak
                current = given
                if kind == "CubaLIF":
                    i[name] = i.get(name, 0.0)
                    i[name] = i[name] + dt / node.tau_syn * (node.w_in * given - i[name])
                    current = i[name]
                at = v.get(name, rest)
                if kind == "IF":
                    at = at + dt * node.r * current
                else:
                    tau = node.tau if kind == "LIF" else node.tau_mem
                    at = at + dt / tau * (node.v_leak - at + node.r * current)
                out[name] = (at > node.v_threshold).astype(np.float64)
                v[name] = np.where(out[name] > 0, node.v_reset, at)
                spikes[name].append(out[name])
            else:
                out[name] = apply(kind, node, given)
    return {name: np.stack(steps) for name, steps in spikes.items()}


def apply(kind: str, node: Any, given: Any) -> Any:
    if kind == "Affine":
        return given @ node.weight.T.astype(np.float64) + node.bias
    if kind == "Flatten":
        start, end = node.start_dim % (given.ndim), node.end_dim % (given.ndim)
        return given.reshape(*given.shape[:start], -1, *given.shape[end + 1 :])
    x = torch.from_numpy(np.asarray(given))
    if kind in ("Conv1d", "Conv2d"):
        convolve = F.conv1d if kind == "Conv1d" else F.conv2d
        weight, bias = (torch.from_numpy(w).double() for w in (node.weight, node.bias))
        options = {
            key: value.tolist() if isinstance(value := getattr(node, key), np.ndarray) else value
            for key in ("stride", "padding", "dilation")
        }
        return convolve(x, weight, bias, **options).numpy()
    if kind in ("AvgPool2d", "SumPool2d"):
        size, stride, padding = (
            getattr(node, key).tolist() for key in ("kernel_size", "stride", "padding")
        )
        mean = F.avg_pool2d(x, size, stride, padding)
        return (mean * (np.prod(size) if kind == "SumPool2d" else 1)).numpy()
    assert kind in ("Input", "Output")
    return given


def assert_same(actual: Spikes, expected: Spikes, what: str) -> None:
    assert actual.keys() == expected.keys()
    for name, spikes in expected.items():
        assert 0.01 < (spikes != 0).mean() < 0.99, f"{name} fires at {(spikes != 0).mean()}"
        different = int((actual[name] != spikes).sum())
        assert actual[name].shape == spikes.shape
        assert different == 0, f"{what}: {name} differs in {different} of {spikes.size} spikes"


def written(net: nn.Module, x: Tensor, path: Path, **options: Any) -> Any:
    graph = nir_graph(net, x[:, :3], **options)
    size = write_nir(path, graph)
    assert size == path.stat().st_size
    return graph


def layers(**others: Any) -> dict[str, Any]:
    """Two layers on 16 features and their neurons, and what else is asked for."""
    two = {
        "a": nn.Linear(16, 16),
        "b": nn.Linear(16, 16),
        "n": neuron.IFNode(),
        "m": neuron.IFNode(),
    }
    return two | others


def each(step: Callable[[Any, Tensor], Tensor]) -> Callable[[Any, Tensor], Tensor]:
    return lambda m, x: torch.stack([step(m, s) for s in x])
