"""Second moments of a layer's inputs, and what follows from them for its target and its bias."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from array_api_compat import array_namespace, device
from numpy.typing import NDArray

from ..arrays import contiguous, matrix_product
from ..backends.registry import backend_for

Matrix = Any  # float64: NumPy, or torch where the model lies on a GPU

_CONSTANT = 1e-10  # of an input's energy: less than that beside a constant is rounding


@dataclass
class Moments:
    """Second moments of the inputs of one layer, per convolution group, as means over samples.

    Y are the filtered inputs in the dense model, Yc those that the compressed layer will see. 1 is an
    input that is always on, filtered in the same way; the bias is its weight.

    Attributes
    ----------
    hessian : ``2 E[Yc' Yc]``, [groups, d, d].
    cross : ``2 E[Y' Yc]``, [groups, d, d]; None where Y and Yc are the same.
    constant, constant_dense : ``2 E[Yc' 1]`` and ``2 E[Y' 1]``, [groups, d]; None without bias
        correction.
    constant_energy : ``2 E[1' 1]``.
    num_samples : how many samples the means are over.
    paths : how the batches were computed, as `SpikeHessian.paths`.
    fired : bool [groups, d], NumPy: inputs that the compressed layer has spikes of; None: not known.
    """

    hessian: Matrix
    cross: Matrix | None = None
    constant: Matrix | None = None
    constant_dense: Matrix | None = None
    constant_energy: float = 0.0
    num_samples: int = 0
    paths: list[str] = field(default_factory=list)
    fired: NDArray[np.bool_] | None = None

    def centred(self, consume: bool = False) -> Moments:
        """Returns the moments for a bias that is free to follow the weights.

        That is ``H - c c' / h``, the Schur complement of the bias in the Hessian of weights and bias.
        `consume` saves a copy: the matrices of this object, not its vectors, are those returned.
        """
        if self.constant is None or self.constant_energy == 0.0:
            return self
        assert self.constant_dense is not None
        xp = array_namespace(self.hessian)
        c, dense, h = self.constant, self.constant_dense, self.constant_energy
        energy = xp.asarray(xp.linalg.diagonal(self.hessian), copy=True)
        hessian = self.hessian if consume else xp.asarray(self.hessian, copy=True)
        hessian -= c[:, :, None] * c[:, None, :] / h
        remainder = xp.linalg.diagonal(hessian)
        constant = remainder <= _CONSTANT * energy  # the bias can replace such an input
        hessian[constant[:, :, None] | constant[:, None, :]] = 0.0
        cross = self.cross
        if cross is not None:
            cross = cross if consume else xp.asarray(cross, copy=True)
            cross -= dense[:, :, None] * c[:, None, :] / h
            cross[xp.broadcast_to(constant[:, None, :], cross.shape)] = 0.0
        return Moments(hessian, cross, None, None, 0.0, self.num_samples, self.paths, self.fired)

    def bias_change(self, dense: Matrix, compressed: Matrix) -> Matrix:
        """Returns the bias's change ``(W c_dense - V c) / h`` [d_out] for weights W, V [d_out, d]."""
        assert self.constant is not None
        assert self.constant_dense is not None
        rows = len(dense) // len(self.constant)
        change = [
            _each_row(dense[g * rows : (g + 1) * rows], self.constant_dense[g])
            - _each_row(compressed[g * rows : (g + 1) * rows], self.constant[g])
            for g in range(len(self.constant))
        ]
        whole = array_namespace(dense).concat(change)
        return whole / self.constant_energy if self.constant_energy > 0 else 0 * whole


def corrected_target(
    weight: Matrix, moments: Moments, strength: float, backend: str | None = None
) -> Matrix:
    """Returns the weight W refitted to the inputs that it will see, [d_out, d].

    ``W (C + l I) (Hc + l I)^-1`` minimises ``|W Y - V Yc|^2 + l |V - W|^2`` over V, where l is
    `strength` times the mean diagonal of Hc over live inputs. Where W is zero V is, too, and the least
    of these. `backend` solves it, as in `compress_layer`.
    """
    if moments.cross is None:
        return weight
    xp = array_namespace(weight)
    rows = len(weight) // len(moments.hessian)
    parts = []
    for g, (H, C) in enumerate(zip(moments.hessian, moments.cross, strict=True)):
        own = weight[g * rows : (g + 1) * rows]
        energy = H.diagonal()
        live = energy > 0
        if not bool(live.any()):
            parts.append(own)
            continue
        ridge = strength * float(energy[live].mean())
        target = matrix_product(own, C) + ridge * own
        along = xp.arange(len(H), device=device(H))
        damped = xp.asarray(H, copy=True)
        damped[along, along] += ridge
        runner = backend_for(H, backend)
        refitted = runner.solve_positive(damped, target.T).T
        kept = own != 0
        if not bool(kept.all()):
            refitted = runner.obs_solve(contiguous(refitted), damped, kept)
        parts.append(refitted)
    return xp.concat(parts)


def _each_row(rows: Matrix, vector: Matrix) -> Matrix:
    """Returns the product of each row with the vector; einsum, as `@` takes BLAS's own threads."""
    return array_namespace(rows).einsum("rj,j->r", rows, vector)
