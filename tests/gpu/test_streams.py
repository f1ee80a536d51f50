"""Every op runs on the current stream of its tensors' device, and answers the same bits each time."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
import pytest
import torch
from helpers import damped_hessian, spike_train
from interpreted import DEVICE, GPU_BACKENDS, needs_gpu, needs_triton
from torch import Tensor

import sbc_kernels as sbc

pytestmark = needs_triton


class Inputs(NamedTuple):
    spikes: Tensor  # bool [T, N, d]
    wide: Tensor  # bool [T, N, 300]: of as many channels a GPU takes another kernel
    maps: Tensor  # bool [T, N, C, h, w]
    analog: Tensor
    weight: Tensor  # [rows, d]
    hessian: Tensor
    inverse: Tensor
    mask: Tensor
    scale: Tensor
    zero_point: Tensor

    def to(self, device: str) -> Inputs:
        return Inputs(*(tensor.to(device) for tensor in self))


def inputs(seed: int) -> Inputs:
    rng, d = np.random.default_rng(seed), 20
    spikes, maps = spike_train(rng, 3, 40, d), spike_train(rng, 2, 5, 3, 4, 4)
    hessian = damped_hessian("correlated", d, seed)
    weight = rng.standard_normal((4, d))
    grid = sbc.fit_grid(weight, 4)
    return Inputs(
        torch.from_numpy(spikes).bool(),
        torch.from_numpy(spike_train(rng, 2, 9, 300)).bool(),
        torch.from_numpy(maps).bool(),
        torch.from_numpy(spikes * rng.random(spikes.shape)).float(),
        *(torch.from_numpy(m).float() for m in (weight, hessian, np.linalg.inv(hessian))),
        torch.from_numpy(rng.random(weight.shape) < 0.5),
        torch.from_numpy(grid.scale),
        torch.from_numpy(grid.zero_point),
    )


def quantize(given: Inputs, backend: str) -> tuple[Tensor, ...]:
    grid = sbc.Grid(4, given.scale, given.zero_point, -1)
    answer = sbc.obs_quantize(given.weight, given.hessian, grid, backend=backend)
    return answer.codes, answer.weight, answer.loss


CONV = sbc.Conv((3, 3), padding=1)
Op = Callable[[Inputs], tuple[Tensor, ...]]  # on one backend

OPS: dict[str, Callable[[Inputs, str], tuple[Tensor, ...]]] = {
    "Gram": lambda x, backend: (sbc.spike_gram(x.spikes, sbc.LIF(1.7), backend=backend),),
    "wide Gram": lambda x, backend: (sbc.spike_gram(x.wide, sbc.IF(), backend=backend),),
    "conv Gram": lambda x, backend: (sbc.spike_gram(x.maps, sbc.IF(), conv=CONV, backend=backend),),
    "analog Gram": lambda x, backend: (sbc.spike_gram(x.analog, sbc.LIF(2.0), backend=backend),),
    "order": lambda x, backend: sbc.obs_order(x.weight, x.inverse, backend=backend),
    "solve": lambda x, backend: (sbc.obs_solve(x.weight, x.hessian, x.mask, backend=backend),),
    "quantize": quantize,
}
op = pytest.mark.parametrize(
    "op",
    [
        pytest.param(partial(run, backend=backend), id=f"{name}, {backend}")
        for backend in GPU_BACKENDS
        for name, run in OPS.items()
    ],
)


def assert_same(answers: tuple[Tensor, ...], wanted: tuple[Tensor, ...]) -> None:
    for mine, other in zip(answers, wanted, strict=True):
        assert mine.dtype == other.dtype
        assert torch.equal(mine.cpu(), other.cpu())


@op
def test_the_same_bits_each_time(op: Op) -> None:
    given = inputs(0).to(DEVICE)
    kept = [tensor.clone() for tensor in given]
    assert_same(op(given), op(given))
    assert all(torch.equal(now, before) for now, before in zip(given, kept, strict=True))


class Late:
    """A stream on which inputs arrive some milliseconds late: whoever runs elsewhere sees zeros."""

    def __init__(self, given: Inputs) -> None:
        self.stream = torch.cuda.Stream()
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            self.inputs = Inputs(*(torch.zeros_like(tensor) for tensor in given))
            torch.cuda._sleep(40_000_000)
            for to, source in zip(self.inputs, given, strict=True):
                to.copy_(source)

    def run(self, op: Op) -> tuple[Tensor, ...]:
        with torch.cuda.stream(self.stream):
            return op(self.inputs)

    def await_answers(self) -> None:
        torch.cuda.current_stream().wait_event(self.stream.record_event())


class TestStreams:
    pytestmark = needs_gpu

    @op
    def test_a_stream_of_ones_own(self, op: Op) -> None:
        given = inputs(0).to("cuda")
        wanted = op(given)
        late = Late(given)
        answers = late.run(op)
        late.await_answers()
        assert_same(answers, wanted)

    @op
    def test_two_streams_at_once(self, op: Op) -> None:
        both = [inputs(seed).to("cuda") for seed in (0, 1)]
        wanted = [op(given) for given in both]
        streams = [Late(given) for given in both]
        answers = [late.run(op) for late in streams]
        for late, mine, other in zip(streams, answers, wanted, strict=True):
            late.await_answers()
            assert_same(mine, other)

    @op
    @pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
    def test_a_device_that_is_not_the_current_one(self, op: Op) -> None:
        with torch.cuda.device(0):
            wanted = op(inputs(0).to("cuda:0"))
            answers = op(inputs(0).to("cuda:1"))
            assert torch.cuda.current_device() == 0
        assert all(answer.device == torch.device("cuda:1") for answer in answers)
        assert_same(answers, wanted)
