"""Real spiking networks, and for every weight layer the norms and neurons that its output meets.

The tables are rules written down from reading each model's source, never traced. Running this
file checks them against the models: ``python tests/zoo.py``.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@contextmanager
def _without_torchvision() -> Iterator[None]:
    """SpikingJelly's models import torchvision only for a download that nobody here asks for."""
    utils = types.ModuleType("torchvision._internally_replaced_utils")
    utils.load_state_dict_from_url = None
    fakes = {"torchvision": types.ModuleType("torchvision"), utils.__name__: utils}
    before = {name: sys.modules[name] for name in fakes if name in sys.modules}
    sys.modules.update(fakes)
    try:
        yield
    finally:
        for name in fakes:
            del sys.modules[name]
        sys.modules.update(before)


with _without_torchvision():
    from spikingjelly.activation_based import base, functional, layer, neuron, surrogate
    from spikingjelly.activation_based.model.sew_resnet import sew_resnet18, sew_resnet152
    from spikingjelly.activation_based.model.spike_driven_transformer import SpikeDrivenTransformer
    from spikingjelly.activation_based.model.spikformer import Spikformer
    from spikingjelly.activation_based.model.spiking_resnet import spiking_resnet18
    from spikingjelly.activation_based.model.spiking_vgg import SpikingVGG

WEIGHT_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d)  # spikingjelly's layer.* are subclasses
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)
CLASSES = 10


@dataclass(frozen=True)
class Entry:
    """Where the output of one weight layer goes."""

    norms: tuple[str, ...]  # BatchNorms before the next weight layer or neuron, in order
    consumers: frozenset[str]  # the first neurons that see it; none: it is the network's output


@dataclass(frozen=True)
class Case:
    name: str
    build: Callable[[], nn.Module]
    inputs: Callable[[int], Tensor]
    layers: dict[str, Entry]


Table = dict[str, Entry]


def _to(norms: str | Sequence[str], *consumers: str) -> Entry:
    return Entry((norms,) if isinstance(norms, str) else tuple(norms), frozenset(consumers))


HEAD = Entry((), frozenset())


# ---- weights that make the neurons fire --------------------------------------------------------


def neurons_of(model: nn.Module) -> dict[str, nn.Module]:
    return {name: m for name, m in model.named_modules() if isinstance(m, neuron.BaseNode)}


def weight_layers_of(model: nn.Module) -> dict[str, nn.Module]:
    return {name: m for name, m in model.named_modules() if isinstance(m, WEIGHT_LAYERS)}


def norms_of(model: nn.Module) -> dict[str, nn.Module]:
    return {name: m for name, m in model.named_modules() if isinstance(m, NORMS)}


