"""One small network, written for four frameworks and several ways to hold the time steps."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import norse.torch as norse
    import sinabs.activation as sa
    import sinabs.layers as sl
    import snntorch as snn
    from spikingjelly.activation_based import functional, neuron

T = 4
OFF: dict[str, Any] = {"bn_reestimate": False, "bias_correction": False}
PLAIN: dict[str, Any] = {"calibration_mode": "parallel", "allocation": "uniform", **OFF}


class Looped(nn.Module):
    """A single-step network, run over time inside its forward: [T, N, 2, 8, 8] in, [T, N, 5] out."""

    def __init__(self, n1: nn.Module, n2: nn.Module) -> None:
        super().__init__()
        self.conv, self.bn, self.n1 = (
            nn.Conv2d(2, 6, 3, padding=1, bias=False),
            nn.BatchNorm2d(6),
            n1,
        )
        self.pool, self.fc, self.n2 = nn.MaxPool2d(2), nn.Linear(96, 20), n2
        self.head = nn.Linear(20, 5)

    def step(self, x: Tensor, states: list[Any]) -> Tensor:
        x = self.pool(self.fire(0, self.bn(self.conv(x)), states))
        return self.head(self.fire(1, self.fc(x.flatten(1)), states))

    def fire(self, index: int, x: Tensor, states: list[Any]) -> Tensor:
        return (self.n1, self.n2)[index](x)

    def forward(self, x: Tensor) -> Tensor:
        states: list[Any] = [None, None]
        return torch.stack([self.step(s, states) for s in x])


class WithStates(Looped):
    """Norse and snnTorch: the states are passed along."""

    def fire(self, index: int, x: Tensor, states: list[Any]) -> Tensor:
        module = (self.n1, self.n2)[index]
        out, states[index] = module(x) if states[index] is None else module(x, states[index])
        return out


class MultiStep(Looped):
    """Layers on [T*N, ...], neurons on [T, N, ...]; `batch_first` is sinabs' order."""

    batch_first = False

    def forward(self, x: Tensor) -> Tensor:
        x = x.transpose(0, 1) if self.batch_first else x
        first = x.shape[:2]

        def fire(module: nn.Module, current: Tensor) -> Tensor:
            out = module(current.unflatten(0, first))
            return (out[0] if isinstance(out, tuple) else out).flatten(0, 1)

        y = self.pool(fire(self.n1, self.bn(self.conv(x.flatten(0, 1)))))
        y = self.head(fire(self.n2, self.fc(y.flatten(1)))).unflatten(0, first)
        return y.transpose(0, 1) if self.batch_first else y


class BatchFirst(MultiStep):
    batch_first = True


SINABS: dict[str, Any] = {
    "tau_mem": 1 / np.log(2),
    "spike_fn": sa.SingleSpike,
    "reset_fn": sa.MembraneReset(),
}


def spikingjelly_multi() -> nn.Module:
    lif = [neuron.LIFNode(tau=2.0, step_mode="m") for _ in range(2)]
    return MultiStep(*lif)


def spikingjelly_containers() -> nn.Module:
    """[T, N, ...] all along, layers wrapped."""

    class Whole(Looped):
        def forward(self, x: Tensor) -> Tensor:
            flat = functional.seq_to_ann_forward(x, nn.Sequential(self.conv, self.bn))
            pooled = functional.seq_to_ann_forward(self.n1(flat), self.pool)
            return self.head(self.n2(self.fc(pooled.flatten(2))))

    return Whole(*[neuron.LIFNode(tau=2.0, step_mode="m") for _ in range(2)])


def snntorch_leaky() -> nn.Module:
    """No input gain, so the threshold is tau times as high."""
    kind = {"beta": 0.5, "threshold": 2.0, "reset_mechanism": "zero", "reset_delay": False}
    return WithStates(snn.Leaky(**kind), snn.Leaky(**kind))


def norse_box() -> nn.Module:
    p = norse.LIFBoxParameters(tau_mem_inv=torch.tensor(500.0), v_th=torch.tensor(1.0))
    return WithStates(norse.LIFBoxCell(p), norse.LIFBoxCell(p))


def sinabs_lif() -> nn.Module:
    return BatchFirst(*[sl.LIF(**SINABS) for _ in range(2)])


class Squeezed(BatchFirst):
    """sinabs' other habit: neurons on [N*T, ...] as well."""

    def forward(self, x: Tensor) -> Tensor:
        first = (x.shape[1], x.shape[0])
        y = self.n1(self.bn(self.conv(x.transpose(0, 1).flatten(0, 1))))
        y = self.head(self.n2(self.fc(self.pool(y).flatten(1)))).unflatten(0, first)
        return y.transpose(0, 1)


def sinabs_squeeze() -> nn.Module:
    return Squeezed(*[sl.LIFSqueeze(num_timesteps=T, **SINABS) for _ in range(2)])


FRAMEWORKS = {
    "spikingjelly looped": lambda: Looped(neuron.LIFNode(tau=2.0), neuron.LIFNode(tau=2.0)),
    "spikingjelly multi-step": spikingjelly_multi,
    "spikingjelly containers": spikingjelly_containers,
    "snntorch": snntorch_leaky,
    "norse": norse_box,
    "sinabs": sinabs_lif,
    "sinabs squeeze": sinabs_squeeze,
}


def weights() -> dict[str, Tensor]:
    """Of a network whose neurons fire."""
    torch.manual_seed(3)
    net = Looped(nn.Identity(), nn.Identity())
    with torch.no_grad():
        net.bn.running_var.uniform_(0.5, 1.5)
        net.bn.running_mean.normal_(0, 0.1)
        net.bn.weight.uniform_(2.0, 4.0)
        net.bn.bias.uniform_(0.2, 0.8)
        net.fc.weight.mul_(6)
    return {k: v for k, v in net.state_dict().items() if not k.startswith("n")}


def network(name: str = "spikingjelly multi-step") -> nn.Module:
    net = FRAMEWORKS[name]()
    net.load_state_dict(weights(), strict=False)
    return net.eval()


def spikes(seed: int = 0, samples: int = 6) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(T, samples, 2, 8, 8, generator=generator) < 0.3).float()


def weight_of(model: nn.Module) -> dict[str, np.ndarray[Any, Any]]:
    return {
        name: module.weight.detach().numpy()
        for name, module in model.named_modules()
        if isinstance(module, (nn.Linear, nn.Conv2d))
    }


def snapshot(model: nn.Module) -> dict[str, Any]:
    return {
        "state": {k: v.clone() for k, v in model.state_dict().items()},
        "modes": [m.training for m in model.modules()],
        "grads": [p.requires_grad for p in model.parameters()],
        "random": torch.get_rng_state(),
        "v": copy.deepcopy(model.n1.v.detach()),
        "hooks": [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()],
    }


def same(a: Any, b: Any) -> bool:
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    return torch.equal(a, b) if isinstance(a, Tensor) else a == b
