"""What each of `cases` runs: ours, rivals, the work and the limit it is held against."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import rivals
import torch
from problems import inverse, problem
from torch import Tensor

import sbc_kernels as sbc
from sbc_kernels.backends.triton.spike_gram import float_precision

from . import sew, torch_rivals
from .cases import OBC, UNFOLD_FP32
from .place import Place

Run = Callable[[], Any]


@dataclass(frozen=True)
class Rival:
    """`prepare` answers what is timed. `scale`: from what that does to the whole problem."""

    name: str
    prepare: Callable[[], Run]
    scale: float = 1.0


@dataclass(frozen=True)
class Contest:
    """`warm`: run in place of `ours` before it is timed, where once is all there is time for."""

    ours: Run
    rivals: tuple[Rival, ...] = ()
    work: float = 0.0
    unit: str = ""
    limit: str = ""
    rounds: int = 9
    warm: Run | None = None


def spikes(place: Place, *shape: int) -> Tensor:
    """Bool, 15 % of them on. Nothing larger than the answer's size is made on the way."""
    torch.manual_seed(0)
    return torch.randint(0, 100, shape, dtype=torch.uint8, device=place.device) < 15


def drawn(place: Place, rows: int, d: int) -> tuple[Tensor, Tensor]:
    """Weight [rows, d] and damped Hessian [d, d], float32."""
    weight, hessian = problem(rows, d)
    return weight.to(place.device), hessian.to(place.device)


def timed(run: Run) -> Callable[[], Run]:
    """For a rival that has nothing to prepare."""
    return lambda: run


# ---- Gram matrices ---------------------------------------------------------------------------------


def _gram(place: Place, T: int, N: int, d: int, neuron: sbc.Neuron, **options: Any) -> Contest:
    x = spikes(place, T, N, d)
    k = torch.from_numpy(neuron.impulse_response(T))
    return Contest(
        lambda: sbc.spike_gram(x, neuron, backend="triton"),
        (
            Rival("filter, fp32 GEMM", timed(lambda: torch_rivals.gram(x, k, torch.float32))),
            Rival("filter, fp16 GEMM", timed(lambda: torch_rivals.gram(x, k, torch.float16))),
        ),
        work=float(T * N * d * (d + 1)),
        unit="OP/s of the triangle",
        limit="int8",
        **options,
    )


def gram_large(place: Place) -> Contest:
    T, N, d = place.size((4, 250_000, 4608), (4, 30, 20))
    return _gram(place, T, N, d, sbc.LIF(2.0))


def gram_linear(place: Place) -> Contest:
    T, N, d = place.size((10, 1000, 128), (5, 20, 18))
    return _gram(place, T, N, d, sbc.LIF(2.0), rounds=30)


def gram_fixed_point(place: Place) -> Contest:
    T, N, d = place.size((4, 4096, 1152), (4, 20, 18))
    return _gram(place, T, N, d, sbc.LIF(1.7), rounds=30)


def gram_floats(place: Place) -> Contest:
    T, N, d = place.size((4, 4096, 1152), (3, 20, 18))
    torch.manual_seed(0)
    x, neuron = torch.rand(T, N, d, device=place.device), sbc.LIF(2.0)
    k = torch.from_numpy(neuron.impulse_response(T))
    return Contest(
        lambda: sbc.spike_gram(x, neuron, backend="triton"),
        (Rival("filter, fp32 GEMM", timed(lambda: torch_rivals.gram(x, k, torch.float32))),),
        work=float(T * N * d * (d + 1)),
        unit="FLOP/s of the triangle",
        limit="fp64" if float_precision(x) == torch.float64 else "fp32",
        rounds=30,
    )


def gram_conv(place: Place) -> Contest:
    T, N, C, side = place.size((4, 256, 256, 28), (2, 2, 4, 5))
    x = spikes(place, T, N, C, side, side)
    neuron, conv, d = sbc.LIF(2.0), sbc.Conv((3, 3), padding=1), 9 * C
    k = torch.from_numpy(neuron.impulse_response(T))
    return Contest(
        lambda: sbc.spike_gram(x, neuron, conv=conv, backend="triton"),
        (
            Rival(UNFOLD_FP32, timed(lambda: torch_rivals.conv_gram(x, k, 3, 1, torch.float32))),
            Rival(
                "filter, unfold, fp16 GEMM",
                timed(lambda: torch_rivals.conv_gram(x, k, 3, 1, torch.float16)),
            ),
        ),
        work=float(T * N * side * side * d * (d + 1)),
        unit="OP/s of the unfolding's triangle",
        limit="int8",
    )


# ---- orders ----------------------------------------------------------------------------------------


