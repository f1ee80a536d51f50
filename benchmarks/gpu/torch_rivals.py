"""Further rivals, beyond those in `rivals`: for any device, in half precision, or in a CUDA graph."""

from __future__ import annotations

from collections.abc import Callable

import rivals
import torch
import torch.nn.functional as F
from torch import Tensor


def filtered(spikes: Tensor, k: Tensor, dtype: torch.dtype) -> Tensor:
    """Leaky filter over T, [T, ...], as a first-order recursion. `k`: response, in CPU memory."""
    first, decay = float(k[0]), float(k[1] / k[0]) if len(k) > 1 else 0.0
    out = torch.empty(spikes.shape, dtype=dtype, device=spikes.device)
    for t, x in enumerate(spikes):
        torch.mul(x, first, out=out[t])
        if t > 0:
            out[t].add_(out[t - 1], alpha=decay)
    return out


def gram(spikes: Tensor, k: Tensor, dtype: torch.dtype) -> Tensor:
    """``2 E[Y' Y]``, [d, d], in `dtype`.

    The filter applies the factor, because the sums would overflow half precision.
    """
    Y = filtered(spikes, k * (2 / spikes.shape[1]) ** 0.5, dtype).flatten(0, 1)
    return Y.T @ Y


def conv_gram(spikes: Tensor, k: Tensor, kernel: int, padding: int, dtype: torch.dtype) -> Tensor:
    """`gram` of an unfolded feature map. It is unfolded as a whole, as in the code of GPTQ and OBC."""
    Y = filtered(spikes, k * (2 / spikes.shape[1]) ** 0.5, dtype).flatten(0, 1)
    columns = F.unfold(Y, kernel, padding=padding).transpose(1, 2).flatten(0, 1)
    return columns.T @ columns


def obs_order(weight: Tensor, inverse: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    with torch.device(weight.device):  # `rivals.obs_order` creates tensors on the default device
        return rivals.obs_order(weight, inverse, steps)


class Gptq:
    """GPTQ's published column loop, with activation order and one grid per group.

    Parameters
    ----------
    weight, hessian : [rows, d] and [d, d].
    scale, zero : [rows, groups].
    group : group of each column, [d].
    """

    def __init__(
        self,
        weight: Tensor,
        hessian: Tensor,
        scale: Tensor,
        zero: Tensor,
        group: Tensor,
        bits: int,
        block: int = 128,
    ) -> None:
        self.weight, self.hessian, self.block = weight, hessian, block
        self.most = 2**bits - 1
        self.perm = torch.argsort(torch.diag(hessian), descending=True)
        group = group.long()[self.perm]
        self.scale, self.zero = scale[:, group], zero[:, group]

    def factor(self) -> Tensor:
        """The upper Cholesky factor of H^-1, computed as published."""
        H = self.hessian[self.perm][:, self.perm]
        inverse = torch.cholesky_inverse(torch.linalg.cholesky(H))
        return torch.linalg.cholesky(inverse, upper=True)

    def sweep(self, W: Tensor, U: Tensor) -> Tensor:
        """Quantized columns in the order of the sweep. W [rows, d] is not modified."""
        W = W.clone()
        Q = torch.zeros_like(W)
        columns = W.shape[1]
        for first in range(0, columns, self.block):
            last = min(first + self.block, columns)
            W1 = W[:, first:last].clone()
            E1 = torch.zeros_like(W1)
            U1 = U[first:last, first:last]
            for i in range(last - first):
                w, d = W1[:, i], U1[i, i]
                scale, zero = self.scale[:, first + i], self.zero[:, first + i]
                q = scale * (torch.clamp(torch.round(w / scale) + zero, 0, self.most) - zero)
                Q[:, first + i] = q
                error = (w - q) / d
                W1[:, i:] -= error.unsqueeze(1).matmul(U1[i, i:].unsqueeze(0))
                E1[:, i] = error
            W[:, last:] -= E1.matmul(U[first:last, last:])
        return Q

    def eager(self) -> Tensor:
        Q = self.sweep(self.weight[:, self.perm], self.factor())
        return Q[:, torch.argsort(self.perm)]

    def graphed(self) -> Callable[[], Tensor]:
        """`eager` with the sweep in a CUDA graph. The factorisation synchronises and stays outside."""
        W, U = self.weight[:, self.perm].clone(), torch.empty_like(self.hessian)
        U.copy_(self.factor())
        replay = captured(lambda: self.sweep(W, U)) if W.is_cuda else lambda: self.sweep(W, U)

        def run() -> Tensor:
            W.copy_(self.weight[:, self.perm])
            U.copy_(self.factor())
            return replay()[:, torch.argsort(self.perm)]

        return run


def captured(run: Callable[[], Tensor]) -> Callable[[], Tensor]:
    """`run` as a CUDA graph, which returns the same tensor on every replay."""
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        run()  # cuBLAS initialises itself outside the graph
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        output = run()

    def replay() -> Tensor:
        graph.replay()
        return output

    return replay
