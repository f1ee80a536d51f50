"""Measures the peak memory of the Gram matrix of a 3 x 3 convolution, beyond its input, in MiB.

    python peak_memory.py ours|rival CHANNELS

This is a script of its own because it measures the memory that the operating system gave to the
process.
"""

from __future__ import annotations

import sys
from pathlib import Path

import rivals
import torch

import sbc_kernels as sbc


def status(name: str) -> float:
    """The value of a line of /proc/self/status, in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) / 1024


def main() -> None:
    contender, channels = sys.argv[1], int(sys.argv[2])
    conv, neuron = sbc.Conv((3, 3), padding=1), sbc.LIF(2.0)
    few, many = (torch.rand(4, n, channels, 28, 28) < 0.15 for n in (1, 64))
    run = {
        "ours": lambda x: sbc.spike_gram(x, neuron, conv=conv),
        "rival": lambda x: rivals.conv_gram(x, torch.from_numpy(neuron.impulse_response(4)), 3, 1),
    }[contender]
    run(few)  # loads libraries and starts threads
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = status("VmRSS")
    run(many)
    print(status("VmHWM") - before)


if __name__ == "__main__":
    main()
