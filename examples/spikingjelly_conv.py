"""Train a convolutional SpikingJelly network, prune it to a tenth, save it, and write a report.

    python examples/spikingjelly_conv.py [FOLDER]

The data is scikit-learn's digits, 8 x 8 pixels. Training takes some seconds on one core. The network is
ordinary SpikingJelly code that does not depend on sbc_kernels.
"""

import sys
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from spikingjelly.activation_based import functional, layer, neuron, surrogate
from torch import nn

import sbc_kernels as sbc

T = 4


def network() -> nn.Module:
    def lif() -> nn.Module:
        return neuron.LIFNode(tau=2.0, surrogate_function=surrogate.ATan(), detach_reset=True)

    model = nn.Sequential(
        layer.Conv2d(1, 16, 3, padding=1, bias=False),
        layer.BatchNorm2d(16),
        lif(),
        layer.Conv2d(16, 32, 3, padding=1, bias=False),
        layer.BatchNorm2d(32),
        lif(),
        layer.MaxPool2d(2),
        layer.Flatten(),
        layer.Linear(32 * 4 * 4, 10),
    )
    functional.set_step_mode(model, "m")
    return model


def samples() -> tuple[tuple[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]:
    """Training and test data: images as currents [T, N, 1, 8, 8], the same at each step; labels."""
    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16
    images, labels = images.expand(T, -1, -1, -1, -1), torch.tensor(digits.target)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    train, test = order[:1200], order[1200:]
    return (images[:, train], labels[train]), (images[:, test], labels[test])


def train(model: nn.Module, images: torch.Tensor, labels: torch.Tensor, epochs: int = 6) -> None:
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    for _ in range(epochs):
        for batch in torch.randperm(len(labels)).split(50):
            loss = nn.functional.cross_entropy(model(images[:, batch]).mean(0), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            functional.reset_net(model)
    model.eval()


def main() -> None:
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else ".")
    torch.manual_seed(0)
    training_data, test_data = samples()
    model = network()
    train(model, *training_data)

    # Compression depends on this plan: which neurons integrate which layer's output.
    calibration = list(training_data[0][:, :300].split(100, dim=1))
    print(sbc.trace(model, calibration[0]), end="\n\n")

    result = sbc.compress_model(model, calibration, sparsity=0.9)
    print(result.table(), end="\n\n")

    # Run both networks on the test images.
    comparison = sbc.metrics.compare(model, result, [test_data])
    dense, small = comparison.dense, comparison.compressed
    before, after = dense.operations, small.operations
    print(f"accuracy: {dense.accuracy:.2f} % before, {small.accuracy:.2f} % after")
    print(f"accumulates: {before.effective_acs:,.0f} before, {after.effective_acs:,.0f} after")
    print(
        f"multiply-accumulates: {before.effective_macs:,.0f} before, {after.effective_macs:,.0f} after"
    )

    size = result.save(folder / "digits-conv.safetensors", comparison=comparison)
    result.to_html(folder / "digits-conv.html", comparison=comparison)
    print(f"bytes: {sum(4 * p.numel() for p in model.parameters()):,} before, {size:,} after")

    # The code of the network and this file are enough to restore the compressed network.
    loaded = sbc.load_compressed(network(), folder / "digits-conv.safetensors")
    accuracy = sbc.metrics.accuracy(loaded, [test_data])
    print(f"loaded: {accuracy:.2f} %")


if __name__ == "__main__":
    main()
