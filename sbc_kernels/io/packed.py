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
from ..files.packed import HEADER, checksum

__all__ = [
    "HEADER",
    "Footprint",
    "PackedTensor",
    "Pruned",
    "Quantized",
    "checksum",
    "load_packed",
    "packed_tensor",
    "read_packed",
    "save_packed",
]
