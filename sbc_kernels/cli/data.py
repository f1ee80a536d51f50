"""Batches from files (.npz, .npy, a folder of them, IDX images), or from the user's loader."""

from __future__ import annotations

import re
import tokenize
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import typer

from ..arrays import NumpyArray
from ..demo.data import find_idx, read_idx
from .objects import call, load_object

if TYPE_CHECKING:
    import torch

SINGLE_FILE = 64  # samples per batch of a single file; a folder's files are one batch each
INPUTS = ("x", "inputs", "data")
LABELS = ("y", "labels", "targets")
# What NumPy and zipfile raise for files that are damaged.
_DAMAGE = (
    ArithmeticError,
    AttributeError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
    SyntaxError,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
)
_IDX = re.compile(r".*images[-.]idx3-ubyte(\.gz)?")


@dataclass(frozen=True)
class Cut:
    """How files are cut into batches, by the options of these names.

    `samples` is the largest number of samples to use; None uses all.
    """

    batch_size: int | None = None
    batch_axis: int | None = None
    time_steps: int | None = None
    dtype: str = "float32"
    samples: int | None = None

    @classmethod
    def of(cls, params: Mapping[str, Any], samples: int | None = None) -> Cut:
        """Returns the cut that a command's parameters describe."""
        names = ("batch_size", "batch_axis", "time_steps", "dtype")
        return cls(**{name: params[name] for name in names}, samples=samples)


_OPTIONS = {"samples": "num_calibration_samples"}


def load_data(text: str, cut: Cut, param_hint: str) -> Iterable[Any]:
    """Returns batches that can be iterated several times: inputs, or (inputs, labels).

    Parameters
    ----------
    text : a file, a folder, or ``file.py:name`` of a loader.
    cut : how files are cut into batches. A loader makes its own batches and accepts no cut.
    param_hint : the option that error messages name.

    Raises
    ------
    typer.BadParameter : there is no such data, or it cannot be used.
    """
    path = Path(text)
    if not path.exists() and ":" in text:
        if changes := [
            field.name for field in fields(Cut) if getattr(cut, field.name) != field.default
        ]:
            names = ", ".join("--" + _OPTIONS.get(n, n).replace("_", "-") for n in changes)
            raise typer.BadParameter(
                f"{text} makes its own batches; accepted with it is none of {names}",
                param_hint=param_hint,
            )
        return _from_loader(text, param_hint)
    try:
        return Files(path, cut)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise typer.BadParameter(str(error), param_hint=param_hint) from error


def on_device(batches: Iterable[Any], device: torch.device) -> Iterable[Any]:
    """Returns the batches with their tensors on a torch device."""
    from ..network.batches import reiterable  # needs torch

    return batches if device.type == "cpu" else _OnDevice(reiterable(batches), device)


class _OnDevice:
    """Batches that are copied to a device one at a time."""

    def __init__(self, batches: Iterable[Any], device: torch.device) -> None:
        self.batches, self.device = batches, device

    def __iter__(self) -> Iterator[Any]:
        from ..network.tensors import map_tensors  # needs torch

        for batch in self.batches:
            yield map_tensors(batch, lambda tensor: tensor.to(self.device))


# ---- loaders -----------------------------------------------------------------------------------


def _from_loader(text: str, param_hint: str) -> Iterable[Any]:
    """Returns the batches of a function or iterable.

    A generator function is called again for each iteration.
    """
    from torch import Tensor

    loader = load_object(text, param_hint)
    batches = call(loader, text) if callable(loader) else loader
    if isinstance(batches, Tensor):
        return [batches]
    if isinstance(batches, Iterator):
        if not callable(loader):
            raise typer.BadParameter(
                f"{text} can be iterated only once; accepted is a list, a DataLoader, or a function "
                "that returns batches",
                param_hint=param_hint,
            )
        return _Repeated(loader, text)
    if isinstance(batches, (str, bytes, Mapping)) or not isinstance(batches, Iterable):
        raise typer.BadParameter(
            f"{text} gives a {type(batches).__name__}; accepted is a list, a DataLoader or a generator "
            "of batches",
            param_hint=param_hint,
        )
    return batches


