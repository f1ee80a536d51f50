"""Meta-SpikeFormer, and its table."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from spikingjelly.activation_based import neuron
from torch import Tensor, nn

from .spikingjelly_networks import NEURON
from .tables import CLASSES, HEAD, Table, leads_to

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
    return neuron.LIFNode(tau=2.0, v_threshold=v_threshold, step_mode="m", **NEURON)


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


def meta_spikeformer_layers() -> Table:
    readers = [
        f"blocks.{block}.{n}" for block in range(2) for n in ("attn.head_lif", "mlp.fc1_lif")
    ]
    readers.append("lif")

    def since(name: str) -> list[str]:
        return readers[readers.index(name) :]

    table = {
        "down1.encode_conv": leads_to("down1.encode_bn", "down2.encode_lif"),
        "down2.encode_conv": leads_to("down2.encode_bn", *readers),
        "head": HEAD,
    }
    for block in range(2):
        attn, mlp = f"blocks.{block}.attn", f"blocks.{block}.mlp"
        after = "lif" if block == 1 else f"blocks.{block + 1}.attn.head_lif"
        behind = {f"{name}_conv": [f"{attn}.{name}_lif"] for name in "qkv"}
        behind["proj_conv"] = since(f"{mlp}.fc1_lif")
        for name, consumers in behind.items():
            body = f"{attn}.{name}.0.body"
            table[f"{body}.0"] = leads_to(f"{body}.1.bn", *consumers)
            table[f"{body}.2.0"] = leads_to((), *consumers)
            table[f"{body}.2.1"] = leads_to((f"{body}.2.2", f"{attn}.{name}.1"), *consumers)
        table[f"{mlp}.fc1_conv"] = leads_to(f"{mlp}.fc1_bn", f"{mlp}.fc2_lif")
        table[f"{mlp}.fc2_conv"] = leads_to(f"{mlp}.fc2_bn", *since(after))
    return table
