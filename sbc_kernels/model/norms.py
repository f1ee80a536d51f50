"""BatchNorms between a layer and its neurons: their scale, folding, and new statistics."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..network.watch import Statistics, channel_axis

Vector = NDArray[np.float64]


def per_step(norm: Any) -> Vector | None:
    """The factor of each time step, float64 [T], of a norm that has one; None for others.

    TEBN (Duan et al., NeurIPS 2022): one BatchNorm over all steps, then a learned factor a step.
    """
    factor = getattr(norm, "scale", None)
    if not isinstance(norm, nn.modules.batchnorm._BatchNorm) or not isinstance(
        factor, nn.Parameter
    ):
        return None
    found: Vector = factor.detach().double().flatten().cpu().numpy()
    return found


def affine_of(norm: Any) -> tuple[Vector, Vector] | None:
    """(scale, shift) of a BatchNorm in eval mode, float64 [C]; None where it has no fixed one.

    That is ``gamma / sqrt(var + eps)`` and ``beta - mean * scale``, also of SpikingJelly's
    ThresholdDependentBatchNorm (tdBN), whose gamma carries the threshold. One with a factor a time step
    has none; see `per_step`.
    """
    return None if per_step(norm) is not None else _shared_affine(norm)


def _shared_affine(norm: Any) -> tuple[Vector, Vector] | None:
    """The same without the factors of the time steps."""
    mean, var = getattr(norm, "running_mean", None), getattr(norm, "running_var", None)
    if mean is None or var is None or not isinstance(norm, nn.modules.batchnorm._BatchNorm):
        return None
    scale = 1.0 / torch.sqrt(var.double() + norm.eps)
    if norm.weight is not None:
        scale = scale * norm.weight.detach().double()
    shift = -mean.double() * scale
    if norm.bias is not None:
        shift = shift + norm.bias.detach().double()
    return scale.cpu().numpy(), shift.cpu().numpy()


def row_scale(norms: list[Any], d_out: int) -> tuple[Vector, list[str]]:
    """What a layer's outputs are multiplied by on the way to their neuron, and notes."""
    scale, notes = np.ones(d_out), []
    for norm in norms:
        found = _shared_affine(norm)
        if found is None or found[0].shape != (d_out,):
            why = "no fixed scale" if found is None else f"{len(found[0])} channels"
            notes.append(f"a {type(norm).__name__} with {why} is not folded")
            continue
        scale = scale * found[0]
    return scale, notes


def answers_as_said(norm: Any, given: Tensor, output: Tensor) -> bool:
    """Whether a norm in eval mode does what `affine_of` says (a subclass may do more)."""
    found = affine_of(norm)
    if found is None or output.shape != given.shape:
        return False
    axis = channel_axis(norm, given)
    shape = [1] * given.ndim
    shape[axis] = -1
    scale, shift = (torch.from_numpy(v).to(given.device).reshape(shape) for v in found)
    expected = given.detach().double() * scale + shift
    wrong = (expected - output.detach().double()).abs().max()
    return bool(wrong <= 1e-2 * expected.abs().max() + 1e-6)


def split_by_step(norms: list[Any], d_out: int) -> tuple[Vector, Vector] | None:
    """(a factor a row, a factor a time step) nearest to the scales of one BatchNorm a step (BNTT, arXiv
    2010.01729), in the mean of their logarithms; None where one has no fixed scale or is zero."""
    found = [affine_of(norm) for norm in norms]
    scales = [f[0] for f in found if f is not None and f[0].shape == (d_out,)]
    if len(scales) != len(norms) or any((scale == 0).any() for scale in scales):
        return None
    logs = np.log(np.abs(np.stack(scales)))  # [T, d_out]
    steps = logs.mean(axis=1)
    return np.exp((logs - steps[:, None]).mean(axis=0)), np.exp(steps)


def fold(layer: Any, norm: Any) -> None:
    """Takes the norm's scale and shift into the layer's weight and bias. The norm is then idle."""
    found = affine_of(norm)
    assert found is not None
    scale, shift = (torch.from_numpy(v).to(layer.weight.device) for v in found)
    weight = layer.weight.detach()
    with torch.no_grad():
        shape = (-1, *[1] * (weight.ndim - 1))
        layer.weight.copy_((weight.double() * scale.reshape(shape)).to(weight.dtype))
        bias = 0.0 if layer.bias is None else layer.bias.detach().double()
        folded = (bias * scale + shift).to(weight.dtype)
        if layer.bias is None:
            layer.bias = nn.Parameter(folded)
        else:
            layer.bias.copy_(folded)


def reestimate(norm: Any, before: Statistics, after: Statistics) -> None:
    """Statistics with which the norm answers as the dense one did, in mean and variance.

    ``var = var_dense * var_after / var_before``, and the mean such that what the calibration samples
    come to lies as far from beta as before, in units of the spread: what the training set told stays,
    and the calibration set's own sampling error cancels. A channel without any weight left keeps its
    mean answer. `norm` has the dense model's statistics when this is called.
    """
    with torch.no_grad():
        mean, var = norm.running_mean.double(), norm.running_var.double()
        floor = torch.finfo(torch.float32).tiny
        new = var * (after.var + floor) / (before.var + floor)
        spread = torch.sqrt((new + norm.eps) / (var + norm.eps))
        norm.running_mean.copy_(after.mean - (before.mean - mean) * spread)
        norm.running_var.copy_(new)
