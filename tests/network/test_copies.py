"""Copies that share something with the user's network are refused by name, before any work."""

from __future__ import annotations

import functools
import logging
import threading
import types
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from nets import Net
from torch import Tensor, nn

import sbc_kernels as sbc
from sbc_kernels.network.copies import copy_of

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from spikingjelly.activation_based import neuron

pytestmark = pytest.mark.filterwarnings("ignore:no input spiked in calibration:RuntimeWarning")


def lif() -> nn.Module:
    return neuron.LIFNode(step_mode="m", v_threshold=0.3)


def data() -> Tensor:
    torch.manual_seed(0)
    return (torch.rand(6, 20, 24) < 0.3).float()


class Own(nn.Module):
    """Two layers, the first behind whatever `block` is."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.fc, self.lif, self.head = nn.Linear(24, 16), lif(), nn.Linear(16, 5)
        self.block: Any = self.run

    def run(self, x: Tensor) -> Tensor:
        return self.lif(self.fc(x))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.block(x))


def closure(net: Any) -> Callable[[Tensor], Tensor]:
    fc = net.fc
    return lambda x: net.lif(fc(x))


def over_weight(net: Any) -> Callable[[Tensor], Tensor]:
    weight = net.fc.weight.t()
    return lambda x: x @ weight


def swallowing(net: Any) -> Callable[[Tensor], Tensor]:
    def block(x: Tensor) -> Tensor:
        try:
            return net.lif(net.fc(x))
        except Exception:
            return x[..., :16]

    return block


def over_state(net: Any) -> Callable[[Tensor], Tensor]:
    def block(x: Tensor) -> Tensor:
        net.lif.v_threshold += 1.0
        return x[..., :16]

    return block


SHARED: dict[str, tuple[Callable[[Any], Any], str, str]] = {
    "a lambda": (lambda net: lambda x: net.run(x), "'fc' was run", "'block'"),
    "a closure": (closure, "'fc' was run", "'block'"),
    "a function that catches errors": (swallowing, "'fc' was run", "'block'"),
    "a weight's view": (over_weight, "'fc.weight' was used", ""),
    "F.linear": (
        lambda net: lambda x: F.linear(x, net.fc.weight),
        "'fc.weight' was used",
        "'block'",
    ),
    "a state": (over_state, "'lif.v_threshold' was changed", "'block'"),
}


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("name", SHARED)
def test_functions_over_the_model_are_refused(name: str, inplace: bool) -> None:
    make, what, holder = SHARED[name]
    net = Own()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    net.block = make(net)
    with pytest.raises(ValueError, match=what) as caught:
        sbc.compress_model(net, data(), sparsity=0.5, inplace=inplace)
    assert holder in str(caught.value)
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert isinstance(net.lif.v, float)
    assert net.lif.v_threshold == 0.3


BOUND: dict[str, Callable[[Any], Any]] = {
    "a method": lambda net: net.run,
    "a partial of a method": lambda net: functools.partial(net.run),
    "a method in a list": lambda net: [net.run][0],
}


@pytest.mark.parametrize("name", BOUND)
def test_methods_are_bound_to_the_copy(name: str) -> None:
    net = Own()
    plain = sbc.compress_model(net, data(), sparsity=0.5)
    net.block = BOUND[name](net)
    result = sbc.compress_model(net, data(), sparsity=0.5)
    assert torch.equal(result.model.fc.weight, plain.model.fc.weight)
    x = data()
    expected = result.model(x)
    net.fc.weight.data.zero_()
    result.model.lif.reset()
    assert torch.equal(result.model(x), expected)


def test_a_forward_that_runs_the_model_itself_is_refused() -> None:
    net = Own()
    for forward in (lambda model, x: net(x), lambda model, x: F.linear(x, net.fc.weight)):
        with pytest.raises(ValueError, match=r"forward is a function that holds the model itself"):
            sbc.trace(net, data(), forward=forward)


def test_hooks_that_write_to_the_model_are_named() -> None:
    net = Own()
    net.log = []
    net.fc.register_forward_hook(lambda module, args, output: net.log.append(output))
    with pytest.raises(ValueError, match=r"its state 'log' was changed .* 'fc\._forward_hooks'"):
        sbc.trace(net, data())
    assert net.log == []


def test_models_without_weights_are_refused() -> None:
    with pytest.raises(ValueError, match=r"'0\.weight' is not initialized"):
        sbc.trace(nn.Sequential(nn.LazyLinear(5)), data())


def test_metrics_refuse_what_a_copy_shares() -> None:
    net = Own()
    labelled = [(data(), torch.zeros(20, dtype=torch.long))]
    with pytest.raises(ValueError, match="forward is a function that holds the model itself"):
        sbc.metrics.accuracy(net, labelled, forward=lambda model, x: net(x).mean(0))
    net.block = lambda x: net.run(x)
    with pytest.raises(ValueError, match="'fc' was run"):
        sbc.metrics.accuracy(net, labelled, forward=lambda model, x: model(x).mean(0))
    assert isinstance(net.lif.v, float)


def test_methods_that_are_compiled_in_the_class_run_as_written() -> None:
    class CompiledMethod(Own):
        @torch.compile(backend="eager")
        def run(self, x: Tensor) -> Tensor:
            return self.lif(self.fc(x))

    result = sbc.compress_model(CompiledMethod(), data(), sparsity=0.5)
    expected = sbc.compress_model(Own(), data(), sparsity=0.5)
    assert torch.equal(result.model.fc.weight, expected.model.fc.weight)
    assert [layer.role for layer in result.plan.layers] == ["spiking", "head"]


def test_other_threads_may_run_the_model() -> None:
    net = Own()
    done = threading.Event()

    def work() -> None:
        twin = copy_of(net)
        while not done.is_set():
            twin(data())

    thread = threading.Thread(target=work)
    thread.start()
    try:
        assert len(sbc.trace(net, data()).compressed) == 2
    finally:
        done.set()
        thread.join()


# ---- parts that are compiled, scripted, wrapped ------------------------------------------------


def compiled(net: Any) -> Any:
    net.block = torch.compile(nn.Sequential(net.fc, net.lif), backend="eager")
    return net


def compiled_in_place(net: Any) -> Any:
    net.fc.compile(backend="eager")
    return net


def compiled_method(net: Any) -> Any:
    net.block = torch.compile(net.run, backend="eager")
    return net


def scripted(net: Any) -> Any:
    net.fc = torch.jit.script(net.fc)
    return net


def spread(net: Any) -> Any:
    net.fc = nn.DataParallel(net.fc)
    return net


PARTS: dict[str, tuple[Callable[[Any], Any], str]] = {
    "compiled": (compiled, r"a part 'block' that is compiled"),
    "compiled in place": (compiled_in_place, r"a part 'fc' that is compiled"),
    "compiled method": (compiled_method, r"compiled by torch.compile in 'block'"),
    "compiled whole in place": (
        lambda net: (net.compile(backend="eager"), net)[1],
        "model is compiled by torch.compile; accepted is the model as it was",
    ),
    "scripted": (scripted, r"a part 'fc' that is scripted .* script the compressed model"),
    "wrapped": (nn.DataParallel, r"model is wrapped in DataParallel; .* model\.module"),
    "a wrapped part": (spread, r"'fc' that is wrapped in DataParallel; .* model\.fc\.module"),
}


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")
@pytest.mark.parametrize("name", PARTS)
def test_parts_that_cannot_be_separated_are_refused(name: str) -> None:
    make, words = PARTS[name]
    net = make(Own())
    for call in (sbc.trace, functools.partial(sbc.compress_model, sparsity=0.5)):
        with pytest.raises(ValueError, match=words):
            call(net, data())


# ---- attributes --------------------------------------------------------------------------------


def test_what_has_no_content_is_shared() -> None:
    net = Net(lambda m, x: m.n(m.fc(x)), fc=nn.Linear(24, 16), n=lif())
    net.fc.functional = F
    net.fc.lock = threading.Lock()
    net.nested = {"modules": [types, (F,)], "logger": logging.getLogger("x")}
    net.holder = types.SimpleNamespace(lock=threading.RLock(), past=net.fc.weight * 2)
    copied = copy_of(net)
    assert copied.fc.functional is F
    assert copied.fc.lock is net.fc.lock
    assert copied.nested["modules"] == [types, (F,)]
    assert copied.holder is not net.holder
    assert copied.holder.past.grad_fn is None
    assert torch.equal(copied.holder.past, net.holder.past)
    assert len(sbc.compress_model(net, data(), sparsity=0.5).layers) == 1


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("attribute", [(i for i in range(3)), {"inner": [(i for i in ())]}])
def test_attributes_that_cannot_be_copied_are_named(attribute: Any, inplace: bool) -> None:
    net = nn.Sequential(nn.Linear(24, 16), lif())
    net[0].helper = attribute
    with pytest.raises(TypeError, match=r"attribute 'helper' of '0', a Linear") as caught:
        sbc.compress_model(net, data(), sparsity=0.5, inplace=inplace)
    assert isinstance(caught.value, sbc.errors.ParameterError)
