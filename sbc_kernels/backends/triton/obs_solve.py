"""The optimal remaining weights of each row, given a mask.

One Cholesky factorisation a row, all rows at once and of unequal size: a row's matrix is cut into
square tiles, the lower triangle of them lies packed in memory, and a program leaves at once where its
row has no such tile. Nothing is padded beyond a tile, and no submatrix is gathered as a whole: a tile
is fetched from the shared matrix when its column of tiles is due.

A column of tiles is three launches: subtract what the columns before it give (left-looking: a tile is
written once), factor and invert the tile on the diagonal, multiply the tiles below by that inverse. The
right-hand side goes along; a fourth launch a column, backwards, ends it.
"""
# mypy: disable-error-code="no-untyped-def, untyped-decorator"

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
import triton
import triton.language as tl
from numpy.typing import NDArray
from torch import Tensor

from ..cholesky import require_rows_solved, solve_sides
from ..kernels import note_kernel
from . import factor as linalg
from .device import Build, device_class, room
from .factor import TYPES, add_product, inverse, launching

__all__ = ["builds", "obs_solve"]

GRID_ROWS = 65535  # of the second axis of a grid


class Tile(NamedTuple):
    """Side of a tile, and warps of the kernels.

    Attributes
    ----------
    side, terms : a product of two tiles takes `terms` columns of both at a time.
    update, below, back : warps of the products and of the way back.
    factor : warps of the tile on the diagonal, whose `side` steps wait for one another. With two a step
        is 300 instructions and ten barriers and four programs fit on a multiprocessor, with four only
        two; with one it spills.
    split : whether products are taken of TF32 parts; else they are IEEE.
    """

    side: int
    terms: int
    stages: int
    update: int
    below: int
    back: int
    factor: int
    split: bool = False


DMMA = ("sm_80", "sm_90")  # where Triton has matrix instructions for float64
# Products are three of TF32: on an H200 all kernels take 8.9 ms for 500 rows of 2312 at 50 %, with IEEE
# products 26.9, and the answer is no further off (3.0e-5 of float64's, 3.2e-5). "other" may lack TF32.
_SPLIT = Tile(64, 32, stages=3, update=4, below=4, back=4, factor=2, split=True)
TILES = {
    "sm_80": _SPLIT,
    "sm_90": _SPLIT,
    "sm_100": _SPLIT,
    "other": Tile(64, 32, stages=2, update=4, below=4, back=4, factor=2),
}


