"""An older name of `sbc_kernels.files`, which stays importable; NIR graphs are in `io.nir`."""

from ..files import (
    Footprint,
    PackedTensor,
    Pruned,
    Quantized,
    load_packed,
    packed_tensor,
    read_metadata,
    read_packed,
    save_packed,
)

__all__ = [
    "Footprint",
    "PackedTensor",
    "Pruned",
    "Quantized",
    "load_packed",
    "packed_tensor",
    "read_metadata",
    "read_packed",
    "save_packed",
]
