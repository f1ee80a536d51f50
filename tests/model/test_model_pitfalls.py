"""Models that are written in ways which would lead a compressor astray without a word."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import assert_close
from nets import Net
from normed_networks import UNIFORM, ScaledNorm, data, fc, lif, norm, two_places
from torch import Tensor, nn

import sbc_kernels as sbc
from sbc_kernels.network.watch import channel_axis, watching

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from spikingjelly.activation_based import layer, neuron


pytestmark = [
    pytest.mark.usefixtures("seed"),
    # Networks here are made to be saved, not to fire.
    pytest.mark.filterwarnings("ignore:no input spiked in calibration:RuntimeWarning"),
]

# ---- BatchNorms --------------------------------------------------------------------------------


def test_channels_are_told_by_kind_not_by_size() -> None:
    """Batch and channels of equal number; the mean is a channel's."""
    for bn, x, axes in (
        (layer.BatchNorm1d(6, step_mode="m"), torch.randn(4, 6, 6), (0, 1)),
        (layer.BatchNorm2d(6, step_mode="m"), torch.randn(4, 6, 6, 6, 6), (0, 1, 3, 4)),
        (nn.BatchNorm2d(6), torch.randn(6, 6, 6, 6), (0, 2, 3)),
        (nn.BatchNorm1d(6), torch.randn(6, 6), (0,)),
        (nn.BatchNorm1d(6), torch.randn(6, 6, 6), (0, 2)),
    ):
        with watching({"bn": bn.eval()}) as seen:
            bn(x)
        assert channel_axis(bn, x) not in axes
        assert_close(seen["bn"].mean.numpy(), x.double().mean(axes).numpy(), 1e-6, str(type(bn)))
        var = x.double().var(axes, unbiased=False)
        assert_close(seen["bn"].var.numpy(), var.numpy(), 1e-6)


def test_norms_called_by_keyword_are_watched() -> None:
    net = Net(lambda m, x: m.n(m.bn(x=m.fc(x))), fc=fc(bias=False), bn=norm(), n=lif())
    result = sbc.compress_model(net, data(), sparsity=0.5, **UNIFORM)
    assert not torch.equal(result.model.bn.running_var, net.bn.running_var)


@pytest.mark.parametrize("way", ["negated", "scaled", "residual", "shared with a skipped layer"])
def test_bias_goes_into_a_batchnorm_only_if_it_is_fed_the_layer_alone(way: str) -> None:
    runs = {
        "negated": lambda m, x: m.n(m.bn(-m.fc(x))),
        "scaled": lambda m, x: m.n(m.bn(0.25 * m.fc(x))),
        "residual": lambda m, x: m.n(m.bn(m.fc(x).add_(x))),
        "shared with a skipped layer": lambda m, x: m.n(m.bn(m.fc(x)) + m.bn(m.other(x))),
    }
    net = Net(runs[way], fc=fc(bias=False), other=fc(bias=False), bn=norm(), n=lif())
    result = sbc.compress_model(
        net, data(), sparsity=0.5, bn_reestimate=False, ignore=["other"], **UNIFORM
    )
    assert torch.equal(result.model.bn.running_mean, net.bn.running_mean)
    assert not torch.equal(result.model.fc.weight, net.fc.weight)
    assert "no bias takes part" in str(result.layers[0].notes)


def test_a_norm_of_other_channels_than_the_layers() -> None:
    """Conv, flatten, BatchNorm over features: no scale a row, no place for a bias."""
    net = Net(
        lambda m, x: m.n(m.bn(m.conv(x).flatten(2))),
        conv=layer.Conv2d(1, 3, 3, bias=False, step_mode="m"), bn=norm(27), n=lif(),
    )  # fmt: skip
    result = sbc.compress_model(net, data(4, 5, 1, 5, 5), sparsity=0.5)
    assert "27 channels" in str(result.layers[0].notes)


def test_norms_that_do_more_than_they_say_are_named() -> None:
    bn = ScaledNorm(6, step_mode="m")
    net = Net(lambda m, x: m.n(m.bn(m.fc(x))), fc=fc(), bn=bn, n=lif())
    result = sbc.compress_model(net, data(), sparsity=0.5, fold=True, **UNIFORM)
    assert "rows are compared without bn, which is no plain BatchNorm" in str(
        result.layers[0].notes
    )
    assert "bn keeps its statistics" in str(result.layers[0].notes)
    assert isinstance(result.model.bn, ScaledNorm)


# ---- calibration -------------------------------------------------------------------------------


def test_random_encoding_is_the_same_for_both_models() -> None:
    """A Poisson encoder in the forward: the dense model and the compressed prefix see one draw."""
    net = nn.Sequential(fc(), neuron.LIFNode(2.0), fc(), neuron.LIFNode(2.0))

    def forward(model: nn.Module, x: Tensor) -> Tensor:
        return sum(model((torch.rand_like(x) < x).float()) for _ in range(6)) / 6

    x = torch.rand(20, 6)
    result = sbc.compress_model(net, [x, x.flip(0)], sparsity=0.0, forward=forward)
    assert_close(result.model[0].weight.detach().numpy(), net[0].weight.detach().numpy(), 1e-5)


