"""What each case runs: our op and its rivals, the work done, and the limit it is compared with."""

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
from .device import Device

Run = Callable[[], Any]


@dataclass(frozen=True)
class Rival:
    """A rival.

    `prepare` returns the function to time; `scale` converts its time to the whole problem.
    """

    name: str
    prepare: Callable[[], Run]
    scale: float = 1.0


@dataclass(frozen=True)
class Contest:
    """Our op and its rivals.

    `warm` replaces `ours` for the warm-up, where `ours` takes too long to run twice.
    """

    ours: Run
    rivals: tuple[Rival, ...] = ()
    work: float = 0.0
    unit: str = ""
    limit: str = ""
    rounds: int = 9
    warm: Run | None = None


def spikes(device: Device, *shape: int) -> Tensor:
    """Bool spikes, 15 % of them on. No temporary array is larger than the result."""
    torch.manual_seed(0)
    return torch.randint(0, 100, shape, dtype=torch.uint8, device=device.torch_device) < 15


def drawn(device: Device, rows: int, d: int) -> tuple[Tensor, Tensor]:
    """Weight [rows, d] and damped Hessian [d, d], float32."""
    weight, hessian = problem(rows, d)
    return weight.to(device.torch_device), hessian.to(device.torch_device)


def timed(run: Run) -> Callable[[], Run]:
    """`Rival.prepare` for a rival that has nothing to prepare."""
    return lambda: run


# ---- Gram matrices ---------------------------------------------------------------------------------


def _gram(device: Device, T: int, N: int, d: int, neuron: sbc.Neuron, **options: Any) -> Contest:
    x = spikes(device, T, N, d)
    k = torch.from_numpy(neuron.impulse_response(T))
    return Contest(
        lambda: sbc.spike_gram(x, neuron, backend=device.backend),
        (
            Rival("filter, fp32 GEMM", timed(lambda: torch_rivals.gram(x, k, torch.float32))),
            Rival("filter, fp16 GEMM", timed(lambda: torch_rivals.gram(x, k, torch.float16))),
        ),
        work=float(T * N * d * (d + 1)),
        unit="OP/s of the triangle",
        limit="int8",
        **options,
    )


def gram_large(device: Device) -> Contest:
    T, N, d = device.size((4, 250_000, 4608), (4, 30, 20))
    return _gram(device, T, N, d, sbc.LIF(2.0))


def gram_linear(device: Device) -> Contest:
    T, N, d = device.size((10, 1000, 128), (5, 20, 18))
    return _gram(device, T, N, d, sbc.LIF(2.0), rounds=30)


def gram_fixed_point(device: Device) -> Contest:
    T, N, d = device.size((4, 4096, 1152), (4, 20, 18))
    return _gram(device, T, N, d, sbc.LIF(1.7), rounds=30)


def gram_floats(device: Device) -> Contest:
    T, N, d = device.size((4, 4096, 1152), (3, 20, 18))
    torch.manual_seed(0)
    x, neuron = torch.rand(T, N, d, device=device.torch_device), sbc.LIF(2.0)
    k = torch.from_numpy(neuron.impulse_response(T))
    return Contest(
        lambda: sbc.spike_gram(x, neuron, backend=device.backend),
        (Rival("filter, fp32 GEMM", timed(lambda: torch_rivals.gram(x, k, torch.float32))),),
        work=float(T * N * d * (d + 1)),
        unit="FLOP/s of the triangle",
        limit="fp64" if float_precision(x) == torch.float64 else "fp32",
        rounds=30,
    )


