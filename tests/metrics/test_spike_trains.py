"""Spike trains and predictions of two models; all comparisons together."""

from __future__ import annotations

import copy
import json
import math
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from networks_of_metrics import SAMPLES, STEPS, inputs, linear_net, prune
from torch import Tensor, nn

import sbc_kernels as sbc
from sbc_kernels.metrics import (
    Comparison,
    accuracy,
    compare,
    spike_rates,
    synaptic_operations,
)

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import snntorch as snn
    from four_frameworks import FRAMEWORKS, network, spikes
    from spikingjelly.activation_based import functional, neuron


# ---- spike trains of two models ----------------------------------------------------------------


class Given(nn.Module):
    """A neuron that answers what it is fed."""

    def forward(self, x: Tensor) -> Tensor:
        return x


@pytest.fixture
def given_neuron() -> Iterator[Callable[..., None]]:
    from sbc_kernels.frameworks.registered import registered

    before = list(registered)
    yield lambda *args, **named: sbc.register_neuron(Given, *args, **named)
    registered[:] = before


class Trains(nn.Module):
    """Answers its input through a neuron, plus what is added to it."""

    def __init__(self, added: Tensor | float = 0.0, loop: bool = False) -> None:
        super().__init__()
        self.n, self.added, self.loop = Given(), added, loop

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.added
        return torch.stack([self.n(step) for step in x]) if self.loop else self.n(x)


def by_hand(k: np.ndarray[Any, Any], difference: Tensor) -> float:
    """[T, N, units], one train at a time."""
    total = []
    for train in difference.flatten(1).T.double().numpy():
        echo = [sum(k[t - s] * train[s] for s in range(t + 1)) for t in range(len(k))]
        total.append(math.sqrt(sum(e * e for e in echo) / float(k @ k)))
    return sum(total) / len(total)


KERNELS = [sbc.LIF(2.0), sbc.IF(), sbc.Leaky(0.9), sbc.Alpha(0.8, 0.5), sbc.Synaptic(0.6, 0.4)]


@pytest.mark.parametrize("loop", [False, True])
@pytest.mark.parametrize("neuron_", KERNELS, ids=repr)
def test_van_rossum_by_hand(neuron_: Any, loop: bool, given_neuron: Callable[..., None]) -> None:
    given_neuron(neuron_, time_axis=None if loop else 0)
    data = [inputs("integer", 6, n, 5, seed=n) for n in (3, 2)]
    added = inputs("integer", 6, 1, 5, seed=9)
    found = compare(Trains(loop=loop), Trains(added, loop), data)
    k = neuron_.impulse_response(6)
    assert found.van_rossum == {"n": pytest.approx(by_hand(k, added), rel=1e-12)}
    assert compare(Trains(loop=loop), Trains(loop=loop), data).van_rossum == {"n": 0.0}


def test_neurons_inside_neurons(given_neuron: Callable[..., None]) -> None:
    """What they see does not tell the number of samples."""

    class Hollow(Given):
        def __init__(self) -> None:
            super().__init__()
            self.lif = neuron.IFNode()

        def forward(self, x: Tensor) -> Tensor:
            return self.lif(x.flatten(0, 1)).unflatten(0, x.shape[:2])

    given_neuron(sbc.IF())
    x = torch.ones(2, 3, 4)
    for net in (Hollow(), nn.Sequential(Hollow())):
        assert compare(net, net, x).samples == 3
        assert list(spike_rates(net, x).values()) == [1.0, 1.0]


def test_van_rossum_in_spikes(given_neuron: Callable[..., None]) -> None:
    given_neuron(sbc.LIF(2.0))
    one, two = torch.zeros(40, 1, 1), torch.zeros(40, 1, 1)
    one[0], two[0], two[20] = 1, 1, 1
    x = torch.zeros(40, 3, 4)
    assert compare(Trains(), Trains(one), x).van_rossum["n"] == pytest.approx(1.0, rel=1e-9)
    assert compare(Trains(two), Trains(), x).van_rossum["n"] == pytest.approx(2**0.5, rel=1e-5)
    given_neuron(lambda module: sbc.Kernel([0.0] * 40))  # no echo within T: trains as they are
    assert compare(Trains(), Trains(two), x).van_rossum["n"] == pytest.approx(2**0.5, rel=1e-12)