@dataclass(frozen=True)
class _Repeated:
    """A generator function that is called for each iteration."""

    function: Callable[[], Iterable[Any]]
    text: str

    def __iter__(self) -> Iterator[Any]:
        return iter(call(self.function, self.text))


# ---- files -------------------------------------------------------------------------------------


class Files:
    """Batches of one file, which stays in memory, or of a folder's files, read in each iteration."""

    def __init__(self, path: Path, cut: Cut) -> None:
        if not path.exists():
            raise ValueError(
                f"there is no file or folder {path}; accepted are .npz, .npy, a folder of them, IDX "
                "images, and file.py:loader"
            )
        self.cut = cut
        self.paths = _parts(path)
        self.single = self.paths == [path] or _is_idx(self.paths[0])
        first = self._read(self.paths[0])  # raises now if it cannot be used
        self._single_file = first if self.single else None

    def __iter__(self) -> Iterator[Any]:
        remaining = self.cut.samples
        for path in self.paths:
            x, y = self._single_file or self._read(path)
            for batch, size in self._batches(path, x, y, remaining):
                yield batch
                remaining = None if remaining is None else remaining - size
            if remaining == 0:
                return

    def _batches(
        self, path: Path, x: NumpyArray, y: NumpyArray | None, most: int | None
    ) -> Iterator[tuple[Any, int]]:
        """Yields the batches of a file with their sizes, at most `most` samples."""
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

    def _axis(self, path: Path, x: NumpyArray) -> int:
        """Returns the axis of samples. ValueError if the array does not have it."""
        axis = self.cut.batch_axis
        if axis is None:
            axis = 0 if _is_idx(path) or self.cut.time_steps is not None else 1
        if axis >= x.ndim:
            raise ValueError(
                f"{path} holds an array of shape {list(x.shape)}, which has no axis {axis} of "
                "samples; give it as --batch-axis (1 if time comes first), or --time-steps if there is "
                "no time axis"
            )
        return axis

    def _inputs(self, path: Path, x: NumpyArray) -> NumpyArray:
        """Returns inputs in the requested dtype; IDX images as [N, 1, h, w] in 0..1."""
        if _is_idx(path):
            x = np.divide(x[:, None], 255, dtype=np.float32)  # [N, 1, h, w]
        kind = x.dtype if self.cut.dtype == "keep" else np.dtype(self.cut.dtype)
        return np.array(x, kind.newbyteorder("="), order="C")  # a copy, as a model may write to it

    def _read(self, path: Path) -> tuple[NumpyArray, NumpyArray | None]:
        """Returns the inputs and, if there are any, the labels. ValueError if they do not match."""
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
    """Returns the files that hold batches. ValueError if there are none, or too many IDX images."""
    if not path.is_dir():
        if path.suffix not in (".npz", ".npy") and not _is_idx(path):
            raise ValueError(
                f"{path} is not a file of batches; accepted are .npz, .npy, IDX files called "
                "...images-idx3-ubyte[.gz], a folder of them, and file.py:loader"
            )
        return [path]
    files = sorted(p for p in path.iterdir() if p.suffix in (".npz", ".npy") or _is_idx(p))
    images = [p for p in files if _is_idx(p)]
    if not files:
        raise ValueError(f"{path} holds no .npz, no .npy and no IDX images (...images-idx3-ubyte)")
    if images and len(files) > 1:
        raise ValueError(
            f"{path} holds {', '.join(p.name for p in files[:4])}; name one of them, such "
            f"as {images[-1]}"
        )
    return files


def _idx_labels(images: Path) -> NumpyArray | None:
    """Returns the labels of an images file, from the file beside it; None if there is none."""
    name = images.name.removesuffix(".gz").replace("images", "labels").replace("idx3", "idx1")
    try:
        return read_idx(find_idx(images.parent, name), 1)
    except FileNotFoundError:
        return None


def _arrays(path: Path) -> tuple[NumpyArray, NumpyArray | None]:
    """Returns the inputs and labels of an .npz or .npy file. ValueError if it cannot be read."""
    try:
        if path.suffix == ".npy":
            return np.load(path, allow_pickle=False, mmap_mode="r"), None
        # NumPy does not close a broken archive that it opened itself.
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
    except (*_DAMAGE, OSError, EOFError, MemoryError) as error:  # a shape of the header, say
        raise ValueError(f"{path} cannot be used: {error}") from error
