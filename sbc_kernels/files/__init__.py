"""Reading and writing compressed weights. Needs `safetensors` when a file is touched."""

from .packed import (
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
