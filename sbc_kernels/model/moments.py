"""The Hessians that a layer's compression rests on, gathered batch by batch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from array_api_compat import array_namespace, device

from ..backends.registry import backend_for

Matrix = Any  # float64: NumPy, or torch where the model lies on a GPU

_GONE = 1e-10  # of an input's energy: less than that left beside a constant is rounding


@dataclass
class Moments:
    """What one layer's decision needs, per convolution group, as means over samples.

    Attributes
    ----------
    hessian : ``2 E[Yc' Yc]`` [groups, d, d] of the inputs that the compressed layer will see.
    cross : ``2 E[Y' Yc]`` with Y the dense model's inputs; None where they are the same.
    constant : ``2 E[Yc' 1]`` [groups, d] with the filtered always-on input, and `constant_dense` the
        same of Y; None without bias correction. `constant_energy` is ``2 E[1' 1]``.
    """

    hessian: Matrix
    cross: Matrix | None = None
    constant: Matrix | None = None
    constant_dense: Matrix | None = None
    constant_energy: float = 0.0
    num_samples: int = 0
    paths: list[str] = field(default_factory=list)

    def centred(self) -> Moments:
        """With the always-on input taken out: what is left when the bias is free to follow.

        ``H - c c' / h``, the Schur complement of the bias in the Hessian of weights and bias.
        """
        if self.constant is None or self.constant_energy == 0.0:
            return self
        assert self.constant_dense is not None
        xp = array_namespace(self.hessian)
        c, dense, h = self.constant, self.constant_dense, self.constant_energy
        energy = xp.linalg.diagonal(self.hessian)
        hessian = self.hessian - c[:, :, None] * c[:, None, :] / h
        left = xp.linalg.diagonal(hessian)
        gone = left <= _GONE * energy  # such an input is a constant: all the bias's
        hessian[gone[:, :, None] | gone[:, None, :]] = 0.0
        cross = self.cross
        if cross is not None:
            cross = cross - dense[:, :, None] * c[:, None, :] / h
            cross[xp.broadcast_to(gone[:, None, :], cross.shape)] = 0.0
        return Moments(hessian, cross, None, None, 0.0, self.num_samples, self.paths)

    def bias_change(self, dense: Matrix, compressed: Matrix) -> Matrix:
        """What the bias has to make up for [d_out]: ``(W c_dense - V c) / h``; W, V [d_out, d]."""
        assert self.constant is not None
        assert self.constant_dense is not None
        rows = len(dense) // len(self.constant)
        change = [
            dense[g * rows : (g + 1) * rows] @ self.constant_dense[g]
            - compressed[g * rows : (g + 1) * rows] @ self.constant[g]
            for g in range(len(self.constant))
        ]
        whole = array_namespace(dense).concat(change)
        return whole / self.constant_energy if self.constant_energy > 0 else 0 * whole


def corrected_target(weight: Matrix, moments: Moments, strength: float) -> Matrix:
    """``W (C + lambda I) (Hc + lambda I)^-1`` [d_out, d]: W refitted to the inputs it will see.

    The least-squares answer to ``|W Y - V Yc|^2 + lambda |V - W|^2``, with lambda `strength` times the
    mean diagonal of Hc over live inputs.
    """
    if moments.cross is None:
        return weight
    xp = array_namespace(weight)
    rows = len(weight) // len(moments.hessian)
    parts = []
    for g, (H, C) in enumerate(zip(moments.hessian, moments.cross, strict=True)):
        mine = weight[g * rows : (g + 1) * rows]
        energy = H.diagonal()
        live = energy > 0
        if not bool(live.any()):
            parts.append(mine)
            continue
        along = xp.eye(len(H), dtype=xp.float64, device=device(H))
        ridge = strength * float(energy[live].mean()) * along
        target = mine @ (C + ridge)
        parts.append(backend_for(H, None).solve_positive(H + ridge, target.T).T)
    return xp.concat(parts)
