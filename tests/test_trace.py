"""`trace`: which layers there are, what consumes them, in what order they hold the time steps."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from nets import Net
from torch import Tensor, nn

import sbc_kernels as sbc
from sbc_kernels.model.layout import Layout

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import norse.torch as norse
    import sinabs.layers as sl
    import snntorch as snn
    import zoo
    from spikingjelly.activation_based import functional, layer, neuron

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


class Own(nn.Module):
    """A neuron of nobody's: [T, N, ...], or with time second, or one step a call."""

    def __init__(self, axis: int | None = 0, tau: float = 2.0) -> None:
        super().__init__()
        self.axis, self.tau, self.v = axis, tau, None

    def reset(self) -> None:
        self.v = None

    def step(self, x: Tensor) -> Tensor:
        v = torch.zeros_like(x) if self.v is None else self.v
        v = v + (x - v) / self.tau
        spike = (v >= 1).to(x.dtype) + 0 * v
        self.v = v * (1 - spike)
        return spike

    def forward(self, x: Tensor) -> Tensor:
        if self.axis is None:
            return self.step(x)
        return torch.stack([self.step(s) for s in x.unbind(self.axis)], dim=self.axis)


class First(Own):
    pass


class Second(Own):
    pass


class Single(Own):
    pass


for cls, axis in ((First, 0), (Second, 1), (Single, None)):
    sbc.register_neuron(cls, lambda m: sbc.LIF(m.tau), time_axis=axis)


def lin(d_in: int = 6, d_out: int = 6) -> nn.Linear:
    return nn.Linear(d_in, d_out)


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


