"""Kernels of `spike_gram`: planes of filtered spikes, their products, what the products add up to.

Planes lie as ``[steps, slots, channels, WIDTH]``: 128 bytes of samples of one channel side by side, as
the matrix units want integers (along what is summed), and a tile of channels in one piece of memory.
A slot is one position of the map in one plane. A *row* is 128 bytes, counted through the whole.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"

from __future__ import annotations

import triton
import triton.language as tl

from .tf32 import rounded_to_tf32

__all__ = ["add_partials", "assemble", "filter_rows", "mirror", "multiply_rows", "sum_pairs"]


@triton.jit(do_not_specialize=["T", "samples", "steps", "outer_size", "plane_rows", "step_rows"])
def filter_rows(
    values,  # [T, samples, outer, inner] by the strides below: int8, float32 or float64
    weights,  # [T, T]: int32, int64, float32 or float64
    planes,  # [steps, slots, channels, WIDTH]: int8, float32 or float64
    position_sums,  # int32 [steps, positions, channels] where BIASED: of the first plane
    T,
    samples,
    steps,
    time_stride,
    sample_stride,
    outer_stride,
    inner_stride,
    outer_size,
    inner_size,
    outer_rows,  # how many rows of planes the next of outer, of inner, the next plane, step is away
    inner_rows,
    plane_rows,
    step_rows,
    WIDTH: tl.constexpr,
    INNER: tl.constexpr,
    SUM: tl.constexpr,  # type of the filtered values
    KEEP: tl.constexpr,  # plane 0 is the values as they are
    DIGITS: tl.constexpr,  # planes of filtered values
    BIASED: tl.constexpr,  # so many of them, the lowest, lie as byte - 128
    CAUSAL: tl.constexpr,  # weights[t, u] = 0 for u > t
):
    """Row r = t * samples + n of a chunk is in step r / WIDTH. Zeros past the last row."""
    blocks = tl.cdiv(inner_size, INNER)
    rest = tl.program_id(0) // blocks
    inner = (tl.program_id(0) - rest * blocks) * INNER + tl.arange(0, INNER)
    turn = rest // outer_size
    outer = (rest - turn * outer_size).to(tl.int64)
    # The time steps of the same samples are filtered one after another: all but the first find them in
    # the second-level cache. Where T does not divide the steps, the last one is made again.
    step = tl.minimum(turn % T * tl.cdiv(steps, T) + turn // T, steps - 1)
    first = step * WIDTH
    lane = tl.arange(0, WIDTH)
    t = (first + lane) // samples
    n = first + lane - t * samples
    live = (t < T)[:, None] & (inner < inner_size)[None, :]
    source = values + outer * outer_stride + n.to(tl.int64)[:, None] * sample_stride
    source += inner.to(tl.int64)[None, :] * inner_stride
    row = outer * outer_rows + inner.to(tl.int64) * inner_rows
    to = planes + (step.to(tl.int64) * step_rows + row)[None, :] * WIDTH + lane[:, None]
    there = (inner < inner_size)[None, :] & (lane >= 0)[:, None]
    plane = tl.full([], WIDTH, dtype=tl.int64) * plane_rows
    sums_to = position_sums + step.to(tl.int64) * plane_rows + row
    if KEEP:
        kept = tl.load(source + t.to(tl.int64)[:, None] * time_stride, mask=live, other=0)
        tl.store(to, kept, mask=there)
        to += plane
        if BIASED > 0:
            tl.store(sums_to, tl.sum(kept.to(tl.int32), axis=0), mask=inner < inner_size)
    if DIGITS > 0:
        end = T
        if CAUSAL:
            end = tl.minimum(T, (first + WIDTH - 1) // samples + 1)
        z = tl.zeros([WIDTH, INNER], dtype=SUM)
        for u in range(end):
            weight = tl.load(weights + t * T + u, mask=t < T, other=0)
            z += weight[:, None] * tl.load(source, mask=live, other=0).to(SUM)
            source += time_stride
        if SUM.is_fp32():
            high = rounded_to_tf32(z)
            tl.store(to, high, mask=there)
            tl.store(to + plane, rounded_to_tf32(z - high), mask=there)
        elif SUM.is_fp64():
            tl.store(to, z, mask=there)
        else:
            for digit in tl.static_range(DIGITS):
                byte = z >> (8 * digit)
                if digit < BIASED:
                    byte = byte ^ 128
                    byte = tl.where(live, byte, 0)
                byte = byte.to(tl.int8)
                tl.store(to + digit * plane, byte, mask=there)
                if BIASED > 0 and digit == 0 and not KEEP:
                    tl.store(sums_to, tl.sum(byte.to(tl.int32), axis=0), mask=inner < inner_size)


@triton.jit(do_not_specialize=["rows", "slots", "channels"])
def multiply_rows(
    left,  # the planes: a pointer, or where TMA a descriptor of [rows, WIDTH] in tiles
    right,
    units,  # int32 [units, 8]: first row left and right, first pair, pairs, first step, last, slot
    pairs,  # int32 [pairs, 2]: slots of the planes, left and right
    partials,  # [slots of partial sums, ROWS, COLUMNS] of SUM
    rows,  # of the planes
    slots,
    channels,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    WIDTH: tl.constexpr,
    SUM: tl.constexpr,
    TMA: tl.constexpr,
):
    """A tile's sum over some of its steps. Step k is pair k % pairs in step k / pairs of the planes."""
    unit = units + tl.program_id(0) * 8
    first_left, first_right = tl.load(unit), tl.load(unit + 1)
    first_pair, num_pairs = tl.load(unit + 2), tl.load(unit + 3)
    first, last = tl.load(unit + 4), tl.load(unit + 5)
    slot = tl.load(unit + 6)
    lane = tl.arange(0, WIDTH)[None, :]
    i, j = tl.arange(0, ROWS)[:, None], tl.arange(0, COLUMNS)[:, None]
    step = first // num_pairs
    pair = first - step * num_pairs
    # Slots are read a step ahead: were they read where they are used, the pipeline of tiles in shared
    # memory would spend half of its depth on them.
    p = tl.load(pairs + 2 * (first_pair + pair))
    q = tl.load(pairs + 2 * (first_pair + pair) + 1)
    sums = tl.zeros([ROWS, COLUMNS], dtype=SUM)
    for _ in range(first, last):
        a_row = (step * slots + p) * channels + first_left
        b_row = (step * slots + q) * channels + first_right
        # A tile may reach into what lies behind its channels, which nobody adds up, but not past the
        # end of the planes.
        if TMA:
            a = left.load([a_row, 0])
            b = right.load([b_row, 0])
        else:
            a = tl.load(left + tl.minimum(a_row + i, rows - 1).to(tl.int64) * WIDTH + lane)
            b = tl.load(right + tl.minimum(b_row + j, rows - 1).to(tl.int64) * WIDTH + lane)
        sums = tl.dot(a, b.T, sums, input_precision="tf32", out_dtype=SUM)
        pair += 1
        wraps = pair == num_pairs
        step += tl.where(wraps, 1, 0)
        pair = tl.where(wraps, 0, pair)
        p = tl.load(pairs + 2 * (first_pair + pair))
        q = tl.load(pairs + 2 * (first_pair + pair) + 1)
    to = partials + slot.to(tl.int64) * (ROWS * COLUMNS)
    tl.store(to + i * COLUMNS + tl.arange(0, COLUMNS)[None, :], sums)


