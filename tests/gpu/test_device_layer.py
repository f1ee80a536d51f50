"""compress_layer and compress_model where the tensors lie: the same answers as on the host."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from interpreted import DEVICE, GPU_BACKENDS, needs_triton
from nets import Net
from torch import Tensor, nn

import sbc_kernels as sbc
from sbc_kernels.backends.triton.device import has_fast_float64
from sbc_kernels.demo.network import lif

pytestmark = needs_triton


@pytest.fixture(params=GPU_BACKENDS)
def gpu_backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def spikes(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) < 0.3


def weight(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


WAYS: dict[str, dict[str, Any]] = {
    "exact": {"sparsity": 0.7},
    "N:M": {"sparsity": "2:4"},
    "quantized": {"bits": 3, "group_size": 5},
    "symmetric": {"bits": 4, "sym": True},
    "both": {"sparsity": 0.5, "bits": 4},
    "blocked": {"sparsity": 0.6, "method": "blocked", "bits": 2, "block_size": 5},
    "magnitude": {"sparsity": 0.6, "method": "magnitude"},
    "nearest": {"bits": 4, "method": "rtn"},
    "current": {"sparsity": 0.5, "hessian": "current"},
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("way", WAYS)
def test_a_layer_as_on_the_host(way: str, dtype: torch.dtype, gpu_backend: str) -> None:
    W, x = weight(3, 12).to(dtype), spikes(3, 40, 12)
    x[:, :, 5] = False  # an input that never spikes
    host = sbc.compress_layer(W, x, sbc.LIF(2.0), **WAYS[way])
    there = sbc.compress_layer(
        W.to(DEVICE), x.to(DEVICE), sbc.LIF(2.0), backend=gpu_backend, **WAYS[way]
    )
    for name in ("weight", "mask", "codes", "scale", "zero_point", "loss"):
        mine, other = getattr(there, name), getattr(host, name)
        assert (mine is None) == (other is None), name
        if mine is not None:
            assert mine.device.type == DEVICE
            assert (mine.dtype, mine.shape) == (other.dtype, other.shape), name
    if host.mask is not None:
        assert torch.equal(there.mask.cpu(), host.mask)
    if host.codes is not None:
        assert torch.equal(there.codes.cpu(), host.codes)
    eps = torch.finfo(dtype).eps
    assert torch.allclose(there.weight.cpu(), host.weight, rtol=100 * eps, atol=10 * eps)
    assert torch.allclose(there.loss.cpu(), host.loss, rtol=100 * eps, atol=1e-12)
    assert there.sparsity == host.sparsity
    assert np.allclose(there.curve, host.curve, rtol=1e-3)


CONVS: dict[str, tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]] = {
    "2-D": ((4, 3, 3, 3), (2, 5, 3, 6, 5), {"padding": 1}),
    "grouped, strided": ((4, 2, 3, 3), (2, 5, 4, 7, 7), {"groups": 2, "stride": 2, "padding": 1}),
    "1-D, dilated": ((3, 2, 3), (2, 5, 2, 9), {"dilation": 2}),
}


@pytest.mark.parametrize("kind", ["bool", "counts", "analog"])
@pytest.mark.parametrize("conv", CONVS)
def test_a_convolution_as_on_the_host(conv: str, kind: str, gpu_backend: str) -> None:
    shape, given, options = CONVS[conv]
    x: Tensor = spikes(*given)
    if kind == "counts":
        x = x.to(torch.int16) * 3
    if kind == "analog":
        x = x * torch.rand(given, generator=torch.Generator().manual_seed(2))
    W = weight(*shape)
    host = sbc.compress_layer(W, x, sbc.IF(), bits=4, **options)
    there = sbc.compress_layer(
        W.to(DEVICE), x.to(DEVICE), sbc.IF(), bits=4, backend=gpu_backend, **options
    )
    assert torch.equal(there.codes.cpu(), host.codes)
    assert torch.allclose(there.loss.cpu(), host.loss, rtol=1e-3)
    analog = "float32 products in two parts"
    if has_fast_float64(W.to(DEVICE)):
        analog = "float64 matrix products"
    said = analog if kind == "analog" else "exact integers"
    assert any(said in line for line in there.log)


@pytest.mark.parametrize("dtype", [torch.uint16, torch.uint32, torch.uint64, torch.int64])
@pytest.mark.parametrize("largest", [3, 60000])
def test_unsigned_and_wide_integers(dtype: torch.dtype, largest: int, gpu_backend: str) -> None:
    draw = torch.Generator().manual_seed(0)
    x = torch.randint(0, largest, (3, 9, 5), generator=draw)
    wanted = sbc.spike_gram(x, sbc.LIF(2.0))
    assert torch.equal(
        sbc.spike_gram(x.to(dtype).to(DEVICE), sbc.LIF(2.0), backend=gpu_backend).cpu(), wanted
    )


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_batch_that_is_refused_leaves_nothing(bad: float, gpu_backend: str) -> None:
    stream = sbc.SpikeHessian(sbc.LIF(2.0), backend=gpu_backend)
    x = torch.ones(3, 4, 5, device=DEVICE)
    x[1, 2, 3] = bad
    with pytest.raises(
        ValueError, match=r"spikes has 1 values that are NaN or infinite.*\[1, 2, 3\]"
    ):
        stream.update(x)
    assert stream.in_features is None
    stream.update(torch.ones(3, 4, 6, device=DEVICE))  # another width is as good
    assert stream.matrix().shape == (6, 6)


def test_a_stream_stays_on_its_device(gpu_backend: str) -> None:
    stream = sbc.SpikeHessian(sbc.LIF(2.0), backend=gpu_backend)
    batches = [spikes(3, n, 7, seed=n) for n in (4, 9)]
    for batch in batches:
        stream.update(batch.to(DEVICE))
    assert stream.matrix().device.type == DEVICE
    host = sbc.SpikeHessian(sbc.LIF(2.0)).update(torch.cat(batches, dim=1))
    assert torch.equal(stream.matrix().cpu(), host.matrix())
    other = sbc.SpikeHessian(sbc.LIF(2.0), backend=gpu_backend).update(batches[0].to(DEVICE))
    assert torch.equal(other.merge(stream).sum().cpu(), _sum([*batches, batches[0]]))
    with pytest.raises(ValueError, match="lies in CPU memory; accepted is a CUDA tensor"):
        stream.update(batches[0].numpy())


def _sum(batches: list[Tensor]) -> Tensor:
    total: Tensor = sbc.SpikeHessian(sbc.LIF(2.0)).update(torch.cat(batches, dim=1)).sum()
    return total


class LIF(nn.Module):
    def forward(self, current: Tensor) -> Tensor:
        return lif(current)


def net() -> nn.Module:
    sbc.register_neuron(LIF, sbc.LIF(2.0))
    torch.manual_seed(0)
    a, b = nn.Linear(8, 6), nn.Linear(6, 3)
    with torch.no_grad():
        a.weight.mul_(4)
    return Net(lambda m, x: m.b(m.n(m.a(x))), a=a, n=LIF(), b=b)


@pytest.mark.parametrize("way", ["exact", "both"])
def test_a_model_as_on_the_host(way: str, gpu_backend: str) -> None:
    batches = [spikes(3, 10, 8, seed=s).float() for s in range(2)]
    host = sbc.compress_model(net(), batches, **WAYS[way])
    model = copy.deepcopy(net()).to(DEVICE)
    there = sbc.compress_model(
        model, [batch.to(DEVICE) for batch in batches], backend=gpu_backend, **WAYS[way]
    )
    for name, mine in there.model.state_dict().items():
        assert mine.device.type == DEVICE
        assert np.allclose(mine.cpu(), host.model.state_dict()[name], rtol=1e-4, atol=1e-5), name
    assert [r.sparsity for r in there.layers] == [r.sparsity for r in host.layers]


def test_an_array_elsewhere_is_refused(gpu_backend: str) -> None:
    with pytest.raises(ValueError, match="weight lies in CPU memory; accepted is a CUDA tensor"):
        sbc.obs_order(np.ones((2, 3)), np.eye(3), backend=gpu_backend)


def test_metrics_where_the_model_lies(gpu_backend: str) -> None:
    model = net().to(DEVICE)
    batches = [
        (spikes(3, 10, 8, seed=s).float().to(DEVICE), torch.arange(10) % 3) for s in range(2)
    ]
    result = sbc.compress_model(model, batches, sparsity=0.5, backend=gpu_backend)
    found = sbc.metrics.compare(model, result, batches, readout=lambda out: out.sum(dim=0))
    assert found.samples == 20
    assert found.compressed.operations.effective_acs < found.dense.operations.effective_acs
    assert sbc.metrics.connection_sparsity(result) == pytest.approx(0.5, abs=0.02)
