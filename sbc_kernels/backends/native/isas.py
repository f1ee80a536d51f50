"""The instruction set whose kernel runs each op, as csrc/common/isa.h chooses it."""

from __future__ import annotations

# These two have kernels of their own for one way of summing a Gram matrix only. Everything else they
# leave to the next one: `SBC_SELECT_ISA_OR` in C++.
_OWN = {"amx": "bytes", "vpopcnt": "counts"}
_NEXT = {"amx": "vpopcnt", "vpopcnt": "avx512"}


def kernel_of(isa: str, stem: str) -> str:
    """Returns the instruction set whose code runs if `isa` is requested.

    `stem` is an op or one of spike_gram's ways of summing: "bytes", "counts" or "tables".
    """
    while isa in _OWN and stem != _OWN[isa]:
        isa = _NEXT[isa]
    return isa
