"""Calibration data: batches a forward changes, dictionaries, and data that is not what it was."""

from __future__ import annotations

import random
import threading
import warnings
from collections import UserDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

import sbc_kernels as sbc
from sbc_kernels.network.inputs import own_tensors

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from spikingjelly.activation_based import functional, layer, neuron

pytestmark = pytest.mark.filterwarnings("ignore:no input spiked in calibration:RuntimeWarning")


def network(d_in: int = 24) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(d_in, 16), neuron.LIFNode(step_mode="m", v_threshold=0.3), nn.Linear(16, 5)
    )


def data(seed: int = 1, samples: int = 20) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(6, samples, 24, generator=generator) < 0.3).float()


# ---- batches that a forward changes ------------------------------------------------------------


def halved(model: Any, x: Tensor) -> Any:
    return model(x.mul_(0.5).add_(1.0))


def lengthened(model: Any, x: Tensor) -> Any:
    return model(x.unsqueeze_(0).repeat(4, 1, 1))


def through_numpy(model: Any, x: Tensor) -> Any:
    x.numpy()[:, ::2] += 1.0
    return model(x)


@pytest.mark.parametrize("forward", [halved, lengthened, through_numpy])
@pytest.mark.parametrize("mode", ["parallel", "sequential"])
def test_batches_changed_in_place(forward: Any, mode: str) -> None:
    batches = [data(1)[0], data(2)[0]] if forward is lengthened else [data(1), data(2)]
    before = [batch.clone() for batch in batches]

    def on_copies(model: Any, x: Tensor) -> Any:
        return forward(model, x.clone())

    results = [
        sbc.compress_model(network(), batches, sparsity=0.5, forward=f, calibration_mode=mode)
        for f in (forward, on_copies)
    ]
    assert torch.equal(results[0].model[0].weight, results[1].model[0].weight)
    for batch, then in zip(batches, before, strict=True):
        assert torch.equal(batch, then)


def test_tensors_of_a_models_own() -> None:
    image = torch.rand(3, 4)
    expanded = image.expand(8, 3, 4)
    value = {"a": [expanded, (image,)], "b": np.arange(3), "c": "text"}
    owned = own_tensors(value)
    assert torch.equal(owned["a"][0], expanded)
    assert owned["a"][0].stride() == expanded.stride()  # it takes no more memory
    owned["a"][1][0].zero_()
    owned["b"][:] = 7
    assert float(image.sum()) > 0
    assert value["b"].tolist() == [0, 1, 2]  # type: ignore[attr-defined]
    assert owned["c"] == "text"


# ---- dictionaries ------------------------------------------------------------------------------


class Text(nn.Module):
    """Called as models of Hugging Face are."""

    def __init__(self) -> None:
        super().__init__()
        self.net = network()

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None, labels: Any = None):  # type: ignore[no-untyped-def]
        assert labels is None
        x = input_ids if attention_mask is None else input_ids * attention_mask
        return {"logits": self.net(x)}


class OneDictionary(Text):
    def forward(self, batch: Any) -> Any:  # type: ignore[override]
        return self.net(batch["input_ids"] * batch["attention_mask"])


@pytest.mark.parametrize("kind", [dict, UserDict])
@pytest.mark.parametrize("model", [Text, OneDictionary])
def test_dictionaries_are_handed_on_as_the_forward_takes_them(model: Any, kind: Any) -> None:
    batches = [
        kind(input_ids=data(i), attention_mask=torch.ones(24), labels=torch.zeros(20, dtype=int))
        for i in (1, 2)
    ]
    result = sbc.compress_model(model(), batches, sparsity=0.5)
    expected = sbc.compress_model(network(), [data(1), data(2)], sparsity=0.5)
    assert torch.equal(result.model.net[0].weight, expected.model[0].weight)


def test_comparisons_take_dictionaries_with_labels() -> None:
    batches = [
        {"input_ids": data(i).transpose(0, 1), "labels": torch.arange(20) % 5} for i in (1, 2)
    ]

    def over_time(model: Any, batch: Any) -> Any:
        return model(batch["input_ids"].transpose(0, 1))["logits"].mean(0)

    net = Text()
    measured = sbc.metrics.accuracy(net, batches, forward=over_time)
    pairs = [(batch["input_ids"], batch["labels"]) for batch in batches]
    expected = sbc.metrics.accuracy(
        net.net, pairs, forward=lambda model, x: model(x.transpose(0, 1)).mean(0)
    )
    assert measured == expected


