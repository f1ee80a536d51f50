"""Reports to show, and the page that is made of them."""

from __future__ import annotations

from typing import Any

import numpy as np

HOSTILE = (
    "<script>window.hacked=1</script>\"'><img src=x onerror=window.hacked=1>&lt;$x_1$ \x00\u202e"
)


PLOTS = ("sparsity", "synops", "bytes", "rates", "curves", "seconds", "damping")


def made_up(
    names: list[str], *, compared: bool = True, bits: int | None = None, seed: int = 0
) -> dict[str, Any]:
    """A report of invented figures, as large as it is asked to be."""
    draw = np.random.default_rng(seed)
    layers, sizes = [], {}
    operations: dict[str, dict[str, dict[str, float]]] = {"dense": {}, "compressed": {}}
    for index, name in enumerate(names):
        d_out, d_in = int(draw.integers(16, 512)), 9 * int(draw.integers(3, 256))
        sparsity = float(draw.uniform(0.7, 0.98))
        steep = float(draw.uniform(4, 12))
        curve = [[float(x), float(x**steep)] for x in np.linspace(0, 1, 26)]
        silent = int(d_in * max(0.0, draw.normal(0.02, 0.1))) if index else int(0.7 * d_in)
        layers.append(
            {
                "name": name,
                "kind": "Conv2d",
                "shape": [d_out, d_in // 9, 3, 3],
                "sparsity": sparsity,
                "bits": bits,
                "loss": float(draw.uniform(0, 9)),
                "relative_error": sparsity**steep * (1.0 if bits is None else 1.05),
                "damp_percent": 0.1 if index % 7 == 3 else 0.01,
                "retries": int(index % 7 == 3),
                "dead_inputs": silent,
                "inputs": d_in,
                "gram_path": "exact integers, 16-bit lanes: 3 batch(es)",
                "seconds": 1e-9 * d_in**2 * d_out,
                "notes": ["no bias takes part: it has none of its own"] if index % 5 == 1 else [],
                "log": [f"pruned {100 * sparsity:.4g} % by exact OBS"],
                "curve": curve,
            }
        )
        sizes[name] = [int(d_out * d_in * (1 - sparsity) * 5), 4 * d_out * d_in]
        met = float(d_out * d_in * draw.uniform(2, 30))
        for side, share in (
            ("dense", 1.0),
            ("compressed", (1 - sparsity) * draw.uniform(0.8, 1.1)),
        ):
            operations[side][name] = {
                "macs": met * share if index == 0 else 0.0,
                "acs": met * share if index else 0.0,
                "weighted_acs": met * share,
                "dense": 9 * met,
            }
    rates = {f"{name}.lif": float(draw.uniform(0.02, 0.3)) for name in names}
    after = {name: rate * float(draw.uniform(0.7, 1.2)) for name, rate in rates.items()}
    comparison = {
        "samples": 2000,
        "agreement": 96.35,
        "dense": {
            "accuracy": 91.08,
            "operations": {"samples": 2000, "layers": operations["dense"]},
            "spike_rates": rates,
        },
        "compressed": {
            "accuracy": 89.42,
            "operations": {"samples": 2000, "layers": operations["compressed"]},
            "spike_rates": after,
        },
        "van_rossum": {name: float(draw.uniform(0.1, 2)) for name in rates},
    }
    return {
        "versions": {"sbc_kernels": "0.1.0", "torch": "2.13.0", "python": "3.11.7"},
        "created": "2026-11-26T09:41:12+00:00",
        "model": "MadeUpNetwork",
        "options": {"sparsity": 0.95, "bits": bits, "overrides": {"layer3.*": {"bits": 8}}},
        "allocation": {layer["name"]: layer["sparsity"] for layer in layers},
        "sparsity": 0.95,
        "seconds": 83.2,
        "resumed": 0,
        "peak_bytes": 612_000_000,
        "predicted_bytes": 500_000_000,
        "start_bytes": None,
        "layers": layers,
        "log": ["bn1 is not folded into conv1: it is in training mode"],
        "footprint": {
            "bytes": sum(s for s, _ in sizes.values()) + 900,
            "dense_bytes": sum(d for _, d in sizes.values()),
            "layers": sizes,
        },
        "comparison": comparison if compared else None,
    }


VGG = [*(f"features.conv{i}" for i in range(1, 9)), *(f"classifier.fc{i}" for i in (1, 2, 10))]


DEEP = [
    "conv1",
    *(
        f"layer{stage}.{block}.conv{i}"
        for stage, blocks in ((1, 3), (2, 8), (3, 36), (4, 4))
        for block in range(blocks)
        for i in (1, 2, 3)
    ),
    "layer4.0.downsample.0",
    "fc",
]


assert len(DEEP) == 156
