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
from ..files.packed import HEADER as HEADER
from ..files.packed import checksum as checksum

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
