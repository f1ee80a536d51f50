"""Compresses the conv network on Fashion-MNIST in several ways: mean accuracy over calibration draws.

    python benchmarks/conv_network/table.py --data-dir DIR [--draws 5] [--json FILE]

Each draw is 300 training images without labels. Accuracy is in percent, on all 10,000 test images.
Two processes may share the work: --only-draws 0 2 runs these draws only, and --json FILE keeps the
results.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from network import LIF, accuracy, load, read_images
from torch import Tensor

import sbc_kernels as sbc

NUM_SAMPLES = 300
OFF: dict[str, Any] = {"bn_reestimate": False, "bias_correction": False}
PARALLEL: dict[str, Any] = {"calibration_mode": "parallel", **OFF}

ROWS: dict[str, dict[str, Any]] = {
    "magnitude": {"method": "magnitude"},
    "ExactOBS (current), parallel": {"hessian": "current", **PARALLEL},
    "SBC, parallel": PARALLEL,
    "SBC, parallel, BN follows": {**PARALLEL, "bn_reestimate": True},
    "SBC, sequential, corrected": OFF,
    "SBC, sequential, corrected, BN follows": {"bias_correction": False},
    "the same, bias takes part": {},
    "the same, measured allocation": {"allocation": "measured"},
    "the same, uniform allocation": {"allocation": "uniform"},
}
# The allocations are compared at one sparsity only, as the measured one takes minutes.
ONLY_AT = {"the same, measured allocation": 0.95, "the same, uniform allocation": 0.95}


def draw(images: Tensor, seed: int) -> list[Tensor]:
    """NUM_SAMPLES random images, in batches of 100."""
    chosen = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    return list(images[chosen[:NUM_SAMPLES]].split(100))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--only-draws", type=int, nargs="+")
    parser.add_argument("--sparsities", type=float, nargs="+", default=[0.90, 0.95, 0.97])
    parser.add_argument(
        "--json", type=Path, help="keeps the results; those it has are not computed again"
    )
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    sbc.register_neuron(LIF, lambda m: sbc.LIF(m.tau), threshold=lambda m: m.threshold)
    images, _ = read_images(options.data_dir, "train")
    test, labels = read_images(options.data_dir, "t10k")
    model = load()
    results: dict[str, list[float]] = {}
    if options.json is not None and options.json.exists():
        results = json.loads(options.json.read_text())
    print(f"dense: {accuracy(model, test, labels, batch=100):.2f} %")
    for seed in options.only_draws or range(options.draws):
        calibration = draw(images, seed)
        for sparsity in options.sparsities:
            for name, row in ROWS.items():
                key = f"{name}|{sparsity}|{seed}"
                if key in results or ONLY_AT.get(name, sparsity) != sparsity:
                    continue
                start = time.perf_counter()
                arguments = {"allocation": "lamp", **row}
                result = sbc.compress_model(model, calibration, sparsity=sparsity, **arguments)
                seconds = time.perf_counter() - start
                results[key] = [accuracy(result.model, test, labels, batch=100), seconds]
                print(f"{key}: {results[key][0]:.2f} %, {seconds:.1f} s", flush=True)
                if options.json is not None:
                    options.json.write_text(json.dumps(results, indent=1))
    print(
        f"\n| {' | '.join(['method', *(f'{100 * s:g} %' for s in options.sparsities), 'seconds'])} |"
    )
    print("|---" * (len(options.sparsities) + 2) + "|")
    for name in ROWS:
        cells, times = [], []
        for sparsity in options.sparsities:
            runs = [v for k, v in results.items() if k.startswith(f"{name}|{sparsity}|")]
            values = [accuracy for accuracy, _ in runs]
            times += [seconds for _, seconds in runs]
            cells.append(f"{np.mean(values):.2f} ± {np.std(values):.2f}" if values else "")
        print(f"| {' | '.join([name, *cells, f'{np.median(times):.1f}' if times else ''])} |")


if __name__ == "__main__":
    main()
