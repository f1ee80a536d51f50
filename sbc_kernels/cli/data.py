"""Batches from files: .npz, .npy, a folder of them, IDX images; or what a loader gives."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import typer
from numpy.typing import NDArray

from ..demo.data import find_idx, read_idx
from .objects import call, load_object

Array = NDArray[Any]
SINGLE_FILE = 64  # samples a batch of a file that is not one of a folder's
INPUTS = ("x", "inputs", "data")
LABELS = ("y", "labels", "targets")
_IDX = re.compile(r".*images[-.]idx3-ubyte(\.gz)?")


@dataclass(frozen=True)
class Cut:
    """How files become batches; see the options of these names."""

    batch_size: int | None = None
    batch_axis: int | None = None
    time_steps: int | None = None
    dtype: str = "float32"
    samples: int | None = None

    @classmethod
    def of(cls, said: Mapping[str, Any], samples: int | None = None) -> Cut:
        names = ("batch_size", "batch_axis", "time_steps", "dtype")
        return cls(**{name: said[name] for name in names}, samples=samples)


_OPTIONS = {"samples": "num_calibration_samples"}


def load_data(text: str, cut: Cut, param_hint: str) -> Iterable[Any]:
    """Batches that can be gone through again and again: inputs, or (inputs, labels).

    Bad use where there is no such data, or it is not what it should be.
    """
    path = Path(text)
    if not path.exists() and ":" in text:
        if given := [
            field.name for field in fields(Cut) if getattr(cut, field.name) != field.default
        ]:
            names = ", ".join("--" + _OPTIONS.get(n, n).replace("_", "-") for n in given)
            raise typer.BadParameter(
                f"{text} makes its own batches; accepted with it is none of {names}",
                param_hint=param_hint,
            )
        return _loaded(text, param_hint)
    try:
        return Files(path, cut)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise typer.BadParameter(str(error), param_hint=param_hint) from error


def on_device(batches: Iterable[Any], device: Any) -> Iterable[Any]:
    """The same batches on a torch device."""
    return batches if device.type == "cpu" else _Moved(batches, device)


class _Moved:
    """One at a time."""

    def __init__(self, batches: Iterable[Any], device: Any) -> None:
        self.batches, self.device = batches, device

    def __iter__(self) -> Iterator[Any]:
        for batch in self.batches:
            yield _moved(batch, self.device)


def _moved(batch: Any, device: Any) -> Any:
    if isinstance(batch, (tuple, list)):
        return type(batch)(_moved(part, device) for part in batch)
    return batch.to(device) if hasattr(batch, "to") else batch


# ---- loaders -----------------------------------------------------------------------------------


def _loaded(text: str, param_hint: str) -> Iterable[Any]:
    """A function's batches, or an iterable itself. A generator function is called for each pass."""
    from torch import Tensor

    found = load_object(text, param_hint)
    batches = call(found, text) if callable(found) else found
    if isinstance(batches, Tensor):
        return [batches]
    if isinstance(batches, Iterator):
        if not callable(found):
            raise typer.BadParameter(
                f"{text} can be gone through only once; accepted is a list, a DataLoader, or a "
                "function that gives batches",
                param_hint=param_hint,
            )
        return _Again(found, text)
    if isinstance(batches, (str, bytes, Mapping)) or not isinstance(batches, Iterable):
        raise typer.BadParameter(
            f"{text} gives a {type(batches).__name__}; accepted are batches: a list, a DataLoader, a "
            "generator",
            param_hint=param_hint,
        )
    return batches


@dataclass(frozen=True)
class _Again:
    function: Any
    text: str

    def __iter__(self) -> Iterator[Any]:
        return iter(call(self.function, self.text))


# ---- files -------------------------------------------------------------------------------------


