"""Networks of SpikingJelly, and their tables."""

from __future__ import annotations

import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from .tables import CLASSES, HEAD, Table, build_firing, draw_images, leads_to


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
    from spikingjelly.activation_based import functional, layer, neuron, surrogate
    from spikingjelly.activation_based.model.sew_resnet import sew_resnet18, sew_resnet152
    from spikingjelly.activation_based.model.spike_driven_transformer import SpikeDrivenTransformer
    from spikingjelly.activation_based.model.spikformer import Spikformer
    from spikingjelly.activation_based.model.spiking_resnet import spiking_resnet18
    from spikingjelly.activation_based.model.spiking_vgg import SpikingVGG
# spiking neurons as the SpikingJelly examples build them
NEURON: dict[str, Any] = {"surrogate_function": surrogate.ATan(), "detach_reset": True}


# ---- Spiking-VGG11 with BatchNorm --------------------------------------------------------------
# Inputs of the weight layers: features.0 sees real numbers, all others spikes (max pooling keeps
# them; the average pooling from 1x1 to 7x7 only repeats them). Dropout between the classifier's
# neurons and layers does nothing in eval mode.

# Configuration "A" of spiking_vgg.py with an eighth of its channels.
_VGG11: tuple[int | str, ...] = (8, "M", 16, "M", 32, 32, "M", 64, 64, "M", 64, 64, "M")


