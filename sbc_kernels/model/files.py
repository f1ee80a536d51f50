"""Compressed models as files: safetensors in which a weight takes no more than it holds.

See `files.packed` for the format of a tensor. The header's metadata has ``report`` (what
`CompressedModel.report` returns), ``casts`` (tensors whose dtype NumPy does not have, and that dtype),
``aliases`` (names that share another's tensor) and ``folded`` (by layer, the BatchNorm in it).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from torch import Tensor, nn

from ..arrays import Array
from ..files.footprint import Footprint
from ..files.packed import PRUNABLE, PackedTensor, code_tensors, read_packed
from ..network.copies import copy_of, require_model, reset_states
from ..network.state import entry
from ..network.tensors import is_norm
from ..weights import CompressedWeight, Pruned, Quantized

__all__ = ["PackedFile", "load_compressed", "packed_file", "require_storable"]

_BITS_OF = {1: torch.uint8, 2: torch.uint16}  # of a float that NumPy does not have, by its size


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
    layers: Iterable[str],
    weights: Mapping[str, CompressedWeight],
    folded: Mapping[str, str],
    about: Mapping[str, Any],
) -> PackedFile:
    """Returns the file that `CompressedModel.save` writes. Every tensor is coded once.

    Parameters
    ----------
    model : the compressed model. It stays as it is.
    layers : names of the layers that the footprint lists.
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
    layer_of = {entry(layer, "weight"): layer for layer in layers}
    owners: dict[
        tuple[Any, ...], str
    ] = {}  # of tied tensors: a compressed layer's name, or the first
    for name in sorted(state, key=lambda name: name not in layer_of):
        owners.setdefault(_identity(name, state[name]), name)
    casts: dict[str, str] = {}
    aliases: dict[str, str] = {}
    tensors: dict[str, PackedTensor | Array] = {}
    dense_bytes: dict[str, int] = {}
    for name, value in state.items():
        owner = owners[_identity(name, value)]
        if owner != name:
            aliases[name] = owner
            continue
        dense = value.detach().cpu().contiguous()
        dense_bytes[name] = dense.numel() * dense.element_size()
        compressed = weights.get(layer_of[name]) if name in layer_of else None
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
    while True:  # the report holds the size of the file that it is in: more digits, a longer header
        sizes = {**asdict(footprint), "layers": {n: list(v) for n, v in footprint.layers.items()}}
        report = {**about, "footprint": sizes}
        metadata["report"] = report
        size = coded.file_size(metadata)
        if size == footprint.bytes:
            return PackedFile(coded.file(metadata), footprint, report)
        footprint = replace(footprint, bytes=size)


def require_storable(state: Mapping[str, Any]) -> None:
    """TypeError or ValueError, which names it, where a file cannot keep a state."""
    for name, value in state.items():
        if not isinstance(value, Tensor):
            raise TypeError(
                f"model has a state {name!r} that is a {type(value).__name__}; accepted in "
                "a file are tensors"
            )
        if value.layout is not torch.strided or value.is_complex():
            raise TypeError(
                f"model has a state {name!r} that is {value.dtype}, {value.layout}; accepted in a file "
                "are dense real tensors"
            )
        if ":" in name:
            raise ValueError(
                f"model has a state {name!r}; accepted in a file are names without a colon"
            )


def _identity(name: str, value: Tensor) -> tuple[Any, ...]:
    """A key that is equal for tensors that are one and the same."""
    if value.numel() == 0:
        return (name,)
    return (value.data_ptr(), value.shape, value.stride(), value.dtype)


def _packed(
    name: str, dense: Tensor, compressed: CompressedWeight | None
) -> tuple[PackedTensor | Array, str]:
    """Returns a tensor ready for the file, and its own dtype where NumPy does not have that."""
    cast = ""
    try:
        values: Array = dense.numpy()
    except TypeError:  # bfloat16 and the floats of one byte
        cast = str(dense.dtype).removeprefix("torch.")
        if dense.element_size() not in _BITS_OF:
            raise TypeError(f"the model's {name!r} is {dense.dtype}, which no file holds") from None
        values = dense.view(_BITS_OF[dense.element_size()]).numpy()
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
    if not torch.equal(decoded, bits):
        raise ValueError(
            f"the weight {name!r} is not what its {what} say: it was changed after the compression; "
            "accepted is the model as compress_model gave it"
        )


# ---- reading ----------------------------------------------------------------------------------