def test_van_rossum_with_time_second_and_bytes(given_neuron: Callable[..., None]) -> None:
    """[N, T, ...]; values near the ends of a byte are not lost."""
    given_neuron(sbc.Leaky(0.7), time_axis=1)
    x = torch.full((3, 6, 5), 120.0)
    added = inputs("integer", 1, 6, 5, seed=9).abs() * -60  # down to -120: a difference of 240
    k = sbc.Leaky(0.7).impulse_response(6)
    found = compare(Trains(), Trains(added), x)
    assert found.van_rossum["n"] == pytest.approx(by_hand(k, added.transpose(0, 1)), rel=1e-12)
    assert found.samples == 3
    large = compare(Trains(), Trains(added * 1000 + 0.5), x)
    expected = by_hand(k, (added * 1000 + 0.5).transpose(0, 1))
    assert large.van_rossum["n"] == pytest.approx(expected, rel=1e-6)


def test_van_rossum_agrees_between_frameworks() -> None:
    """Their responses differ in scale, which cancels."""
    found = []
    for name in FRAMEWORKS:
        dense = network(name)
        pruned = prune(copy.deepcopy(dense), 0.5)
        found.append(compare(dense, pruned, [spikes(0, 6), spikes(1, 3)]).van_rossum)
    assert set(found[0]) == {"n1", "n2"}
    assert min(found[0].values()) > 0.1
    for other in found[1:]:
        assert other == pytest.approx(found[0], rel=1e-6)


# ---- predictions -------------------------------------------------------------------------------


