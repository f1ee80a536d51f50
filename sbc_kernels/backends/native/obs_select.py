"""The order in which the weights that stay lower the loss of each row most: csrc/obs_select."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ... import _native
from ...threads import thread_count
from ..cholesky import require_rows_solved
from ..kernels import note_kernel


def obs_select(
    weight: NDArray[Any],
    hessian: NDArray[Any],
    num_kept: int,
    group: NDArray[np.int32] | None,
    quota: NDArray[np.int32] | None,
    isa: str,
) -> tuple[NDArray[np.int32], NDArray[Any]]:
    note_kernel("obs_select", isa)
    order = np.empty((weight.shape[0], num_kept), dtype=np.int32)
    gain = np.empty(order.shape, dtype=weight.dtype)
    failed = np.zeros(weight.shape[0], dtype=np.int32)
    _native.obs_select(
        weight=weight,
        hessian=hessian,
        group=group,
        quota=quota,
        order=order,
        gain=gain,
        failed=failed,
        isa=isa,
        threads=thread_count(),
    )
    require_rows_solved(np.arange(len(failed)), failed)
    return order, gain
