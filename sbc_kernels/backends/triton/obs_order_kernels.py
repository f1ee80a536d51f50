"""The device side of `obs_order`: a panel's pivots, compaction, the update.

A place is the position of a weight among the m that remain in its row, in ascending order of columns. L
[pivots, side] has the panel's columns ``G_:p / sqrt(G_pp)``, one a line. A matrix is either the shared
G, square and whole, or a row's own packed triangle, see `_line_start`.

Threads of one program hand each other values through global memory: L, weights, diagonal. Triton sees
no dependency between a store and a later load, so `tl.debug_barrier` stands where one thread reads what
another has stored; a barrier of the thread block orders its global memory as well. Programs of one
launch hand each other nothing.
"""
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"

from __future__ import annotations

import triton
import triton.language as tl

from .tf32 import rounded_to_tf32

__all__ = ["ALIGN", "BARRED", "GONE", "OPEN", "compact", "factor", "panel", "update"]

# The state of a place.
OPEN = tl.constexpr(0)
BARRED = tl.constexpr(1)  # its group has given up its quota
GONE = tl.constexpr(2)

# Strides are multiples of it and masks end at one, so that the compiler can prove 16-byte accesses.
ALIGN = tl.constexpr(16)


@triton.jit
def _line_start(i, width, TILE: tl.constexpr):
    """Where column 0 of line i of a packed triangle would lie. int64.

    Lines ``q * TILE`` to ``(q + 1) * TILE`` have the columns from ``q * TILE`` on, up to `width`, a
    multiple of TILE: all lines are aligned. Lines 0..i leave out `skipped` elements.
    """
    q = (i // TILE).to(tl.int64)
    skipped = q * (q - 1) // 2 * (TILE * TILE) + q * TILE * (i % TILE + 1)
    return i.to(tl.int64) * width - skipped


# Plain division and root are rounded as IEEE has it in float64 only, these two in float32 only.
@triton.jit
def _quotient(a, b):
    if b.dtype == tl.float64:
        return a / b
    else:
        return tl.div_rn(a, b)


@triton.jit
def _root(a):
    if a.dtype == tl.float64:
        return tl.sqrt(a)
    else:
        return tl.sqrt_rn(a)


@triton.jit
def _lower(score, place, weight, diagonal, may_go, at, LARGEST: tl.constexpr):
    """Each lane's least score so far, and where. `at` ascends, and of equals the first stays."""
    ratio = _quotient(weight * weight, diagonal)
    ratio = tl.where(ratio <= LARGEST, ratio, LARGEST)  # NaN as well: never "none left"
    candidate = tl.where(may_go, ratio, float("inf"))
    less = candidate < score
    return tl.where(less, candidate, score), tl.where(less, at, place)


@triton.jit
def _least(score, place, m):
    """The place of the least score of all lanes, the lowest of equals."""
    least = tl.min(score, 0)
    return tl.minimum(tl.min(tl.where(score == least, place, m), 0), m - 1)


@triton.jit(
    do_not_specialize=["num_pruned", "num_groups", "m", "count", "done"],
    do_not_specialize_on_alignment=["unit", "order", "loss"],
)
def panel(
    matrix,  # [d, d], or packed triangles [rows, matrix_stride]
    weight,  # [rows, side]
    diagonal,  # [rows, side], of the trailing matrix; positive
    floor,  # [rows, side]: what rounding may leave of it
    state,  # int32 [rows, side]
    ids,  # int32 [rows, side]: the column that stands at a place
    group,  # int32 [rows, side], if HAS_GROUPS
    allowance,  # int32 [rows, num_groups], likewise: what each group may still give up
    lines,  # [rows, lines_stride / side, side]: L
    unit,  # [rows]: what 1 in `weight` means
    order,  # int32 [rows, num_pruned]
    loss,  # [rows, num_pruned]
    skipped,  # int32 or int64 [side], if PACKED: that of `_line_start`, 20 instructions a place
    matrix_stride,
    lines_stride,
    width,  # of a line of the matrix
    side,
    num_pruned,
    num_groups,
    m,
    count,  # pivots in this panel
    done,  # pivots before it
    PACKED: tl.constexpr,
    HAS_GROUPS: tl.constexpr,
    BLOCK: tl.constexpr,
    DEPTH: tl.constexpr,  # lines of L a step of the correction
    STAGES: tl.constexpr,  # that many less one are in shared memory or on their way there
    LARGEST: tl.constexpr,
):
    """One program a row. A pivot is one sweep over the places that corrects its column by the panel's
    earlier ones (left-looking), brings weights and diagonal up to date, and finds the next pivot."""
    row = tl.program_id(0).to(tl.int64)
    matrix += row * matrix_stride
    lines += row * lines_stride
    weight += row * side
    diagonal += row * side
    floor += row * side
    state += row * side
    ids += row * side
    group += row * side
    allowance += row * num_groups
    order += row * num_pruned + done
    loss += row * num_pruned + done
    one = tl.load(unit + row)
    padded = (m + ALIGN - 1) // ALIGN * ALIGN

    score = tl.full([BLOCK], float("inf"), one.dtype)
    place = tl.zeros([BLOCK], tl.int32)
    for start in range(0, m, BLOCK):
        at = start + tl.arange(0, BLOCK)
        live = at < padded
        w = tl.load(weight + at, mask=live, other=0.0)
        g = tl.load(diagonal + at, mask=live, other=1.0)
        may_go = tl.load(state + at, mask=live, other=GONE) == OPEN
        score, place = _lower(score, place, w, g, may_go, at, LARGEST)
    p = _least(score, place, m)

    for k in range(count):
        tl.debug_barrier()  # the last sweep's stores, before the loads at p
        w_p = tl.load(weight + p)
        g_p = tl.load(diagonal + p)
        scale = _quotient(1.0, _root(g_p))
        step = w_p * scale
        size = w_p * one
        tl.store(order + k, tl.load(ids + p))
        tl.store(loss + k, _quotient(size * size, 2 * g_p))
        tl.store(state + p, GONE)
        start_p = p.to(tl.int64) * width
        if PACKED:
            start_p -= tl.load(skipped + p)
        if HAS_GROUPS:
            own_group = tl.load(group + p)
            remain = tl.load(allowance + own_group) - 1
            tl.debug_barrier()  # all threads have read it
            tl.store(allowance + own_group, remain)

        score = tl.full([BLOCK], float("inf"), one.dtype)
        place = tl.zeros([BLOCK], tl.int32)
        for start in range(0, m, BLOCK):
            at = start + tl.arange(0, BLOCK)
            live = at < padded
            if PACKED:  # the line of p from there on, before it a column: 32 bytes of traffic for 4
                above = at.to(tl.int64) * width - tl.load(skipped + at, mask=live, other=0) + p
                entry = tl.where(at < p, above, start_p + at)
            else:
                entry = start_p + at
            column = tl.load(matrix + entry, mask=at < m, other=0.0)
            correction = tl.zeros([BLOCK], one.dtype)
            for first in tl.range(0, k, DEPTH, num_stages=STAGES):
                j = first + tl.arange(0, DEPTH)
                factors = tl.load(lines + j * side + p, mask=j < k, other=0.0)
                earlier = tl.load(
                    lines + j[:, None] * side + at[None, :],
                    mask=(j < k)[:, None] & live[None, :],
                    other=0.0,
                    cache_modifier=".cg",  # read once a pivot: leaves L1 to the vectors
                )
                correction += tl.sum(factors[:, None] * earlier, 0)
            # 0 at p: what other threads may still have to read there stays as it is.
            line = tl.where(at == p, 0.0, (column - correction) * scale)
            w = tl.load(weight + at, mask=live, other=0.0) - step * line
            g = tl.load(diagonal + at, mask=live, other=1.0) - line * line
            lowest = tl.load(floor + at, mask=live, other=1.0)
            g = tl.where(g > lowest, g, lowest)
            tl.store(lines + k * side + at, line, mask=live)
            tl.store(weight + at, w, mask=live)
            tl.store(diagonal + at, g, mask=live)
            may_go = (tl.load(state + at, mask=live, other=GONE) == OPEN) & (at != p)
            if HAS_GROUPS:
                in_group = tl.load(group + at, mask=live, other=-1) == own_group
                to_bar = in_group & (remain == 0) & may_go
                tl.store(state + at, BARRED, mask=to_bar)
                may_go &= ~to_bar
            score, place = _lower(score, place, w, g, may_go, at, LARGEST)
        p = _least(score, place, m)


@triton.jit(do_not_specialize=["m"])
def compact(
    weight,  # [rows, side], and so are all that follow
    diagonal,
    floor,
    state,  # int32
    ids,  # int32
    group,  # int32, if HAS_GROUPS
    index,  # int32, out: the place that each survivor had
    side,
    m,
    HAS_GROUPS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Closes the gaps that a panel's pivots left in a row's vectors, in place. One program a row."""
    row = tl.program_id(0).to(tl.int64) * side
    num_kept = 0
    for start in range(0, m, BLOCK):
        at = start + tl.arange(0, BLOCK)
        live = at < m
        status = tl.load(state + row + at, mask=live, other=GONE)
        w = tl.load(weight + row + at, mask=live)
        g = tl.load(diagonal + row + at, mask=live)
        lowest = tl.load(floor + row + at, mask=live)
        column = tl.load(ids + row + at, mask=live)
        survives = status != GONE
        to = row + num_kept + tl.cumsum(survives.to(tl.int32), 0) - 1
        num_kept += tl.sum(survives.to(tl.int32), 0)
        if HAS_GROUPS:
            member = tl.load(group + row + at, mask=live)
        # Survivors move to the front: to places of this block, which all threads have read by now, and
        # of blocks before.
        tl.debug_barrier()
        tl.store(state + to, status, mask=survives)
        tl.store(weight + to, w, mask=survives)
        tl.store(diagonal + to, g, mask=survives)
        tl.store(floor + to, lowest, mask=survives)
        tl.store(ids + to, column, mask=survives)
        tl.store(index + to, at, mask=survives)
        if HAS_GROUPS:
            tl.store(group + to, member, mask=survives)
    beyond = num_kept + tl.arange(0, ALIGN)  # what `panel` reads past the end
    past = beyond < (num_kept + ALIGN - 1) // ALIGN * ALIGN
    tl.store(state + row + beyond, GONE, mask=past)
    tl.store(weight + row + beyond, 0.0, mask=past)
    tl.store(diagonal + row + beyond, 1.0, mask=past)
    tl.store(floor + row + beyond, 1.0, mask=past)
    if HAS_GROUPS:
        tl.store(group + row + beyond, -1, mask=past)


@triton.jit(do_not_specialize=["n", "count"])
def factor(
    lines,  # [rows, lines_stride / side, side]: L of the panel
    index,  # int32 [rows, side]
    factors,  # [rows, parts, side, depth], out: L' of the survivors; zeros past the n-th
    lines_stride,
    factors_stride,
    side,
    depth,
    n,
    count,
    BLOCK: tl.constexpr,
    DEPTH: tl.constexpr,
    SPLIT: tl.constexpr,  # into two parts that matrix units read as they are, else one
):
    """Lays each survivor's factors out side by side for the update's tiles. Programs: (block, row)."""
    row = tl.program_id(1).to(tl.int64)
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    source = tl.load(index + row * side + at, mask=at < n, other=0)
    lines += row * lines_stride
    factors += row * factors_stride
    for first in range(0, count, DEPTH):
        k = first + tl.arange(0, DEPTH)
        # Places are the first axis: where neither axis is known to be contiguous, Triton lays the lanes
        # of a warp along that one, and survivors are neighbours but for the gaps.
        part = tl.load(
            lines + source[:, None] + k[None, :] * side, mask=(at < n)[:, None], other=0.0
        )
        to = factors + at[:, None] * depth + k[None, :]
        if SPLIT:
            high = rounded_to_tf32(part)
            tl.store(to, high)
            tl.store(to + side * depth, rounded_to_tf32(part - high))
        else:
            tl.store(to, part)


@triton.jit(do_not_specialize=["n", "count"])
def update(
    source,  # [d, d], or packed triangles [rows, source_stride]
    target,  # packed triangles [rows, target_stride], of n places
    factors,  # [rows, parts, side, depth]: L' at the places of the target
    index,  # int32 [rows, side]: the place in the source of each place of the target
    source_stride,
    target_stride,
    factors_stride,
    source_width,
    target_width,
    side,
    depth,
    n,
    count,  # a multiple of DEPTH
    PACKED: tl.constexpr,
    TILE: tl.constexpr,
    WIDE: tl.constexpr,  # lines of a tile that a program takes
    DEPTH: tl.constexpr,
    SPLIT: tl.constexpr,  # as of `factor`; else products are IEEE
    EARLY: tl.constexpr,
):
    """``target = source[index, index] - L'L``, the upper triangle. Programs: (tile, row, part of it).

    A long and a short line of tiles, the q-th from above and from below, make one line of the grid.
    """
    row = tl.program_id(1).to(tl.int64)
    tiles = tl.cdiv(n, TILE)
    even = 1 - tiles % 2
    q, along = tl.program_id(0) // (tiles + even), tl.program_id(0) % (tiles + even)
    long = along < tiles - q
    i = tl.where(long, q, tiles - even - q) * TILE + tl.program_id(2) * WIDE + tl.arange(0, WIDE)
    j = tl.where(long, q + along, along - even) * TILE + tl.arange(0, TILE)

    if EARLY:
        entry = _entries(
            source, index, i, j, row, source_stride, source_width, side, n, PACKED, TILE
        )
    factors += row * factors_stride
    product = tl.zeros([TILE, WIDE], factors.dtype.element_ty)  # transposed, see `factor`
    for first in range(0, count, DEPTH):
        k = first + tl.arange(0, DEPTH)
        from_j = factors + j[:, None] * depth + k[None, :]
        from_i = factors + i[:, None] * depth + k[None, :]
        at_j, at_i = tl.load(from_j), tl.load(from_i)
        if SPLIT:
            rest_j, rest_i = tl.load(from_j + side * depth), tl.load(from_i + side * depth)
            product = tl.dot(at_j, tl.trans(rest_i), product, input_precision="tf32")
            product = tl.dot(rest_j, tl.trans(at_i), product, input_precision="tf32")
            product = tl.dot(at_j, tl.trans(at_i), product, input_precision="tf32")
        else:
            product = tl.dot(
                at_j, tl.trans(at_i), product, input_precision="ieee", out_dtype=product.dtype
            )

    # Subtracted here, not in the tensor cores: they cut sums off instead of rounding, and by that each
    # panel would move an entry the same way. Of the product alone it is a small part.
    if not EARLY:
        entry = _entries(
            source, index, i, j, row, source_stride, source_width, side, n, PACKED, TILE
        )
    # Whole lines without a mask: nothing is read below the diagonal or beyond the end.
    to = _line_start(i, target_width, TILE)
    tl.store(
        target + row * target_stride + to[None, :] + j[:, None],
        entry - product,
        eviction_policy="evict_first",
    )


@triton.jit
def _entries(
    source, index, i, j, row, source_stride, source_width, side, n, PACKED: tl.constexpr,
    TILE: tl.constexpr,
):  # fmt: skip
    """Returns the source's entries at the target's places, [j, i] above the diagonal.

    Read and written once a panel: the cache is for the factors.
    """
    from_i = tl.load(index + row * side + i, mask=i < n, other=0)
    from_j = tl.load(index + row * side + j, mask=j < n, other=0)
    square = from_i.to(tl.int64) * source_width
    start_i = _line_start(from_i, source_width, TILE) if PACKED else square
    upper = (i[None, :] <= j[:, None]) & (j < n)[:, None]
    return tl.load(
        source + row * source_stride + start_i[None, :] + from_j[:, None],
        mask=upper,
        other=0.0,
        eviction_policy="evict_first",
    )