class Files:
    """Batches of one file, which is kept, or of a folder's files, read anew for each pass."""

    def __init__(self, path: Path, cut: Cut) -> None:
        if not path.exists():
            raise ValueError(
                f"there is no file or folder {path}; accepted are .npz, .npy, a folder of them, IDX "
                "images, and file.py:loader"
            )
        self.cut = cut
        self.paths = _parts(path)
        self.single = self.paths == [path] or _is_idx(self.paths[0])
        first = self._read(self.paths[0])  # what is wrong with it is said now
        self._kept = first if self.single else None

    def __iter__(self) -> Iterator[Any]:
        left = self.cut.samples
        for path in self.paths:
            x, y = self._kept or self._read(path)
            for batch, size in self._batches(path, x, y, left):
                yield batch
                left = None if left is None else left - size
            if left == 0:
                return

    def _batches(
        self, path: Path, x: Array, y: Array | None, most: int | None
    ) -> Iterator[tuple[Any, int]]:
        import torch

        axis = self._axis(path, x)
        count = x.shape[axis] if most is None else min(x.shape[axis], most)
        step = self.cut.batch_size or (SINGLE_FILE if self.single else count)
        for start in range(0, count, step):
            part = slice(start, min(start + step, count))
            inputs = torch.from_numpy(self._inputs(path, x[(slice(None),) * axis + (part,)]))
            if self.cut.time_steps is not None:
                inputs = inputs.expand(self.cut.time_steps, *inputs.shape)
            labels = () if y is None else (torch.from_numpy(y[part].astype(np.int64)),)
            yield ((inputs, *labels) if labels else inputs), part.stop - part.start

    def _axis(self, path: Path, x: Array) -> int:
        axis = self.cut.batch_axis
        if axis is None:
            axis = 0 if _is_idx(path) or self.cut.time_steps is not None else 1
        if axis >= x.ndim:
            raise ValueError(
                f"{path} holds an array of shape {list(x.shape)}, which has no axis {axis} of "
                "samples; --batch-axis says which it is (time first: 1), --time-steps that there is "
                "no time axis"
            )
        return axis

    def _inputs(self, path: Path, x: Array) -> Array:
        if _is_idx(path):
            x = np.divide(x[:, None], 255, dtype=np.float32)  # [N, 1, h, w]
        kind = x.dtype if self.cut.dtype == "keep" else np.dtype(self.cut.dtype)
        return np.array(x, kind.newbyteorder("="), order="C")  # a copy: a model may write into it

    def _read(self, path: Path) -> tuple[Array, Array | None]:
        """Inputs and, where there are any, labels; checked."""
        if _is_idx(path):
            x, y = read_idx(path, 3), _idx_labels(path)
        else:
            x, y = _arrays(path)
        if x.dtype.kind not in "buif":
            raise ValueError(f"{path} holds an array of {x.dtype}; accepted are numbers")
        count = x.shape[self._axis(path, x)]
        if count == 0:
            raise ValueError(f"{path} holds no samples: its array has shape {list(x.shape)}")
        if y is not None and (y.ndim != 1 or y.dtype.kind not in "ui" or len(y) != count):
            raise ValueError(
                f"{path} has labels {y.dtype} of shape {list(y.shape)} for {count} samples on axis "
                f"{self._axis(path, x)}; accepted are integers [{count}]"
            )
        return x, y


def _is_idx(path: Path) -> bool:
    return _IDX.fullmatch(path.name) is not None


def _parts(path: Path) -> list[Path]:
    """The files that hold batches."""
    if not path.is_dir():
        if path.suffix not in (".npz", ".npy") and not _is_idx(path):
            raise ValueError(
                f"{path} is no file of batches; accepted are .npz, .npy, IDX files called "
                "...images-idx3-ubyte[.gz], a folder of them, and file.py:loader"
            )
        return [path]
    found = sorted(p for p in path.iterdir() if p.suffix in (".npz", ".npy") or _is_idx(p))
    images = [p for p in found if _is_idx(p)]
    if not found:
        raise ValueError(f"{path} holds no .npz, no .npy and no IDX images (...images-idx3-ubyte)")
    if images and len(found) > 1:
        raise ValueError(
            f"{path} holds {', '.join(p.name for p in found[:4])}; name the one that is meant, such "
            f"as {images[-1]}"
        )
    return found


def _idx_labels(images: Path) -> Array | None:
    """The labels file that goes with an images file, if it lies beside it."""
    name = images.name.removesuffix(".gz").replace("images", "labels").replace("idx3", "idx1")
    try:
        return read_idx(find_idx(images.parent, name), 1)
    except FileNotFoundError:
        return None


def _arrays(path: Path) -> tuple[Array, Array | None]:
    """The inputs and labels of an .npz or .npy file."""
    try:
        if path.suffix == ".npy":
            return np.load(path, allow_pickle=False, mmap_mode="r"), None
        # NumPy leaves a broken archive open where it opened it itself.
        with path.open("rb") as file:
            loaded = np.load(file, allow_pickle=False)
            if not isinstance(loaded, np.lib.npyio.NpzFile):
                return loaded, None
            names = loaded.files
            inputs = [n for n in INPUTS if n in names] or [n for n in names if n not in LABELS]
            labels = [n for n in LABELS if n in names]
            if not inputs:
                raise ValueError(
                    f"it holds {', '.join(names) or 'nothing'}; accepted are inputs as the array x"
                )
            return loaded[inputs[0]], loaded[labels[0]] if labels else None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} cannot be used: {error}") from error
