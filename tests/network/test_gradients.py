"""Forwards under `no_grad` and `inference_mode`, and data and models that were made there."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import sbc_kernels as sbc
from sbc_kernels.network.gradients import gradients_kept

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from spikingjelly.activation_based import neuron

pytestmark = pytest.mark.filterwarnings("ignore:no input spiked in calibration:RuntimeWarning")


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(24, 16), neuron.LIFNode(step_mode="m", v_threshold=0.3), nn.Linear(16, 5)
    )


def data() -> Tensor:
    return (torch.rand(6, 20, 24, generator=torch.Generator().manual_seed(1)) < 0.3).float()


def plain(model: Any, x: Tensor) -> Any:
    return model(x)


@torch.no_grad()
def without(model: Any, x: Tensor) -> Any:
    return model(x)


@torch.inference_mode()
def inference(model: Any, x: Tensor) -> Any:
    return model(x)


def nested(model: Any, x: Tensor) -> Any:
    with torch.inference_mode(), torch.no_grad():
        return model(x)


def switched(model: Any, x: Tensor) -> Any:
    before = torch.is_grad_enabled()
    torch.set_grad_enabled(False)
    y = model(x)
    torch.set_grad_enabled(before)
    return y


def answering_numbers(model: Any, x: Tensor) -> Any:
    with torch.no_grad():
        y = model(x)
        assert isinstance(float(y.sum()), float)
        assert len(y.tolist()) == 6
        return np.asarray(y), y.numpy(), y


FORWARDS: tuple[Callable[..., Any], ...] = (without, inference, nested, switched, answering_numbers)


@pytest.mark.parametrize("forward", FORWARDS)
def test_forwards_without_gradients_are_traced_and_compressed_alike(forward: Any) -> None:
    expected = sbc.compress_model(network(), data(), sparsity=0.5, forward=plain)
    result = sbc.compress_model(network(), data(), sparsity=0.5, forward=forward)
    assert result.plan.layers == expected.plan.layers
    assert str(result.plan["0"].neurons[0]) == "LIF(tau=2.0, decay_input=True)"
    for index in (0, 2):
        assert torch.equal(result.model[index].weight, expected.model[index].weight)
    x = data()
    assert torch.equal(x, data())


def test_a_models_own_forward_without_gradients() -> None:
    class Deployed(nn.Sequential):
        @torch.inference_mode()
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x)

    net = Deployed(*network())
    assert [layer.role for layer in sbc.trace(net, data()).layers] == ["spiking", "head"]
    result = sbc.compress_model(net, data(), sparsity=0.5)
    expected = sbc.compress_model(network(), data(), sparsity=0.5)
    assert torch.equal(result.model[0].weight, expected.model[0].weight)


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_callers_may_be_without_gradients(context: Any) -> None:
    expected = sbc.compress_model(network(), [data()] * 2, sparsity=0.5, bits=4)
    with context():
        encoded = [data() + 0, data() + 0]
        result = sbc.compress_model(network(), encoded, sparsity=0.5, bits=4)
        made = network()
        assert len(sbc.trace(made, encoded[0]).compressed) == 2
    outside = sbc.compress_model(network(), encoded, sparsity=0.5, bits=4)
    of_made = sbc.compress_model(made, encoded, sparsity=0.5, bits=4)
    for other in (result, outside, of_made):
        assert torch.equal(other.model[0].weight, expected.model[0].weight)
        assert not other.model[0].weight.is_inference()
        other.model(data()).sum().backward()  # it can be trained on


def test_a_model_of_inference_mode_is_not_changed_in_place() -> None:
    with torch.inference_mode():
        made = network()
    with pytest.raises(ValueError, match=r"inplace is True, .*0\.weight"):
        sbc.compress_model(made, data(), sparsity=0.5, inplace=True)


def test_parameters_that_a_forward_changes_without_gradients() -> None:
    """As DSRIFNode clamps its threshold: refused by autograd if gradients were on."""

    def forward(model: Any, x: Tensor) -> Any:
        with torch.no_grad():
            model[0].bias.clamp_(-1, 1)
            model[0].bias[0] = 0.0
            torch.add(model[2].bias, 0.0, out=model[2].bias)
        return model(x)

    assert len(sbc.trace(network(), data(), forward=forward).compressed) == 2


def test_other_threads_keep_their_modes() -> None:
    inside, seen = threading.Event(), []

    def work() -> None:
        inside.wait()
        with torch.inference_mode():
            seen.append(torch.is_inference_mode_enabled())
        with torch.no_grad():
            seen.append(torch.is_grad_enabled())

    thread = threading.Thread(target=work)
    thread.start()
    enter = torch.inference_mode.__enter__
    with gradients_kept():
        with torch.inference_mode():
            assert torch.is_grad_enabled()
            assert not torch.is_inference_mode_enabled()
        inside.set()
        thread.join()
    assert seen == [True, False]
    assert torch.inference_mode.__enter__ is enter
    with torch.inference_mode():
        assert torch.is_inference_mode_enabled()
