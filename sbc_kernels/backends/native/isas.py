"""Which instruction set's kernel runs what: csrc/common/isa.h, told in Python."""

from __future__ import annotations

# These two have kernels of their own for one way of summing a Gram matrix only. Everything else they
# leave to the next one: `SBC_SELECT_ISA_OR` in C++.
_OWN = {"amx": "bytes", "vpopcnt": "counts"}
_NEXT = {"amx": "vpopcnt", "vpopcnt": "avx512"}


def kernel_of(isa: str, stem: str) -> str:
    """The instruction set whose code runs when `isa` is asked for.

    `stem` is an op or one of spike_gram's ways of summing: "bytes", "counts" or "tables".
    """
    while isa in _OWN and stem != _OWN[isa]:
        isa = _NEXT[isa]
    return isa
