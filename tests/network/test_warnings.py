"""Warnings point at the user's line, and name the layer."""

from __future__ import annotations

import inspect
import warnings

import numpy as np
import torch
from torch import nn

import sbc_kernels as sbc


def line_of(words: str) -> int:
    lines = inspect.getsource(inspect.getmodule(line_of)).splitlines()  # type: ignore[arg-type]
    return next(number for number, line in enumerate(lines, 1) if words in line)


def test_warnings_of_a_layer_point_at_the_call() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        sbc.compress_layer(np.ones((4, 6), np.float32), np.zeros((3, 5, 6), bool), sparsity=0.5)
    (warning,) = caught
    assert str(warning.message).startswith("no input spiked in calibration")
    assert (warning.filename, warning.lineno) == (__file__, line_of("sbc.compress_layer(np.ones"))


def test_warnings_of_a_model_name_the_layer_and_point_at_the_call() -> None:
    net = nn.Sequential(nn.Linear(6, 4, bias=False), nn.Linear(4, 3, bias=False))
    data = torch.zeros(3, 5, 6)
    for options in ({"sparsity": 0.5}, {"allocation": "measured", "sparsity": 0.5}):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            sbc.compress_model(net, data, **options)  # type: ignore[arg-type]
        messages = {str(warning.message) for warning in caught}
        for name in ("0", "1"):
            assert any(text.endswith(f"(layer {name!r})") for text in messages)
        assert all("(layer " in text for text in messages)
        places = {(warning.filename, warning.lineno) for warning in caught}
        assert places == {(__file__, line_of("sbc.compress_model(net, data, **options)"))}