def test_an_unknown_neuron_class_is_pointed_at() -> None:
    class Step(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return (x >= 1).to(x.dtype)

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> Tensor:
            return grad

    plan = sbc.trace(Net(lambda m, x: Step.apply(m.a(x)), a=lin()), torch.rand(3, 2, 6))
    assert plan["a"].role == "head"
    assert "register_neuron" in plan["a"].notes[0]


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


# ---- time --------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [3, 4])
def test_time_axes_are_found_by_gradient_not_by_size(steps: int) -> None:
    """T = 4 is as large as the batch: sizes alone could not tell."""

    def first(m: Any, x: Tensor) -> Tensor:  # [N, T, d] in, the neuron wants [T, N, d]
        return m.n(m.a(x).transpose(0, 1))

    def flat(m: Any, x: Tensor) -> Tensor:  # batch-major rows into a time-first neuron
        N, T, d = x.shape
        return m.n(m.a(x.reshape(N * T, d)).view(N, T, -1).transpose(0, 1))

    def tokens(m: Any, x: Tensor) -> Tensor:  # [N, T, L, d]
        N, T, d = x.shape
        spread = x[:, :, None].expand(N, T, 5, d)
        return m.n(m.a(spread.reshape(N, T * 5, d)).view(N, T, 5, -1).transpose(0, 1))

    x = torch.rand(4, steps, 6)
    for run, axis, inner in ((first, 1, 0), (flat, None, 1), (tokens, None, 5)):
        layout = sbc.trace(Net(run, a=lin(), n=First()), x)["a"].layout
        assert layout == Layout(steps, axis=axis, inner=inner)
    layout = sbc.trace(Net(lambda m, x: m.n(m.a(x)), a=lin(), n=First()), x)["a"].layout
    assert layout == Layout(4, axis=0)
    second = sbc.trace(Net(lambda m, x: m.n(m.a(x)), a=lin(), n=Second()), x)["a"].layout
    assert second == Layout(steps, axis=1)


def test_a_flattened_batch_of_one_follows_the_neuron_and_says_so() -> None:
    def flat(m: Any, x: Tensor) -> Tensor:
        return m.n(m.a(x.flatten(0, 1)).unflatten(0, x.shape[:2]))

    second = sbc.trace(Net(flat, a=lin(), n=Second()), torch.rand(1, 3, 6))["a"]
    assert second.layout == Layout(3, inner=1)
    first = sbc.trace(Net(flat, a=lin(), n=First()), torch.rand(3, 1, 6))["a"]
    assert first.layout == Layout(3)
    for found in (first, second):
        assert "batch of one" in str(found.notes)
    assert sbc.trace(Net(flat, a=lin(), n=First()), torch.rand(3, 2, 6))["a"].notes == ()


def test_tokens_before_time() -> None:
    """[L, T, N, d]: the batch is the innermost, and may be of another size the next time."""
    net = Net(lambda m, x: m.n(m.a(x).transpose(0, 1)), a=lin(), n=First())
    layout = sbc.trace(net, torch.rand(5, 3, 2, 6))["a"].layout
    assert layout == Layout(3, axis=1)
    assert layout.split((5, 3, 7)) == (5, 3, 7)
    with pytest.raises(ValueError, match="3 time steps"):
        layout.split((5, 4, 2))


def test_a_mean_that_is_taken_off_hides_no_time_step() -> None:
    def run(m: Any, x: Tensor) -> Tensor:
        current = m.a(x.transpose(0, 1))
        return m.n((current - current.mean(-1, keepdim=True)).transpose(0, 1))

    assert sbc.trace(Net(run, a=lin(), n=First()), torch.rand(4, 4, 6))["a"].layout.axis == 1


def test_neurons_that_listen_at_some_steps_only() -> None:
    def run(m: Any, x: Tensor) -> Any:
        gate = m.gate(m.g(x.mean(0)))
        return torch.stack([m.n(m.a(step)) for step in x]), gate

    plan = sbc.trace(Net(run, a=lin(), g=lin(), n=Single(), gate=Single()), torch.rand(4, 2, 6))
    assert plan["a"].layout.step_of_call == (0, 1, 2, 3)
    assert plan["g"].layout.steps == 1


def test_one_neuron_twice_a_step_is_no_sequence() -> None:
    """Which states go with which is not known: the current Hessian, by name."""

    def run(m: Any, x: Tensor) -> Any:
        m1 = m2 = m3 = None
        out = []
        for step in x:
            s1, m1 = m.twin(m.a(step), m1) if m1 is not None else m.twin(m.a(step))
            s2, m2 = m.twin(m.a(1 - step), m2) if m2 is not None else m.twin(m.a(1 - step))
            s3, m3 = m.last(m.b(s1 + s2), m3) if m3 is not None else m.last(m.b(s1 + s2))
            out.append(s3)
        return torch.stack(out)

    parts = {"a": lin(), "b": lin(), "twin": snn.Leaky(0.5), "last": snn.Leaky(0.5)}
    plan = sbc.trace(Net(run, **parts), torch.rand(4, 2, 6))
    assert plan["a"].neurons == (None,)
    assert "called 8 times in 4 time steps" in str(plan["a"].notes)
    assert plan["b"].layout.step_of_call == (0, 1, 2, 3)


def test_layers_that_do_more_than_their_weight_are_left_alone() -> None:
    class Standardised(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.linear(x, self.weight - self.weight.mean(), self.bias)

    parametrized = nn.utils.parametrizations.weight_norm(lin())
    parts = {"a": Standardised(6, 6), "b": parametrized, "n1": First(), "n2": First()}
    net = Net(lambda m, x: m.n2(m.b(m.n1(m.a(x)))), **parts)
    plan = sbc.trace(net, torch.rand(3, 2, 6))
    assert plan["a"].role == plan["b"].role == "unsupported"
    assert "more than multiply" in plan["a"].notes[0]
    assert "parametrization" in plan["b"].notes[0]


def test_unregistered_neurons_on_a_residual_stream_do_not_double_the_paths() -> None:
    class Step(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return (x >= 0).to(x.dtype)

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> Tensor:
            return grad

    def run(m: Any, x: Tensor) -> Tensor:
        for at in range(24):
            x = x + Step.apply(getattr(m, f"a{at}")(x))
        return x

    plan = sbc.trace(Net(run, **{f"a{at}": lin() for at in range(24)}), torch.rand(3, 2, 6))
    assert sum(len(note) for found in plan.layers for note in found.notes) < 24 * 400


def test_compiled_models_are_refused() -> None:
    with pytest.raises(TypeError, match="_orig_mod"):
        sbc.trace(torch.compile(nn.Sequential(lin())), torch.rand(2, 6))


def test_loops_over_time_and_hoisted_layers() -> None:
    def run(m: Any, x: Tensor) -> Tensor:
        hoisted = m.hoisted(x)  # [T, N, d] at once
        out = [m.n2(m.inside(m.n1(current))) for current in hoisted]
        return m.head(torch.stack(out).mean(0))

    net = Net(run, hoisted=lin(), inside=lin(), head=lin(), n1=Single(), n2=Single())
    plan = sbc.trace(net, torch.rand(5, 2, 6))
    assert plan["hoisted"].layout == Layout(5, axis=0)
    assert plan["inside"].layout.step_of_call == (0, 1, 2, 3, 4)
    assert plan["inside"].calls == 5
    assert plan["head"].role == "head"


def test_one_neuron_module_for_several_layers() -> None:
    """snnTorch's habit: the module holds parameters only, the states are passed along."""

    def run(m: Any, x: Tensor) -> Tensor:
        m1, m2 = m.lif.init_leaky(), m.lif.init_leaky()
        out = []
        for step in x:
            s1, m1 = m.lif(m.a(step), m1)
            s2, m2 = m.lif(m.b(s1), m2)
            out.append(s2)
        return torch.stack(out)

    plan = sbc.trace(Net(run, a=lin(), b=lin(), lif=snn.Leaky(0.5)), torch.rand(4, 2, 6))
    for name in ("a", "b"):
        assert plan[name].layout.step_of_call == (0, 1, 2, 3)
        assert plan[name].consumers == ("lif",)
        assert plan[name].neurons == (sbc.Leaky(0.5),)


def test_recurrent_weights_inside_neurons() -> None:
    def run(m: Any, x: Tensor) -> Tensor:
        spk, mem = m.n.init_rleaky()
        for step in x:
            spk, mem = m.n(m.a(step), spk, mem)
        return spk

    plan = sbc.trace(Net(run, a=lin(), n=snn.RLeaky(0.5, linear_features=6)), torch.rand(4, 2, 6))
    assert plan["n.recurrent"].consumers == ("n",)
    assert plan["n.recurrent"].layout.step_of_call == (0, 1, 2, 3)
    assert plan["n.recurrent"].layout.delay == 0

    net = nn.Sequential(lin(), sl.LIFRecurrent(tau_mem=5.0, rec_connect=nn.Linear(6, 6)))
    found = sbc.trace(net, torch.rand(2, 4, 6))["1.rec_connect"]
    assert found.layout.step_of_call == (0, 1, 2, 3)
    assert found.layout.delay == 1


def test_input_kinds() -> None:
    def run(m: Any, x: Tensor) -> Tensor:
        s = m.n1(m.analog(x))
        return m.n3(m.integer(s + m.n2(m.binary(s)) + 2))

    parts = {name: lin() for name in ("analog", "binary", "integer")}
    plan = sbc.trace(Net(run, n1=First(), n2=First(), n3=First(), **parts), torch.rand(3, 2, 6))
    assert [plan[name].input_kind for name in parts] == ["analog", "binary", "integer"]


def test_forward_for_models_called_step_by_step() -> None:
    net = norse.SequentialState(
        nn.Conv2d(1, 2, 3), norse.LIFCell(), nn.Flatten(1), nn.Linear(18, 4)
    )

    def forward(model: Any, x: Tensor) -> Tensor:
        state, out = None, []
        for step in x:
            y, state = model(step, state)
            out.append(y)
        return torch.stack(out)

    plan = sbc.trace(net, torch.rand(3, 2, 1, 5, 5), forward=forward)
    assert plan["0"].layout.step_of_call == (0, 1, 2)
    assert plan["3"].role == "head"


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
        ({"overrides": {"a": {"hessian": "no"}}}, ValueError, "hessian 'no'"),
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
    with pytest.raises(ValueError, match="time steps could not be told"):
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
