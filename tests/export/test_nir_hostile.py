"""Damaged weights and examples: a graph, or an error that is documented."""

from __future__ import annotations

import random
import warnings
from typing import Any

import pytest
import torch
from nir_networks import SOURCES, inputs, quantized, seeded
from torch import nn

import sbc_kernels as sbc
from sbc_kernels.export.nir.graph import nir_graph
from sbc_kernels.files import Pruned, Quantized
from sbc_kernels.grid import Grid

VALUES = (0.0, 0.5, 1e-45, 3e38, -1.0, float("nan"), float("inf"), 1e10, 2.5)


def network() -> nn.Module:
    _, build, scale = next(iter(SOURCES.values()))
    return seeded(build, scale)


def damaged(weight: Quantized, draw: random.Random) -> Any:
    """The codes, grid or mask changed; ValueError where even the type refuses them."""
    codes, scale, zero = weight.codes.clone(), weight.scale.clone(), weight.zero_point.clone()
    group_size, mask, bits = weight.group_size, weight.mask, weight.bits
    kind = draw.randrange(7)
    if kind == 0:
        zero.view(-1)[0] = draw.choice(VALUES)
    elif kind == 1:
        scale.view(-1)[0] = draw.choice(VALUES)
    elif kind == 2:
        codes.view(-1)[0] ^= 1
    elif kind == 3:
        group_size = draw.choice((1, 2, 3, 2**40))
        groups = -(-codes[0].numel() // group_size)
        scale, zero = scale.repeat(1, groups), zero.repeat(1, groups)
    elif kind == 4:
        mask = torch.rand(codes.shape) < 0.5
    elif kind == 5:
        codes = codes[:, :1]
    else:
        ones = torch.ones(2, 2)
        return draw.choice((None, "x", {}, ones, Pruned(ones, ones > 0)))
    return Quantized(codes, Grid(bits, scale, zero, group_size), mask)


def test_damaged_weights() -> None:
    """Where the network has the weights that the codes say, and where it has its own."""
    net, x = network(), inputs()
    weights = {name: weight.converted(torch.as_tensor) for name, weight in quantized(net).items()}
    own = {name: net.get_submodule(name).weight.detach().clone() for name in weights}
    refused = written = 0
    torch.manual_seed(0)
    for seed in range(50):
        draw = random.Random(seed)
        name = draw.choice(list(weights))
        try:
            damage = damaged(weights[name], draw)
        except ValueError:
            continue
        module = net.get_submodule(name)
        with torch.no_grad():
            if isinstance(damage, Quantized) and damage.shape == module.weight.shape:
                module.weight.copy_(damage.to_dense() if draw.random() < 0.7 else own[name])
        place = draw.choice((name, name, name, "9", "", "n1"))
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                integers = draw.random() < 0.5
                nir_graph(net, x, weights={place: damage}, integer_weights=integers)
            written += 1
        except (TypeError, ValueError) as error:
            assert str(error)  # noqa: PT017 - or it is no error
            refused += 1
        with torch.no_grad():
            module.weight.copy_(own[name])
    assert refused > 8
    assert written > 4


@pytest.mark.parametrize(
    "example", [inputs()[:0], inputs()[:, :0], inputs().to_sparse()], ids=["T", "N", "sparse"]
)
def test_examples_without_a_sample(example: torch.Tensor) -> None:
    with pytest.raises(sbc.ParameterError, match=r"example is torch.float32, .* of shape"):
        nir_graph(network(), example)