def make_vgg11() -> nn.Module:
    """SpikingVGG. Its classifier, 25088 x 4096 x 4096 whatever the configuration, is cut down."""
    with torch.device("meta"):
        model = SpikingVGG(
            list(_VGG11), True, num_classes=CLASSES, spiking_neuron=neuron.IFNode, **NEURON
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


def vgg11_layers() -> Table:
    # make_layers: conv, norm, neuron; "M" is one max pooling
    table, i = {}, 0
    for v in _VGG11:
        if v == "M":
            i += 1
            continue
        table[f"features.{i}"] = leads_to(f"features.{i + 1}", f"features.{i + 2}")
        i += 3
    # classifier: linear, neuron, dropout, linear, neuron, dropout, linear
    table["classifier.0"] = leads_to((), "classifier.1")
    table["classifier.3"] = leads_to((), "classifier.4")
    table["classifier.6"] = HEAD
    return table


# ---- Spiking-ResNet18 --------------------------------------------------------------------------
# Inputs: conv1 sees real numbers, fc averages of spikes, all others spikes. The shortcut is added
# before sn2, so sn2 has two feeding layers where there is a downsample, one where there is none:
# then the shortcut is the previous block's spikes. From images of 32 x 32, layer4's maps are 1 x 1:
# fc's averages are single spikes, and only the middle of those 3 x 3 kernels ever sees any.


def make_spiking_resnet18() -> nn.Module:
    model = spiking_resnet18(num_classes=CLASSES, spiking_neuron=neuron.IFNode, **NEURON)
    functional.set_step_mode(model, "m")
    return model


def _resnet18_layers(shortcut: str) -> Table:
    """`shortcut` is the neuron that the shortcut's convolution leads to."""
    table = {"conv1": leads_to("bn1", "sn1"), "fc": HEAD}
    for stage in range(1, 5):
        for block in range(2):
            at = f"layer{stage}.{block}"
            table[f"{at}.conv1"] = leads_to(f"{at}.bn1", f"{at}.sn1")
            table[f"{at}.conv2"] = leads_to(f"{at}.bn2", f"{at}.sn2")
            if stage > 1 and block == 0:  # stride 2; layer1 keeps 64 channels at stride 1
                table[f"{at}.downsample.0"] = leads_to(f"{at}.downsample.1", f"{at}.{shortcut}")
    return table


def spiking_resnet18_layers() -> Table:
    return _resnet18_layers("sn2")


# ---- SEW-ResNet18 ------------------------------------------------------------------------------
# The shortcut joins after the neurons, so every layer has one consumer. Inputs: conv1 sees real
# numbers, fc averages. ADD: a block's output counts spikes, 0..2 after a stage's first block (in
# layer1 too, whose shortcut is sn1's spikes), 0..3 after its second; so layer1.0 and every conv2
# see spikes, all other convolutions integers. AND and IAND: spikes everywhere, with AND few. The
# maps of layer4 are 1 x 1 here too.


def make_sew_resnet18(cnf: str) -> nn.Module:
    model = sew_resnet18(num_classes=CLASSES, cnf=cnf, spiking_neuron=neuron.IFNode, **NEURON)
    functional.set_step_mode(model, "m")
    return model


def sew_resnet18_layers() -> Table:
    return _resnet18_layers("downsample_sn")


def build_sew_resnet152(T: int = 4) -> nn.Module:
    """SEW-ResNet152, ADD, 1000 classes, for inputs [T, n, 3, h, w] up to ImageNet's 224 x 224.

    60 million weights. Its convolutions see counts of spikes, one more for every block of a stage:
    0..37 behind the 36 blocks of layer3. conv2 and conv3 see spikes.
    """

    def make() -> nn.Module:
        model = sew_resnet152(cnf="ADD", spiking_neuron=neuron.IFNode, **NEURON)
        functional.set_step_mode(model, "m")
        return model

    return build_firing(make, lambda n: draw_images(1, T, 64), 0.2)


def sew_resnet152_layers() -> Table:
    table = {"conv1": leads_to("bn1", "sn1"), "fc": HEAD}
    for stage, blocks in enumerate((3, 8, 36, 3), start=1):
        for block in range(blocks):
            at = f"layer{stage}.{block}"
            for i in (1, 2, 3):
                table[f"{at}.conv{i}"] = leads_to(f"{at}.bn{i}", f"{at}.sn{i}")
            if block == 0:  # in layer1 too: 64 channels become 256
                table[f"{at}.downsample.0"] = leads_to(f"{at}.downsample.1", f"{at}.downsample_sn")
    return table


# ---- Spikformer --------------------------------------------------------------------------------
# The residual stream adds spikes of neurons, so it cuts no path and every layer has one consumer.
# Inputs: the first stage sees real numbers; stages 1..3 and positional_encoding spikes;
# blocks.0.attn.qkv_conv_bn integers 0..2 (stages' and positional encoding's spikes added), one
# more after each attention and each MLP (fc1); proj and fc2 spikes; head averages of integers over
# tokens, at every time step. SpikingJelly keeps q, k and v in one convolution of 3 C channels. The
# third and fourth stage have max pooling between norm and neuron.


def make_spikformer() -> nn.Module:
    return Spikformer(
        T=4,
        img_size_h=32,
        img_size_w=32,
        patch_size=4,
        num_classes=CLASSES,
        embed_dims=64,
        num_heads=4,
        depths=2,
        **NEURON,
    )


def spikformer_layers() -> Table:
    table = {"head": HEAD}
    for stem in (*(f"stages.{i}" for i in range(4)), "positional_encoding"):
        at = f"patch_embed.{stem}"
        table[f"{at}.conv_bn.block.0"] = leads_to(f"{at}.conv_bn.block.1", f"{at}.neuron")
    for block in range(2):
        attn, mlp = f"blocks.{block}.attn", f"blocks.{block}.mlp"
        table[f"{attn}.qkv_conv_bn.0"] = leads_to(f"{attn}.qkv_conv_bn.1", f"{attn}.qkv_lif")
        table[f"{attn}.proj_conv_bn.0"] = leads_to(f"{attn}.proj_conv_bn.1", f"{attn}.proj_lif")
        table[f"{mlp}.fc1.0"] = leads_to(f"{mlp}.fc1.1", f"{mlp}.neuron1")
        table[f"{mlp}.fc2.0"] = leads_to(f"{mlp}.fc2.1", f"{mlp}.neuron2")
    return table


# ---- Spike-driven Transformer ------------------------------------------------------------------
# The residual stream carries membrane inputs: whatever is added to it reaches every later neuron
# that reads the stream, up to head_lif, which reads its average over tokens. final_stage's output
# enters the stream (identity) and final_lif. Inputs: patch_embed.stages.0 sees real numbers, head
# averages of spikes over time, all others spikes (proj sees products of spikes). With mlp_ratio 1
# the MLP has a second shortcut around fc1, which puts fc1 and lif2 on the stream too.


def make_sdt(mlp_ratio: float) -> nn.Module:
    return SpikeDrivenTransformer(
        T=4,
        num_classes=CLASSES,
        embed_dims=64,
        num_heads=4,
        depths=2,
        mlp_ratio=mlp_ratio,
        pooling_stat="0011",
        **NEURON,
    )


def sdt_layers(inner_shortcut: bool) -> Table:
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
        table[f"{stem}.stages.{i}.0"] = leads_to(f"{stem}.stages.{i}.1", f"{stem}.stages.{i}.2")
    table[f"{stem}.final_stage.0"] = leads_to(
        f"{stem}.final_stage.1", f"{stem}.final_lif", *readers
    )
    table[f"{stem}.rpe_conv"] = leads_to(f"{stem}.rpe_bn", *readers)
    for block in range(2):
        attn, mlp = f"blocks.{block}.attn", f"blocks.{block}.mlp"
        after = "head_lif" if block == 1 else f"blocks.{block + 1}.attn.shortcut_lif"
        for name in "qkv":
            table[f"{attn}.{name}_conv"] = leads_to(f"{attn}.{name}_bn", f"{attn}.{name}_lif")
        table[f"{attn}.proj_conv"] = leads_to(f"{attn}.proj_bn", *since(f"{mlp}.lif1"))
        fc1 = since(f"{mlp}.lif2") if inner_shortcut else [f"{mlp}.lif2"]
        table[f"{mlp}.fc1"] = leads_to(f"{mlp}.bn1", *fc1)
        table[f"{mlp}.fc2"] = leads_to(f"{mlp}.bn2", *since(after))
    return table
