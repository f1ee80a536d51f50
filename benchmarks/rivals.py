"""The rivals of the kernels: the usual implementations in torch, as published."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def filtered(spikes: Tensor, k: Tensor) -> Tensor:
    """Leaky filter over T, float32 [T, ...]: a first-order recursion, as in the frameworks."""
    decay = float(k[1] / k[0]) if len(k) > 1 else 0.0
    out = torch.empty(spikes.shape, dtype=torch.float32)
    state = torch.zeros(spikes.shape[1:])
    for t, x in enumerate(spikes):
        state = decay * state + x * float(k[0])
        out[t] = state
    return out


def gram(rows: Tensor) -> Tensor:
    """X' X in float32, for rows of bytes or floats."""
    rows = rows.float()
    return rows.T @ rows


def smp_gram(spikes: Tensor, k: Tensor) -> Tensor:
    Y = filtered(spikes, k)
    return gram(Y.reshape(-1, Y.shape[-1]))


def conv_gram(spikes: Tensor, k: Tensor, kernel: int, padding: int) -> Tensor:
    """Filter, unfold, float32 product. Unfolds the whole input at once, as GPTQ and OBC do."""
    Y = filtered(spikes, k)
    columns = F.unfold(Y.flatten(0, 1), kernel, padding=padding)
    return gram(columns.transpose(1, 2).reshape(-1, columns.shape[1]))


def obs_order(weight: Tensor, inverse: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """OBC's loop, with all rows batched.

    Each step removes one weight of every row and applies a rank-1 update to the row's full inverse.
    """
    w = weight.clone()
    G = inverse.expand(len(w), -1, -1).clone()
    rows = torch.arange(len(w))
    gone = torch.zeros(w.shape, dtype=torch.bool)
    order, losses = [], []
    for _ in range(steps):
        diagonal = torch.diagonal(G, dim1=1, dim2=2)
        score = (w**2 / diagonal).masked_fill(gone, float("inf"))
        loss, p = score.min(1)
        column = G[rows, :, p]
        pivot = diagonal[rows, p]
        w -= (w[rows, p] / pivot)[:, None] * column
        G.baddbmm_((column / pivot[:, None])[:, :, None], column[:, None, :], alpha=-1)
        gone[rows, p] = True
        diagonal_now = torch.diagonal(G, dim1=1, dim2=2)
        diagonal_now[rows, p] = 1
        order.append(p)
        losses.append(loss / 2)
    return torch.stack(order, 1), torch.stack(losses, 1)


def obs_solve(weight: Tensor, hessian: Tensor, mask: Tensor) -> Tensor:
    """One Cholesky solve per row, on its kept weights."""
    rhs = weight @ hessian
    out = torch.zeros_like(weight)
    for row, keep in enumerate(mask):
        index = keep.nonzero().squeeze(1)
        L = torch.linalg.cholesky(hessian[index][:, index])
        out[row, index] = torch.cholesky_solve(rhs[row, index, None], L).squeeze(1)
    return out


def gptq(
    weight: Tensor, hessian: Tensor, scale: Tensor, zero: Tensor, maxq: int, block: int = 128
) -> Tensor:
    """GPTQ's published column loop with activation order, including the Cholesky factorisations."""
    perm = torch.argsort(torch.diag(hessian), descending=True)
    W = weight[:, perm].clone()
    H = hessian[perm][:, perm]
    U = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(H)), upper=True)
    Q = torch.zeros_like(W)
    columns = W.shape[1]
    for first in range(0, columns, block):
        last = min(first + block, columns)
        W1 = W[:, first:last].clone()
        Q1, E1 = torch.zeros_like(W1), torch.zeros_like(W1)
        U1 = U[first:last, first:last]
        for i in range(last - first):
            w, d = W1[:, i], U1[i, i]
            q = (
                scale * (torch.clamp(torch.round(w.unsqueeze(1) / scale) + zero, 0, maxq) - zero)
            ).flatten()
            Q1[:, i] = q
            error = (w - q) / d
            W1[:, i:] -= error.unsqueeze(1).matmul(U1[i, i:].unsqueeze(0))
            E1[:, i] = error
        Q[:, first:last] = Q1
        W[:, last:] -= E1.matmul(U[first:last, last:])
    return Q[:, torch.argsort(perm)]
