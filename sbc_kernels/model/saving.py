"""Compressed models into files: safetensors in which a weight takes no more than it holds.

See `files.packed` for the format of a tensor. The header's metadata has ``report`` (what
`CompressedModel.report` returns), ``casts`` (tensors whose dtype NumPy does not have, and that dtype),
``aliases`` (names that share another's tensor), ``transposed`` (names whose tensor is stored with its
two axes swapped; only where there are any) and ``folded`` (by layer, the BatchNorm in it).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..arrays import NumpyArray
from ..errors import ParameterError, ParameterTypeError
from ..files.footprint import Footprint
from ..files.packed import PackedTensor, code_tensors
from ..files.parts import PRUNABLE
from ..network.copies import copy_of, reset_states
from ..network.state import identity
from ..network.tensors import plain
from ..weights import CompressedWeight, Pruned, Quantized
from .record import LayerRecord

__all__ = ["BITS_OF", "PackedFile", "packed_file", "require_storable"]

BITS_OF = {1: torch.uint8, 2: torch.uint16}  # of a float that NumPy does not have, by its size


@dataclass(frozen=True)
class PackedFile:
    """A compressed model as a file.

    Attributes
    ----------
    data : the bytes of the file.
    footprint : what they are spent on.
    report : the report in the file's header, with the footprint.
    """

    data: bytes
    footprint: Footprint
    report: dict[str, Any]


def packed_file(
    model: nn.Module,
    layers: Iterable[LayerRecord],
    weights: Mapping[str, CompressedWeight],
    folded: Mapping[str, str],
    about: Mapping[str, Any],
) -> PackedFile:
    """Returns the file that `CompressedModel.save` writes. Every tensor is coded once.

    Parameters
    ----------
    model : the compressed model. It stays as it is.
    layers : records of the layers that the footprint lists.
    weights : by layer name, the compressed weights.
    folded : by layer name, the BatchNorm that was folded into it.
    about : the report but for the footprint, as JSON has it.

    Raises
    ------
    TypeError, ValueError : a state or weight that cannot be kept; the message names it.
    """
    work = copy_of(model)
    reset_states(work)
    state = work.state_dict()
    require_storable(state)
    records = {layer.weight_entry: layer for layer in layers}
    layer_of = {name: record.name for name, record in records.items()}
    transposed = {
        name: "" for name, record in records.items() if record.transposed and record.name in weights
    }
    owners: dict[Any, str] = {}  # of tied tensors: a compressed layer's name, or the first
    for name in sorted(state, key=lambda name: name not in layer_of):
        owners.setdefault(identity(name, state[name]), name)
    casts: dict[str, str] = {}
    aliases: dict[str, str] = {}
    tensors: dict[str, PackedTensor | NumpyArray] = {}
    dense_bytes: dict[str, int] = {}
    for name, value in state.items():
        owner = owners[identity(name, value)]
        if owner != name:
            aliases[name] = owner
            continue
        dense = plain(value)
        dense_bytes[name] = dense.numel() * dense.element_size()
        compressed = weights.get(layer_of[name]) if name in layer_of else None
        if name in transposed:
            dense = dense.mT.contiguous()
        tensors[name], cast = _packed(name, dense, compressed)
        if cast:
            casts[name] = cast
    coded = code_tensors(tensors)
    footprint = Footprint(
        bytes=0,
        dense_bytes=sum(dense_bytes.values()),
        layers={
            layer: (coded.sizes[name], dense_bytes[name])
            for name, layer in layer_of.items()
            if name in tensors
        },
    )
    metadata: dict[str, Any] = {"casts": casts, "aliases": aliases, "folded": dict(folded)}
    if transposed:
        metadata["transposed"] = transposed
    while True:  # the report holds the size of the file that it is in: more digits, a longer header
        sizes = {**asdict(footprint), "layers": {n: list(v) for n, v in footprint.layers.items()}}
        report = {**about, "footprint": sizes}
        metadata["report"] = report
        size = coded.file_size(metadata)
        if size == footprint.bytes:
            return PackedFile(coded.file(metadata), footprint, report)
        footprint = replace(footprint, bytes=size)


def require_storable(state: Mapping[str, Any]) -> None:
    """Raises TypeError or ValueError where a file cannot keep a state; the message names it."""
    for name, value in state.items():
        if not isinstance(value, Tensor):
            raise ParameterTypeError(
                "model",
                value,
                "accepted in a file are tensors",
                verb="has",
                shown=f"a state {name!r} that is a {type(value).__name__}",
            )
        if value.layout is not torch.strided or value.is_complex():
            raise ParameterTypeError(
                "model",
                value,
                "accepted in a file are dense real tensors",
                verb="has",
                shown=f"a state {name!r} that is {value.dtype}, {value.layout}",
            )
        if ":" in name:
            raise ParameterError(
                "model",
                value,
                "accepted in a file are names without a colon",
                verb="has",
                shown=f"a state {name!r}",
            )


def _packed(
    name: str, dense: Tensor, compressed: CompressedWeight | None
) -> tuple[PackedTensor | NumpyArray, str]:
    """Returns a tensor ready for the file, and its own dtype where NumPy does not have that."""
    cast = ""
    try:
        values: NumpyArray = dense.numpy()
    except TypeError:  # bfloat16 and the floats of one byte
        cast = str(dense.dtype).removeprefix("torch.")
        if dense.element_size() not in BITS_OF:
            raise TypeError(f"the model's {name!r} is {dense.dtype}, which no file holds") from None
        values = dense.view(BITS_OF[dense.element_size()]).numpy()
    if isinstance(compressed, Quantized):
        quantized = replace(compressed, dtype="float32" if cast else values.dtype.name)
        quantized = quantized.converted(lambda tensor: tensor.cpu().numpy())
        decoded = torch.from_numpy(quantized.to_dense()).to(dense.dtype)
        _require_same(name, decoded.view(torch.uint8), dense.view(torch.uint8), "codes")
        return quantized, cast
    if compressed is None or values.dtype.name not in PRUNABLE:
        return values, cast
    pruned = Pruned(values, compressed.mask.cpu().numpy())
    bits = torch.from_numpy(pruned.to_dense().view(np.uint8))
    _require_same(name, bits, dense.view(torch.uint8), "mask")
    return pruned, cast


def _require_same(name: str, decoded: Tensor, bits: Tensor, what: str) -> None:
    """Raises ValueError where a weight's bits are not the decoded ones."""
    if not torch.equal(decoded, bits):
        raise ValueError(
            f"the weight {name!r} is not what its {what} say: it was changed after the compression; "
            "accepted is the model as compress_model gave it"
        )
