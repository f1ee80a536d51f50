"""Quantize a snnTorch network to 2 bits. As in snnTorch's tutorials, the caller loops over time.

    python examples/snntorch_net.py [FOLDER]

The data is scikit-learn's digits, as currents. Training takes some seconds on one core.
"""

import sys
from pathlib import Path

import snntorch as snn
import torch
from sklearn.datasets import load_digits
from snntorch import utils
from torch import nn

import sbc_kernels as sbc

T = 8


def network() -> nn.Module:
    return nn.Sequential(
        nn.Linear(64, 100),
        snn.Leaky(beta=0.8, init_hidden=True),
        nn.Linear(100, 10),
        snn.Leaky(beta=0.8, init_hidden=True, output=True),
    )


def run(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """The loop over time: images [N, 64] in, spikes [T, N, 10] out.

    compress_model calls this function for every batch. It resets the neurons before the first step;
    in training, we have to do that ourselves.
    """
    return torch.stack([model(images)[0] for _ in range(T)])


def samples() -> tuple[tuple[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]:
    digits = load_digits()
    images, labels = (
        torch.tensor(digits.data, dtype=torch.float32) / 16,
        torch.tensor(digits.target),
    )
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    train, test = order[:1200], order[1200:]
    return (images[train], labels[train]), (images[test], labels[test])


def train(model: nn.Module, images: torch.Tensor, labels: torch.Tensor, epochs: int = 10) -> None:
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    for _ in range(epochs):
        for batch in torch.randperm(len(labels)).split(50):
            utils.reset(model)
            counts = run(model, images[batch]).sum(0)
            loss = nn.functional.cross_entropy(counts, labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


def main() -> None:
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else ".")
    torch.manual_seed(0)
    training_data, test_data = samples()
    model = network()
    train(model, *training_data)

    calibration = training_data[0][:300]  # images only
    result = sbc.compress_model(model, calibration, bits=2, forward=run)
    nearest = sbc.compress_model(model, calibration, bits=2, forward=run, method="rtn")
    print(result.plan, end="\n\n")

    def accuracy(net: nn.Module) -> float:
        return sbc.metrics.accuracy(net, [test_data], forward=run)

    print(f"accuracy: {accuracy(model):.2f} % before, {accuracy(result.model):.2f} % after")
    print(f"rounded to nearest: {accuracy(nearest.model):.2f} %")

    # A chip needs the codes of 2 bits, and a scale and a zero point for each neuron.
    codes, scale = result.tensors["0"]["codes"], result.tensors["0"]["scale"]
    print(f"codes: {list(codes.shape)}, {int(codes.min())} to {int(codes.max())}")
    print(f"scales: {list(scale.shape)}")

    size = result.save(folder / "digits-2-bit.safetensors")
    print(f"bytes: {sum(4 * p.numel() for p in model.parameters()):,} before, {size:,} after")


if __name__ == "__main__":
    main()
