"""Scale and shift of BatchNorms in eval mode, from their parameters and statistics."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge

from ..network.watch import channel_axis

Vector = NDArray[np.float64]


def per_step(norm: nn.Module) -> Vector | None:
    """Returns the factor of each time step, float64 [T]; None for a norm that has no such factors.

    TEBN (Duan et al., NeurIPS 2022) is one BatchNorm over all steps, then a learned factor a step.
    """
    factor = getattr(norm, "scale", None)
    if not isinstance(norm, nn.modules.batchnorm._BatchNorm) or not isinstance(
        factor, nn.Parameter
    ):
        return None
    steps: Vector = factor.detach().double().flatten().cpu().numpy()
    return steps


def affine_of(norm: nn.Module) -> tuple[Vector, Vector] | None:
    """Returns (scale, shift) of a BatchNorm in eval mode, float64 [C]; None where they are not fixed.

    They are ``gamma / sqrt(var + eps)`` and ``beta - mean * scale``, also for SpikingJelly's
    ThresholdDependentBatchNorm (tdBN), whose gamma carries the threshold. A norm with a factor a time
    step has no fixed scale; see `per_step`.
    """
    return None if per_step(norm) is not None else _shared_affine(norm)


def _shared_affine(norm: nn.Module) -> tuple[Vector, Vector] | None:
    """Returns scale and shift of a BatchNorm, ignoring factors of single time steps."""
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


def row_scale(norms: Sequence[nn.Module], d_out: int) -> tuple[Vector, list[str]]:
    """Returns what a chain of norms multiplies each channel by, float64 [d_out], and notes.

    A norm without a fixed scale, or with another number of channels, is left out and noted.
    """
    scale, notes = np.ones(d_out), []
    for norm in norms:
        affine = _shared_affine(norm)
        if affine is None or affine[0].shape != (d_out,):
            why = "no fixed scale" if affine is None else f"{len(affine[0])} channels"
            notes.append(f"rows are compared without a {type(norm).__name__} with {why}")
            continue
        scale = scale * affine[0]
    return scale, notes


def split_by_step(norms: Sequence[nn.Module], d_out: int) -> tuple[Vector, Vector] | None:
    """Splits the scales of one BatchNorm a time step (BNTT, arXiv 2010.01729) into a product.

    Returns
    -------
    (a factor a row [d_out], a factor a time step [T]) whose product is nearest to the scales in the
    mean of their logarithms; None where a norm has no fixed scale, or a scale of 0.
    """
    affines = [affine_of(norm) for norm in norms]
    scales = [a[0] for a in affines if a is not None and a[0].shape == (d_out,)]
    if len(scales) != len(norms) or any((scale == 0).any() for scale in scales):
        return None
    logs = np.log(np.abs(np.stack(scales)))  # [T, d_out]
    steps = logs.mean(axis=1)
    return np.exp((logs - steps[:, None]).mean(axis=0)), np.exp(steps)


def is_plain_norm(norm: nn.Module, features: Tensor, output: Tensor) -> bool:
    """Whether a norm in eval mode returned what `affine_of` promises; a subclass may do more.

    The bound is 1 % of the largest output: half precision passes, another formula does not.
    """
    affine = affine_of(norm)
    if affine is None or output.shape != features.shape:
        return False
    axis = channel_axis(norm, features)
    shape = [1] * features.ndim
    shape[axis] = -1
    scale, shift = (torch.from_numpy(v).to(features.device).reshape(shape) for v in affine)
    expected = features.detach().double() * scale + shift
    error = (expected - output.detach().double()).abs().max()
    return bool(error <= 1e-2 * expected.abs().max() + 1e-6)


class Output(NamedTuple):
    """The output of a module.

    Attributes
    ----------
    edge : of the output in the autograd graph.
    channels : how many it has.
    axis : of the channels.
    """

    edge: GradientEdge
    channels: int
    axis: int


def same_channels(norm: nn.Module, features: Tensor, output: Output) -> bool:
    """Whether the channels of a norm's input are those of an output that moves alone made it of.

    Channels are numbered in digits of base 16, which half precision adds up exactly, and each digit is
    sent back through the graph: where it arrives, the output's channel must have the same one.
    """
    try:
        axis = channel_axis(norm, features)
    except ValueError:
        return False
    count = features.shape[axis]
    if count != output.channels:
        return False
    if features.grad_fn is output.edge.node:  # the output itself
        return axis == output.axis
    channels = torch.arange(count, device=features.device)

    def sent_back(values: Tensor) -> Tensor:
        shape = [1] * features.ndim
        shape[axis] = -1
        weights = values.to(features.dtype).reshape(shape).expand_as(features)
        (gradient,) = torch.autograd.grad(features, [output.edge], weights, retain_graph=True)
        return gradient.movedim(output.axis, 0).reshape(count, -1)

    times = sent_back(torch.ones_like(channels))  # how often each element occurs in the input
    for digit in range(-(-max(count - 1, 1).bit_length() // 4)):
        value = channels // 16**digit % 16
        if not torch.equal(sent_back(value), value.to(times.dtype)[:, None] * times):
            return False
    return True
