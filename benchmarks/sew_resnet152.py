"""Prunes every layer of SEW-ResNet152 at 224x224 to 97 % by the exact order: time and memory.

    python benchmarks/sew_resnet152.py --checkpoint-dir DIR --json FILE [--table FILE]

The calibration data is 8 crops of the two photographs that come with scikit-learn, T = 4. The
network's weights are random, and its BatchNorms are set such that every neuron fires. A run that
was killed resumes when it is started again.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_sample_images
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from zoo import build_sew_resnet152

import sbc_kernels as sbc


def crops(count: int, size: int, steps: int) -> list[Tensor]:
    """Batches of two crops [T, 2, 3, size, size], in 0..1, the same at each step."""
    draw = np.random.default_rng(0)
    images = load_sample_images().images
    pieces = []
    for index in range(count):
        image = images[index % len(images)]
        top, left = (draw.integers(0, extent - size + 1) for extent in image.shape[:2])
        pieces.append(image[top : top + size, left : left + size].astype(np.float32) / 255)
    stack = torch.from_numpy(np.stack(pieces)).permute(0, 3, 1, 2).contiguous()
    return [pair.expand(steps, *pair.shape) for pair in stack.split(2)]


def layer_table(plan: sbc.Plan, records: list[dict[str, Any]]) -> str:
    """A Markdown table with a line per layer; memory is the plan's prediction."""
    lines = [
        "| layer | weight | d_in | sparsity | error | dead | sums, MiB | working, MiB | seconds |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for record in records:
        layer = plan[record["name"]]
        lines.append(
            f"| {layer.name} | {'x'.join(map(str, layer.shape))} | {layer.in_features} "
            f"| {100 * record['sparsity']:.2f} % | {100 * record['relative_error']:.1f} % "
            f"| {record['dead_inputs']} | {layer.hessian_bytes() / 2**20:.1f} "
            f"| {layer.work_bytes() / 2**20:.1f} | {record['seconds']:.1f} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint-dir", type=Path)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--table", type=Path, help="where to write the table, as Markdown")
    parser.add_argument(
        "--table-only", action="store_true", help="make it from the --json of a run"
    )
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--sparsity", type=float, default=0.97)
    parser.add_argument("--max-memory", type=float, default=12.0, help="GiB")
    options = parser.parse_args()
    model = build_sew_resnet152(4)
    calibration = crops(options.images, options.size, 4)
    if options.table_only:
        records = json.loads(options.json.read_text())["layers"]
        options.table.write_text(layer_table(sbc.trace(model, calibration[0]), records))
        return
    result = sbc.compress_model(
        model,
        calibration,
        sparsity=options.sparsity,
        allocation="uniform",
        calibration_mode="parallel",
        max_memory=int(options.max_memory * 2**30),
        checkpoint_dir=options.checkpoint_dir,
    )
    options.json.write_text(result.to_json())
    if options.table is not None:
        options.table.write_text(layer_table(result.plan, [asdict(r) for r in result.layers]))
    print(
        json.dumps(
            {
                "seconds": round(result.seconds, 1),
                "resumed": result.resumed,
                "layers": len(result.layers),
                "sparsity": result.sparsity,
                "peak_GiB": round((result.peak_bytes or 0) / 2**30, 2),
                "predicted_GiB": round(
                    (result.predicted_bytes + (result.start_bytes or 0)) / 2**30, 2
                ),
            }
        )
    )


if __name__ == "__main__":
    main()
