"""The panels of the exact order in CUDA C++: csrc/obs_order/cuda_panel.cu."""

from __future__ import annotations

import torch
from torch import Tensor

from ... import _native
from ..triton.obs_order import PanelStep, Scratch


class CudaPanel:
    """The panel's pivots for float32 without groups, if a thread block's memory holds all weights."""

    name = "cuda"

    def takes(self, weight: Tensor, step: PanelStep, grouped: bool) -> bool:
        narrow = weight.dtype == torch.float32 and step.m <= _native.most_panel_places
        return narrow and not grouped

    def run(self, s: Scratch, step: PanelStep, order: Tensor, loss: Tensor) -> None:
        device = s.weight.device
        _native.order_panel(
            matrix=step.source.data_ptr(), weight=s.weight.data_ptr(),
            diagonal=s.diagonal.data_ptr(), floor=s.floor.data_ptr(), state=s.state.data_ptr(),
            ids=s.ids.data_ptr(), lines=s.lines.data_ptr(), unit=s.unit.data_ptr(),
            order=order.data_ptr(), loss=loss.data_ptr(), rows=len(order),
            matrix_stride=step.stride, lines_stride=s.lines.stride(0), width=step.width,
            tile=step.tile, side=s.side, num_pruned=order.stride(0), m=step.m, count=step.pivots,
            done=step.done, device=device.index,
            stream=torch.cuda.current_stream(device).cuda_stream,
        )  # fmt: skip