def test_a_forward_of_any_keywords() -> None:
    class Any(Text):
        def forward(self, **batch: Tensor) -> Tensor:  # type: ignore[override]
            return self.net(batch["input_ids"])

    assert len(sbc.trace(Any(), {"input_ids": data()}).compressed) == 2


def test_a_key_that_the_forward_does_not_take_is_named() -> None:
    batch = {"input_ids": data(), "token_type_ids": data()}
    with pytest.raises(ValueError, match=r"the key 'token_type_ids'; accepted are .*'input_ids'"):
        sbc.trace(Text(), batch)


# ---- batches that are not what they should be --------------------------------------------------


@pytest.mark.parametrize("mode", ["parallel", "sequential"])
def test_errors_name_the_layer_and_the_batch(mode: str) -> None:
    bad = data(3)
    bad[0, 3, 7] = float("nan")
    cases: dict[str, list[Tensor]] = {
        "number 2 counted from 0, that makes '0' an input with 1 values that are NaN": [
            data(), data(2), bad,
        ],
        "number 1 counted from 0, that makes '0' an input that is empty": [data(), data()[:, :0]],
        "number 1 counted from 0, that makes '0' an input of 7 features or channels; accepted are 24": [
            data(), data()[..., :7],
        ],
        "a first batch of shape [6, 0, 24], which holds nothing": [data()[:, :0], data()],
        "a first batch of shape [0, 20, 24], which holds nothing": [data()[:0]],
    }  # fmt: skip
    for words, batches in cases.items():
        with pytest.raises(sbc.errors.ParameterError) as caught:
            sbc.compress_model(network(), batches, sparsity=0.5, calibration_mode=mode)
        assert words in str(caught.value)
        assert str(caught.value).startswith("calibration has")


def test_an_empty_example_is_refused() -> None:
    with pytest.raises(ValueError, match=r"example has shape \[6, 0, 24\], which holds nothing"):
        sbc.trace(network(), data()[:, :0])


def test_errors_of_the_forward_name_the_batch() -> None:
    def forward(model: Any, x: Tensor) -> Any:
        return model(x.reshape(6, 20, 24))

    with pytest.raises(RuntimeError) as caught:
        sbc.compress_model(network(), [data(), data()[1:]], sparsity=0.5, forward=forward)
    assert caught.value.__notes__ == ["in the forward pass of calibration batch 1, counted from 0"]


def test_images_of_two_sizes_take_part_in_bias_correction() -> None:
    torch.manual_seed(3)
    net = nn.Sequential(
        layer.Conv2d(2, 4, 3, padding=1), neuron.IFNode(), layer.Conv2d(4, 4, 3), neuron.IFNode()
    )
    functional.set_step_mode(net, "m")
    whole = (torch.rand(4, 5, 2, 8, 8) < 0.4).float()
    other = (torch.rand(4, 5, 2, 8, 6) < 0.4).float()
    result = sbc.compress_model(net, [whole, other], sparsity=0.5)
    alone = sbc.compress_model(net, [whole, whole], sparsity=0.5)
    assert result.layers[0].sparsity > 0
    assert not torch.equal(result.model[0].bias, alone.model[0].bias)
    # The order of the batches is nothing to a sum.
    turned = sbc.compress_model(net, [whole, other.flip(1)], sparsity=0.5)
    assert torch.allclose(result.model[0].bias, turned.model[0].bias, atol=1e-6)


# ---- data that can be iterated only once, or changes -------------------------------------------


class Stream(IterableDataset[Tensor]):
    """Hands out one iterator."""

    def __init__(self) -> None:
        self.items = iter([data(i) for i in range(4)])

    def __iter__(self) -> Iterator[Tensor]:
        return self.items


class Drained(Stream):
    """Hands out an iterator of its own, over what is left."""

    def __iter__(self) -> Iterator[Tensor]:
        yield from self.items


class SameDrained(Drained):
    """All batches are the same, so that only their number tells."""

    def __init__(self) -> None:
        self.items = iter([data()] * 4)


class Counting:
    """An iterator of a class of its own, which does not start anew."""

    def __init__(self) -> None:
        self.count = 0

    def __iter__(self) -> Iterator[Tensor]:
        return self

    def __next__(self) -> Tensor:
        self.count += 1
        if self.count > 4:
            raise StopIteration
        return data(self.count)


class Once:
    def __iter__(self) -> Iterator[Tensor]:
        if not hasattr(self, "items"):
            self.items = iter([data()])
        return self.items


