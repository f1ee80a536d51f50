"""BatchNorms whose statistics follow what the compressed layers before them produce."""

from __future__ import annotations

from typing import Any

import torch

from ..network.watch import Statistics


def reestimate(norm: Any, before: Statistics, after: Statistics) -> None:
    """Statistics with which the norm answers as the dense one did, in mean and variance.

    ``var = var_dense * var_after / var_before``, and the mean such that what the calibration samples
    come to lies as far from beta as before, in units of the spread: what the training set told stays,
    and the calibration set's own sampling error cancels. A channel without any weight left keeps its
    mean answer. `norm` has the dense model's statistics when this is called.
    """
    with torch.no_grad():
        mean, var = norm.running_mean.double(), norm.running_var.double()
        floor = torch.finfo(torch.float32).tiny
        new = var * (after.var + floor) / (before.var + floor)
        spread = torch.sqrt((new + norm.eps) / (var + norm.eps))
        norm.running_mean.copy_(after.mean - (before.mean - mean) * spread)
        norm.running_var.copy_(new)
