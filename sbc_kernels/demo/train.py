"""Training with surrogate gradients, and the checkpoint that ships with the package."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, cross_entropy, grid_sample

from ..files import read_packed, save_packed
from .data import Dataset
from .events import MARGIN, saccade_events
from .network import Network, as_input

SHIPPED = Path(__file__).with_name("digits.safetensors")
SEED = 0


@dataclass(frozen=True)
class Recipe:
    """Adam with a one-cycle learning rate on cross entropy + l1_fc1 |fc1| + l1_fc2 |fc2|.

    In every epoch each image is rotated, scaled, sheared and shifted by up to `jitter` before the
    camera sees it. The L1 terms let a class depend on few hidden neurons and those on few pixels, as a
    network that keeps one weight in a hundred has to.
    """

    epochs: int
    d_hidden: int = 128
    batch_size: int = 64
    learning_rate: float = 4e-3
    l1_fc1: float = 3e-5
    l1_fc2: float = 1.5e-2
    jitter: float = 0.1
    num_steps: int = 10
    seed: int = SEED


RECIPES = {"digits": Recipe(epochs=240), "fashion-mnist": Recipe(epochs=10)}


def jittered(images: Tensor, amount: float, generator: torch.Generator) -> Tensor:
    """Returns images [N, h, w] under random affine maps whose entries are at most `amount`."""
    turn, scale, shear, right, down = amount * (
        2 * torch.rand(5, len(images), generator=generator) - 1
    )
    rows = (
        torch.stack([turn.cos() / (1 + scale), shear - turn.sin() / (1 + scale), right], dim=1),
        torch.stack([turn.sin() / (1 + scale), turn.cos() / (1 + scale), down], dim=1),
    )
    stack = images[:, None]
    grid = affine_grid(torch.stack(rows, dim=1), list(stack.shape), align_corners=False)
    return grid_sample(stack, grid, align_corners=False)[:, 0]


@contextmanager
def one_thread() -> Iterator[None]:
    """Inside the context, torch uses one thread.

    The products are small, 64 x 800 x 128: two threads take longer and sum in another order.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@one_thread()
def train(dataset: Dataset, recipe: Recipe, on_epoch: Callable[[], None]) -> Network:
    """Trains a network; `on_epoch` is called after each epoch.

    All random numbers come from the recipe's seed, so the same processor and torch version give the
    same network.
    """
    generator = torch.Generator().manual_seed(recipe.seed)
    images, labels = torch.from_numpy(dataset.train_images), torch.from_numpy(dataset.train_labels)
    height, width = (extent + MARGIN for extent in images.shape[1:])
    d_in, d_hidden = 2 * height * width, recipe.d_hidden
    fc1 = 0.58 * d_in**-0.5 * torch.randn(d_hidden, d_in, generator=generator)
    fc2 = 0.58 * d_hidden**-0.5 * torch.randn(len(dataset.classes), d_hidden, generator=generator)
    network = Network(fc1.requires_grad_(), fc2.requires_grad_())
    optimizer = torch.optim.Adam([fc1, fc2])
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer,
        recipe.learning_rate,
        epochs=recipe.epochs,
        steps_per_epoch=-(-len(labels) // recipe.batch_size),
    )
    for _ in range(recipe.epochs):
        views = jittered(images, recipe.jitter, generator).numpy()
        events = saccade_events(views, recipe.num_steps)
        for batch in torch.randperm(len(labels), generator=generator).split(recipe.batch_size):
            scores = network.run(as_input(events[:, batch.numpy()])).scores
            loss = cross_entropy(scores, labels[batch])
            loss = loss + recipe.l1_fc1 * fc1.abs().sum() + recipe.l1_fc2 * fc2.abs().sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        on_epoch()
    return Network(fc1.detach(), fc2.detach())


def save_checkpoint(path: Path, network: Network, dataset: Dataset, recipe: Recipe) -> None:
    """Writes weights, data set and recipe to a file that any safetensors library reads."""
    weights = {name: getattr(network, name).numpy() for name in ("fc1", "fc2")}
    metadata = {"data": dataset.name, "split": dataset.fingerprint(), "recipe": asdict(recipe)}
    save_packed(path, weights, metadata)


def load_checkpoint(path: Path, dataset: Dataset) -> Network:
    """Returns the network of a file that `save_checkpoint` wrote.

    Raises
    ------
    ValueError : the file is damaged, or its network was trained on another split of the data and may
        have seen the test samples.
    """
    weights, metadata = read_packed(path)
    if metadata.get("split") != dataset.fingerprint():
        raise ValueError(
            f"{path.name} was trained on another split than this version of scikit-learn gives, so it "
            "may have seen the test samples; train again with --train"
        )
    return Network(*(torch.from_numpy(weights[name]) for name in ("fc1", "fc2")))
