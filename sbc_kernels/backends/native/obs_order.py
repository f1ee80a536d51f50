"""The order in which Optimal Brain Surgeon removes the weights of each row: csrc/obs_order."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ... import _native
from ...threads import thread_count
from ..kernels import note_kernel


def obs_order(
    weight: NDArray[Any],
    inverse_hessian: NDArray[Any],
    num_pruned: int,
    group: NDArray[np.int32] | None,
    quota: NDArray[np.int32] | None,
    isa: str,
) -> tuple[NDArray[np.int32], NDArray[Any]]:
    note_kernel("obs_order", isa)
    order = np.empty((weight.shape[0], num_pruned), dtype=np.int32)
    loss = np.empty(order.shape, dtype=weight.dtype)
    _native.obs_order(
        weight=weight,
        inverse_hessian=inverse_hessian,
        group=group,
        quota=quota,
        order=order,
        loss=loss,
        isa=isa,
        threads=thread_count(),
    )
    return order, loss
