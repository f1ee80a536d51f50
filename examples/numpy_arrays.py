"""Compress NumPy arrays with compress_layer, layer by layer, without torch or any framework.

    python examples/numpy_arrays.py [FOLDER]

This uses the trained network of `sbc demo` (800 - 128 - 10, LIF neurons, T = 10) as two arrays, and a
neuron of five lines to run it.
"""

import sys
from importlib.resources import files
from pathlib import Path

import numpy as np

import sbc_kernels as sbc
from sbc_kernels.demo.data import digits
from sbc_kernels.demo.events import saccade_events
from sbc_kernels.files import load_packed, packed_tensor, save_packed

Arrays = dict[str, np.ndarray]


def fire(current: np.ndarray, tau: float = 2.0) -> np.ndarray:
    """Leaky integrate and fire: currents [T, N, d] in, spikes bool [T, N, d] out."""
    v, spikes = np.zeros_like(current[0]), np.zeros(current.shape, bool)
    for t, x in enumerate(current):
        v += (x - v) / tau
        spikes[t] = v >= 1.0
        v[spikes[t]] = 0.0
    return spikes


def accuracy(weights: Arrays, events: np.ndarray, labels: np.ndarray) -> float:
    hidden = fire(events @ weights["fc1"].T)
    counts = fire(hidden @ weights["fc2"].T).sum(axis=0)
    return 100 * float((counts.argmax(axis=1) == labels).mean())


def main() -> None:
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else ".")
    data = digits()
    dense = load_packed(str(files("sbc_kernels.demo") / "digits.safetensors"))
    calibration = saccade_events(data.train_images[:300]).reshape(10, 300, -1)
    test = saccade_events(data.test_images).reshape(10, -1, 800)

    # The input of the first layer is the data, that of the second is the output of the *compressed*
    # first layer. Both feed a LIF neuron.
    neuron = sbc.LIF(tau=2.0)
    fc1 = sbc.compress_layer(dense["fc1"], calibration, neuron, sparsity=0.9, bits=4)
    hidden = fire(calibration @ fc1.weight.T)
    fc2 = sbc.compress_layer(dense["fc2"], hidden, neuron, sparsity=0.5, bits=4)
    print(*fc1.log, "", sep="\n")

    # The file holds an encoded mask, 4 bits per remaining weight, and scales.
    packed = {"fc1": packed_tensor(fc1), "fc2": packed_tensor(fc2)}
    size = save_packed(folder / "digits.safetensors", packed)
    small = load_packed(folder / "digits.safetensors")

    before, after = (accuracy(w, test, data.test_labels) for w in (dense, small))
    print(f"accuracy: {before:.2f} % before, {after:.2f} % after")
    print(f"bytes: {sum(w.nbytes for w in dense.values()):,} before, {size:,} after")


if __name__ == "__main__":
    main()