@torch.no_grad()
def _settle(model: nn.Module, x: Tensor, drive: float) -> nn.Module:
    """Puts the network where training might have: no BatchNorm is trivial, every neuron fires.

    One pass over ``x`` gives every weight layer outputs of unit variance, and every BatchNorm the
    channels' means (a bit off), variances of 0.5..1.5, weights of 0.5..1.5 and biases within 0.3
    of ``drive``.
    """
    model.eval()
    draw = torch.Generator().manual_seed(1)

    def uniform(n: int, low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(n, generator=draw)

    def scale(module: Any, _: Any, output: Tensor) -> Tensor:
        axis = _channels(module, output.dim())
        shape = [1] * axis + [-1] + [1] * (output.dim() - axis - 1)
        spread = output.transpose(0, axis).flatten(1).std(1)
        if isinstance(module, nn.Linear):  # no BatchNorm will centre it
            spread = output.std().expand_as(spread)
        gain = 1 / spread.clamp(min=0.05 * float(output.std()))
        module.weight.mul_(gain.view([-1] + [1] * (module.weight.dim() - 1)))
        output = output * gain.view(shape)
        if module.bias is not None:
            shift = 0.1 * torch.randn(gain.shape, generator=draw)
            module.bias.mul_(gain).add_(shift)
            output = output + shift.view(shape)
        return output

    def centre(module: Any, args: tuple[Tensor, ...]) -> None:
        n, axis = module.num_features, _channels(module, args[0].dim())
        mean = args[0].transpose(0, axis).flatten(1).mean(1)
        module.running_mean.copy_(mean + 0.2 * torch.randn(n, generator=draw))
        module.running_var.copy_(uniform(n, 0.5, 1.5))
        module.weight.copy_(uniform(n, 0.5, 1.5))
        module.bias.copy_(uniform(n, drive - 0.3, drive + 0.3))

    hooks = [m.register_forward_hook(scale) for m in weight_layers_of(model).values()]
    hooks += [m.register_forward_pre_hook(centre) for m in norms_of(model).values()]
    model(x)
    for hook in hooks:
        hook.remove()
    functional.reset_net(model)
    return model


def _channels(module: nn.Module, dims: int) -> int:
    """The axis of the channels. In step mode m, a tensor has its time steps in front."""
    if isinstance(module, nn.Linear):
        return dims - 1
    return 2 if isinstance(module, base.StepModule) and module.step_mode == "m" else 1


def _images(n: int, steps: int | None, size: int = 32) -> Tensor:
    """Seeded images [n, 3, size, size], or [steps, n, 3, size, size] with a new noise each step.

    Sample i is the same for every n.
    """
    samples = []
    for i in range(n):
        draw = torch.Generator().manual_seed(1000 + i)
        image = F.interpolate(torch.randn(1, 3, 8, 8, generator=draw), size, mode="bilinear")[0]
        if steps is None:
            samples.append(image + 0.3 * torch.randn(3, size, size, generator=draw))
        else:
            samples.append(image + 0.3 * torch.randn(steps, 3, size, size, generator=draw))
    return torch.stack(samples, dim=0 if steps is None else 1)


def _build(
    make: Callable[[], nn.Module], inputs: Callable[[int], Tensor], drive: float
) -> nn.Module:
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        model = make()
    return _settle(model, inputs(4), drive)


# spiking neurons as the SpikingJelly examples build them
_NEURON: dict[str, Any] = {"surrogate_function": surrogate.ATan(), "detach_reset": True}


# ---- Spiking-VGG11 with BatchNorm --------------------------------------------------------------
# Inputs of the weight layers: features.0 sees real numbers, all others spikes (max pooling keeps
# them; the average pooling from 1x1 to 7x7 only repeats them). Dropout between the classifier's
# neurons and layers does nothing in eval mode.

# Configuration "A" of spiking_vgg.py with an eighth of its channels.
_VGG11: tuple[int | str, ...] = (8, "M", 16, "M", 32, 32, "M", 64, 64, "M", 64, 64, "M")


def _make_vgg11() -> nn.Module:
    """SpikingVGG. Its classifier, 25088 x 4096 x 4096 whatever the configuration, is cut down."""
    with torch.device("meta"):
        model = SpikingVGG(
            list(_VGG11), True, num_classes=CLASSES, spiking_neuron=neuron.IFNode, **_NEURON
        )
    model.classifier[0] = layer.Linear(64 * 7 * 7, 96)
    model.classifier[3] = layer.Linear(96, 96)
    model.classifier[6] = layer.Linear(96, CLASSES)
    for module in model.modules():
        if any(p.is_meta for p in module.parameters(recurse=False)):
            module.to_empty(device="cpu", recurse=False)
            module.reset_parameters()
    model._initialize_weights()
    functional.set_step_mode(model, "m")
    return model


def _vgg11_layers() -> Table:
    # make_layers: conv, norm, neuron; "M" is one max pooling
    table, i = {}, 0
    for v in _VGG11:
        if v == "M":
            i += 1
            continue
        table[f"features.{i}"] = _to(f"features.{i + 1}", f"features.{i + 2}")
        i += 3
    # classifier: linear, neuron, dropout, linear, neuron, dropout, linear
    table["classifier.0"] = _to((), "classifier.1")
    table["classifier.3"] = _to((), "classifier.4")
    table["classifier.6"] = HEAD
    return table


# ---- Spiking-ResNet18 --------------------------------------------------------------------------
# Inputs: conv1 sees real numbers, fc averages of spikes, all others spikes. The shortcut is added
# before sn2, so sn2 has two feeding layers where there is a downsample, one where there is none:
# then the shortcut is the previous block's spikes. From images of 32 x 32, layer4's maps are 1 x 1:
# fc's averages are single spikes, and only the middle of those 3 x 3 kernels ever sees any.


def _make_spiking_resnet18() -> nn.Module:
    model = spiking_resnet18(num_classes=CLASSES, spiking_neuron=neuron.IFNode, **_NEURON)
    functional.set_step_mode(model, "m")
    return model


def _spiking_resnet18_layers() -> Table:
    table = {"conv1": _to("bn1", "sn1"), "fc": HEAD}
    for stage in range(1, 5):
        for block in range(2):
            at = f"layer{stage}.{block}"
            table[f"{at}.conv1"] = _to(f"{at}.bn1", f"{at}.sn1")
            table[f"{at}.conv2"] = _to(f"{at}.bn2", f"{at}.sn2")
            if stage > 1 and block == 0:  # stride 2; layer1 keeps 64 channels at stride 1
                table[f"{at}.downsample.0"] = _to(f"{at}.downsample.1", f"{at}.sn2")
    return table


# ---- SEW-ResNet18 ------------------------------------------------------------------------------
# The shortcut joins after the neurons, so every layer has one consumer. Inputs: conv1 sees real
# numbers, fc averages. ADD: a block's output counts spikes, 0..2 after a stage's first block (in
# layer1 too, whose shortcut is sn1's spikes), 0..3 after its second; so layer1.0 and every conv2
# see spikes, all other convolutions integers. AND and IAND: spikes everywhere, with AND few. The
# maps of layer4 are 1 x 1 here too.


def _make_sew_resnet18(cnf: str) -> nn.Module:
    model = sew_resnet18(num_classes=CLASSES, cnf=cnf, spiking_neuron=neuron.IFNode, **_NEURON)
    functional.set_step_mode(model, "m")
    return model


def _sew_resnet18_layers() -> Table:
    table = {"conv1": _to("bn1", "sn1"), "fc": HEAD}
    for stage in range(1, 5):
        for block in range(2):
            at = f"layer{stage}.{block}"
            table[f"{at}.conv1"] = _to(f"{at}.bn1", f"{at}.sn1")
            table[f"{at}.conv2"] = _to(f"{at}.bn2", f"{at}.sn2")
            if stage > 1 and block == 0:
                table[f"{at}.downsample.0"] = _to(f"{at}.downsample.1", f"{at}.downsample_sn")
    return table


def build_sew_resnet152(T: int = 4) -> nn.Module:
    """SEW-ResNet152, ADD, 1000 classes, for inputs [T, n, 3, h, w] up to ImageNet's 224 x 224.

    60 million weights. Its convolutions see counts of spikes, one more for every block of a stage:
    0..37 behind the 36 blocks of layer3. conv2 and conv3 see spikes.
    """

    def make() -> nn.Module:
        model = sew_resnet152(cnf="ADD", spiking_neuron=neuron.IFNode, **_NEURON)
        functional.set_step_mode(model, "m")
        return model

    return _build(make, lambda n: _images(1, T, 64), 0.2)


def sew_resnet152_layers() -> Table:
    table = {"conv1": _to("bn1", "sn1"), "fc": HEAD}
    for stage, blocks in enumerate((3, 8, 36, 3), start=1):
        for block in range(blocks):
            at = f"layer{stage}.{block}"
            for i in (1, 2, 3):
                table[f"{at}.conv{i}"] = _to(f"{at}.bn{i}", f"{at}.sn{i}")
            if block == 0:  # in layer1 too: 64 channels become 256
                table[f"{at}.downsample.0"] = _to(f"{at}.downsample.1", f"{at}.downsample_sn")
    return table


# ---- Spikformer --------------------------------------------------------------------------------
# The residual stream adds spikes of neurons, so it cuts no path and every layer has one consumer.
# Inputs: the first stage sees real numbers; stages 1..3 and positional_encoding spikes;
# blocks.0.attn.qkv_conv_bn integers 0..2 (stages' and positional encoding's spikes added), one
# more after each attention and each MLP (fc1); proj and fc2 spikes; head averages of integers over
# tokens, at every time step. SpikingJelly keeps q, k and v in one convolution of 3 C channels. The
# third and fourth stage have max pooling between norm and neuron.


def _make_spikformer() -> nn.Module:
    return Spikformer(
        T=4,
        img_size_h=32,
        img_size_w=32,
        patch_size=4,
        num_classes=CLASSES,
        embed_dims=64,
        num_heads=4,
        depths=2,
        **_NEURON,
    )


def _spikformer_layers() -> Table:
    table = {"head": HEAD}
    for stem in (*(f"stages.{i}" for i in range(4)), "positional_encoding"):
        at = f"patch_embed.{stem}"
        table[f"{at}.conv_bn.block.0"] = _to(f"{at}.conv_bn.block.1", f"{at}.neuron")
    for block in range(2):
        attn, mlp = f"blocks.{block}.attn", f"blocks.{block}.mlp"
        table[f"{attn}.qkv_conv_bn.0"] = _to(f"{attn}.qkv_conv_bn.1", f"{attn}.qkv_lif")
        table[f"{attn}.proj_conv_bn.0"] = _to(f"{attn}.proj_conv_bn.1", f"{attn}.proj_lif")
        table[f"{mlp}.fc1.0"] = _to(f"{mlp}.fc1.1", f"{mlp}.neuron1")
        table[f"{mlp}.fc2.0"] = _to(f"{mlp}.fc2.1", f"{mlp}.neuron2")
    return table


# ---- Spike-driven Transformer ------------------------------------------------------------------
# The residual stream carries membrane inputs: whatever is added to it reaches every later neuron
# that reads the stream, up to head_lif, which reads its average over tokens. final_stage's output
# enters the stream (identity) and final_lif. Inputs: patch_embed.stages.0 sees real numbers, head
# averages of spikes over time, all others spikes (proj sees products of spikes). With mlp_ratio 1
# the MLP has a second shortcut around fc1, which puts fc1 and lif2 on the stream too.


def _make_sdt(mlp_ratio: float) -> nn.Module:
    return SpikeDrivenTransformer(
        T=4,
        num_classes=CLASSES,
        embed_dims=64,
        num_heads=4,
        depths=2,
        mlp_ratio=mlp_ratio,
        pooling_stat="0011",
        **_NEURON,
    )


def _sdt_layers(inner_shortcut: bool) -> Table:
    readers = []  # of the residual stream, in order
    for block in range(2):
        readers += [f"blocks.{block}.attn.shortcut_lif", f"blocks.{block}.mlp.lif1"]
        if inner_shortcut:
            readers.append(f"blocks.{block}.mlp.lif2")
    readers.append("head_lif")

    def since(name: str) -> list[str]:
        return readers[readers.index(name) :]

    stem = "patch_embed"
    table = {"head": HEAD}
    for i in range(3):
        table[f"{stem}.stages.{i}.0"] = _to(f"{stem}.stages.{i}.1", f"{stem}.stages.{i}.2")
    table[f"{stem}.final_stage.0"] = _to(f"{stem}.final_stage.1", f"{stem}.final_lif", *readers)
    table[f"{stem}.rpe_conv"] = _to(f"{stem}.rpe_bn", *readers)
    for block in range(2):
        attn, mlp = f"blocks.{block}.attn", f"blocks.{block}.mlp"
        after = "head_lif" if block == 1 else f"blocks.{block + 1}.attn.shortcut_lif"
        for name in "qkv":
            table[f"{attn}.{name}_conv"] = _to(f"{attn}.{name}_bn", f"{attn}.{name}_lif")
        table[f"{attn}.proj_conv"] = _to(f"{attn}.proj_bn", *since(f"{mlp}.lif1"))
        fc1 = since(f"{mlp}.lif2") if inner_shortcut else [f"{mlp}.lif2"]
        table[f"{mlp}.fc1"] = _to(f"{mlp}.bn1", *fc1)
        table[f"{mlp}.fc2"] = _to(f"{mlp}.bn2", *since(after))
    return table


# ---- Meta-SpikeFormer: attention of re-parameterizable convolutions ----------------------------
# SpikingJelly has none; written here after the Spike-driven Transformer V2 (Yao et al., ICLR 2024).
# Inputs: down1.encode_conv sees real numbers. A RepConv's first convolution sees spikes, its other
# two real numbers: no neuron lies between them, so their output also reaches only the neuron
# behind the RepConv (q_lif, ...; for proj_conv: every later reader of the residual stream, as in
# the Spike-driven Transformer). The two BatchNorms behind a RepConv follow each other directly.
# fc1 and fc2 see spikes; head sees spikes at every time step and its output is averaged over time.


class BNAndPadLayer(nn.Module):
    """BatchNorm2d, padded with what it makes of zeros, as if the zeros had been padded before."""

    def __init__(self, pad_pixels: int, num_features: int) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(num_features)
        self.pad_pixels = pad_pixels

    def forward(self, x: Tensor) -> Tensor:
        bn, p = self.bn, self.pad_pixels
        border = bn.bias - bn.running_mean * bn.weight / torch.sqrt(bn.running_var + bn.eps)
        border = border.detach().view(1, -1, 1, 1)
        y = F.pad(bn(x), [p] * 4)
        y[:, :, :p], y[:, :, -p:] = border, border
        y[..., :p], y[..., -p:] = border, border
        return y


class RepConv(nn.Module):
    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(in_channels, in_channels, 1, bias=False),
            BNAndPadLayer(1, in_channels),
            nn.Sequential(
                nn.Conv2d(in_channels, in_channels, 3, groups=in_channels, bias=False),
                nn.Conv2d(in_channels, out_channels, 1, bias=False),
                nn.BatchNorm2d(out_channels),
            ),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


def _lif(v_threshold: float = 1.0) -> neuron.LIFNode:
    return neuron.LIFNode(tau=2.0, v_threshold=v_threshold, step_mode="m", **_NEURON)


class MS_Attention_RepConv_qkv_id(nn.Module):
    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads, self.scale = num_heads, 0.125
        self.head_lif = _lif()
        self.q_conv = nn.Sequential(RepConv(dim, dim), nn.BatchNorm2d(dim))
        self.k_conv = nn.Sequential(RepConv(dim, dim), nn.BatchNorm2d(dim))
        self.v_conv = nn.Sequential(RepConv(dim, dim), nn.BatchNorm2d(dim))
        self.q_lif, self.k_lif, self.v_lif = _lif(), _lif(), _lif()
        self.attn_lif = _lif(0.5)
        self.proj_conv = nn.Sequential(RepConv(dim, dim), nn.BatchNorm2d(dim))

    def forward(self, x: Tensor) -> Tensor:
        T, B, C, H, W = x.shape
        spikes = self.head_lif(x).flatten(0, 1)

        def tokens(conv: nn.Module, lif: nn.Module) -> Tensor:
            """[T, B, heads, H W, C / heads]"""
            y = lif(conv(spikes).reshape(T, B, C, H, W))
            return y.reshape(T, B, self.num_heads, C // self.num_heads, H * W).transpose(3, 4)

        q = tokens(self.q_conv, self.q_lif)
        k = tokens(self.k_conv, self.k_lif)
        v = tokens(self.v_conv, self.v_lif)
        y = q @ (k.transpose(3, 4) @ v) * self.scale
        y = self.attn_lif(y.transpose(3, 4).reshape(T, B, C, H * W))
        return self.proj_conv(y.reshape(T * B, C, H, W)).reshape(T, B, C, H, W)


class MS_MLP(nn.Module):
    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1_lif = _lif()
        self.fc1_conv = nn.Conv1d(dim, hidden, 1)
        self.fc1_bn = nn.BatchNorm1d(hidden)
        self.fc2_lif = _lif()
        self.fc2_conv = nn.Conv1d(hidden, dim, 1)
        self.fc2_bn = nn.BatchNorm1d(dim)

    def forward(self, x: Tensor) -> Tensor:
        T, B, C, H, W = x.shape
        y = self.fc1_lif(x.flatten(3))
        y = self.fc1_bn(self.fc1_conv(y.flatten(0, 1))).reshape(T, B, -1, H * W)
        y = self.fc2_lif(y)
        return self.fc2_bn(self.fc2_conv(y.flatten(0, 1))).reshape(T, B, C, H, W)


class MS_Block(nn.Module):
    def __init__(self, dim: int, num_heads: int, mlp_ratio: int) -> None:
        super().__init__()
        self.attn = MS_Attention_RepConv_qkv_id(dim, num_heads)
        self.mlp = MS_MLP(dim, mlp_ratio * dim)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(x)
        return x + self.mlp(x)


class MS_DownSampling(nn.Module):
    def __init__(
        self, in_channels: int, dim: int, kernel: int, padding: int, first_layer: bool
    ) -> None:
        super().__init__()
        self.encode_conv = nn.Conv2d(in_channels, dim, kernel, 2, padding)
        self.encode_bn = nn.BatchNorm2d(dim)
        self.encode_lif = None if first_layer else _lif()

    def forward(self, x: Tensor) -> Tensor:
        T, B = x.shape[:2]
        if self.encode_lif is not None:
            x = self.encode_lif(x)
        y = self.encode_bn(self.encode_conv(x.flatten(0, 1)))
        return y.reshape(T, B, *y.shape[1:])


class MetaSpikeFormer(nn.Module):
    """Two down-samplings and the attention stage of Meta-SpikeFormer, for images [n, 3, h, w]."""

    def __init__(self, T: int, dim: int, num_heads: int, depth: int, mlp_ratio: int) -> None:
        super().__init__()
        self.T = T
        self.down1 = MS_DownSampling(3, dim // 2, 7, 3, first_layer=True)
        self.down2 = MS_DownSampling(dim // 2, dim, 3, 1, first_layer=False)
        self.blocks = nn.ModuleList(MS_Block(dim, num_heads, mlp_ratio) for _ in range(depth))
        self.lif = _lif()
        self.head = nn.Linear(dim, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = x.unsqueeze(0).repeat(self.T, 1, 1, 1, 1)
        x = self.down2(self.down1(x))
        for block in self.blocks:
            x = block(x)
        return self.head(self.lif(x.flatten(3).mean(3))).mean(0)


def _meta_spikeformer_layers() -> Table:
    readers = [
        f"blocks.{block}.{n}" for block in range(2) for n in ("attn.head_lif", "mlp.fc1_lif")
    ]
    readers.append("lif")

    def since(name: str) -> list[str]:
        return readers[readers.index(name) :]

    table = {
        "down1.encode_conv": _to("down1.encode_bn", "down2.encode_lif"),
        "down2.encode_conv": _to("down2.encode_bn", *readers),
        "head": HEAD,
    }
    for block in range(2):
        attn, mlp = f"blocks.{block}.attn", f"blocks.{block}.mlp"
        after = "lif" if block == 1 else f"blocks.{block + 1}.attn.head_lif"
        behind = {f"{name}_conv": [f"{attn}.{name}_lif"] for name in "qkv"}
        behind["proj_conv"] = since(f"{mlp}.fc1_lif")
        for name, consumers in behind.items():
            body = f"{attn}.{name}.0.body"
            table[f"{body}.0"] = _to(f"{body}.1.bn", *consumers)
            table[f"{body}.2.0"] = _to((), *consumers)
            table[f"{body}.2.1"] = _to((f"{body}.2.2", f"{attn}.{name}.1"), *consumers)
        table[f"{mlp}.fc1_conv"] = _to(f"{mlp}.fc1_bn", f"{mlp}.fc2_lif")
        table[f"{mlp}.fc2_conv"] = _to(f"{mlp}.fc2_bn", *since(after))
    return table


# ---- the cases ---------------------------------------------------------------------------------


def _case(
    name: str, make: Callable[[], nn.Module], steps: int | None, drive: float, layers: Table
) -> Case:
    """``steps``: of the input, or None for a model that repeats an image itself."""
    inputs = partial(_images, steps=steps)
    return Case(name, partial(_build, make, inputs, drive), inputs, layers)


CASES: tuple[Case, ...] = (
    _case("vgg11_bn", _make_vgg11, 4, 0.3, _vgg11_layers()),
    _case("spiking_resnet18", _make_spiking_resnet18, 4, 0.2, _spiking_resnet18_layers()),
    *(
        _case(f"sew_resnet18_{c}", partial(_make_sew_resnet18, c), 4, 0.3, _sew_resnet18_layers())
        for c in ("ADD", "AND", "IAND")
    ),
    _case("spikformer", _make_spikformer, None, 0.6, _spikformer_layers()),
    _case("sdt", partial(_make_sdt, 4.0), None, 0.2, _sdt_layers(False)),
    _case("sdt_mlp_ratio_1", partial(_make_sdt, 1.0), None, 0.2, _sdt_layers(True)),
    _case(
        "meta_spikeformer",
        partial(MetaSpikeFormer, T=4, dim=64, num_heads=4, depth=2, mlp_ratio=4),
        None,
        0.5,
        _meta_spikeformer_layers(),
    ),
)


# ---- the tables against the models -------------------------------------------------------------


@torch.no_grad()
def firing_rates(model: nn.Module, x: Tensor) -> dict[str, float]:
    rates: dict[str, float] = {}
    hooks = [
        m.register_forward_hook(
            lambda _m, _x, y, name=name: rates.update({name: float((y != 0).float().mean())})
        )
        for name, m in neurons_of(model).items()
    ]
    output = model(x)
    for hook in hooks:
        hook.remove()
    functional.reset_net(model)
    assert bool(torch.isfinite(output).all())
    return rates


@torch.no_grad()
def traced_layers(model: nn.Module, x: Tensor) -> Table:
    """The same table by experiment: which neurons' inputs move when one layer's weights do.

    All neurons' outputs are frozen at what they were, so only those fed without a neuron between
    move. For the norms, the other weight layers' outputs are frozen too.
    """
    weights, neurons, norms = weight_layers_of(model), neurons_of(model), norms_of(model)
    names = {m: name for group in (weights, neurons, norms) for name, m in group.items()}
    outputs: dict[str, Tensor] = {}
    inputs: dict[str, Tensor] = {}
    order: list[str] = []
    freeze: set[str] = set()

    def before(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        inputs[names[module]] = args[0].clone()
        order.append(names[module])

    def after(module: nn.Module, _: Any, output: Tensor) -> Tensor | None:
        if names[module] in freeze:
            return outputs[names[module]].clone()
        outputs[names[module]] = output.clone()
        return None

    def run() -> dict[str, Tensor]:
        inputs.clear()
        order.clear()
        inputs[""] = model(x)
        functional.reset_net(model)
        return dict(inputs)

    hooks = [m.register_forward_pre_hook(before) for m in names]
    hooks += [m.register_forward_hook(after) for m in names]
    plain = run()
    for name in names.values():
        assert order.count(name) == 1, f"{name} runs {order.count(name)} times"
    fixed, table = dict(outputs), {}
    draw = torch.Generator().manual_seed(2)
    for name, module in weights.items():
        kept: Tensor = module.weight.clone()
        module.weight += 0.1 * torch.randn(kept.shape, generator=draw)
        outputs = dict(fixed)
        freeze = set(neurons)
        moved = {n for n, value in run().items() if not torch.equal(value, plain[n])}
        outputs = dict(fixed)
        freeze = set(neurons) | set(weights) - {name}
        close = {n for n, value in run().items() if not torch.equal(value, plain[n])}
        module.weight.copy_(kept)
        consumers = frozenset(moved & set(neurons))
        assert consumers or "" in moved, f"{name} changes nothing"
        assert not consumers or "" not in moved, f"{name} also reaches the output"
        table[name] = Entry(tuple(n for n in order if n in close and n in norms), consumers)
    for hook in hooks:
        hook.remove()
    return table


def check(name: str, model: nn.Module, x: Tensor, layers: Table) -> None:
    modules = dict(model.named_modules())
    assert layers.keys() == weight_layers_of(model).keys()
    for entry in layers.values():
        assert all(isinstance(modules[n], NORMS) for n in entry.norms)
        assert all(isinstance(modules[n], neuron.BaseNode) for n in entry.consumers)
    rates = firing_rates(model, x)
    low, high = min(rates, key=lambda n: rates[n]), max(rates, key=lambda n: rates[n])
    print(
        f"{name}: {len(layers)} layers, {len(rates)} neurons firing at {rates[low]:.1%} ({low}) "
        f"to {rates[high]:.1%} ({high})"
    )
    assert rates[low] > 0.01, f"{low} is silent"
    assert rates[high] < 0.9, f"{high} never rests"
    traced = traced_layers(model, x)
    for layer_name, entry in layers.items():
        assert traced[layer_name] == entry, f"{layer_name}: {traced[layer_name]}, not {entry}"


if __name__ == "__main__":
    torch.set_num_threads(1)
    for case in CASES:
        check(case.name, case.build(), case.inputs(3), case.layers)
    images = _images(1, 4, 64)
    check("sew_resnet152", build_sew_resnet152(4), images, sew_resnet152_layers())
