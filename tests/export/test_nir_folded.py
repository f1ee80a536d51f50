"""BatchNorms that ``fold=True`` takes out of the way of a NIR graph, and those that it cannot."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from nets import Net
from nir_networks import assert_same, fired, inputs, interpret
from torch import Tensor, nn

import sbc_kernels as sbc

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import nir
    from spikingjelly.activation_based import layer, neuron

pytestmark = pytest.mark.filterwarnings("ignore:no input spiked in calibration:RuntimeWarning")


def moved(bn: nn.Module) -> nn.Module:
    with torch.no_grad():
        bn.running_mean.normal_(0, 0.3)
        bn.running_var.uniform_(0.3, 2)
        bn.weight.uniform_(1, 3)
    return bn


def lif(threshold: float = 0.3) -> nn.Module:
    return neuron.LIFNode(2.0, v_threshold=threshold, step_mode="m")


def stream(m: Any, x: Tensor) -> Tensor:
    """A residual stream of currents, which neurons read and a head without a neuron ends."""
    y = m.bn1(m.fc1(x))
    return m.head(y + m.bn2(m.fc2(m.n(y))))


def permuted(m: Any, x: Tensor) -> Tensor:
    y = m.bn(m.conv(x).permute(1, 2, 0, 3, 4).contiguous())
    return m.n2(m.fc(m.n(y.permute(2, 0, 1, 3, 4).contiguous()).flatten(2)))


def norm_of_steps(features: int) -> nn.Module:
    return moved(layer.BatchNorm1d(features, step_mode="m"))


def residual(run: Any = stream) -> Net:
    torch.manual_seed(0)
    return Net(
        run,
        fc1=nn.Linear(16, 16, bias=False), bn1=norm_of_steps(16), n=lif(),
        fc2=nn.Linear(16, 16, bias=False), bn2=norm_of_steps(16), head=nn.Linear(16, 4),
    ).eval()  # fmt: skip


def test_a_residual_stream_is_exported(tmp_path: Path) -> None:
    net, x = residual(), inputs(8, 16)
    result = sbc.compress_model(net, x, sparsity=0.5, bits=4, fold=True)
    result.to_nir(path := tmp_path / "net.nir")
    graph = nir.read(path)
    assert set(graph.edges) == {
        ("input", "fc1"), ("fc1", "n"), ("n", "fc2"), ("fc1", "head"), ("fc2", "head"),
        ("head", "output"),
    }  # fmt: skip
    spikes = fired(result.model, x, ["n"])
    assert 0.01 < spikes["n"].mean() < 0.99
    assert_same(interpret(graph, x), spikes, "NIR's equations")


def test_a_norm_behind_a_permute_is_exported(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net, x = Net(
        permuted,
        conv=layer.Conv2d(2, 6, 3, bias=False, step_mode="m"), bn=moved(nn.BatchNorm3d(6)), n=lif(),
        fc=nn.Linear(6 * 36, 8), n2=lif(0.05),
    ).eval(), inputs(8, 2, 8, 8)  # fmt: skip
    result = sbc.compress_model(net, x, sparsity=0.5, bits=4, fold=True)
    result.to_nir(path := tmp_path / "net.nir")
    spikes = fired(result.model, x, ["n", "n2"])
    assert 0.01 < spikes["n"].mean() < 0.99
    assert_same(interpret(nir.read(path), x), spikes, "NIR's equations")


def test_a_norm_that_stayed_is_refused_with_the_reason(tmp_path: Path) -> None:
    def run(m: Any, x: Tensor) -> Tensor:
        raw = m.fc1(x)
        return m.head(raw + m.bn2(m.fc2(m.n(m.bn1(raw)))))

    result = sbc.compress_model(residual(run), inputs(8, 16), sparsity=0.5, fold=True)
    assert result.folded == {"fc2": "bn2"}
    reason = (
        r"bn1 \(BatchNorm1d\).*this one was not, because the output of fc1 is used elsewhere too"
    )
    with pytest.raises(ValueError, match=reason):
        result.to_nir(tmp_path / "net.nir")
    assert not list(tmp_path.iterdir())