def _tile(device: str, dtype: torch.dtype) -> Tile:
    """Returns the tile of a dtype; float64 takes half the side, to fit in registers."""
    tile = TILES[device]
    if dtype == torch.float32:
        return tile
    return tile._replace(side=tile.side // 2, terms=tile.terms // 2, split=False)


def obs_solve(
    weight: Tensor,
    hessian: Tensor,
    mask: Tensor,
    *,
    inverse_hessian: Tensor | None = None,
    max_memory: int | None = None,
) -> Tensor:
    """``argmin_v (v - w) H (v - w)'`` over rows v that are zero where the mask is False.

    With R the kept and P the pruned inputs of a row, ``v_R = H_RR^-1 (H w)_R``, or through ``G = H^-1``
    ``v_R = w_R - G_RP G_PP^-1 w_P``, whichever set is smaller.

    Waits for the device twice: for how many weights each row keeps, which decides what is launched, and
    at the end for whether a factorisation failed. Once more where it computes G itself.

    Parameters
    ----------
    weight : float32 or float64 [rows, d].
    hessian : float [d, d], symmetric positive definite.
    mask : bool [rows, d], True = kept.
    inverse_hessian : float [d, d]; None: computed where that is repaid.
    max_memory : bytes for the factors of the rows that are solved at a time; None is four fifths of
        what is free.

    Returns
    -------
    weight's dtype [rows, d]; exactly zero where the mask is False.

    Raises
    ------
    numpy.linalg.LinAlgError : a submatrix of the Hessian is not positive definite.
    MemoryError : the largest row alone needs more.
    """
    note_kernel("obs_solve", "triton")
    d, dtype = weight.shape[1], weight.dtype
    weight, mask = weight.contiguous(), mask.contiguous()
    num_kept = mask.sum(dim=1).cpu().numpy()  # the first wait
    small, large = solve_sides(num_kept, d, inverse_hessian is not None)
    solution = torch.where(mask, weight, 0)
    failures = []
    if small.any():
        rows = torch.as_tensor(np.flatnonzero(small), device=weight.device)
        G = inverse(hessian) if inverse_hessian is None else inverse_hessian
        G = G.to(dtype).contiguous()
        current = weight[rows]
        pruned = ~mask[rows]
        change, failed = _solve_subsets(G, -current, pruned, d - num_kept[small], max_memory)
        add_product(current, change, G)
        solution[rows] = torch.where(pruned, 0, current)
        failures.append((rows, failed))
    if large.any():
        rows = torch.as_tensor(np.flatnonzero(large), device=weight.device)
        H = hessian.to(dtype).contiguous()
        current = torch.zeros_like(weight[rows])
        add_product(current, weight[rows], H)
        solution[rows], failed = _solve_subsets(H, current, mask[rows], num_kept[large], max_memory)
        failures.append((rows, failed))
    _require_solved(failures)
    return solution


def _solve_subsets(
    matrix: Tensor, rhs: Tensor, select: Tensor, size: NDArray[Any], max_memory: int | None
) -> tuple[Tensor, Tensor]:
    """Returns each row's ``matrix[S, S]^-1 rhs[S]``, zero outside S, and the failures.

    Parameters
    ----------
    matrix, rhs, select : [d, d], [rows, d], bool [rows, d].
    size : [rows], on the host: the sums of select.

    Returns
    -------
    solution : [rows, d].
    failed : int32 [rows], 1 + the place in S of the first pivot that is not positive, or 0.
    """
    solution = torch.zeros_like(rhs)
    failed = torch.zeros(len(rhs), dtype=torch.int32, device=rhs.device)
    order = np.argsort(-size, kind="stable")  # the rows that have a tile are then the first ones
    for part in _chunks(size[order], rhs, max_memory):
        rows = order[part]
        _solve_chunk(
            matrix,
            rhs,
            select,
            torch.as_tensor(rows, device=rhs.device),
            size[rows],
            solution,
            failed,
        )
    return solution, failed


def _chunks(size: NDArray[Any], rhs: Tensor, max_memory: int | None) -> Iterator[slice]:
    """Yields slices of as many rows as fit in memory; their sizes fall."""
    rows, d = rhs.shape
    side = _tile(device_class(rhs), rhs.dtype).side
    tiles = -(-size // side)
    # Beside its tiles a row has a vector, and its subset, which on the way takes 32 bytes an input.
    each = rhs.element_size() * (tiles * (tiles + 1) // 2 * side**2 + 2 * d) + 32 * d
    available = room(rhs, int(each.sum()), max_memory)
    first = 0
    while first < rows:
        if each[first] > available:
            raise MemoryError(
                f"max_memory is {available} bytes and a row with {int(size[first])} weights to solve "
                f"for needs {int(each[first])}; accepted is more memory, or fewer weights a row"
            )
        fits = np.cumsum(each[first:]) <= available
        count = min(int(fits.sum()), GRID_ROWS)
        yield slice(first, first + count)
        first += count


def _solve_chunk(
    matrix: Tensor,
    rhs: Tensor,
    select: Tensor,
    rows: Tensor,
    size: NDArray[Any],
    solution: Tensor,
    failed: Tensor,
) -> None:
    """Writes the rows of `solution` and `failed`. `size` [len(rows)] is on the host, and falls."""
    tile = _tile(device_class(rhs), rhs.dtype)
    side, d = tile.side, matrix.shape[0]
    tiles = -(-size // side)  # to a side of each row's matrix
    across = int(tiles[0])
    width = across * side
    members = select[rows]
    count = members.sum(dim=1, dtype=torch.int32)
    # The subsets, ascending. All other inputs go to a last column, which is never read.
    place = torch.where(members, members.cumsum(dim=1) - 1, width)
    subset = torch.zeros(len(rows), width + 1, dtype=torch.int32, device=rhs.device)
    inputs = torch.arange(d, dtype=torch.int32, device=rhs.device)
    subset = subset.scatter_(1, place, inputs.expand(len(rows), d))[:, :width].contiguous()
    past = torch.arange(width, device=rhs.device) >= count[:, None]
    vector = rhs[rows].gather(1, subset.long()).masked_fill_(past, 0)
    packed = (count + side - 1).long() // side
    packed = packed * (packed + 1) // 2
    base = packed.cumsum(dim=0) - packed
    factor = rhs.new_empty(int((tiles * (tiles + 1) // 2).sum()) * side**2)
    of_rows = (count, base, factor, vector, width)
    with launching(rhs):
        for k in range(across):
            live, below = (int((tiles > at).sum()) for at in (k, k + 1))
            _update[across - k, live](
                matrix,
                d,
                subset,
                *of_rows,
                k,
                SIDE=side,
                TERMS=tile.terms,
                SPLIT=tile.split,
                num_warps=tile.update,
                num_stages=tile.stages,
            )
            _factor[live,](*of_rows, k, rows, failed, SIDE=side, num_warps=tile.factor)
            if below:
                _below[across - k - 1, below](
                    *of_rows,
                    k,
                    SIDE=side,
                    TERMS=tile.terms,
                    SPLIT=tile.split,
                    num_warps=tile.below,
                    num_stages=tile.stages,
                )
        for k in reversed(range(across)):
            _back[k + 1, int((tiles > k).sum())](
                *of_rows, k, d, subset, rows, solution, SIDE=side, num_warps=tile.back
            )


def _require_solved(failures: list[tuple[Tensor, Tensor]]) -> None:
    """Raises numpy.linalg.LinAlgError if a factorisation failed; waits for the device.

    `failures` are rows with 1 + the place of their first bad pivot, or 0.
    """
    if not failures:
        return
    rows, failed = (torch.cat(part) for part in zip(*failures, strict=True))
    require_rows_solved(*torch.stack([rows, failed]).cpu().numpy())


# ---- kernels ------------------------------------------------------------------------------------
# A row has the size of its subset (count) and its first tile (base). Tile (i, k), i >= k, of its factor
# is i (i + 1) / 2 + k tiles further. On the diagonal a tile becomes the inverse X of the factor's. Past
# the subset's end the matrix is an identity.

_ANY = ["width", "k"]  # no build of their own for 1 and for multiples of 16


@triton.jit
def _at(base, m, i, k, SIDE: tl.constexpr):
    """Offset of tile (i, k) of row m."""
    return (tl.load(base + m) + i * (i + 1) // 2 + k) * (SIDE * SIDE)


@triton.jit(do_not_specialize=_ANY)
def _update(
    matrix,  # [d, d]
    d,
    subset,  # [rows, width]
    count,  # [rows]
    base,  # [rows]
    factor,
    vector,  # [rows, width]
    width,
    k,
    SIDE: tl.constexpr,
    TERMS: tl.constexpr,
    SPLIT: tl.constexpr,
):
    """Tile (i, k): of the matrix, less ``sum_{j<k} L_ij L_kj'``. One program a tile and row."""
    i = k + tl.program_id(0)
    m = tl.program_id(1)
    size = tl.load(count + m)
    if i * SIDE >= size:
        return
    one = tl.arange(0, SIDE)
    row, column = i * SIDE + one, k * SIDE + one
    subset_row = subset + m.to(tl.int64) * width
    of_row = tl.load(subset_row + row, mask=row < size, other=0).to(tl.int64)
    of_column = tl.load(subset_row + column, mask=column < size, other=0)
    inside = (row < size)[:, None] & (column < size)[None, :]
    a = tl.load(matrix + of_row[:, None] * d + of_column[None, :], mask=inside, other=0.0)
    a = tl.where(inside | (row[:, None] != column[None, :]), a, 1.0)
    left, right = factor + _at(base, m, i, 0, SIDE), factor + _at(base, m, k, 0, SIDE)
    product = _product_of_rows(left, right, k, SIDE, TERMS, SPLIT)
    tl.store(left + k * SIDE * SIDE + one[:, None] * SIDE + one[None, :], a - product)


@triton.jit
def _product_of_rows(
    left, right, tiles, SIDE: tl.constexpr, TERMS: tl.constexpr, SPLIT: tl.constexpr
):
    """``sum_j A_j B_j'`` over `tiles` tiles, one after another in memory."""
    strip = tl.arange(0, SIDE)[:, None] * SIDE + tl.arange(0, TERMS)[None, :]
    total = tl.zeros((SIDE, SIDE), left.dtype.element_ty)
    strips: tl.constexpr = SIDE // TERMS
    for step in range(tiles * strips):
        at = step // strips * (SIDE * SIDE) + step % strips * TERMS
        a, b = tl.load(left + at + strip), tl.load(right + at + strip)
        if SPLIT:
            # Added up here: matrix units cut sums off instead of rounding, always the same way.
            total += tl.dot(a, tl.trans(b), input_precision="tf32x3")
        else:
            total = tl.dot(a, tl.trans(b), total, input_precision="ieee", out_dtype=total.dtype)
    return total


@triton.jit(do_not_specialize=_ANY)
def _factor(count, base, factor, vector, width, k, rows, failed, SIDE: tl.constexpr):
    """Tile (k, k): X, the inverse of its Cholesky factor; and the vector's part k times X.

    One program a row. By halves, ``X = [X1, 0; -X2 L21 X1, X2]``: a quarter of the steps' arithmetic.
    """
    HALF: tl.constexpr = SIDE // 2
    m = tl.program_id(0)
    one = tl.arange(0, HALF)
    square = one[:, None] * SIDE + one[None, :]
    tile = factor + _at(base, m, k, k, SIDE) + square
    x1, bad1 = _invert(tl.load(tile))
    l21 = _product(tl.load(tile + HALF * SIDE), tl.trans(x1))
    x2, bad2 = _invert(tl.load(tile + HALF * SIDE + HALF) - _product(l21, tl.trans(l21)))
    x21 = -_product(x2, _product(l21, x1))
    tl.store(tile, x1)
    tl.store(tile + HALF, tl.zeros_like(x1))
    tl.store(tile + HALF * SIDE, x21)
    tl.store(tile + HALF * SIDE + HALF, x2)
    part = vector + m.to(tl.int64) * width + k * SIDE + one
    b1, b2 = tl.load(part), tl.load(part + HALF)
    y1 = tl.sum(x1 * b1[None, :], axis=1)
    y2 = tl.sum(x21 * b1[None, :], axis=1) + tl.sum(x2 * b2[None, :], axis=1)
    tl.debug_barrier()  # until every warp has read the part
    tl.store(part, y1)
    tl.store(part + HALF, y2)
    bad = tl.where(bad1 > 0, bad1, tl.where(bad2 > 0, HALF + bad2, 0))
    to = failed + tl.load(rows + m)
    tl.store(to, tl.where(bad > 0, k * SIDE + bad, 0), mask=tl.load(to) == 0)


@triton.jit
def _invert(a):
    """Inverse of the Cholesky factor of a square tile, and 1 + its first bad pivot or 0.

    Elimination on the tile and an identity beside it.
    """
    size: tl.constexpr = a.shape[0]
    one = tl.arange(0, size)
    x = tl.where(one[:, None] == one[None, :], 1.0, 0.0).to(a.dtype)
    bad = 0
    for j in range(size):
        here = one == j
        line = tl.sum(tl.where(here[:, None], a, 0.0), axis=0)
        pivot = tl.sum(tl.where(here, line, 0.0), axis=0)
        good = pivot > 0.0
        bad = tl.where((bad == 0) & (good == 0), j + 1, bad)
        scale = tl.where(
            good, _over_root(tl.where(good, pivot, 1.0)), 0.0
        )  # a bad one does nothing
        line = tl.where(one > j, line * scale, 0.0)  # of the factor's column j, below the diagonal
        solved = tl.sum(tl.where(here[:, None], x, 0.0), axis=0) * scale
        x = tl.where(here[:, None], solved[None, :], x - line[:, None] * solved[None, :])
        a -= line[:, None] * line[None, :]
    return x, bad


@triton.jit
def _over_root(pivot):
    """1 / sqrt, rounded as IEEE says. In float32 only Triton's _rn functions round so."""
    return 1.0 / tl.sqrt(pivot) if pivot.dtype == tl.float64 else tl.div_rn(1.0, tl.sqrt_rn(pivot))


@triton.jit
def _product(a, b):
    return tl.dot(a, b, input_precision="ieee", out_dtype=a.dtype)


@triton.jit(do_not_specialize=_ANY)
def _below(
    count, base, factor, vector, width, k, SIDE: tl.constexpr, TERMS: tl.constexpr,
    SPLIT: tl.constexpr,
):  # fmt: skip
    """Tile (i, k), i > k: the factor's, by X of tile (k, k); and out of the vector's part i with it."""
    i = k + 1 + tl.program_id(0)
    m = tl.program_id(1)
    if i * SIDE >= tl.load(count + m):
        return
    one = tl.arange(0, SIDE)
    tile = factor + _at(base, m, i, k, SIDE)
    scaled_tile = _product_of_rows(tile, factor + _at(base, m, k, k, SIDE), 1, SIDE, TERMS, SPLIT)
    tl.debug_barrier()  # until every warp has read the tile
    tl.store(tile + one[:, None] * SIDE + one[None, :], scaled_tile)
    vector_row = vector + m.to(tl.int64) * width + one
    y = tl.load(vector_row + k * SIDE)
    to = vector_row + i * SIDE
    tl.store(to, tl.load(to) - tl.sum(scaled_tile * y[None, :], axis=1))


@triton.jit(do_not_specialize=_ANY)
def _back(count, base, factor, vector, width, k, d, subset, rows, solution, SIDE: tl.constexpr):
    """Part k of the solution, and out of the vector's part i < k with it. Program i = k stores it."""
    i = tl.program_id(0)
    m = tl.program_id(1)
    size = tl.load(count + m)
    if k * SIDE >= size:
        return
    one = tl.arange(0, SIDE)
    square = one[:, None] * SIDE + one[None, :]
    vector_row = vector + m.to(tl.int64) * width + one
    x = tl.load(factor + _at(base, m, k, k, SIDE) + square)
    v = tl.sum(x * tl.load(vector_row + k * SIDE)[:, None], axis=0)
    if i == k:
        live = k * SIDE + one < size
        of = tl.load(subset + m.to(tl.int64) * width + k * SIDE + one, mask=live, other=0)
        tl.store(solution + tl.load(rows + m) * d + of, v, mask=live)
    else:
        tile = tl.load(factor + _at(base, m, k, i, SIDE) + square)
        to = vector_row + i * SIDE
        tl.store(to, tl.load(to) - tl.sum(tile * v[:, None], axis=0))


def builds(device: str) -> Iterator[Build]:
    """Yields the four kernels for both types, and the product."""
    for number, dtype in TYPES.items():
        tile = _tile(device, number)
        numbers = ("matrix", "factor", "vector", "solution")
        types = {
            **dict.fromkeys(numbers, f"*{dtype}"),
            **dict.fromkeys(("subset", "count", "failed"), "*i32"),
            **dict.fromkeys(("base", "rows"), "*i64"),
            **dict.fromkeys(("d", "width", "k"), "i32"),
        }
        side = {"SIDE": tile.side}
        products = {**side, "TERMS": tile.terms, "SPLIT": tile.split}
        for kernel, constants, warps, stages in (
            (_update, products, tile.update, tile.stages),
            (_factor, side, tile.factor, 1),
            (_below, products, tile.below, tile.stages),
            (_back, side, tile.back, 1),
        ):
            yield Build(
                name=f"obs_solve/{kernel.__name__[1:]} {dtype}",
                kernel=kernel,
                types={name: types[name] for name in kernel.arg_names if name in types},
                constants=constants,
                warps=warps,
                stages=stages,
                tensor_cores=constants is products
                and (tile.split or (dtype == "fp64" and device in DMMA)),
                aligned=("d",) if "d" in kernel.arg_names else (),
            )
    yield from linalg.builds(device)
