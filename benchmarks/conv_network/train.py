"""Trains the network of network.py on the 60 000 training images and writes its checkpoint.

    python benchmarks/conv_network/train.py --data-dir DIR --out checkpoint.safetensors

DIR holds the four IDX files of Fashion-MNIST, gzipped or not. The loss has no term that favours
sparsity.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
from network import CHECKPOINT, ConvNetwork, accuracy, read_images
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import cross_entropy, pad

SHIFT = 2  # largest shift of an image in pixels, in either direction along both axes


def augmented(images: Tensor, generator: torch.Generator) -> Tensor:
    """Images [N, 1, h, w], each shifted by up to SHIFT pixels, and half of them mirrored."""
    n, _, height, width = images.shape
    down, right = torch.randint(2 * SHIFT + 1, (2, n, 1), generator=generator)
    columns = right + torch.arange(width)
    mirror = torch.rand(n, 1, generator=generator) < 0.5
    columns = torch.where(mirror, columns.flip(1), columns)
    rows = down + torch.arange(height)
    wide = pad(images[:, 0], (SHIFT,) * 4)
    shifted = wide[torch.arange(n)[:, None, None], rows[:, :, None], columns[:, None, :]]
    return shifted[:, None]


def train(
    data_dir: Path, epochs: int, batch_size: int, learning_rate: float, seed: int
) -> tuple[ConvNetwork, float]:
    """The network of the last epoch, and its test accuracy in percent."""
    images, labels = read_images(data_dir, "train")
    test_images, test_labels = read_images(data_dir, "t10k")
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    # Channels last and bfloat16 convolutions: 120 s an epoch on one thread instead of 200.
    model = ConvNetwork().to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(model.parameters())
    steps = -(-len(labels) // batch_size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, learning_rate, epochs=epochs, steps_per_epoch=steps
    )
    right = 0.0
    for epoch in range(epochs):
        start = time.perf_counter()
        total = 0.0
        for batch in torch.randperm(len(labels), generator=generator).split(batch_size):
            seen = augmented(images[batch], generator)
            with torch.autocast("cpu", torch.bfloat16):
                logits = model(seen)
            loss = cross_entropy(logits.float(), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item() * len(batch)
        seconds = time.perf_counter() - start
        right = accuracy(model, test_images, test_labels)
        print(
            f"epoch {epoch + 1:2}/{epochs}  loss {total / len(labels):.4f}  "
            f"test accuracy {right:.2f} %  {seconds:.0f} s",
            flush=True,
        )
    return model, right


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=CHECKPOINT)
    parser.add_argument("--epochs", type=int, default=14)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--learning-rate", type=float, default=3e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    start = time.perf_counter()
    model, right = train(
        options.data_dir, options.epochs, options.batch_size, options.learning_rate, options.seed
    )
    about = {
        "data": "fashion-mnist",
        "accuracy": f"{right:.2f}",
        "epochs": str(options.epochs),
        "batch_size": str(options.batch_size),
        "learning_rate": str(options.learning_rate),
        "seed": str(options.seed),
        "torch": torch.__version__,
    }
    weights = {name: value.contiguous() for name, value in model.state_dict().items()}
    save_file(weights, options.out, metadata=about)
    print(f"{options.out}: {right:.2f} %, {time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
