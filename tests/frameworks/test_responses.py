"""Adapters of SpikingJelly, snnTorch, Norse and sinabs, against the neurons those frameworks run."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from helpers import assert_close, eps
from neurons_of_frameworks import (
    CASES,
    POTENTIALS,
    SJ,
    C,
    Framework,
    Make,
    T,
    describe,
    shape_of_call,
)

from sbc_kernels.frameworks import NeuronFacts, adapter_of
from sbc_kernels.neurons import impulse_response

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from spikingjelly.activation_based import neuron


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> tuple[Framework, Make]:
    return CASES[request.param]


def _fires(module: Any) -> bool:
    """Whether its output is spikes; the others answer with their potential."""
    name = type(module).__name__.removesuffix("Squeeze")
    return "NonSpiking" not in name and name not in POTENTIALS


@torch.no_grad()
def test_response_is_the_membrane_potential(case: tuple[Framework, Make]) -> None:
    framework, make = case
    facts = describe(make())
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
    facts = describe(module)
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
    assert _fires_at(SJ, module, describe(module), factor) == (factor > 1)


@torch.no_grad()
def test_reset_makes_it_new(case: tuple[Framework, Make]) -> None:
    framework, make = case
    module = make()
    adapter = adapter_of(module)
    assert adapter is not None
    facts = describe(module)
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
        facts = describe(module, steps, N)
        assert (facts.outer, facts.steps) == shape_of_call(module, steps, N)[1]


def test_a_response_outlives_a_copy_of_the_module(case: tuple[Framework, Make]) -> None:
    facts = describe(case[1]())
    assert copy.deepcopy(facts) == facts
    assert describe(case[1]()) == facts
    assert hash(facts.neuron) == hash(copy.deepcopy(facts).neuron)
    assert facts.threshold > 0
