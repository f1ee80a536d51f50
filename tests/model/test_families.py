"""Small networks in the style of published families: traced as written down, compressed, stored."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

import sbc_kernels as sbc
from sbc_kernels.neurons import impulse_response

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from zoo.functional_membranes import FUNCTIONAL
    from zoo.published_styles import PUBLISHED
    from zoo.styles import Style

STYLES = pytest.mark.parametrize("style", FUNCTIONAL + PUBLISHED, ids=lambda style: style.name)


@STYLES
def test_fates(style: Style) -> None:
    plan = sbc.trace(style.build(), style.batch())
    layers = {name: layer for layer in plan.layers for name in (layer.name, *layer.also)}
    for name, fate in style.fates.items():
        assert name in layers, f"{name} is nowhere in the plan"
        layer = layers[name]
        if fate is None:
            continue
        if fate.role == "left":
            assert not layer.compressed, layer
            assert layer.notes, layer
            continue
        assert layer.role == fate.role, layer
        if fate.response is None:
            assert layer.neurons == (None,)
            continue
        (neuron,) = layer.neurons
        expected = np.array(fate.response)
        response = impulse_response(neuron, layer.layout.steps)
        assert len(response) == len(expected)
        np.testing.assert_allclose(
            response / np.abs(response).max(), expected / np.abs(expected).max(), atol=2e-6
        )


@STYLES
def test_compressed_and_stored(style: Style, tmp_path: Path) -> None:
    model, batch = style.build(), style.batch()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    result = sbc.compress_model(model, [batch, style.batch(2)], sparsity=0.5, bits=6)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert torch.equal(batch, style.batch()), "the calibration batch was changed"
    for layer in result.plan.layers:
        if layer.compressed:
            weight = result.model.state_dict()[layer.weight_entry]
            assert (weight == 0).double().mean() >= 0.1, layer.name
        elif layer.shape:
            entry = layer.weight_entry
            assert torch.equal(result.model.state_dict()[entry], before[entry]), layer.name
    path = tmp_path / "model.safetensors"
    result.save(path)
    loaded = style.build()
    sbc.load_compressed(loaded, path)
    for name, value in result.model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name


@pytest.mark.parametrize(
    "name", ["membrane_shortcut", "list_of_blocks", "reparameterized", "norm_each_step"]
)
def test_folded(name: str) -> None:
    style = next(style for style in FUNCTIONAL + PUBLISHED if style.name == name)
    options = {"bits": 8, "bn_reestimate": False, "bias_correction": False}
    model, batch = style.build(), style.batch()
    plain = sbc.compress_model(model, [batch], **options)
    folded = sbc.compress_model(model, [batch], fold=True, **options)
    for seed in (1, 2):
        torch.manual_seed(0)
        expected = plain.model(style.batch(seed))
        torch.manual_seed(0)
        np.testing.assert_allclose(
            folded.model(style.batch(seed)).detach(), expected.detach(), rtol=1e-4, atol=1e-4
        )