def gram_conv(device: Device) -> Contest:
    T, N, C, side = device.size((4, 256, 256, 28), (2, 2, 4, 5))
    x = spikes(device, T, N, C, side, side)
    neuron, conv, d = sbc.LIF(2.0), sbc.Conv((3, 3), padding=1), 9 * C
    k = torch.from_numpy(neuron.impulse_response(T))
    return Contest(
        lambda: sbc.spike_gram(x, neuron, conv=conv, backend=device.backend),
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


def _order(
    device: Device, rows: int, d: int, rival_rows: int, steps: int, **options: Any
) -> Contest:
    weight, hessian = drawn(device, rows, d)
    G = inverse(hessian)
    few = weight[:rival_rows]
    # All steps cost the same, and so do all rows once they fill the card. The loop begins with a
    # copy of G, which costs as much as one step.
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
    """The exact order within 15 GB; `sbc.obs_order` would take all free memory."""
    from sbc_kernels.backends.cuda.device import has_kernel
    from sbc_kernels.backends.cuda.obs_order import CudaPanel
    from sbc_kernels.backends.triton.obs_order import obs_order

    own_panel = CudaPanel() if has_kernel("order_panel", weight.device) else None
    return obs_order(weight, G, weight.shape[1], max_memory=15 * 10**9, own_panel=own_panel)


def order_large(device: Device) -> Contest:
    rows, d, rival_rows, steps = device.size((512, 4608, 128, 48), (2, 40, 1, 3))
    return _order(device, rows, d, rival_rows, steps, rounds=5)


def order_small(device: Device) -> Contest:
    rows, d, rival_rows, steps = device.size((64, 1152, 64, 96), (2, 20, 2, 3))
    return _order(device, rows, d, rival_rows, steps)


# ---- quantization ----------------------------------------------------------------------------------


def _quantize(device: Device, rows: int, d: int, group_size: int) -> Contest:
    weight, hessian = drawn(device, rows, d)
    grid = device.grid(weight, 4, kind="absmax", group_size=group_size)
    group = grid.group_of_column(d)
    gptq = torch_rivals.Gptq(weight, hessian, grid.scale, grid.zero_point, group, 4)
    return Contest(
        lambda: sbc.obs_quantize(weight, hessian, grid, backend=device.backend),
        (
            Rival("GPTQ's column loop, eager", timed(gptq.eager)),
            Rival("GPTQ's column loop in a CUDA graph", gptq.graphed),
        ),
        work=d**3 / 3 + rows * d**2,
        unit="FLOP/s",
        limit="fp32",
    )


def quantize_large(device: Device) -> Contest:
    return _quantize(device, *device.size((4096, 4096, 128), (5, 20, 8)))


def quantize_wide(device: Device) -> Contest:
    return _quantize(device, *device.size((512, 4608, -1), (5, 20, -1)))


# ---- masked solves ---------------------------------------------------------------------------------


def _solve(device: Device, sparsity: float) -> Contest:
    weight, hessian = drawn(device, *device.size((500, 2312), (4, 20)))
    draw = torch.Generator().manual_seed(1)
    mask = (torch.rand(weight.shape, generator=draw) >= sparsity).to(device.torch_device)
    return Contest(
        lambda: sbc.obs_solve(weight, hessian, mask, backend=device.backend),
        (Rival("a Cholesky solve a row", timed(lambda: rivals.obs_solve(weight, hessian, mask))),),
        work=float((mask.sum(1).double() ** 3).sum() / 3),
        unit="FLOP/s",
        limit="fp32",
    )


# ---- a whole network -------------------------------------------------------------------------------


def sew_resnet152(device: Device) -> Contest:
    # One or two layers of every kind suffice to compile the kernels, which are specialised by size.
    blocks, few = device.size((sew.RESNET152, (2, 2, 2, 2)), ((1, 1, 1, 1), (1, 1, 1, 1)))
    shape, count, size, batch, T = device.size(
        ((blocks, 64, 1000), 32, 224, 8, 4), ((blocks, 1, 3, 3), 1, 8, 1, 2)
    )
    images = sew.photographs(count, size, T, device.torch_device)
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
            backend=device.backend,
            progress=False,
        )

    return Contest(
        partial(compress, model, batches),
        rounds=1,
        warm=partial(compress, small, (first,)),  # compiles the kernels
    )


CONTESTS: dict[str, Callable[[Device], Contest]] = {
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