@pytest.mark.parametrize("steps", [3, 6, 8])
def test_batches_of_another_length_are_refused(steps: int) -> None:
    multi = nn.Sequential(fc(), lif(), fc(), lif())
    flat = Net(
        lambda m, x: m.n(m.b(m.n0(m.a(x.flatten(0, 1)).unflatten(0, x.shape[:2]))).contiguous()),
        a=fc(), b=fc(), n=lif(), n0=lif(),
    )  # fmt: skip
    loop = Net(
        lambda m, x: torch.stack([m.n(m.a(step)) for step in x]), a=fc(), n=neuron.LIFNode(2.0)
    )
    for net in (multi, flat, loop):
        for mode in ("parallel", "sequential"):
            with pytest.raises(ValueError, match=r"time steps|times; accepted"):
                sbc.compress_model(
                    net, [data(4, 3, 6), data(steps, 3, 6)], sparsity=0.5, calibration_mode=mode
                )


def loader(shuffle: bool) -> Any:
    samples = torch.utils.data.TensorDataset(data(12, 4, 6))
    return torch.utils.data.DataLoader(samples, batch_size=4, shuffle=shuffle)


def over_time(model: nn.Module, batch: Tensor) -> Any:
    return model(batch.transpose(0, 1))


@pytest.mark.parametrize("shuffle", [False, True])
def test_loaders_leave_random_numbers_alone_and_can_be_resumed(
    shuffle: bool, tmp_path: Path
) -> None:
    net, batches = nn.Sequential(fc(), lif(), fc()), loader(shuffle)
    before = torch.get_rng_state()
    first = sbc.compress_model(
        net, batches, sparsity=0.5, forward=over_time, checkpoint_dir=tmp_path
    )
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(3)  # a resumed process is somewhere else
    again = sbc.compress_model(
        net, batches, sparsity=0.5, forward=over_time, checkpoint_dir=tmp_path
    )
    assert again.resumed == 2
    assert torch.equal(again.model[0].weight, first.model[0].weight)


def test_a_neurons_reset_belongs_to_a_checkpoint(tmp_path: Path) -> None:
    net, x = nn.Sequential(fc(), lif(), fc()), data()
    sbc.compress_model(net, x, sparsity=0.5, checkpoint_dir=tmp_path)
    net[1].v_reset = None
    with pytest.raises(ValueError, match="another model"):
        sbc.compress_model(net, x, sparsity=0.5, checkpoint_dir=tmp_path)


def test_forward_that_answers_nothing() -> None:
    seen: list[Tensor] = []
    net = Net(lambda m, x: seen.append(m.n(m.bn(m.fc(x)))), fc=fc(), bn=norm(), n=lif())
    result = sbc.compress_model(net, data(), sparsity=0.5)
    assert result.layers[0].sparsity == 0.5


# ---- sharing -----------------------------------------------------------------------------------


def test_tied_weights_and_biases_stay_tied() -> None:
    net = two_places()
    result = sbc.compress_model(net, data(), sparsity=0.5, inplace=True)
    assert result.model.f1.weight is result.model.f2.weight
    assert float((net.f1.weight == 0).float().mean()) == 0.5
    assert set(result.plan["f1"].consumers) == {"n1", "n2"}

    net = Net(lambda m, x: m.n2(m.b(m.n1(m.a(x)))), b=fc(), a=fc(), n1=lif(), n2=lif())
    net.b.bias = net.a.bias
    before = net.a.bias.detach().clone()
    sbc.compress_model(net, data(), sparsity=0.5, inplace=True)
    assert torch.equal(net.a.bias, before)


def test_parametrized_weights_are_left_alone_by_name() -> None:
    wrapped = nn.utils.parametrizations.weight_norm(fc())
    net = nn.Sequential(fc(), lif(), wrapped, lif())
    result = sbc.compress_model(net, data(), sparsity=0.5, inplace=True)
    assert [record.name for record in result.layers] == ["0"]
    assert "parametrization" in result.log[0]


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_other_floats(dtype: torch.dtype) -> None:
    net = nn.Sequential(fc(), lif(), fc(), lif()).to(dtype)
    for options in ({"sparsity": 0.5}, {"bits": 4}, {"sparsity": 0.5, "bits": 3}):
        result = sbc.compress_model(net, data().to(dtype), **options)
        assert result.model[0].weight.dtype == dtype
        assert all(torch.isfinite(p).all() for p in result.model.parameters())


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"inplace": "yes"}, TypeError, "inplace is 'yes'"),
        ({"fold": 1}, TypeError, "fold is 1"),
        ({"bn_reestimate": "no"}, TypeError, "bn_reestimate is 'no'"),
        ({"forward": 3}, TypeError, "forward is 3"),
        ({"overrides": {3: {}}}, TypeError, "overrides has 3"),
        ({"ignore": [3]}, TypeError, "ignore has 3"),
    ],
)
def test_arguments_of_the_wrong_kind(options: dict[str, Any], error: Any, words: str) -> None:
    with pytest.raises(error, match=words):
        sbc.compress_model(nn.Sequential(fc(), lif()), data(), **options)
    for wrong in ("data", {"x": 1}):
        with pytest.raises(TypeError, match="calibration is a"):
            sbc.compress_model(nn.Sequential(fc(), lif()), wrong)
