"""An older name of `sbc_kernels.files`."""

from ..files import (
    Footprint,
    PackedTensor,
    Pruned,
    Quantized,
    load_packed,
    packed_tensor,
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
    "read_packed",
    "save_packed",
]
