"""Tracing: the norms and neurons that each layer's output meets."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from nets import Net
from torch import Tensor, nn
from traced_networks import First, Step, lin

import sbc_kernels as sbc

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import zoo
    from spikingjelly.activation_based import functional, layer, neuron


pytestmark = pytest.mark.usefixtures("seed")


# ---- real models -------------------------------------------------------------------------------


@pytest.mark.parametrize("case", zoo.CASES, ids=lambda case: case.name)
def test_real_models_agree_with_the_tables(case: zoo.Case) -> None:
    plan = sbc.trace(case.build(), case.inputs(2))
    assert {found.name for found in plan.layers} == set(case.layers)
    for found in plan.layers:
        expected = case.layers[found.name]
        assert found.norms == expected.norms, found.name
        assert frozenset(found.consumers) == expected.consumers, found.name
        assert found.role == ("spiking" if expected.consumers else "head"), found.name
        assert found.layout.steps == (4 if expected.consumers else 1), found.name
        assert all(n is not None for n in found.neurons) == bool(expected.consumers), found.name
    assert str(plan).count("\n") >= len(plan.layers)


# ---- graphs ------------------------------------------------------------------------------------


def test_residual_adds_and_several_consumers() -> None:
    def run(m: Any, x: Tensor) -> Tensor:
        stream = m.a(x)
        stream = stream + m.b(m.n1(stream))
        stream += m.c(m.n2(stream))
        return m.head(m.n3(stream))

    parts = {name: lin() for name in ("a", "b", "c", "head")}
    plan = sbc.trace(Net(run, n1=First(), n2=First(), n3=First(), **parts), torch.rand(3, 2, 6))
    assert plan["a"].consumers == ("n1", "n2", "n3")
    assert plan["b"].consumers == ("n2", "n3")
    assert plan["c"].consumers == ("n3",)
    assert plan["head"].role == "head"
    assert plan["head"].neurons == (None,)


def test_consumers_with_different_responses_are_all_kept() -> None:
    def run(m: Any, x: Tensor) -> Tensor:
        current = m.a(x)
        return m.n1(current) + m.n2(current) + m.n3(current)

    net = Net(run, a=lin(), n1=First(tau=2.0), n2=First(tau=3.0), n3=First(tau=2.0))
    plan = sbc.trace(net, torch.rand(3, 2, 6))
    assert plan["a"].neurons == (sbc.LIF(2.0), sbc.LIF(3.0))
    assert "mean" in str(plan["a"].notes)


def test_frozen_parameters_norms_without_affine_and_in_place_adds() -> None:
    def run(m: Any, x: Tensor) -> Tensor:
        T, N = x.shape[:2]
        current = m.bn(m.conv(x.flatten(0, 1))).view(T, N, 4, 5, 5)
        current += 1.0
        return m.n(current)

    net = Net(
        run, conv=nn.Conv2d(2, 4, 3, padding=1), bn=nn.BatchNorm2d(4, affine=False), n=First()
    )
    for parameter in net.parameters():
        parameter.requires_grad_(False)
    plan = sbc.trace(net, torch.rand(3, 2, 2, 5, 5))
    assert plan["conv"].norms == ("bn",)
    assert plan["conv"].consumers == ("n",)
    assert not any(parameter.requires_grad for parameter in net.parameters())


def test_module_called_twice() -> None:
    net = Net(lambda m, x: m.n2(m.a(m.n1(m.a(x)))), a=lin(), n1=First(), n2=First())
    plan = sbc.trace(net, torch.rand(3, 2, 6))
    assert plan["a"].calls == 2
    assert plan["a"].consumers == ("n1", "n2")
    assert plan["a"].layout.steps == 3


def test_tied_weights_are_one_layer() -> None:
    net = Net(lambda m, x: m.n2(m.b(m.n1(m.a(x)))), a=lin(), b=lin(), n1=First(), n2=First())
    net.b.weight = net.a.weight
    plan = sbc.trace(net, torch.rand(3, 2, 6))
    assert [found.name for found in plan.layers] == ["a"]
    assert plan["a"].also == ("b",)


def test_what_cannot_be_resolved_is_named() -> None:
    def run(m: Any, x: Tensor) -> Tensor:
        T, N = x.shape[:2]
        with torch.no_grad():
            m.hidden(x)
        y = m.n(torch.relu(m.bent(x)))
        return m.out(m.up(y.reshape(T * N, 6, 1)).flatten(1))

    net = Net(
        run,
        hidden=lin(),
        bent=lin(),
        n=First(),
        idle=lin(),
        out=lin(),
        up=nn.ConvTranspose1d(6, 6, 1),
    )
    plan = sbc.trace(net, torch.rand(3, 2, 6))
    assert plan["hidden"].role == "unresolved"
    assert plan["hidden"].neurons == (None,)
    assert plan["bent"].neurons == (None,)
    assert "Relu" in plan["bent"].notes[0]
    assert plan["idle"].role == "never called"
    assert plan["up"].role == "unsupported"
    assert plan["out"].role == "head"
    for name in ("hidden", "bent", "idle", "up"):
        assert plan[name].notes, name
        assert name in str(plan)


def test_a_spike_function_without_a_state_is_a_consumer() -> None:
    plan = sbc.trace(Net(lambda m, x: Step.apply(m.a(x)), a=lin()), torch.rand(3, 2, 6))
    assert plan["a"].role == "spiking"
    assert plan["a"].consumers == ("forward of Net: Step",)
    assert plan["a"].layout.steps == 1
    assert plan["a"].notes == ()


def test_mixing_time_steps_falls_back_by_name() -> None:
    net = Net(lambda m, x: m.n(m.a(x).cumsum(dim=0)), a=lin(), n=First())
    plan = sbc.trace(net, torch.rand(3, 2, 6))
    assert plan["a"].neurons == (None,)
    assert "mixes time steps" in str(plan["a"].notes)


def test_padding_modes_are_unsupported_by_name() -> None:
    net = Net(
        lambda m, x: m.n(m.a(x.flatten(0, 1)).unflatten(0, x.shape[:2])),
        a=nn.Conv1d(2, 3, 3, padding=1, padding_mode="circular"),
        n=First(),
    )
    plan = sbc.trace(net, torch.rand(3, 2, 2, 7))
    assert plan["a"].role == "unsupported"
    assert "circular" in plan["a"].notes[0]


def test_parameters_outside_layers_are_listed() -> None:
    net = Net(lambda m, x: m.n(m.a(x) + m.place), a=lin(), n=First())
    net.place = nn.Parameter(torch.rand(2, 6))
    assert sbc.trace(net, torch.rand(3, 2, 6)).left_alone == ("place",)


# ---- what the user says ------------------------------------------------------------------------


def test_overrides_and_ignore() -> None:
    parts = {name: lin() for name in ("a1", "a2", "head")}
    net = Net(lambda m, x: m.head(m.n2(m.a2(m.n1(m.a1(x))))), n1=First(), n2=First(), **parts)
    x = torch.rand(3, 2, 6)
    plan = sbc.trace(
        net,
        x,
        overrides={
            r"a\d": {"neuron": sbc.IF(), "bits": 4},
            "a2": {"hessian": "current", "sparsity": 0.5},
        },
        ignore=["head"],
    )
    assert plan["a1"].neurons == (sbc.IF(),)
    assert plan["a2"].neurons == (None,)
    assert plan["a2"].options == {"bits": 4, "sparsity": 0.5}
    assert plan["head"].role == "skipped"
    assert {found.name for found in plan.compressed} == {"a1", "a2"}


@pytest.mark.parametrize(
    ("said", "error", "words"),
    [
        ({"overrides": {"b": {"bits": 4}}}, ValueError, "overrides has 'b'"),
        ({"overrides": {"(": {"bits": 4}}}, ValueError, "regular expression"),
        ({"overrides": {"a": {"sparse": 1}}}, ValueError, "'sparse'; accepted are skip"),
        ({"overrides": {"a": {"hessian": "no"}}}, ValueError, r"\['a'\]\['hessian'\] is 'no'"),
        ({"overrides": {"a": {"neuron": 3}}}, TypeError, "neuron"),
        ({"overrides": {"a": 4}}, TypeError, "is a int"),
        ({"overrides": [1]}, TypeError, "overrides is a list"),
        ({"ignore": "a"}, TypeError, "ignore is the string"),
        ({"ignore": ["zz"]}, ValueError, "ignore has 'zz'"),
    ],
)
def test_what_overrides_may_not_say(said: dict[str, Any], error: Any, words: str) -> None:
    net = Net(lambda m, x: m.n(m.a(x)), a=lin(), n=First())
    with pytest.raises(error, match=words.replace("(", r"\(")):
        sbc.trace(net, torch.rand(3, 2, 6), **said)


def test_a_neuron_for_a_head_needs_known_time_steps() -> None:
    net = Net(lambda m, x: m.head(m.n(m.a(x))), a=lin(), head=lin(), n=First())
    with pytest.raises(ValueError, match="time steps could not be inferred"):
        sbc.trace(net, torch.rand(3, 2, 6), overrides={"head": {"neuron": sbc.IF()}})


def test_bad_models_and_registrations() -> None:
    with pytest.raises(TypeError, match="model is a str"):
        sbc.trace("net", torch.rand(3, 2, 6))
    with pytest.raises(ValueError, match="a batch is empty"):
        sbc.trace(nn.Linear(2, 2), ())
    with pytest.raises(TypeError, match="cls is 3"):
        sbc.register_neuron(3, sbc.IF())  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="neuron is a int"):
        sbc.register_neuron(nn.Identity, 3)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="time_axis is -1"):
        sbc.register_neuron(nn.Identity, sbc.IF(), time_axis=-1)


# ---- the model is left as it was ---------------------------------------------------------------


def test_model_states_random_numbers_and_hooks_are_left_alone() -> None:
    net = nn.Sequential(
        layer.Linear(6, 6),
        layer.BatchNorm1d(6),
        neuron.LIFNode(),
        layer.Dropout(0.5),
        layer.Linear(6, 3),
    )
    functional.set_step_mode(net, "m")
    net.train()
    net[1].eval()
    x, wrong = torch.rand(3, 2, 6), torch.rand(3, 2, 7)
    net(x)  # states that hang on a graph
    hook = net[0].register_forward_hook(lambda *args: None)
    before = copy.deepcopy({k: v.clone() for k, v in net.state_dict().items()})
    state = net[2].v.detach().clone()
    modes = [module.training for module in net.modules()]
    generator, legacy = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    sbc.trace(net, x)
    with pytest.raises(RuntimeError):
        sbc.trace(net, wrong)
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert torch.equal(net[2].v, state)
    assert net[2].v.grad_fn is not None
    assert [module.training for module in net.modules()] == modes
    assert torch.equal(torch.get_rng_state(), generator)
    assert np.array_equal(np.random.get_state()[1], legacy)  # noqa: NPY002
    assert list(net[0]._forward_hooks) == [hook.id]
    assert all(parameter.grad is None for parameter in net.parameters())