@overload
def load_compressed(model: nn.Module, path: str | Path) -> nn.Module: ...
@overload
def load_compressed(model: str | Path) -> dict[str, Tensor]: ...
def load_compressed(
    model: nn.Module | str | Path, path: str | Path | None = None
) -> nn.Module | dict[str, Tensor]:
    """Reads what `CompressedModel.save` wrote: the same weights, to the bit.

    ``load_compressed(model, path)`` puts them into a model, ``load_compressed(path)`` gives them as a
    plain state dict. Nothing that is in the file is executed.

    Parameters
    ----------
    model : built as the one that was compressed; in CPU memory or elsewhere. Changed in place; its
        neurons are as before their first time step. BatchNorms that had been folded (``fold=True``)
        are replaced by an Identity.
    path : of the file.

    Returns
    -------
    The model, or the state dict of dense tensors.

    Raises
    ------
    FileNotFoundError : no such file.
    TypeError, ValueError : not such a file, damaged, of a version this release does not know, or of
        another model, which is then as it was. The message names what differs.
    """
    if path is None:
        if not isinstance(model, (str, Path)):
            raise TypeError(
                f"path is missing, and model is a {type(model).__name__}; accepted are "
                "load_compressed(model, path) and load_compressed(path)"
            )
        return _state_dict(model)[0]
    if not isinstance(model, nn.Module):
        raise TypeError(f"model is a {type(model).__name__}; accepted is a torch.nn.Module")
    if hasattr(model, "_orig_mod"):
        require_model(model)
    state, folded = _state_dict(path)
    _require_fits(model, state, folded, path)
    modules = dict(model.named_modules())
    for layer, norm in folded.items():
        _replace(model, modules[norm], nn.Identity())
        if modules[layer].bias is None and f"{layer}.bias" in state:
            bias = torch.empty_like(state[f"{layer}.bias"], device=modules[layer].weight.device)
            modules[layer].bias = nn.Parameter(bias)
    reset_states(model)
    model.load_state_dict(state)
    return model


def _state_dict(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Dense tensors by name, and which BatchNorm was folded into which layer."""
    tensors, metadata = read_packed(path)
    if "report" not in metadata:
        raise ValueError(f"{path} holds no model; accepted are files of CompressedModel.save")
    try:
        casts, aliases, folded = (_names(metadata[key]) for key in ("casts", "aliases", "folded"))
        state = {}
        for name, tensor in tensors.items():
            values = tensor if isinstance(tensor, np.ndarray) else tensor.to_dense()
            dense = torch.from_numpy(values.copy())
            if name in casts:
                dtype = getattr(torch, casts[name])
                if not isinstance(dtype, torch.dtype):
                    raise ValueError(f"{casts[name]} is no dtype")
                coded = isinstance(tensor, Quantized)
                dense = dense.to(dtype) if coded else dense.view(dtype)
            state[name] = dense
        state |= {name: state[owner] for name, owner in aliases.items()}
    except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise ValueError(f"{path} cannot be read as a compressed model: {error!r}") from error
    return state, folded


def _names(value: Any) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(v, str) for v in value.values()):
        raise TypeError(f"{value!r} is no table of names")
    return value


def _require_fits(
    model: nn.Module, state: dict[str, Tensor], folded: dict[str, str], path: str | Path
) -> None:
    """ValueError where names, shapes or dtypes differ from the model's once its norms are folded."""
    modules = dict(model.named_modules())
    fresh = copy_of(model)
    reset_states(fresh)
    mine = {n: (list(t.shape), t.dtype) for n, t in fresh.state_dict().items()}
    for layer, norm in folded.items():
        if layer not in modules or norm not in modules:
            raise ValueError(f"{path} is of another model: this one has no {layer!r} and {norm!r}")
        if not isinstance(modules[norm], nn.Identity) and not is_norm(modules[norm]):
            raise ValueError(
                f"{path} is of another model: {norm!r} was a BatchNorm that was folded, and is a "
                f"{type(modules[norm]).__name__} here"
            )
        mine = {name: what for name, what in mine.items() if not name.startswith(f"{norm}.")}
        if f"{layer}.bias" in state:
            bias = state[f"{layer}.bias"]
            mine.setdefault(f"{layer}.bias", (list(modules[layer].weight.shape[:1]), bias.dtype))
    for what, names in (
        ("has no tensor for", [n for n in mine if n not in state]),
        ("has a tensor for", [n for n in state if n not in mine]),
    ):
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            own = "" if what == "has no tensor for" else ", which this model does not have"
            raise ValueError(f"{path} is of another model: it {what} {names[0]!r}{more}{own}")
    shared: dict[tuple[Any, ...], str] = {}
    for name, tensor in fresh.state_dict().items():
        if name not in mine or name not in state:
            continue
        first = shared.setdefault(_identity(name, tensor), name)
        if first != name and not torch.equal(state[first], state[name]):
            raise ValueError(
                f"{path} is of another model: {first!r} and {name!r}, one tensor here, differ in it"
            )
    for name, (shape, dtype) in mine.items():
        if list(state[name].shape) != shape or state[name].dtype != dtype:
            raise ValueError(
                f"{path} is of another model: {name!r} is {state[name].dtype} "
                f"{list(state[name].shape)} in it, and {dtype} {shape} here"
            )


def _replace(model: nn.Module, old: nn.Module, new: nn.Module) -> None:
    """Wherever it is registered."""
    for owner in model.modules():
        for key, child in owner._modules.items():
            if child is old:
                owner._modules[key] = new
