"""A run as an allocation rule sees it: experiments on copies of the network."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..errors import naming_layer
from ..layer import PreparedLayer, checked_weight
from ..network.copies import copy_of
from ..network.tensors import tensors_in
from ..network.watch import watching
from .following_norms import reestimate
from .modes import compressed_with
from .moments import Moments
from .planned_layer import PlannedLayer
from .run import Run
from .scales import output_scale


class RunTrial:
    """The `Trial` of a run: its dense model, with one layer or all of them compressed."""

    def __init__(self, run: Run, layers: Mapping[str, PlannedLayer], sparsity: float) -> None:
        self.run = run
        self.layers = layers
        self.sparsity = sparsity
        self.sizes = {name: layer.size for name, layer in layers.items()}
        self.outputs: list[list[Tensor]] | None = None  # of the dense model, batch by batch
        self.model: nn.Module
        self.modules: dict[str, nn.Module] = {}

    def weight(self, name: str) -> NDArray[np.float64]:
        weight: Tensor = self.layers[name].weight_in(self.run.dense_modules)
        values: NDArray[np.float64] = weight.detach().double().cpu().numpy()
        return values

    def prunings(self) -> Iterator[tuple[str, Callable[[float], Tensor]]]:
        run = self.run
        for group in run.plan.groups(run.settings.max_memory, run.settings.method):
            names = [layer.name for layer in group if layer.name in self.layers]
            gathered = run.gather(names)  # runs no pass before the first of its layers is pruned
            for name in names:
                yield name, self._pruning(name, gathered)

    def _pruning(
        self, name: str, gathered: Iterator[tuple[str, Moments]]
    ) -> Callable[[float], Tensor]:
        """Returns the function that prunes one layer, which takes its moments when it is called."""
        run = self.run

        @cache
        def prepared() -> PreparedLayer:
            moments = next((moments for other, moments in gathered if other == name), None)
            if moments is None:
                raise RuntimeError(f"{name!r} was pruned after the next layer had been taken")
            weight = self.layers[name].weight_in(run.dense_modules).detach().clone()
            scale = output_scale(self.layers[name], run.dense_modules)[0]
            checked = checked_weight(weight, run.settings.backend)
            return PreparedLayer(checked, moments.hessian, scale, fired=moments.fired)

        options = run.settings.for_layer(self.layers[name].options, self.sparsity)
        assert options is not None

        def prune(share: float) -> Tensor:
            with naming_layer(name):
                out = prepared().compress(replace(options, sparsity=share))
            pruned: Tensor = out.weight
            return pruned

        return prune

    def known(self, key: Sequence[Any], measure: Callable[[], float]) -> float:
        return self.run.ledger.checkpoint.journal.known(key, measure)

    def loss(self, name: str, weight: Tensor) -> float:
        self._run_dense()
        own = self.layers[name].weight_in(self.modules)
        norms = {norm: self.modules[norm] for norm in self.run.norms.layers[name]}
        before = [
            (tensor, tensor.detach().clone())
            for tensor in (
                own,
                *(t for norm in norms.values() for t in (norm.running_mean, norm.running_var)),
            )
        ]
        with torch.no_grad():
            own.copy_(weight)
        try:
            if norms:
                dense = self.run.dense_norms
                calls = {norm: dense.calls[norm] for norm in norms}
                with watching(norms, calls) as after:
                    self.run.calibration.outputs(self.model)
                for n, norm in norms.items():
                    reestimate(norm, dense.statistics[n], after[n])
            return self._error(self.model)
        finally:
            with torch.no_grad():
                for tensor, value in before:
                    tensor.copy_(value)

    def distance(self, sparsities: Mapping[str, float]) -> float:
        def measure() -> float:
            self._run_dense()
            return self._error(compressed_with(self.run, sparsities))

        shares = {name: float(share).hex() for name, share in sparsities.items()}
        return self.known(["distance", shares], measure)

    def progress(self, label: str, total: int) -> Callable[[], None]:
        return self.run.bars.task(label, total)

    def _run_dense(self) -> None:
        """The dense model's outputs, and the statistics of its BatchNorms; once."""
        if self.outputs is not None:
            return
        run = self.run
        self.model = copy_of(run.dense)
        self.modules = dict(self.model.named_modules())
        run.dense_norms.measure()
        outputs: list[list[Tensor]] = []
        run.calibration.outputs(self.model, lambda output: outputs.append(_floats(output)))
        self.outputs = outputs

    def _error(self, model: nn.Module) -> float:
        """Squared error of the outputs over their variance."""
        assert self.outputs is not None
        wrong = energy = 0.0
        expected = iter(self.outputs)

        def compare(output: Any) -> None:
            nonlocal wrong, energy
            for now, then in zip(_floats(output), next(expected), strict=True):
                wrong += float((now.double() - then.double()).square().sum())
                energy += float((then.double() - then.double().mean()).square().sum())

        self.run.calibration.outputs(model, compare)
        return wrong / energy if energy > 0 else wrong


def _floats(output: Any) -> list[Tensor]:
    return [tensor.detach().clone() for tensor in tensors_in(output) if tensor.is_floating_point()]
