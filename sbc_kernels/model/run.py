"""One compression of a network: what belongs to it, and the steps that one layer takes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from ..errors import naming_layer
from ..method import METHODS, LayerOptions
from ..network.copies import copy_of
from ..network.state import tensor_of
from .checkpoint import Checkpoint
from .decision import compressed_layer, untouched_layer
from .following_norms import DenseNorms, FollowingNorms
from .gatherer import Gatherer
from .ledger import Ledger
from .moments import Moments
from .passes import Calibration
from .plan import Plan
from .planned_layer import PlannedLayer
from .progress import Progress, logger
from .scales import step_scale
from .settings import ModelOptions


class Run:
    """A network while it is compressed.

    The two ways through its layers are in `sequential` and `parallel`.

    Parameters
    ----------
    dense : a copy of the user's network, in eval mode. It stays as it is.
    plan : of the network.
    calibration : the data.
    settings : what was asked for.
    bars : show how far the run is.
    checkpoint : where finished layers are stored.
    dense_norms : statistics that another run with the same dense model has; default its own.

    Attributes
    ----------
    work : the copy that is compressed layer by layer.
    layers : the compressed layers of the plan by name.
    sparsities : what each layer is pruned to: a fraction, a pattern, or None.
    norms : BatchNorms of the copy that follow the layers.
    ledger : what has been decided.
    log : remarks for people.
    """

    def __init__(
        self,
        dense: nn.Module,
        plan: Plan,
        calibration: Calibration,
        settings: ModelOptions,
        bars: Progress,
        checkpoint: Checkpoint | None = None,
        dense_norms: DenseNorms | None = None,
    ) -> None:
        self.dense = dense.eval()
        self.work = copy_of(dense).eval()
        self.plan = plan
        self.calibration = calibration
        self.settings = settings
        self.bars = bars
        self.layers = {layer.name: layer for layer in plan.compressed}
        self.dense_modules: dict[str, nn.Module] = dict(dense.named_modules())
        self.work_modules: dict[str, nn.Module] = dict(self.work.named_modules())
        self.ledger = Ledger(checkpoint or Checkpoint(None))
        following = {
            name: layer.plain_norms if settings.bn_reestimate else ()
            for name, layer in self.layers.items()
        }
        names = dict.fromkeys(norm for norms in following.values() for norm in norms)
        self.dense_norms = dense_norms or DenseNorms(dense, names, calibration)
        self.norms = FollowingNorms(following, self.dense_norms, self.work, self.ledger)
        self.sparsities: dict[str, float | str | None] = {}
        self.log = [f"{layer.name}: {note}" for layer in plan.layers for note in layer.notes]
        self.log += plan.remarks

    # ---- what is asked of a layer

    def options(self, name: str) -> LayerOptions | None:
        """The options of a layer; None where it is neither pruned nor quantized."""
        with naming_layer(name):
            return self.settings.for_layer(self.layers[name].options, self.sparsities[name])

    def cost(self, layer: PlannedLayer) -> float:
        """Multiply-adds of the layer's method, and a million for what every layer takes."""
        method = METHODS[layer.options.get("method", self.settings.method)]
        return method.cost(layer.shape[0], layer.in_features) + 1e6

    # ---- its steps

    def restore(self, name: str) -> bool:
        """Takes a layer from the checkpoint. Returns whether it is there."""
        entries = self.ledger.restore(name, partial(tensor_of, self.work_modules))
        self._set(entries or {})
        return entries is not None

    def leave(self, name: str) -> bool:
        """Finishes a layer for which nothing was asked. Returns whether that is so."""
        if self.options(name) is not None:
            return False
        self._set(self.ledger.add(untouched_layer(self.layers[name], self.work_modules)))
        return True

    def gather(self, names: Sequence[str], paired: bool = False) -> Iterator[tuple[str, Moments]]:
        """Yields the moments of layers, from one pass over the calibration data for all of them.

        Each is released before the next is made.

        Parameters
        ----------
        names : of the layers.
        paired : for one layer, whether it sees what the layers before it in the compressed copy
            produce, beside what it sees in the dense model.
        """
        gatherers = {name: self._gatherer(self.layers[name], paired) for name in names}
        if not gatherers:
            return
        if paired:
            ((name, gatherer),) = gatherers.items()
            self.calibration.paired_inputs(self.dense, self.work, name, gatherer.take)
            del gatherer
        else:
            takes = {name: gatherer.take for name, gatherer in gatherers.items()}
            self.calibration.inputs(self.dense, takes)
            del takes  # they hold the sums
        while gatherers:
            name = next(iter(gatherers))
            yield name, gatherers.pop(name).moments()

    def decide(self, name: str, moments: Moments) -> None:
        """Compresses one layer and writes it into the copy."""
        options = self.options(name)
        assert options is not None
        with naming_layer(name):
            finished = compressed_layer(
                self.layers[name],
                moments,
                self.dense_modules,
                self.work_modules,
                options,
                self.settings,
            )
        self._set(self.ledger.add(finished))
        record = finished.record
        logger.info("%s: sparsity %.4f, error %.4f", name, record.sparsity, record.relative_error)

    def _gatherer(self, layer: PlannedLayer, paired: bool) -> Gatherer:
        neurons = (None,) if self.settings.hessian == "current" else layer.neurons
        return Gatherer(
            layer,
            neurons,
            paired=paired,
            with_bias=self.settings.bias_correction and layer.bias_entry is not None,
            backend=self.settings.backend,
            step_scale=None if neurons == (None,) else step_scale(layer, self.dense_modules),
        )

    def _set(self, entries: dict[str, Tensor]) -> None:
        """Writes entries of the state into the copy."""
        with torch.no_grad():
            for name, value in entries.items():
                tensor_of(self.work_modules, name).copy_(value)
