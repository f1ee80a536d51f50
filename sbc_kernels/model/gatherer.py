"""A layer's inputs, batch by batch, to the moments that its compression rests on."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from array_api_compat import array_namespace, device
from numpy.typing import NDArray
from torch import Tensor

from ..conv import Conv
from ..hessian import SpikeHessian
from ..neurons import Neuron, membrane_matrix
from .moments import Matrix, Moments
from .planned_layer import PlannedLayer


class Gatherer:
    """Gathers the `Moments` of one layer, as a mean over its distinct neurons.

    Parameters
    ----------
    layer : of the plan.
    neurons : their impulse responses filter the inputs; None stands for the current Hessian.
    paired : whether each batch comes as a pair, from the dense model and from the compressed copy.
    with_bias : whether to gather moments with an input that is always on.
    backend : of `spike_gram`.
    step_scale : float64 [T], what the layer's output is multiplied by at each step (TEBN), or None.
    """

    def __init__(
        self,
        layer: PlannedLayer,
        neurons: tuple[Neuron | None, ...],
        *,
        paired: bool,
        with_bias: bool,
        backend: str | None,
        step_scale: NDArray[np.float64] | None = None,
    ) -> None:
        self.layer = layer
        self.step_scale = step_scale
        self.paired = paired
        width = layer.in_features * (2 if paired else 1)
        size: dict[str, Any] = {"in_features": width}
        if layer.conv is not None:
            channels = width // layer.conv.taps * layer.groups
            size = {"conv": layer.conv, "in_channels": channels}
        self.hessians = [SpikeHessian(neuron, backend=backend, **size) for neuron in neurons]
        self.constants = (
            [_Constant(neuron, layer.conv, step_scale) for neuron in neurons] if with_bias else []
        )

    def take(self, spikes: Tensor, dense: Tensor | None = None) -> None:
        """Adds one batch [T, N, ...]; where paired, `dense` is the dense model's input to the layer."""
        if self.paired:
            assert dense is not None
            spikes = _side_by_side(dense, spikes, self.layer)
        if self.step_scale is not None:
            factor = torch.from_numpy(self.step_scale).to(spikes.device)
            spikes = spikes * factor.reshape(-1, *[1] * (spikes.ndim - 1))
        for hessian in self.hessians:
            hessian.update(spikes)
        for constant in self.constants:
            constant.update(spikes)

    def moments(self) -> Moments:
        """Returns the moments of all batches so far."""
        first = self.hessians[0].scaled()
        stack, fired = first.plain(), first.fired
        del first  # its stack is taken apart below
        for other in self.hessians[1:]:
            stack += other.stacked()
        if len(self.hessians) > 1:
            stack /= len(self.hessians)
        samples = self.hessians[0].num_samples
        paths = list(dict.fromkeys(path for h in self.hessians for path in h.paths))
        d = self.layer.in_features
        constant, energy = None, 0.0
        if self.constants:
            both = [c.moment(self.layer.groups) for c in self.constants]
            means = 2 / samples * np.mean([c for c, _ in both], axis=0)
            constant = array_namespace(stack).asarray(means, device=device(stack))
            energy = 2 / samples * float(np.mean([h for _, h in both]))
        if not self.paired:
            return Moments(stack, None, constant, constant, energy, samples, paths, fired)
        xp, fired = array_namespace(stack), fired[:, d:]
        hessian = xp.asarray(stack[:, d:, d:], copy=True)
        cross: Matrix | None = xp.asarray(stack[:, :d, d:], copy=True)
        if bool(xp.all(cross == hessian)) and bool(xp.all(stack[:, :d, :d] == hessian)):
            cross = None  # nothing upstream was changed
        del stack
        if constant is None:
            return Moments(hessian, cross, None, None, 0.0, samples, paths, fired)
        c, dense_c = constant[:, d:], constant[:, :d]
        return Moments(hessian, cross, c, dense_c, energy, samples, paths, fired)


class _Constant:
    """Sums ``Y' 1`` of a layer's filtered inputs with an input that is always on, as a bias sees it."""

    def __init__(
        self, neuron: Neuron | None, conv: Conv | None, step_scale: NDArray[np.float64] | None
    ) -> None:
        self.neuron = neuron
        self.conv = conv
        self.step_scale = step_scale
        # By map size (batches may differ): float64 [C, *map], where the spikes lie.
        self.totals: dict[tuple[int, ...], Tensor] = {}
        self.energy = 0.0

    def update(self, spikes: Tensor) -> None:
        T, N = spikes.shape[:2]
        steps = T if self.neuron is not None else 1
        M = membrane_matrix(self.neuron, steps)
        on = (M if self.step_scale is None else M * self.step_scale).sum(axis=1)
        weight = np.resize(
            (M * on[:, None]).sum(axis=0), T
        )  # without a neuron every step is a sample of its own
        sums = spikes.sum(dim=1, dtype=torch.float64)  # [T, ...]
        outputs = 1
        if self.conv is None:
            if sums.ndim == 3:  # [T, L, d]
                outputs = sums.shape[1]
                sums = sums.sum(dim=1)
        else:
            outputs = int(np.prod(self.conv.output_size(tuple(spikes.shape[3:]))))
        total = torch.tensordot(torch.from_numpy(weight).to(sums.device), sums, 1)
        size = tuple(total.shape)
        self.totals[size] = self.totals[size] + total if size in self.totals else total
        self.energy += float((on**2).sum()) * (T // steps) * N * outputs

    def moment(self, groups: int) -> tuple[NDArray[np.float64], float]:
        """Returns the sums, float64 [groups, d], and the energy of the input that is always on."""
        by_size = [np.asarray(total.cpu()) for total in self.totals.values()]
        if self.conv is None:
            return np.sum(by_size, axis=0)[None], self.energy
        conv = self.conv
        parts = [
            np.stack([_tap_sums(part, conv) for part in np.split(total, groups)])
            for total in by_size
        ]
        return np.sum(parts, axis=0), self.energy


def _tap_sums(maps: NDArray[np.float64], conv: Conv) -> NDArray[np.float64]:
    """Returns what each weight of a convolution is fed, summed over output positions.

    From [C, *map] to [C * taps], in the order of a flattened weight.
    """
    padded = np.pad(maps, [(0, 0), *conv.pads()])
    outputs = conv.output_size(maps.shape[1:])
    axes = tuple(range(1, maps.ndim))
    sums = []
    for tap in np.ndindex(*conv.kernel_size):
        firsts = [a * dilation for a, dilation in zip(tap, conv.dilations, strict=True)]
        window = tuple(
            slice(first, first + stride * (count - 1) + 1, stride)
            for first, stride, count in zip(firsts, conv.strides, outputs, strict=True)
        )
        sums.append(padded[:, *window].sum(axis=axes))
    return np.stack(sums, axis=1).ravel()


def _side_by_side(dense: Tensor, compressed: Tensor, layer: PlannedLayer) -> Tensor:
    """Returns both inputs as one with twice the channels, group by group in a grouped convolution."""
    dtype = torch.promote_types(dense.dtype, compressed.dtype)
    pair = [dense.to(dtype), compressed.to(dtype)]
    if layer.conv is None:
        return torch.cat(pair, dim=-1)
    T, N, channels, *place = dense.shape
    split = [t.reshape(T, N, layer.groups, channels // layer.groups, *place) for t in pair]
    return torch.cat(split, dim=3).reshape(T, N, 2 * channels, *place)
