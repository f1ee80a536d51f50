"""Images: scikit-learn's digits, or a folder of IDX files in Fashion-MNIST's layout."""

from __future__ import annotations

import gzip
import hashlib
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .events import Images

DIGITS_TRAIN = 1200  # of 1797; the other 597 are the test set
FASHION_TRAIN = 12_000  # of 60 000, which saves a few minutes of training

Labels = NDArray[np.int64]


@dataclass(frozen=True)
class Dataset:
    """Images, float32 [N, h, w] in 0..1, and labels, int64 [N]. Train and test share no sample."""

    name: str
    classes: tuple[str, ...]
    train_images: Images
    train_labels: Labels
    test_images: Images
    test_labels: Labels

    def fingerprint(self) -> str:
        """Returns a hash of the training split, which a checkpoint has to have been trained on."""
        digest = hashlib.sha256(self.train_images.tobytes())
        digest.update(self.train_labels.tobytes())
        return digest.hexdigest()


def digits() -> Dataset:
    """Returns scikit-learn's 1797 handwritten digits, enlarged from 8 x 8 to 16 x 16 pixels.

    1200 are for training and 597 for testing.
    """
    from sklearn.datasets import load_digits

    data = load_digits()
    images = upsample(upsample(data.images.astype(np.float32) / 16, 1), 2)
    labels = data.target.astype(np.int64)
    # RandomState's stream never changes, so every NumPy gives the split of the shipped checkpoint.
    order = np.random.RandomState(0).permutation(len(images))
    train, test = order[:DIGITS_TRAIN], order[DIGITS_TRAIN:]
    names = tuple(str(name) for name in data.target_names)
    return Dataset("digits", names, images[train], labels[train], images[test], labels[test])


def upsample(images: Images, axis: int) -> Images:
    """Returns images with twice as many pixels along an axis, interpolated linearly.

    Multiples of 1/16 stay exact.
    """
    count = images.shape[axis]
    before = images.take(np.maximum(np.arange(count) - 1, 0), axis)
    after = images.take(np.minimum(np.arange(count) + 1, count - 1), axis)
    pairs = np.stack([0.75 * images + 0.25 * before, 0.75 * images + 0.25 * after], axis + 1)
    shape = [*images.shape]
    shape[axis] *= 2
    return pairs.reshape(shape).astype(np.float32)


def fashion_mnist(folder: str | Path) -> Dataset:
    """Returns Fashion-MNIST or MNIST from its four IDX files, plain or gzipped.

    The first 12 000 training images are used, and all test images.

    Raises
    ------
    FileNotFoundError : a file is missing; the message lists what the folder holds.
    ValueError : a file is not IDX, is truncated, or does not match the others.
    """
    folder = Path(folder)
    train, test = (
        (read_idx(find_idx(folder, f"{part}-images-idx3-ubyte"), 3),
         read_idx(find_idx(folder, f"{part}-labels-idx1-ubyte"), 1))
        for part in ("train", "t10k")
    )  # fmt: skip
    for images, labels in (train, test):
        if len(images) != len(labels) or len(images) == 0:
            raise ValueError(f"{folder} has {len(images)} images for {len(labels)} labels")
    if train[0].shape[1:] != test[0].shape[1:]:
        raise ValueError(f"{folder} trains on {train[0].shape[1:]}, tests on {test[0].shape[1:]}")
    num_classes = int(max(train[1].max(), test[1].max())) + 1
    images, labels = train[0][:FASHION_TRAIN], train[1][:FASHION_TRAIN]
    test_images, test_labels = test
    return Dataset(
        "fashion-mnist",
        tuple(str(number) for number in range(num_classes)),
        np.divide(images, 255, dtype=np.float32),
        labels.astype(np.int64),
        np.divide(test_images, 255, dtype=np.float32),
        test_labels.astype(np.int64),
    )


def find_idx(folder: Path, name: str) -> Path:
    """Returns the path ``folder/name`` or ``folder/name.gz``. FileNotFoundError if neither exists."""
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is not a folder; accepted is one that holds {name}[.gz]")
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_file():
            return path
    files = sorted(path.name for path in folder.iterdir())
    listed = ", ".join(files[:8]) + (", ..." if len(files) > 8 else "") or "nothing"
    raise FileNotFoundError(f"{folder} has no {name} or {name}.gz; it holds {listed}")


def read_idx(path: Path, ndim: int) -> NDArray[np.uint8]:
    """Returns the array of an IDX file of bytes with `ndim` axes, plain or gzipped.

    Raises ValueError if the file is not one, or is truncated.
    """
    try:
        data = path.read_bytes()
        if path.suffix == ".gz":
            data = gzip.decompress(data)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{path} is not a whole gzip file: {error}") from error
    start = 4 + 4 * ndim
    magic = (0, 8, ndim)  # two zero bytes, type 8 (uint8), number of axes
    if len(data) < start or struct.unpack(">HBB", data[:4]) != magic:
        raise ValueError(
            f"{path} begins with {data[:4].hex() or 'nothing'}; accepted is an IDX file of bytes "
            f"with {ndim} axes, which begins with {struct.pack('>HBB', *magic).hex()}"
        )
    shape = struct.unpack(f">{ndim}I", data[4:start])
    count = int(np.prod(shape, dtype=np.int64))
    if len(data) - start != count:
        raise ValueError(
            f"{path} says {list(shape)} and holds {len(data) - start} bytes, not {count}"
        )
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape)