def _order(place: Place, rows: int, d: int, rival_rows: int, steps: int, **options: Any) -> Contest:
    weight, hessian = drawn(place, rows, d)
    G = inverse(hessian)
    few = weight[:rival_rows]
    # Every step costs the same, and so does every row, once they fill the card. The copy of G that the
    # loop begins with costs as much as one step.
    scaled = f"{steps} of {d} steps on {len(few)} of {rows} rows, scaled"
    return Contest(
        partial(_ordered, weight, G),
        (
            Rival(
                f"{OBC}, batched ({scaled})",
                timed(lambda: torch_rivals.obs_order(few, G, steps)),
                scale=d / steps * rows / len(few),
            ),
        ),
        work=rows * d**3 / 3,
        unit="FLOP/s",
        limit="fp32",
        **options,
    )


def _ordered(weight: Tensor, G: Tensor) -> Any:
    """`sbc.obs_order` takes what is free; here it must do with 15 GB and what lies there already."""
    from sbc_kernels.backends.triton.obs_order import obs_order

    return obs_order(
        weight=weight, inverse_hessian=G, num_pruned=weight.shape[1], max_memory=15 * 10**9
    )


def order_large(place: Place) -> Contest:
    rows, d, rival_rows, steps = place.size((512, 4608, 128, 48), (2, 40, 1, 3))
    return _order(place, rows, d, rival_rows, steps, rounds=5)


def order_small(place: Place) -> Contest:
    rows, d, rival_rows, steps = place.size((64, 1152, 64, 96), (2, 20, 2, 3))
    return _order(place, rows, d, rival_rows, steps)


# ---- quantization ----------------------------------------------------------------------------------


def _quantize(place: Place, rows: int, d: int, group_size: int) -> Contest:
    weight, hessian = drawn(place, rows, d)
    grid = place.grid(weight, 4, kind="absmax", group_size=group_size)
    group = grid.group_of_column(d)
    gptq = torch_rivals.Gptq(weight, hessian, grid.scale, grid.zero_point, group, 4)
    return Contest(
        lambda: sbc.obs_quantize(weight, hessian, grid, backend="triton"),
        (
            Rival("GPTQ's column loop, eager", timed(gptq.eager)),
            Rival("GPTQ's column loop in a CUDA graph", gptq.graphed),
        ),
        work=d**3 / 3 + rows * d**2,
        unit="FLOP/s",
        limit="fp32",
    )


def quantize_large(place: Place) -> Contest:
    return _quantize(place, *place.size((4096, 4096, 128), (5, 20, 8)))


def quantize_wide(place: Place) -> Contest:
    return _quantize(place, *place.size((512, 4608, -1), (5, 20, -1)))


# ---- masked solves ---------------------------------------------------------------------------------


def _solve(place: Place, sparsity: float) -> Contest:
    weight, hessian = drawn(place, *place.size((500, 2312), (4, 20)))
    draw = torch.Generator().manual_seed(1)
    mask = (torch.rand(weight.shape, generator=draw) >= sparsity).to(place.device)
    return Contest(
        lambda: sbc.obs_solve(weight, hessian, mask, backend="triton"),
        (Rival("a Cholesky solve a row", timed(lambda: rivals.obs_solve(weight, hessian, mask))),),
        work=float((mask.sum(1).double() ** 3).sum() / 3),
        unit="FLOP/s",
        limit="fp32",
    )


# ---- a whole network -------------------------------------------------------------------------------


def sew_resnet152(place: Place) -> Contest:
    # Of every kind of layer one or two: the kernels are compiled for their sizes.
    blocks, few = place.size((sew.RESNET152, (2, 2, 2, 2)), ((1, 1, 1, 1), (1, 1, 1, 1)))
    shape, count, size, batch, T = place.size(
        ((blocks, 64, 1000), 32, 224, 8, 4), ((blocks, 1, 3, 3), 1, 8, 1, 2)
    )
    images = sew.photographs(count, size, T, place.device)
    first, *_ = batches = images.split(batch, dim=1)
    model = sew.build(first, *shape)
    small = sew.build(first, few, *shape[1:])

    def compress(network: torch.nn.Module, calibration: tuple[Tensor, ...]) -> Any:
        return sbc.compress_model(
            network,
            list(calibration),
            sparsity=0.97,
            allocation="uniform",
            calibration_mode="parallel",
            backend="triton",
            progress=False,
        )

    return Contest(
        partial(compress, model, batches),
        rounds=1,
        warm=partial(compress, small, (first,)),  # compiles the kernels
    )


CONTESTS: dict[str, Callable[[Place], Contest]] = {
    "gram-large": gram_large,
    "gram-conv": gram_conv,
    "order-large": order_large,
    "quantize-large": quantize_large,
    "gram-linear": gram_linear,
    "gram-fixed-point": gram_fixed_point,
    "gram-floats": gram_floats,
    "order-small": order_small,
    "quantize-wide": quantize_wide,
    "solve-50": partial(_solve, sparsity=0.5),
    "solve-90": partial(_solve, sparsity=0.9),
    "solve-97": partial(_solve, sparsity=0.97),
    "sew-resnet152": sew_resnet152,
}
