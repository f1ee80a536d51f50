"""Hessians typical of spike trains: correlated, with a few inputs nearly silent, and damped by 1 %."""

from __future__ import annotations

import torch

import sbc_kernels as sbc


def problem(d_out: int, d_in: int) -> tuple[torch.Tensor, torch.Tensor]:
    """float32 weight [d_out, d_in] and damped Hessian [d_in, d_in]."""
    generator = torch.Generator().manual_seed(d_in)
    rates = torch.rand(d_in, generator=generator) * 0.3 + 0.01
    shared = torch.rand(4, 1200, 1, generator=generator)  # makes inputs fire together
    x = torch.rand(4, 1200, d_in, generator=generator) < rates * (0.5 + shared)
    hessian = sbc.spike_gram(x, sbc.LIF(2.0))
    hessian += 0.01 * hessian.diagonal().mean() * torch.eye(d_in, dtype=torch.float64)
    weight = torch.randn(d_out, d_in, generator=generator) / d_in**0.5
    return weight, hessian.float()


def inverse(hessian: torch.Tensor) -> torch.Tensor:
    return torch.cholesky_inverse(torch.linalg.cholesky(hessian.double())).float()
