"""Networks that NIR cannot hold are refused by name."""

from __future__ import annotations

import re
import warnings
from typing import Any

import pytest
import torch
from nets import Net
from nir_networks import HARD, each, inputs, layers
from torch import Tensor, nn

from sbc_kernels.export.nir.graph import nir_graph
from sbc_kernels.export.nir.refusals import no_edge
from sbc_kernels.export.nir.tracking import Operation

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import snntorch as snn
    from spikingjelly.activation_based import neuron


class Attention(nn.Module):
    def forward(self, q: Tensor, k: Tensor) -> Tensor:
        return (q.unflatten(-1, (4, 4)) @ k.unflatten(-1, (4, 4))).flatten(-2)


def attend(m: Any, x: Tensor) -> Tensor:
    return m.c(m.attention(m.n(m.a(x)), m.m(m.b(x))))


def recur(m: Any, x: Tensor) -> Tensor:
    spikes, out = torch.zeros_like(x[0]), []
    for s in x:
        spikes = m.n(m.a(s) + m.b(spikes))
        out.append(spikes)
    return torch.stack(out)


def recur_by_state(m: Any, x: Tensor) -> Tensor:
    spikes, out = 0.0, []
    for s in x:
        spikes = m.n(m.a(s + spikes))
        out.append(spikes)
    return torch.stack(out)


def delay(m: Any, x: Tensor) -> Tensor:
    first = torch.stack([m.n(m.a(s)) for s in x])
    return torch.stack([m.m(m.b(s)) for s in first.roll(1, 0)])


def potential(m: Any, x: Tensor) -> Tensor:
    return torch.stack([m.leaky(m.a(s))[1] for s in x])


def in_place(m: Any, s: Tensor) -> Tensor:
    y = m.n(m.a(s))
    y[:, :8].mul_(2.0)
    return m.m(m.b(y))


def come_and_go(m: Any, x: Tensor) -> Tensor:
    current, other = m.a(x), m.b(x)
    return m.many(torch.cat([current[:1], current[1:] + other[1:]]))


class Odd(neuron.SimpleIFNode):
    def neuronal_charge(self, x: Tensor) -> None:
        self.v = 0.5 * self.v + x


