"""Tracing: where time is in the inputs of each layer."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from nets import Net
from torch import Tensor, nn
from traced_networks import First, Second, Single, Step, lin

import sbc_kernels as sbc
from sbc_kernels.model.layout import Layout

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import norse.torch as norse
    import sinabs.layers as sl
    import snntorch as snn


pytestmark = pytest.mark.usefixtures("seed")


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
