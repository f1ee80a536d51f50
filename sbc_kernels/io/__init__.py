"""Reading and writing compressed weights. Needs `safetensors` when a file is touched."""

from .packed import (
    PackedTensor,
    Pruned,
    Quantized,
    load_packed,
    packed_tensor,
    read_packed,
    save_packed,
)

__all__ = [
    "PackedTensor",
    "Pruned",
    "Quantized",
    "load_packed",
    "packed_tensor",
    "read_packed",
    "save_packed",
]
