"""Who multiplies what: the tiles of all sums, cut into units of about the same work. Plain NumPy."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from heapq import heapreplace
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .device import kept_alive

__all__ = ["Geometry", "Job", "Tile", "Work", "geometry_of"]

_UNIT_STEPS = 8  # what beginning and ending a unit costs, in steps of its loop
_PANEL = 12  # rows of tiles that run together: 12 x 11 tiles of 128 x 256 are nearly square
_KEPT = 16  # works of one geometry
_SHARED = 200 << 10  # of a multiprocessor, for tiles in flight

Ints = NDArray[np.int64]


class Tile(NamedTuple):
    """The tile that one program of `multiply_rows` sums. With `tma` it is read by descriptor.

    With `native` it is a cluster of csrc/spike_gram/bytes_cuda.cu, of 256 rows and columns of bytes.
    """

    rows: int
    columns: int
    warps: int
    stages: int
    tma: bool = False
    native: bool = False

    def programs(self, multiprocessors: int) -> int:
        """Returns the number of programs that run at a time."""
        if self.native:
            return max(1, multiprocessors // 2)
        bytes_ = self.stages * (self.rows + self.columns) * 128
        return multiprocessors * max(1, min(_SHARED // bytes_, 16 // self.warps))


class Job(NamedTuple):
    """The parameters that decide the work of one chunk.

    Attributes
    ----------
    channels, groups : of one group, and how many follow one another.
    fold : products of planes that a pair stands for: 3 where a plane lies in two parts.
    right_plane : the first plane of the right side. The left side is plane 0.
    digits : planes of the right side, one after another.
    steps : of the planes.
    depth : steps of a unit; 0: to be chosen, at most `most_steps`.
    programs : that run at a time.
    most_units : that partial sums may be kept of.
    offsets : of the sums of each group and region, from those of the first.
    """

    channels: int
    groups: int
    fold: int
    right_plane: int
    digits: int
    steps: int
    tile: Tile
    depth: int
    most_steps: int
    programs: int
    most_units: int
    offsets: tuple[int, ...]


@dataclass(frozen=True)
class Work:
    """Tables that `multiply_rows` and `add_partials` read, see there.

    Attributes
    ----------
    batches : (first unit, units, first tile, tiles); the partial sums of one are kept at a time.
    units : int32 [units, 8].
    tiles : int64 [tiles, 8].
    """

    batches: tuple[tuple[int, int, int, int], ...]
    units: Tensor
    tiles: Tensor


class Geometry:
    """Which positions meet, shift by shift: ``positions`` and ``neighbours`` of conv.Region.

    An item is one shift of one region. Its pairs are (where the shift leads, position), those off the
    map left out.
    """

    def __init__(self, positions: Sequence[Tensor], neighbours: Sequence[Tensor]) -> None:
        self.regions = len(positions)
        self.positions = int(neighbours[0].shape[1])
        pairs, counts, items = [], [], []
        for region, (at, leads) in enumerate(zip(positions, neighbours, strict=True)):
            here, there = at.cpu().numpy(), leads.cpu().numpy()
            for shift, row in enumerate(there):
                neighbour = row[here]
                inside = neighbour >= 0
                if not inside.any():
                    continue
                pair = np.stack([neighbour[inside], here[inside]], axis=1)
                identity = bool((pair[:, 0] == pair[:, 1]).all())
                pairs.append(pair)
                counts.append(len(pair))
                items.append((region, shift, identity))
        self.pairs = np.concatenate(pairs).astype(np.int32)
        self.counts: Ints = np.array(counts, dtype=np.int64)
        self.first: Ints = np.cumsum(self.counts) - self.counts
        self.region, self.shift, self.identity = np.array(items, dtype=np.int64).T
        self._tensors: dict[tuple[Any, ...], Any] = {}

    def pairs_on(self, device: torch.device, fold: int) -> Tensor:
        """Returns int32 [pairs * fold, 2], slots left and right.

        With planes in two parts, the product of the two small parts is left out.
        """

        def build() -> Tensor:
            pairs = self.pairs
            if fold == 3:
                low = self.positions
                parts = np.array([[0, 0], [0, low], [low, 0]], dtype=np.int32)
                pairs = (pairs[:, None, :] + parts).reshape(-1, 2)
            return _upload(pairs, device)

        table: Tensor = self._cached(("pairs", device, fold), build)
        return kept_alive(table)

    def items_on(self, device: torch.device) -> Tensor:
        """Returns int32 [items, 2]: the first pair and the number of pairs."""

        def build() -> Tensor:
            table = np.stack([self.first, self.counts], axis=1)
            return _upload(table.astype(np.int32), device)

        tensor: Tensor = self._cached(("items", device), build)
        return kept_alive(tensor)

    def work_on(self, device: torch.device, job: Job) -> Work:
        """Returns the work of a job; it is cached, since the next batch has the same shape."""
        work: Work = self._cached((device, job), lambda: self._plan(device, job))
        for table in (work.units, work.tiles):
            kept_alive(table)
        return work

    def _cached(self, key: tuple[Any, ...], build: Any) -> Any:
        if key not in self._tensors:
            if len(self._tensors) >= _KEPT:
                del self._tensors[next(iter(self._tensors))]
            self._tensors[key] = build()
        return self._tensors[key]

    def _plan(self, device: torch.device, job: Job) -> Work:
        tile, channels, groups = job.tile, job.channels, job.groups
        i, j, upper = _tiles_of(channels, tile)
        # Of every group and item its tiles; where it is its own mirror image, the upper ones.
        tiles_of_item = [np.nonzero(upper | (not same))[0] for same in self.identity]
        item = np.concatenate([np.full(len(which), e) for e, which in enumerate(tiles_of_item)])
        which = np.concatenate(tiles_of_item)
        group = np.repeat(np.arange(groups), len(item))
        item, which = np.tile(item, groups), np.tile(which, groups)
        i, j = i[which], j[which]
        count = self.counts[item] * job.fold
        steps = count * job.steps
        depth = job.depth or _best_depth(steps, job)
        depths = -(-steps // -(-steps // depth))  # of one size
        chunks = -(-steps // depths)
        many = chunks * job.digits
        batch_of, slot = _batches(many, job.most_units)

        in_group = group * channels
        across = self.positions * groups * channels  # rows of a plane
        tiles = np.zeros((len(item), 8), dtype=np.int64)
        tiles[:, 0], tiles[:, 1] = slot, chunks
        tiles[:, 2], tiles[:, 3], tiles[:, 4] = i, j, self.identity[item]
        offsets = np.array(job.offsets, dtype=np.int64).reshape(groups, self.regions)
        tiles[:, 5] = offsets[group, self.region[item]] + self.shift[item] * channels**2
        tiles[:, 6] = item * groups * channels + in_group
        tiles[:, 7] = self.counts[item]

        of = np.repeat(np.arange(len(item)), many)
        within = np.arange(len(of)) - (np.cumsum(many) - many)[of]
        digit, chunk = job.digits - 1 - within // chunks[of], within % chunks[of]
        units = np.zeros((len(of), 8), dtype=np.int64)
        units[:, 0] = (in_group + i)[of]
        units[:, 1] = (in_group + j)[of] + (job.right_plane + digit) * across
        units[:, 2], units[:, 3] = (self.first[item] * job.fold)[of], count[of]
        units[:, 4] = chunk * depths[of]
        units[:, 5] = np.minimum(units[:, 4] + depths[of], steps[of])
        units[:, 6] = slot[of] + within
        # The longest first. Then what reads the same planes runs together: the second-level cache has
        # them once for all.
        panel = i // (tile.rows * _PANEL)
        keys = (digit, i[of], j[of], panel[of], item[of], chunk, -depths[of], batch_of[of])
        order = np.lexsort(keys)
        num_batches = int(batch_of[-1]) + 1
        unit_ends = np.searchsorted(batch_of[of][order], np.arange(num_batches + 1))
        tile_ends = np.searchsorted(batch_of, np.arange(num_batches + 1))
        batches = tuple(
            (int(unit), int(units_), int(first), int(tiles_))
            for unit, units_, first, tiles_ in zip(
                unit_ends[:-1], np.diff(unit_ends), tile_ends[:-1], np.diff(tile_ends), strict=True
            )
        )
        table = units[order].astype(np.int32)
        return Work(batches, _upload(table, device), _upload(tiles, device))


_GEOMETRIES: dict[tuple[int, ...], tuple[list[Any], Geometry]] = {}


def geometry_of(positions: Sequence[Tensor], neighbours: Sequence[Tensor]) -> Geometry:
    """Returns the geometry of these tensors, which is cached for as long as they live."""
    tensors = (*positions, *neighbours)
    key = tuple(id(tensor) for tensor in tensors)
    entry = _GEOMETRIES.get(key)
    if entry is not None and all(
        ref() is tensor for ref, tensor in zip(entry[0], tensors, strict=True)
    ):
        return entry[1]
    for old in [k for k, (refs, _) in _GEOMETRIES.items() if any(r() is None for r in refs)]:
        del _GEOMETRIES[old]
    geometry = Geometry(positions, neighbours)
    _GEOMETRIES[key] = ([weakref.ref(tensor) for tensor in tensors], geometry)
    return geometry


def _upload(table: NDArray[Any], device: torch.device) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(table)).to(device)


def _tiles_of(channels: int, tile: Tile) -> tuple[Ints, Ints, NDArray[np.bool_]]:
    """Returns each tile's first row and column, and whether it reaches into the upper triangle."""
    i, j = np.meshgrid(
        np.arange(0, channels, tile.rows), np.arange(0, channels, tile.columns), indexing="ij"
    )
    order = np.lexsort((i.ravel(), j.ravel(), i.ravel() // (tile.rows * _PANEL)))
    i, j = i.ravel()[order], j.ravel()[order]
    last = np.minimum(j + tile.columns, channels) - 1
    return i, j, last >= i


def _best_depth(steps: Ints, job: Job) -> int:
    """Returns the depth, out of a few, with which all programs end soonest. steps: of every tile."""
    longest = int(steps.max())
    least = -(-longest // job.most_steps)
    most = max(least, min(least + 4 * job.programs, job.most_units // job.digits))
    parts = {*range(least, min(least + 16, most) + 1), *np.geomspace(least, most, 24).astype(int)}
    depths = sorted({-(-longest // int(part)) for part in parts}, reverse=True)
    return min(depths, key=lambda depth: _duration(steps, job, depth))


def _duration(steps: Ints, job: Job, depth: int) -> float:
    """Returns the time of all units in steps; each goes to the first free program."""
    chunks = -(-steps // depth)
    lengths = np.sort(np.repeat(-(-steps // chunks), chunks * job.digits))[::-1] + _UNIT_STEPS
    if len(lengths) > 16 * job.programs:
        return float(lengths.sum()) / job.programs + depth / 2
    ends = [0] * job.programs
    for length in lengths.tolist():
        heapreplace(ends, ends[0] + length)
    return float(max(ends))


def _batches(units: Ints, most: int) -> tuple[Ints, Ints]:
    """Returns each tile's batch and first slot there; a batch is as many tiles in turn as fit."""
    ends = np.cumsum(units)
    batch, slot = np.zeros_like(units), np.zeros_like(units)
    first, done, number = 0, 0, 0
    while first < len(units):
        last = max(first + 1, int(np.searchsorted(ends, done + most, side="right")))
        batch[first:last] = number
        slot[first:last] = ends[first:last] - units[first:last] - done
        first, done, number = last, int(ends[last - 1]), number + 1
    return batch, slot
