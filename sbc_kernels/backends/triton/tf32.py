"""float32 in two parts that a matrix unit reads as they are.

Three products of parts are nearly float32's: 22 bits of each factor's 24 count, and the product of the
two small parts is left out.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"

from __future__ import annotations

import triton
import triton.language as tl

__all__ = ["rounded_to_tf32"]


@triton.jit
def rounded_to_tf32(value):
    """To 11 bits, the nearest: what a matrix unit reads of a float32. NaN stays NaN."""
    bits = value.to(tl.int32, bitcast=True)
    rounded = ((bits + 0x1000) & -0x2000).to(tl.float32, bitcast=True)
    return tl.where(value == value, rounded, value)  # of NaN the sum may wrap around, to -0