ONCE = {
    "an iterator again and again": (lambda: DataLoader(Stream(), batch_size=None), "over a Stream"),
    "what is left": (lambda: DataLoader(Drained(), batch_size=None), "another batch 0"),
    "an iterator": (lambda: iter([data()]), "a list_iterator, which can be iterated only once"),
    "a generator": (lambda: (data(i) for i in range(3)), "a generator, which can be iterated only"),
    "an iterator's class": (Counting, "a Counting, which can be iterated only once"),
    "no DataLoader": (Once, "a Once, which can be iterated only once"),
    "nothing": (lambda: DataLoader(TensorDataset(data()[:0])), "is empty"),
}


@pytest.mark.parametrize("name", ONCE)
@pytest.mark.parametrize("mode", ["parallel", "sequential"])
def test_data_for_one_pass_is_refused(name: str, mode: str) -> None:
    make, words = ONCE[name]
    with pytest.raises(ValueError, match=words) as caught:
        sbc.compress_model(network(), make(), sparsity=0.5, calibration_mode=mode)
    assert str(caught.value).startswith("calibration")


class Restarting(IterableDataset[Tensor]):
    """Its own iterator, which starts anew: a loader as many repositories write it."""

    def __iter__(self) -> Iterator[Tensor]:
        self.left = [data(2), data(1)]
        return self

    def __next__(self) -> Tensor:
        if not self.left:
            raise StopIteration
        return self.left.pop()


def test_iterators_that_start_anew_are_taken() -> None:
    expected = sbc.compress_model(network(), [data(1), data(2)], sparsity=0.5)
    for batches in (Restarting(), DataLoader(Restarting(), batch_size=None)):
        result = sbc.compress_model(network(), batches, sparsity=0.5)
        assert torch.equal(result.model[0].weight, expected.model[0].weight)


def test_data_of_which_less_is_left_each_time_is_refused() -> None:
    batches = DataLoader(SameDrained(), batch_size=None)
    with pytest.raises(ValueError, match=r"2 batches the first time it is iterated, and then 0"):
        sbc.compress_model(network(), batches, sparsity=0.5, calibration_mode="sequential")


class Noisy:
    """Batch `changes` draws from a generator that nobody seeds."""

    def __init__(self, changes: int) -> None:
        self.changes = changes
        self.random = np.random.default_rng(0)

    def __iter__(self) -> Iterator[Tensor]:
        for index in range(3):
            batch = data(index)
            if index == self.changes:
                batch += torch.from_numpy(self.random.random(batch.shape)).float()
            yield batch


@pytest.mark.parametrize("batch", [0, 2])
def test_data_that_changes_between_passes_is_refused(batch: int) -> None:
    with pytest.raises(ValueError, match=f"another batch {batch} when it is iterated again"):
        sbc.compress_model(network(), Noisy(batch), sparsity=0.5)


def test_a_loader_with_a_generator_of_its_own_can_be_resumed(tmp_path: Path) -> None:
    samples = TensorDataset(data(1, 24).transpose(0, 1))

    def over_time(model: Any, batch: Tensor) -> Any:
        return model(batch.transpose(0, 1))

    def loader() -> DataLoader[Any]:
        generator = torch.Generator().manual_seed(5)
        return DataLoader(samples, batch_size=8, shuffle=True, generator=generator)

    batches = loader()
    state = batches.generator.get_state()  # type: ignore[union-attr]
    options: dict[str, Any] = {"sparsity": 0.5, "forward": over_time, "checkpoint_dir": tmp_path}
    first = sbc.compress_model(network(), batches, **options)
    assert torch.equal(batches.generator.get_state(), state)  # type: ignore[union-attr]
    for again in (batches, loader()):  # in this process, and as in another
        result = sbc.compress_model(network(), again, **options)
        assert result.resumed == 2
        assert torch.equal(result.model[0].weight, first.model[0].weight)


# ---- random numbers ----------------------------------------------------------------------------


def test_threads_leave_random_numbers_alone() -> None:
    def encoded(model: Any, x: Tensor) -> Any:
        return model((torch.rand_like(x) < x).float())

    rates = data() * 0.5
    expected = sbc.compress_model(network(), [rates] * 2, sparsity=0.5, forward=encoded)
    results: list[Any] = []
    nets = [network() for _ in range(4)]
    torch.manual_seed(7)
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # type: ignore[index] # noqa: NPY002

    def work(net: nn.Module) -> None:
        results.append(sbc.compress_model(net, [rates] * 2, sparsity=0.5, forward=encoded))

    threads = [threading.Thread(target=work, args=(net,)) for net in nets]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])  # type: ignore[index] # noqa: NPY002
    assert random.getstate() == before[2]
    assert len(results) == 4
    for result in results:
        assert torch.equal(result.model[0].weight, expected.model[0].weight)