@triton.jit(do_not_specialize=["channels"])
def sum_pairs(
    position_sums,  # int64 [positions, channels]
    items,  # int32 [items, 2]: first pair, pairs
    pairs,  # int32 [pairs, 2]
    left,  # int64 [items, channels]: of the first of a pair
    right,  # of the second
    channels,
    BLOCK: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    item = tl.program_id(0)
    c = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    first, count = tl.load(items + 2 * item), tl.load(items + 2 * item + 1)
    lefts = tl.zeros([CHANNELS], dtype=tl.int64)
    rights = tl.zeros([CHANNELS], dtype=tl.int64)
    for start in range(0, count, BLOCK):
        k = start + tl.arange(0, BLOCK)
        p = tl.load(pairs + 2 * (first + k), mask=k < count, other=0).to(tl.int64)
        q = tl.load(pairs + 2 * (first + k) + 1, mask=k < count, other=0).to(tl.int64)
        live = (k < count)[:, None] & (c < channels)[None, :]
        at = position_sums + c[None, :]
        lefts += tl.sum(tl.load(at + p[:, None] * channels, mask=live, other=0), axis=0)
        rights += tl.sum(tl.load(at + q[:, None] * channels, mask=live, other=0), axis=0)
    to = item.to(tl.int64) * channels + c
    tl.store(left + to, lefts, mask=c < channels)
    tl.store(right + to, rights, mask=c < channels)


@triton.jit(do_not_specialize=["channels", "digits"])
def add_partials(
    partials,  # [slots, ROWS, COLUMNS]: int32, float32 or float64
    tiles,  # int64 [tiles, 8]: first slot, chunks of a digit, row, column, upper, offset, item, pairs
    sums,  # float64: of the first region; the tiles' offsets lead to all of them
    left,  # int64 [items, channels] where BIASED, see sum_pairs
    right,
    biases,  # int64 [3]: of the right side, of the left one, their product times the samples
    channels,  # of one group: sums are [channels, channels]
    digits,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    ENTRIES: tl.constexpr,  # of a tile, of one program
    CHUNKS: tl.constexpr,
    SUM: tl.constexpr,  # int64 or float64
    BIASED: tl.constexpr,
):
    """Integers modulo 2^64: only the last one has to fit."""
    tile = tiles + tl.program_id(0) * 8
    slot, chunks = tl.load(tile), tl.load(tile + 1)
    entry = tl.program_id(1) * ENTRIES + tl.arange(0, ENTRIES)
    chunk = tl.arange(0, CHUNKS)[:, None]
    at = partials + slot * (ROWS * COLUMNS) + entry[None, :]
    total = tl.zeros([ENTRIES], dtype=SUM)
    for _ in range(digits):  # the highest first
        total *= 256
        for start in range(0, chunks, CHUNKS):
            there = at + (start + chunk) * (ROWS * COLUMNS)
            part = tl.load(there, mask=start + chunk < chunks, other=0).to(SUM)
            total += tl.sum(part, axis=0)
        at += chunks * (ROWS * COLUMNS)
    r, c = tl.load(tile + 2) + entry // COLUMNS, tl.load(tile + 3) + entry % COLUMNS
    live = (r < channels) & (c < channels) & ((tl.load(tile + 4) == 0) | (r <= c))
    if BIASED:
        item = tl.load(tile + 6)
        total += tl.load(biases) * tl.load(left + item + r, mask=live, other=0)
        total += tl.load(biases + 1) * tl.load(right + item + c, mask=live, other=0)
        total += tl.load(biases + 2) * tl.load(tile + 7)
    to = sums + tl.load(tile + 5) + r * channels + c
    tl.store(to, tl.load(to, mask=live, other=0.0) + total.to(tl.float64), mask=live)


@triton.jit(do_not_specialize=["d"])
def mirror(matrix, factor, d, SIDE: tl.constexpr):
    """The upper triangle times the factor, to both triangles. matrix: float64 [count, d, d]."""
    block_row, block_column = tl.program_id(0), tl.program_id(1)
    if block_row <= block_column:
        r = block_row * SIDE + tl.arange(0, SIDE)
        c = block_column * SIDE + tl.arange(0, SIDE)
        row, column = r.to(tl.int64)[:, None], c.to(tl.int64)[None, :]
        at = matrix + tl.program_id(2).to(tl.int64) * d * d
        live = (row <= column) & (column < d)
        value = tl.load(at + row * d + column, mask=live, other=0.0) * tl.load(factor)
        tl.store(at + row * d + column, value, mask=live)
        tl.store(at + column * d + row, value, mask=live & (row < column))


@triton.jit(do_not_specialize=["channels", "taps", "tiles"])
def assemble(
    sums,  # float64 [shifts, channels, channels] of the first region
    offsets,  # int64 [regions]: from those to each region's
    pairs,  # int32 [pairs, 3]: tap a, tap b, first of its entries; and one behind the last
    entries,  # int32 [entries, 2]: region, shift
    matrix,  # float64 [channels * taps, channels * taps], out
    factor,
    channels,
    taps,
    tiles,  # to a side of a block
    SIDE: tl.constexpr,
):
    """A tile of what is between two taps, a <= b, and its mirror image. Always added in one order."""
    program, square = tl.program_id(0), tiles * tiles
    pair, tile = pairs + program // square * 3, program % square
    a, b = tl.load(pair), tl.load(pair + 1)
    c = tile // tiles * SIDE + tl.arange(0, SIDE)
    z = tile % tiles * SIDE + tl.arange(0, SIDE)
    inside = (c < channels)[:, None] & (z < channels)[None, :]
    # Between a tap and itself a sum is its own mirror image: only its upper triangle is there.
    inside &= (a != b) | (c[:, None] <= z[None, :])
    at = sums + c.to(tl.int64)[:, None] * channels + z[None, :]
    block = channels.to(tl.int64) * channels
    total = tl.zeros([SIDE, SIDE], dtype=tl.float64)
    for k in range(tl.load(pair + 2), tl.load(pair + 5)):
        there = tl.load(offsets + tl.load(entries + 2 * k)) + tl.load(entries + 2 * k + 1) * block
        total += tl.load(at + there, mask=inside, other=0.0)
    total *= tl.load(factor)
    row = (c * taps + b).to(tl.int64)[:, None]
    column = (z * taps + a).to(tl.int64)[None, :]
    side = channels.to(tl.int64) * taps
    tl.store(matrix + row * side + column, total, mask=inside)
    tl.store(matrix + column * side + row, total, mask=inside)
