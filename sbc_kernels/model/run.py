"""One compression of a network: what `compress_model` does once its arguments are checked."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from array_api_compat import array_namespace
from numpy.typing import NDArray
from torch import Tensor, nn

from ..layer import PreparedLayer, weight_array
from ..method.options import Options
from ..network.copies import Forward, copy_of, undisturbed
from ..network.state import entry
from ..network.watch import Statistics, watching
from ..weights import CompressedWeight, Pruned, Quantized, compressed_weight
from .checkpoint import Checkpoint
from .following_norms import reestimate
from .moments import Gatherer, Moments, corrected_target
from .norms import per_step, row_scale, split_by_step
from .overrides import LAYER_OPTIONS
from .passes import Feeder
from .plan import Plan
from .planned_layer import PlannedLayer
from .progress import Progress, logger
from .record import LayerRecord
from .settings import Settings


class Run:
    """One compression: the dense copy, the copy that becomes the answer, and what was decided."""

    def __init__(
        self,
        dense: nn.Module,
        plan: Plan,
        batches: Iterable[Any],
        forward: Forward | None,
        settings: Settings,
        bars: Progress,
    ) -> None:
        self.dense = dense.eval()
        self.work = copy_of(dense).eval()
        self.plan = plan
        self.batches = batches
        self.forward = forward
        self.settings = settings
        self.bars = bars
        self.layers = {layer.name: layer for layer in plan.compressed}
        self.modules = dict(self.work.named_modules())
        self.originals = dict(dense.named_modules())
        self.checkpoint = Checkpoint(None, {})
        self.shares: dict[str, float] = {}
        self.sparsities: dict[str, float | str | None] = {}
        self.records: list[LayerRecord] = []
        self.tensors: dict[str, dict[str, Tensor]] = {}
        self.weights: dict[str, CompressedWeight] = {}  # of the delivered model
        self.changed: dict[str, Tensor] = {}  # entries of the state dict
        self.resumed = 0
        self.log = [f"{layer.name}: {note}" for layer in plan.layers for note in layer.notes]
        self.layers_before: dict[str, list[str]] = {}  # each BatchNorm that is to follow them
        for name in self.layers:
            for norm in self.moving_norms(name):
                self.layers_before.setdefault(norm, []).append(name)
        self.before: dict[str, Statistics] = {}  # BatchNorms of the dense model, as they are called
        self.norm_calls: dict[str, int] = {}  # of each, in one forward
        self.norm_runs = 0  # forwards of a pass
        self.total_cost = sum(_cost(layer) for layer in self.layers.values())

    def check_layers(self) -> None:
        """Everything that can be wrong with a layer's options, before any work."""
        if not self.layers:
            raise ValueError("model has no weight layer that can be compressed:\n" + str(self.plan))
        for layer in self.layers.values():
            sparsity = layer.options.get("sparsity", self.settings.said["sparsity"])
            if sparsity is None and layer.options.get("bits", self.settings.said["bits"]) is None:
                continue
            options = self.settings.options(layer.options, sparsity)
            if options.pattern is not None:
                try:
                    options.pattern.require_fits((layer.shape[0], layer.in_features))
                except ValueError as error:
                    raise ValueError(f"layer {layer.name!r}: {error}") from error

    # ---- the two modes

    def compress(self) -> None:
        """All layers, in the mode that was asked for."""
        if self.settings.mode == "parallel":
            self._parallel()
        else:
            self._sequential()

    def tried_with(self, shares: Mapping[str, float]) -> nn.Module:
        """What would come out with these sparsities."""
        other = Run(
            self.dense, self.plan, self.batches, self.forward, self.settings, Progress(False)
        )
        other.sparsities = {**self.sparsities, **shares}
        other.before, other.norm_calls = self.before, self.norm_calls
        other.norm_runs = self.norm_runs
        other.compress()
        return other.work

    def _parallel(self) -> None:
        """All Hessians from the dense model, as many at once as memory holds."""
        finished = {name: stored for name in self.layers if (stored := self._restore(name))}
        bar = self.bars.task("layers", self.total_cost)
        for group in self.plan.groups(self.settings.max_memory):
            names = [layer.name for layer in group if layer.name not in finished]
            names = [name for name in names if not self._left_alone(name)]
            for name, moments in self.gather(names):
                bar(0, description=name)
                self._decide(name, moments)
                bar(_cost(self.layers[name]))
            for layer in group:
                if layer.name in finished:
                    bar(_cost(layer))
        self._in_order()
        bar = self.bars.task("BatchNorms", len(self.layers_before))
        open_ = [norm for norm in self.layers_before if not self._has_moved(norm)]
        bar(len(self.layers_before) - len(open_))  # an earlier run did
        for norm in self._move_norms(open_):
            for name in self.layers_before[norm]:
                self._store(name)
            bar()

    def _sequential(self) -> None:
        """Layer by layer, on what the compressed layers before it produce."""
        bar = self.bars.task("layers", self.total_cost)
        for name, layer in self.layers.items():
            bar(0, description=name)
            if not self._restore(name) and not self._left_alone(name):
                (moments,) = (m for _, m in self.gather([name], paired=True))
                self._decide(name, moments)
                list(self._move_norms(self.moving_norms(name)))
                self._store(name)
            bar(_cost(layer))
        self._in_order()

    def _in_order(self) -> None:
        rank = {name: at for at, name in enumerate(self.layers)}
        self.records.sort(key=lambda record: rank[record.name])

    # ---- one layer

    def gather(self, names: Sequence[str], paired: bool = False) -> Iterable[tuple[str, Moments]]:
        """The moments of layers, one pass over the calibration data for all of them.

        Each is let go of before the next is taken.
        """
        gatherers = {}
        for name in names:
            layer = self.layers[name]
            neurons = (None,) if self.settings.hessian == "current" else layer.neurons
            gatherers[name] = Gatherer(
                layer,
                neurons,
                paired=paired,
                with_bias=self.settings.bias_correction and self._bias_place(name) is not None,
                backend=self.settings.backend,
                step_scale=None if neurons == (None,) else self._step_scale(name),
            )
        if not gatherers:
            return
        if paired:
            self._run_both(gatherers)
        else:
            feeder = self._feeder(self.dense)
            feeder.run({name: g.take for name, g in gatherers.items()}, self.layers)
        while gatherers:
            name = next(iter(gatherers))
            yield name, gatherers.pop(name).moments()

    def _feeder(self, model: nn.Module) -> Feeder:
        return Feeder(model, self.batches, self.forward, self.plan.neuron_steps)

    def _run_both(self, gatherers: dict[str, Gatherer]) -> None:
        """Each batch through the dense model and through the compressed prefix."""
        ((name, gatherer),) = gatherers.items()
        first, second = self._feeder(self.dense), self._feeder(self.work)
        dense: deque[Tensor] = deque()

        def take(spikes: Tensor) -> None:
            gatherer.take(spikes, dense.popleft())

        with undisturbed():
            for index, batch in enumerate(self.batches):
                dense.clear()
                first.feed(index, batch, {name: dense.append}, self.layers)
                second.feed(index, batch, {name: take}, self.layers)

    def _decide(self, name: str, moments: Moments) -> None:
        """Compresses one layer with its moments and puts the answer into the work copy."""
        layer, module = self.layers[name], self.modules[name]
        start = time.perf_counter()
        centred = moments.centred()
        flat = self._matrix(self.originals[name].weight)
        target = module.weight.detach()
        if moments.cross is not None:
            refitted = corrected_target(flat, centred, self.settings.target_damping)
            target = torch.as_tensor(refitted).reshape(target.shape).to(target.dtype)
        scale, notes = self.scale(name)
        options = self.options(name)
        assert options is not None
        prepared = PreparedLayer(target, centred.hessian, scale, backend=self.settings.backend)
        out = prepared.compress(options)
        weight = out.weight
        tensors = {"weight": weight, **out.compressed.parts()}
        if moments.constant is not None:
            change = moments.bias_change(flat, self._matrix(weight))
            tensors |= self._bias(name, torch.as_tensor(change))
        energy = _energy(self._matrix(target), centred.hessian)
        loss = float(out.loss.sum())
        xp = array_namespace(moments.hessian)
        dead = int((xp.linalg.diagonal(moments.hessian) == 0).sum())
        record = LayerRecord(
            name=name,
            kind=layer.kind,
            shape=layer.shape,
            sparsity=out.sparsity,
            bits=out.bits,
            loss=loss,
            relative_error=math.sqrt(loss / energy) if energy > 0 else 0.0,
            damp_percent=out.damp_percent,
            retries=sum("retry" in line for line in out.log),
            dead_inputs=dead,
            inputs=moments.hessian.shape[0] * moments.hessian.shape[1],
            gram_path="; ".join(moments.paths),
            seconds=time.perf_counter() - start,
            notes=(*layer.notes, *notes, *self._not_done(name)),
            log=tuple(out.log),
            curve=out.curve,
            group_size=out.group_size,
        )
        self._apply(name, tensors, record)
        logger.info("%s: sparsity %.4f, error %.4f", name, record.sparsity, record.relative_error)
        if self.settings.mode == "parallel":
            self._store(name)

    def _left_alone(self, name: str) -> bool:
        """Whether neither a sparsity nor bits were asked for; then that is its record."""
        if self.options(name) is not None:
            return False
        layer, weight = self.layers[name], self.modules[name].weight.detach()
        record = LayerRecord(
            name=name,
            kind=layer.kind,
            shape=layer.shape,
            sparsity=int((weight == 0).sum()) / weight.numel(),
            bits=None,
            loss=0.0,
            relative_error=0.0,
            damp_percent=0.0,
            retries=0,
            dead_inputs=0,
            inputs=layer.groups * layer.in_features,
            gram_path="",
            seconds=0.0,
            notes=layer.notes,
            log=("neither sparsity nor bits asked for: left as it was",),
        )
        self._apply(name, {"weight": weight}, record)
        return True

    def _not_done(self, name: str) -> list[str]:
        """What was asked for and has no place in this layer."""
        notes = []
        if self.settings.bias_correction and self._bias_place(name) is None:
            notes.append("no bias takes part: it has none of its own, and no BatchNorm for itself")
        layer = self.layers[name]
        still = [n for n in layer.norms + layer.step_norms if n not in self.moving_norms(name)]
        if self.settings.bn_reestimate and still:
            notes.append(f"{', '.join(still)} keeps its statistics: it is no plain BatchNorm")
        return notes

    def scale(self, name: str) -> tuple[NDArray[np.float64], list[str]]:
        """What the layer's rows are multiplied by before they meet the threshold."""
        layer = self.layers[name]
        known = {
            norm: self.originals[norm]
            for norm in layer.norms
            if self.plan.plain_norms.get(norm) or per_step(self.originals[norm]) is not None
        }
        scale, notes = row_scale(list(known.values()), layer.shape[0])
        notes += [
            f"{n} is no plain BatchNorm and is not folded" for n in layer.norms if n not in known
        ]
        by_step = self._by_step(layer)
        if by_step is not None:
            scale = scale * by_step[0]
        elif layer.step_norms:
            notes.append(f"{', '.join(layer.step_norms)} have no common scale and are not folded")
        return scale / layer.threshold, notes

    def _by_step(
        self, layer: PlannedLayer
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
        """(a factor a row, a factor a time step) of the layer's `step_norms`."""
        if len(layer.step_norms) != layer.layout.steps:
            return None
        return split_by_step([self.originals[n] for n in layer.step_norms], layer.shape[0])

    def _step_scale(self, name: str) -> NDArray[np.float64] | None:
        """What the layer's output is multiplied by at each time step."""
        layer = self.layers[name]
        factors = [per_step(self.originals[norm]) for norm in layer.norms]
        found = [f for f in factors if f is not None and f.size == layer.layout.steps]
        by_step = self._by_step(layer)
        found += [] if by_step is None else [by_step[1]]
        return np.prod(found, axis=0) if found else None

    def _bias_place(self, name: str) -> str | None:
        """Where a layer's bias change goes: an entry of the state dict. None where it has no place: no
        bias and no BatchNorm that is fed this layer alone, or a bias or weight that others share."""
        layer, bias = self.layers[name], self.modules[name].bias
        if layer.also:
            return None
        if bias is not None:
            sharing = sum(getattr(m, "bias", None) is bias for m in self.modules.values())
            return entry(name, "bias") if sharing == 1 else None
        return f"{layer.norms[0]}.running_mean" if layer.norms and layer.direct else None

    def _bias(self, name: str, change: Tensor) -> dict[str, Tensor]:
        place = self._bias_place(name)
        assert place is not None
        owner, _, field = place.rpartition(".")
        before = getattr(self.modules[owner], field).detach()
        step = change.to(before.device)
        after = before.double() - step if field == "running_mean" else before.double() + step
        return {f"state:{place}": after.to(before.dtype)}

    def moving_norms(self, name: str) -> list[str]:
        """The BatchNorms right behind a layer whose statistics are to follow its new weight."""
        if not self.settings.bn_reestimate:
            return []
        return [n for n in self.layers[name].norms if self.plan.plain_norms.get(n)]

    def _has_moved(self, norm: str) -> bool:
        """Whether the files of the layers before it have its new statistics."""
        found = [self.tensors.get(name, {}) for name in self.layers_before[norm]]
        return all(f"state:{norm}.running_var" in tensors for tensors in found)

    def watch_dense_norms(self) -> None:
        """Statistics of all BatchNorms in the dense model; one pass, once."""
        if self.before or not self.layers_before:
            return
        called: list[str] = []
        norms = {norm: self.originals[norm] for norm in self.layers_before}
        with watching(norms, each=lambda norm, _: called.append(norm)) as before:
            runs = self._feeder(self.dense).run({}, {}, lambda output: None)
        self.before = {norm: before[norm] for norm in dict.fromkeys((*called, *norms))}
        self.norm_runs = runs
        self.norm_calls = {n: max(seen.calls // runs, 1) for n, seen in before.items()}

    def _move_norms(self, norms: Sequence[str]) -> Iterator[str]:
        """New statistics for BatchNorms, from calibration passes; yields each when it has them.

        One after another as they are called, since what one is fed depends on those before. That is a
        pass each, but of a single batch one pass: all that a norm is fed is there when it is called.
        """
        if not norms:
            return
        self.watch_dense_norms()
        ordered = [norm for norm in self.before if norm in norms]
        single = self.norm_runs == 1 and all(self.norm_calls[norm] == 1 for norm in norms)
        for together in [ordered] if single else [[norm] for norm in ordered]:
            watched = {norm: self.modules[norm] for norm in together}
            calls = {norm: self.norm_calls[norm] for norm in together}
            with watching(watched, calls, self._move if single else None) as after:
                self._feeder(self.work).run({}, {}, lambda output: None)
            if not single:
                self._move(together[0], after[together[0]])
            yield from together

    def _move(self, n: str, after: Statistics) -> None:
        """New statistics for a BatchNorm."""
        norm, dense = self.modules[n], self.originals[n]
        with torch.no_grad():
            norm.running_mean.copy_(dense.running_mean)
            norm.running_var.copy_(dense.running_var)
        reestimate(norm, self.before[n], after)
        for field in ("running_mean", "running_var"):
            key = f"{n}.{field}"
            self.changed[key] = getattr(norm, field).detach().clone()
            for name in self.layers_before[n]:
                if name in self.tensors:
                    self.tensors[name][f"state:{key}"] = self.changed[key]

    # ---- results

    def _apply(self, name: str, tensors: dict[str, Tensor], record: LayerRecord) -> None:
        """Into the work copy, and among what is delivered at the end."""
        entries = {entry(name, "weight"): tensors["weight"]}
        entries |= {
            k.removeprefix("state:"): v for k, v in tensors.items() if k.startswith("state:")
        }
        with torch.no_grad():
            for key, value in entries.items():
                owner, _, field = key.rpartition(".")
                getattr(self.modules[owner], field).copy_(value)
        self.changed |= entries
        self.tensors[name] = {k: v for k, v in tensors.items() if k != "weight"}
        self.records.append(record)

    def _store(self, name: str) -> None:
        record = next(record for record in self.records if record.name == name)
        weight = self.changed[entry(name, "weight")]
        self.checkpoint.save(name, {"weight": weight, **self.tensors[name]}, asdict(record))

    def _restore(self, name: str) -> bool:
        stored = self.checkpoint.load(name)
        if stored is None:
            return False
        tensors, record = stored
        record.pop("name")
        self._apply(name, tensors, LayerRecord.from_json({"name": name, **record}))
        self.resumed += 1
        return True

    def deliver(self, answer: nn.Module) -> None:
        """Into a model that is otherwise as the user gave it."""
        state = dict(answer.named_parameters(remove_duplicate=False))
        state |= dict(answer.named_buffers(remove_duplicate=False))
        places = [(state[key], value) for key, value in self.changed.items()]  # all, or KeyError
        with torch.no_grad():
            for place, value in places:
                place.copy_(value)
        modules = dict(answer.named_modules())
        for record in self.records:
            weight = modules[record.name].weight.detach()
            parts = {k: v.to(weight.device) for k, v in self.tensors[record.name].items()}
            compressed = compressed_weight(weight, parts, record.bits, record.group_size)
            if compressed is not None:
                self.weights[record.name] = compressed

    def rescale(self, name: str, scale: NDArray[np.float64], weight: Tensor) -> None:
        """Keeps a layer's compressed weight and its dense one equal, to the bit, after a BatchNorm was
        folded into it.

        Parameters
        ----------
        scale : float64 [d_out], what each row was multiplied by.
        weight : the layer's parameter, already multiplied. Codes decide where there are some, and
            pruned weights become 0 and not -0.
        """
        compressed = self.weights.pop(name, None)
        if isinstance(compressed, Quantized) and scale.astype(np.float32).all():
            compressed = compressed.rescaled(scale)
        elif compressed is not None:
            if isinstance(compressed, Quantized):
                self.log.append(
                    f"{name}: a BatchNorm's scale of 0 was folded into it, its codes are gone"
                )
            mask = compressed.mask
            compressed = None if mask is None else Pruned(weight.detach(), mask)
        if compressed is not None:
            with torch.no_grad():
                weight.copy_(compressed.to_dense())
            self.weights[name] = compressed

    # ---- small things

    def dense_weight(self, name: str) -> NDArray[np.float64]:
        weight: Tensor = self.originals[name].weight
        values: NDArray[np.float64] = weight.detach().double().cpu().numpy()
        return values

    def _matrix(self, weight: Tensor) -> Any:
        """float64 [d_out, d_in]; NumPy, or as it is where it lies on a GPU."""
        values = weight_array(weight, self.settings.backend)
        xp = array_namespace(values)
        return xp.astype(values.reshape(len(values), -1), xp.float64)

    def options(self, name: str) -> Options | None:
        """None where nothing is to be done to this layer."""
        own = {k: v for k, v in self.layers[name].options.items() if k in LAYER_OPTIONS}
        sparsity = self.sparsities[name]
        if sparsity is None and own.get("bits", self.settings.said["bits"]) is None:
            return None
        return self.settings.options(own, sparsity)


def _cost(layer: PlannedLayer) -> float:
    """Of the exact order, in multiply-adds: what most of the time goes into."""
    return float(layer.in_features) ** 3 / 6 * layer.shape[0] + 1e6


def _energy(weight: Any, hessian: Any) -> float:
    """``E_n |Y_n w|^2`` of all rows."""
    xp, rows = array_namespace(weight), len(weight) // len(hessian)
    parts = [weight[g * rows : (g + 1) * rows] for g in range(len(hessian))]
    return sum(
        0.5 * float(xp.einsum("ri,ri->", part @ H, part))
        for part, H in zip(parts, hessian, strict=True)
    )