class Answers(nn.Module):
    """Makes of scores [N, classes] an output in some shape."""

    def __init__(self, shape: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.shape, self.n = shape, neuron.IFNode()

    def forward(self, x: Tensor) -> Any:
        self.n(x)
        return self.shape(x)


def over_time(x: Tensor) -> Tensor:
    """[7, N, classes] that sum up to x; each step by itself says something else."""
    noise = torch.randn(
        7, *x.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    )
    return noise - noise.mean(0) + x / 7


SHAPES: dict[str, Callable[[Tensor], Any]] = {
    "scores": lambda x: x,
    "time first": over_time,
    "time second": lambda x: over_time(x).transpose(0, 1),
    "list of steps": lambda x: list(over_time(x)),
    "spikes and potentials": lambda x: (over_time(x), -over_time(x)),
    "lists of both": lambda x: (list(over_time(x)), list(-over_time(x))),
    "list of both": lambda x: [over_time(x), -over_time(x)],
}


@pytest.mark.parametrize("shape", SHAPES)
def test_readouts(shape: str) -> None:
    scores = torch.randn(9, 4, generator=torch.Generator().manual_seed(1))
    labels = scores.argmax(1)
    labels[:3] = (labels[:3] + 1) % 4
    data = [(scores[:5], labels[:5]), (scores[5:], labels[5:].numpy())]
    assert accuracy(Answers(SHAPES[shape]), data) == pytest.approx(100 * 6 / 9)
    turned = accuracy(
        Answers(SHAPES[shape]), data, readout=lambda output: scores_of(output).roll(1, 1)
    )
    assert turned == pytest.approx(100 * int((scores.roll(1, 1).argmax(1) == labels).sum()) / 9)


def scores_of(output: Any) -> Tensor:
    if isinstance(output, tuple) or (isinstance(output, list) and output[0].ndim == 3):
        output = output[0]
    if isinstance(output, list):
        output = torch.stack(output)
    return output if output.ndim == 2 else output.sum(0 if output.shape[0] == 7 else 1)


def test_time_that_is_as_long_as_the_batch() -> None:
    scores = torch.randn(13, 4)
    data = [(scores[:6], scores[:6].argmax(1)), (scores[6:], scores[6:].argmax(1))]
    for shape in ("time first", "time second"):
        assert (
            accuracy(Answers(SHAPES[shape]), data) == 100
        )  # the first batch told which axis it is
        with pytest.raises(ValueError, match=r"\[7, 7, 4\] for 7 samples, so the time axis"):
            accuracy(Answers(SHAPES[shape]), data[::-1])
    summed = accuracy(Answers(over_time), data[::-1], readout=lambda output: output.sum(0))
    assert summed == 100


def test_outputs_that_are_no_scores() -> None:
    data = [(torch.rand(3, 4), torch.zeros(3, dtype=torch.long))]

    def refused(shape: Callable[[Tensor], Any], message: str, **named: Any) -> None:
        with pytest.raises((TypeError, ValueError), match=message):
            accuracy(Answers(shape), data, **named)

    refused(lambda x: x * math.nan, "the model returns NaN; accepted are scores")
    refused(
        lambda x: x[:, :1],
        r"the model returns scores of shape \[3, 1\]; accepted is \[3, classes\]",
    )
    refused(lambda x: x[:2], r"the model returns scores of shape \[2, 4\]")
    refused(lambda x: x[0], r"the model returns scores of shape \[4\]")
    refused(lambda x: x.expand(2, 2, 3, 4), r"\[2, 2, 3, 4\].*pass readout")
    refused(
        lambda x: x.expand(5, 3, 4).reshape(5, 4, 3),
        r"the model returns scores of shape \[5, 4, 3\]",
    )
    refused(lambda x: {"scores": x}, "the model returns a dict")
    refused(lambda x: (), "the model returns a tuple")
    refused(
        lambda x: x, r"readout returns scores of shape \[4, 3\]", readout=lambda output: output.T
    )
    refused(lambda x: x, "readout returns a list", readout=lambda output: output.tolist())
    refused(lambda x: x, "readout is 3; accepted is a function", readout=3)
    refused(lambda x: x, "forward is 3; accepted is a function", forward=3)


def test_labels_that_are_no_classes() -> None:
    net, x = Answers(SHAPES["scores"]), torch.rand(3, 4)

    def refused(labels: Any, message: str) -> None:
        with pytest.raises((TypeError, ValueError), match=message):
            accuracy(net, [(x, labels)])

    refused(torch.zeros(3), r"labels torch.float32 of shape \[3\]; accepted is class numbers")
    refused(torch.zeros(3, 4, dtype=torch.long), r"of shape \[3, 4\]")
    refused([0, 1, 4], r"labels 0..4; accepted is 0..3")
    refused([0, -1, 1], r"labels -1..1")
    refused(["a", "b", "c"], "labels are no array")
    refused(torch.tensor(1), "labels are empty")
    refused([], "labels are empty")
    refused("abc", "labels are a str")
    assert accuracy(net, [(x, x.argmax(1).tolist())]) == 100
    with pytest.raises(ValueError, match="without labels in batch 0"):
        accuracy(net, x)
    with pytest.raises(ValueError, match="without labels in batch 1"):
        accuracy(net, [(x, [0, 0, 0]), [x]])


@pytest.mark.parametrize("measure", [synaptic_operations, spike_rates, accuracy])
def test_data_and_models_that_are_none(measure: Callable[..., Any]) -> None:
    net, x = linear_net(), torch.ones(2, 3, 12)
    for data, message in (
        ([], "data is empty"),
        (iter([x]), "data is a list_iterator, which can be iterated only once"),
        ((x, x), "data is a tuple of tensors"),
        ("data", "data is a str"),
    ):
        with pytest.raises((TypeError, ValueError), match=message):
            measure(net, data)
    with pytest.raises(TypeError, match=r"model is a int; accepted is a torch.nn.Module or"):
        measure(3, x)
    with pytest.raises(TypeError, match=r"compressed is a int"):
        compare(net, 3, x)
    with pytest.raises(TypeError, match=r"dense is a function"):
        compare(linear_net, net, x)


# ---- everything together -----------------------------------------------------------------------


@pytest.mark.parametrize("labelled", [True, False])
def test_compare_is_all_of_them(labelled: bool) -> None:
    dense, pruned = network(), prune(network(), 0.4)
    batches: list[Any] = [spikes(i, 5) for i in range(3)]
    if labelled:
        batches = [(x, torch.arange(5)) for x in batches]
    found = compare(dense, pruned, batches)
    assert found.samples == 15
    for model, measured in ((dense, found.dense), (pruned, found.compressed)):
        assert measured.operations == synaptic_operations(model, batches)
        assert measured.spike_rates == spike_rates(model, batches)
        assert measured.accuracy == (accuracy(model, batches) if labelled else None)
    with torch.no_grad():
        answers = []
        for batch in batches:
            for net in (dense, pruned):
                functional.reset_net(net)
                answers.append(net(batch[0] if labelled else batch).sum(0).argmax(1))
    agreed = sum(int((a == b).sum()) for a, b in zip(answers[::2], answers[1::2], strict=True))
    assert found.agreement == 100 * agreed / 15
    assert 0 < found.agreement < 100
    assert found.compressed.operations.effective_acs < found.dense.operations.effective_acs
    text = json.dumps(found.to_dict(), allow_nan=False)
    assert Comparison.from_dict(json.loads(text)) == found
    assert set(found.to_dict()) == {"samples", "dense", "compressed", "van_rossum", "agreement"}
    assert set(found.to_dict()["dense"]) == {"accuracy", "operations", "spike_rates"}
    assert {"macs", "acs", "weighted_acs", "dense"} < set(
        found.to_dict()["dense"]["operations"]["layers"]["fc"]
    )
    itself = compare(dense, dense, batches)
    assert itself.dense == itself.compressed
    assert itself.agreement == 100
    assert set(itself.van_rossum.values()) == {0.0}


def test_a_compressed_model_and_its_forward() -> None:
    """snnTorch, called step by step from outside: the result knows how it was run."""
    torch.manual_seed(5)
    leaky = {"beta": 0.8, "threshold": 0.3, "init_hidden": True}
    net = nn.Sequential(nn.Linear(10, 30), snn.Leaky(**leaky), nn.Linear(30, 4), snn.Leaky(**leaky))

    def forward(model: nn.Module, x: Tensor) -> Tensor:
        return torch.stack([model(step) for step in x])

    x = inputs("binary", 6, 40, 10)
    result = sbc.compress_model(net, x, sparsity=0.6, forward=forward, progress=False)
    found = compare(net, result, [(x, torch.zeros(40, dtype=torch.long))])
    assert found == compare(
        net, result.model, [(x, torch.zeros(40, dtype=torch.long))], forward=forward
    )
    assert set(found.van_rossum) == {"1", "3"}
    assert 0 < found.van_rossum["1"] < 2
    assert synaptic_operations(result, x) == found.compressed.operations
    assert spike_rates(result, x) == found.compressed.spike_rates
    assert found.compressed.operations.effective_acs < 0.8 * found.dense.operations.effective_acs
    assert json.loads(json.dumps(result.report(found)))["comparison"] == found.to_dict()


def test_random_encodings_draw_the_same_for_both() -> None:
    class Poisson(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.n = nn.Linear(8, 5), neuron.IFNode(step_mode="m")

        def forward(self, x: Tensor) -> Tensor:
            return self.n(self.fc((torch.rand(6, *x.shape) < x).float())).sum(0)

    net = Poisson()
    data = [torch.rand(4, 8), torch.rand(3, 8)]
    state = torch.get_rng_state()
    found = compare(net, copy.deepcopy(net), data)
    assert torch.equal(torch.get_rng_state(), state)
    assert found.dense == found.compressed
    assert found.van_rossum == {"n": 0.0}
    assert found == compare(net, net, data)


def test_models_that_do_not_match() -> None:
    dense = linear_net()
    with pytest.raises(
        ValueError, match=r"compressed is a model that calls neuron '3' with other shapes"
    ):
        compare(dense, dense[:3], torch.ones(STEPS, SAMPLES, 12), readout=lambda y: y.sum(0))
    with pytest.raises(
        ValueError, match=r"compressed is a model that calls neuron '3' with other shapes"
    ):
        compare(dense[:3], dense, torch.ones(STEPS, SAMPLES, 12), readout=lambda y: y.sum(0))
    x = torch.ones(STEPS, SAMPLES, 12)
    with pytest.raises(ValueError, match="batches with labels and batches without"):
        compare(dense, dense, [(x, [0] * SAMPLES), x])
    for told in ({}, {"samples": 3}, [], {**compare(dense, dense, x).to_dict(), "dense": None}):
        with pytest.raises(ValueError, match="values is not a comparison"):
            Comparison.from_dict(told)
