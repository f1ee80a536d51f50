"""Reading and writing compressed weights as packed files.

Reading a file needs `safetensors`.
"""

from ..weights import Pruned, Quantized
from .footprint import Footprint
from .packed import (
    PackedTensor,
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
