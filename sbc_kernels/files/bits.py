"""Bit streams: masks as Rice codes, small unsigned integers at their own width."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["decode_mask", "encode_mask", "pack_bits", "unpack_bits"]

CHUNK = 1 << 16  # values spread out into bits at a time; a multiple of 8: chunks end on bytes

_ONES = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).sum(1, dtype=np.uint8)

Bytes = NDArray[np.uint8]
Mask = NDArray[np.bool_]


def encode_mask(mask: Mask) -> tuple[int, Bytes, Bytes]:
    """Returns the Rice code of a mask: (k, unary stream, stream of k-bit remainders).

    Gap g between two survivors is g >> k zeros and a one in the first stream, and the k low bits of g
    in the second. k is the one that gives the fewest bits.
    """
    positions = np.flatnonzero(mask)
    gaps = np.diff(positions, prepend=-1) - 1
    cost = [int((gaps >> k).sum()) + positions.size * (1 + k) for k in range(32)]
    k = cost.index(min(cost))
    ends = np.cumsum((gaps >> k) + 1) - 1
    unary = np.zeros(int(ends[-1]) + 1 if positions.size else 0, bool)
    unary[ends] = True
    return k, np.packbits(unary, bitorder="little"), pack_bits(gaps & ((1 << k) - 1), k)


def decode_mask(k: int, unary: Bytes, low: Bytes, size: int) -> Mask:
    """Returns the flat mask, bool [size], that `encode_mask` took.

    Raises
    ------
    ValueError : the streams do not describe a mask of this size.
    """
    if unary.dtype != np.uint8 or unary.ndim != 1:
        raise ValueError(f"a mask's code is {unary.dtype} of shape {list(unary.shape)}")
    # Counted first, 8 bytes at most for a byte of the file: the positions below take 64 for a bit.
    count = int(_ONES[unary].sum(dtype=np.int64))
    if count > size or unary.size > -(-((size >> k) + count) // 8):
        raise ValueError(f"{unary.size} bytes with {count} survivors are no mask of {size} weights")
    ends = np.flatnonzero(np.unpackbits(unary, bitorder="little"))
    gaps = (np.diff(ends, prepend=-1) - 1 << k) + unpack_bits(low, ends.size, k).astype(np.int64)
    if gaps.size and gaps.sum(dtype=np.float64) >= 2.0**62:  # the sum below would overflow
        raise ValueError(f"its gaps exceed a mask of {size} weights")
    positions = np.cumsum(gaps + 1) - 1
    if positions.size and positions[-1] >= size:
        raise ValueError(f"a mask of {size} weights keeps weight {positions[-1]}")
    mask = np.zeros(size, bool)
    mask[positions] = True
    return mask


def pack_bits(values: NDArray[Any], bits: int) -> Bytes:
    """Returns unsigned integers below 2**bits as one stream, `bits` (0..32) each, lowest bit first."""
    if bits == 0:
        return np.zeros(0, np.uint8)
    chunks = [
        np.packbits(
            np.unpackbits(
                values[i : i + CHUNK].astype("<u4").view(np.uint8).reshape(-1, 4),
                axis=1,
                count=bits,
                bitorder="little",
            ),
            bitorder="little",
        )
        for i in range(0, values.size, CHUNK)
    ]
    return np.concatenate(chunks) if chunks else np.zeros(0, np.uint8)


def unpack_bits(stream: Bytes, count: int, bits: int) -> NDArray[np.uint32]:
    """Returns the uint32 [count] that `pack_bits` took.

    Raises
    ------
    ValueError : the stream has another length.
    """
    if stream.dtype != np.uint8 or stream.shape != (-(-count * bits // 8),):
        raise ValueError(f"{count} values of {bits} bits do not fill a stream of {stream.shape}")
    values = np.zeros((count, 4), np.uint8)
    if bits == 0:
        return values.view("<u4").ravel()
    for i in range(0, count, CHUNK):
        part = values[i : i + CHUNK]
        flat = np.unpackbits(
            stream[i * bits // 8 :], count=len(part) * bits, bitorder="little"
        ).reshape(-1, bits)
        packed = np.packbits(flat, axis=1, bitorder="little")
        part[:, : packed.shape[1]] = packed
    return values.view("<u4").ravel()
