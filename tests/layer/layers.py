"""Layers, options and checks of what compress_layer returns."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from helpers import (
    assert_close,
    eps,
    spike_train,
)

import sbc_kernels as sbc
from sbc_kernels.sparsity import parse_sparsity

# Weight's shape, spikes' shape, the convolution's options. Every d_in is a multiple of 4.
LAYERS: dict[str, tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]] = {
    "linear": ((12, 24), (5, 60, 24), {}),
    "positions": ((6, 16), (4, 20, 3, 16), {}),
    "conv1d": ((8, 3, 4), (4, 15, 3, 11), {"padding": 2, "stride": 2}),
    "conv2d": ((6, 4, 3, 3), (3, 12, 4, 6, 5), {"padding": "same"}),
    "grouped": ((8, 2, 3, 2), (3, 12, 4, 6, 5), {"groups": 2, "padding": (1, 0), "dilation": 2}),
    "depthwise": ((4, 1, 2, 2), (3, 12, 4, 6, 5), {"groups": 4}),
}


OPTIONS: dict[str, dict[str, Any]] = {
    "default": {},
    "exact": {"sparsity": 0.6},
    "exact 2:4": {"sparsity": "2:4"},
    "blocked": {"sparsity": 0.6, "method": "blocked", "block_size": 8},
    "blocked 1:4": {"sparsity": "1:4", "method": "blocked", "block_size": 6},
    "magnitude": {"sparsity": 0.6, "method": "magnitude"},
    "4 bits": {"bits": 4},
    "2 bits, symmetric": {"bits": 2, "sym": True, "grid": "absmax", "act_order": False},
    "3 bits, groups": {"bits": 3, "group_size": 3, "damp_percent": 0.1},
    "1 bit": {"bits": 1},
    "nearest": {"bits": 4, "method": "rtn"},
    "exact, 4 bits": {"sparsity": 0.6, "bits": 4},
    "exact 2:4, 4 bits": {"sparsity": "2:4", "bits": 4, "group_size": 4},
    "blocked, 4 bits": {"sparsity": 0.6, "bits": 4, "method": "blocked", "block_size": 8},
    "blocked 2:4, 4 bits": {"sparsity": "2:4", "bits": 4, "method": "blocked"},
    "magnitude, 4 bits": {"sparsity": 0.6, "bits": 4, "method": "magnitude"},
    "current": {"sparsity": 0.6, "hessian": "current"},
}


def layer_case(
    name: str, dtype: Any = np.float64, seed: int = 0
) -> tuple[Any, Any, dict[str, Any]]:
    weight_shape, spike_shape, geometry = LAYERS[name]
    rng = np.random.default_rng(seed)
    return rng.standard_normal(weight_shape).astype(dtype), spike_train(rng, *spike_shape), geometry


def conv_of(weight: np.ndarray, geometry: dict[str, Any]) -> sbc.Conv | None:
    return None if weight.ndim == 2 else sbc.Conv(weight.shape[2:], **geometry)


def as_numpy(array: Any) -> np.ndarray:
    if isinstance(array, torch.Tensor):
        array = array.detach()
        return (array.double() if array.is_floating_point() else array).numpy()
    return np.asarray(array)


def assert_consistent(out: sbc.CompressedLayer, weight: Any, chosen: dict[str, Any]) -> None:
    """Kinds and shapes, exact quotas, and codes that are the weight."""
    assert type(out.weight) is (torch.Tensor if isinstance(weight, torch.Tensor) else np.ndarray)
    assert out.weight.dtype == weight.dtype
    assert out.weight.shape == weight.shape
    answer, d_out = as_numpy(out.weight).astype(np.float64), weight.shape[0]
    assert np.isfinite(answer).all()
    losses = as_numpy(out.loss)
    assert losses.shape == (d_out,)
    assert (losses >= -1e-12 * np.abs(losses).max()).all()
    assert out.sparsity == (answer == 0).mean()
    assert out.seconds > 0
    bits, sparsity = chosen.get("bits"), chosen.get("sparsity", None if "bits" in chosen else 0.9)
    keep = np.ones(answer.shape, dtype=bool)
    if sparsity is None:
        assert out.mask is None
    else:
        pattern, keep = parse_sparsity(sparsity), as_numpy(out.mask)
        assert keep.dtype == bool
        assert keep.shape == answer.shape
        assert (answer[~keep] == 0).all()
        if pattern.of_m:
            assert (keep.reshape(-1, pattern.of_m).sum(axis=1) == pattern.keep_n).all()
        else:
            assert (~keep).sum() == pattern.num_pruned(keep.size)
            if bits is None:
                assert out.sparsity == (~keep).mean()
    assert out.bits == bits
    if bits is None:
        assert out.codes is out.scale is out.zero_point is out.group_size is None
        return
    codes, scale, zero = (
        as_numpy(part).astype(np.float64) for part in (out.codes, out.scale, out.zero_point)
    )
    d = answer[0].size
    size = d if out.group_size == -1 else out.group_size
    assert codes.shape == answer.shape
    assert as_numpy(out.codes).dtype == np.uint8
    assert codes.max() <= 2**bits - 1
    assert scale.shape == zero.shape == (d_out, -(-d // size))
    group = np.arange(d) // size
    value = (codes.reshape(d_out, d) - zero[:, group]) * scale[:, group]
    value = np.where(keep.reshape(d_out, d), value, 0)
    unit = 2 * float(torch.finfo(weight.dtype).eps) if isinstance(weight, torch.Tensor) else 0
    unit = unit or 2 * eps(weight.dtype)
    assert_close(answer.reshape(d_out, d), value, unit * np.abs(value), "value of the codes")