class Scaled(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return 2.0 * super().forward(x)


def grid(*kinds: nn.Module) -> dict[str, nn.Module]:
    return dict(zip(("conv", "n", "pool"), (kinds[0], neuron.IFNode(), *kinds[1:]), strict=False))


CANNOT: dict[str, tuple[nn.Module, tuple[int, ...], str]] = {
    "BatchNorm": (
        Net(each(lambda m, s: m.n(m.bn(m.a(s)))), **layers(bn=nn.BatchNorm1d(16))),
        (16,),
        r"bn \(BatchNorm1d\).*no BatchNorm.*fold=True",
    ),
    "MaxPool": (
        Net(
            each(lambda m, s: m.k(m.fc(m.pool(m.n(m.conv(s))).flatten(1)))),
            **grid(nn.Conv2d(2, 4, 3), nn.MaxPool2d(2)),
            fc=nn.Linear(36, 3),
            k=neuron.IFNode(),
        ),
        (2, 8, 8),
        r"max_pool2d in pool \(MaxPool2d\), between n and fc \(Linear\).*AvgPool2d",
    ),
    "MaxPool at the end": (
        Net(each(lambda m, s: m.pool(m.n(m.conv(s)))), **grid(nn.Conv2d(2, 4, 3), nn.MaxPool2d(2))),
        (2, 8, 8),
        r"max_pool2d in pool \(MaxPool2d\), between n and the model's output",
    ),
    "attention": (
        Net(each(attend), **layers(attention=Attention(), c=nn.Linear(16, 3))),
        (16,),
        r"matmul in attention \(Attention\), between n, m and c \(Linear\).*attention needs",
    ),
    "an activation": (
        Net(each(lambda m, s: m.n(torch.relu(m.a(s)))), **layers()),
        (16,),
        r"relu in the model itself \(Net\), between a and n \(IFNode\)",
    ),
    "a random encoder": (
        Net(each(lambda m, s: m.n(m.a((s > torch.rand_like(s)).float()))), **layers()),
        (16,),
        r"gt in the model itself \(Net\), between its input and a \(Linear\)",
    ),
    "a factor": (
        Net(each(lambda m, s: m.m(m.b(0.5 * m.n(m.a(s))))), **layers()),
        (16,),
        r"mul in the model itself \(Net\), between n and b",
    ),
    "a constant": (
        Net(each(lambda m, s: m.n(m.a(s) + 1.0)), **layers()),
        (16,),
        r"add in the model itself \(Net\), between a and n",
    ),
    "a change in place": (
        Net(each(in_place), **layers()),
        (16,),
        r"a change in place in b \(Linear\), between n and b",
    ),
    "recurrence": (Net(recur, **layers()), (16,), r"b \(Linear\).*without recurrence"),
    "recurrence through sums": (
        Net(recur_by_state, **layers()),
        (16,),
        r"a \(Linear\), fed by its input in one call and by its input, n in another.*recurrence",
    ),
    "a delay": (Net(delay, **layers()), (16,), r"m \(IFNode\), fed with .* another time step"),
    "one neuron at two places": (
        Net(each(lambda m, s: m.n(m.b(m.n(m.a(s))))), **layers()),
        (16,),
        r"n \(IFNode\), fed by a in one call and by b in another",
    ),
    "a step in between": (
        Net(
            lambda m, x: torch.stack([m.n(m.a(s)) + m.m(m.b(x[0])) for s in x]),
            **layers(),
        ),
        (16,),
        "input reaches its neurons at several time steps, but not at all",
    ),
    "another order": (
        Net(each(lambda m, s: m.m(m.b(m.n(m.a(s)).flip(1)))), **layers()),
        (16,),
        r"b \(Linear\), which takes a part of the output of n,.* or another order",
    ),
    "two features changed": (
        Net(each(lambda m, s: m.m(m.b(m.n(m.a(s))[:, [0, 2, 1, *range(3, 16)]]))), **layers()),
        (16,),
        r"b \(Linear\), which takes a part of the output of n,.* or another order",
    ),
    "edges that come and go": (
        Net(come_and_go, **layers(many=neuron.IFNode(step_mode="m"))),
        (16,),
        r"many \(IFNode\), fed by a, b, but not by the same of them at every step",
    ),
    "a part": (
        Net(each(lambda m, s: m.m(m.c(m.n(m.a(s))[:, :8]))), **layers(c=nn.Linear(8, 4))),
        (16,),
        r"c \(Linear\), which takes a part of the output of n,",
    ),
    "features put together": (
        Net(
            each(lambda m, s: m.k(m.c(torch.cat([m.n(m.a(s)), m.m(m.b(s))], 1)))),
            **layers(c=nn.Linear(32, 4), k=neuron.IFNode()),
        ),
        (16,),
        r"c \(Linear\), which takes a part of the output of n, m, several at once",
    ),
    "a sum with itself": (
        Net(each(lambda m, s: m.m(m.b((y := m.n(m.a(s))) + y))), **layers()),
        (16,),
        r"b \(Linear\), fed with n added to itself",
    ),
    "an axis of tokens": (
        Net(each(lambda m, s: m.n(m.c(s))), **layers(c=nn.Linear(4, 4))),
        (4, 4),
        r"n \(IFNode\), fed with \[3, 4, 4\], of which \[4\] .* along another axis",
    ),
    "axes split": (
        Net(
            each(lambda m, s: m.k(m.conv(m.n(m.a(s)).unflatten(1, (1, 4, 4))))),
            **layers(conv=nn.Conv2d(1, 2, 3), k=neuron.IFNode()),
        ),
        (16,),
        r"reshapes the output of n from \[16\] to \[1, 4, 4\]",
    ),
    "nothing leads to the output": (
        Net(lambda m, x: torch.stack([(m.m(m.b(s)), m.n(m.a(s)))[1] for s in x]), **layers()),
        (16,),
        r"b \(Linear\), m \(IFNode\), which nothing leads from",
    ),
    "a potential as output": (
        Net(potential, **layers(leaky=snn.Leaky(beta=0.5, **HARD))),
        (16,),
        r"a state in leaky \(Leaky\), between leaky and the model's output.*return spikes",
    ),
    "a part as output": (
        Net(lambda m, x: torch.stack([m.n(m.a(s)) for s in x])[..., :3], **layers()),
        (16,),
        "output is put together from parts of the output of n",
    ),
    "no node at all": (Net(lambda m, x: torch.ones(3)), (16,), "output comes from none"),
    "the input as output": (Net(lambda m, x: x), (16,), "output is its input"),
    "a grouped convolution": (
        Net(each(lambda m, s: m.n(m.conv(s))), **grid(nn.Conv2d(2, 4, 3, groups=2))),
        (2, 8, 8),
        r"conv \(Conv2d\).*grouped",
    ),
    "a kernel that is not square": (
        Net(each(lambda m, s: m.n(m.conv(s))), **grid(nn.Conv2d(2, 4, (1, 3)))),
        (2, 8, 8),
        r"conv \(Conv2d\), from \[2, 8, 8\] to \[4, 8, 6\].*not square",
    ),
    "padding by reflection": (
        Net(
            each(lambda m, s: m.n(m.conv(s))),
            **grid(nn.Conv2d(2, 4, 3, padding=1, padding_mode="reflect")),
        ),
        (2, 8, 8),
        r"conv \(Conv2d\) with padding_mode 'reflect'",
    ),
    "windows of different sizes": (
        Net(
            each(lambda m, s: m.n(m.pool(m.conv(s)))),
            **grid(nn.Conv2d(2, 4, 3), nn.AdaptiveAvgPool2d(4)),
        ),
        (2, 8, 8),
        r"pool \(AdaptiveAvgPool2d\) from \[6, 6\] to \[4, 4\]",
    ),
    "windows cut off": (
        Net(
            each(lambda m, s: m.n(m.pool(m.conv(s)))),
            **grid(nn.Conv2d(2, 4, 3), nn.AvgPool2d(4, ceil_mode=True)),
        ),
        (2, 8, 8),
        r"pool \(AvgPool2d\) with ceil_mode",
    ),
    "a norm that is no sum": (
        Net(
            each(lambda m, s: m.n(m.pool(m.conv(s)))),
            **grid(nn.Conv2d(2, 4, 3), nn.LPPool2d(2, 2)),
        ),
        (2, 8, 8),
        r"pool \(LPPool2d\) with norm_type 2",
    ),
    "a layer that does more": (
        Net(each(lambda m, s: m.n(m.c(s))), **layers(c=Scaled(16, 4))),
        (16,),
        r"c \(Scaled\), whose forward does more",
    ),
    "KLIF": (
        Net(each(lambda m, s: m.k(m.a(s))), **layers(k=neuron.KLIFNode())),
        (16,),
        r"k \(KLIFNode\), which NIR cannot hold.*accepted are integrate-and-fire",
    ),
    "a neuron with recurrent weights": (
        Net(
            each(lambda m, s: m.k(m.a(s))),
            **layers(k=snn.RLeaky(beta=0.5, linear_features=16, init_hidden=True)),
        ),
        (16,),
        r"k \(RLeaky\), which NIR cannot hold",
    ),
    "a reset that takes the input along": (
        Net(
            each(lambda m, s: m.k(m.a(s))),
            **layers(k=snn.Synaptic(0.5, 0.5, reset_mechanism="zero", init_hidden=True)),
        ),
        (16,),
        r"k \(Synaptic\), .* takes the next step's input along \(reset_delay=False would not\)",
    ),
    "no reset": (
        Net(
            each(lambda m, s: m.k(m.a(s))),
            **layers(k=snn.Leaky(0.5, reset_mechanism="none", init_hidden=True)),
        ),
        (16,),
        r"k \(Leaky\), .* never reset",
    ),
    "a neuron that does something else": (
        Net(each(lambda m, s: m.k(m.a(s))), **layers(k=Odd())),
        (16,),
        r"k \(Odd\), whose output is [01] where the equations of its class give",
    ),
}


@pytest.mark.parametrize("what", CANNOT)
def test_a_clear_error_names_what_nir_cannot_hold(what: str) -> None:
    net, shape, message = CANNOT[what]
    torch.manual_seed(0)
    for module in net.modules():
        if isinstance(module, nn.Linear):
            nn.init.uniform_(module.weight, -0.3, 0.6)
    with pytest.raises(ValueError, match=message):
        nir_graph(net, inputs(3, *shape))


@pytest.mark.parametrize(
    ("function", "advice"),
    [
        ("max_pool2d", r"MaxPool: train with"),
        ("max_pool2d_with_indices", r"MaxPool: train with"),
        ("adaptive_max_pool1d", r"MaxPool: train with"),
        ("scaled_dot_product_attention", r"NIR has no product of two activations"),
        ("batch_norm", r"compress_model\(\.\.\., fold=True\)"),
        ("max_pool", r"additions and reshapes$"),  # no function of torch
        ("sigmoid", r"additions and reshapes$"),
    ],
)
def test_advice_goes_by_the_name_of_the_function(function: str, advice: str) -> None:
    steps = (Operation("add", "a (Linear)"), Operation(function, "b (Odd)"))
    text = no_edge(steps, ["n"], "c")
    assert text.startswith(
        f"model has {function} in b (Odd), between n and c, which NIR cannot hold"
    )
    assert re.search(advice, text)
