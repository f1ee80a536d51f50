"""The networks that the tests run: how each is made, its inputs, its table."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import nn

from .meta_spikeformer import MetaSpikeFormer, meta_spikeformer_layers
from .spikingjelly_networks import (
    make_sdt,
    make_sew_resnet18,
    make_spikformer,
    make_spiking_resnet18,
    make_vgg11,
    sdt_layers,
    sew_resnet18_layers,
    spikformer_layers,
    spiking_resnet18_layers,
    vgg11_layers,
)
from .tables import Case, Table, build_firing, draw_images


def case_of(
    name: str, make: Callable[[], nn.Module], steps: int | None, drive: float, layers: Table
) -> Case:
    """``steps``: of the input, or None for a model that repeats an image itself."""
    inputs = partial(draw_images, steps=steps)
    return Case(name, partial(build_firing, make, inputs, drive), inputs, layers)


CASES: tuple[Case, ...] = (
    case_of("vgg11_bn", make_vgg11, 4, 0.3, vgg11_layers()),
    case_of("spiking_resnet18", make_spiking_resnet18, 4, 0.2, spiking_resnet18_layers()),
    *(
        case_of(f"sew_resnet18_{c}", partial(make_sew_resnet18, c), 4, 0.3, sew_resnet18_layers())
        for c in ("ADD", "AND", "IAND")
    ),
    case_of("spikformer", make_spikformer, None, 0.6, spikformer_layers()),
    case_of("sdt", partial(make_sdt, 4.0), None, 0.2, sdt_layers(False)),
    case_of("sdt_mlp_ratio_1", partial(make_sdt, 1.0), None, 0.2, sdt_layers(True)),
    case_of(
        "meta_spikeformer",
        partial(MetaSpikeFormer, T=4, dim=64, num_heads=4, depth=2, mlp_ratio=4),
        None,
        0.5,
        meta_spikeformer_layers(),
    ),
)
