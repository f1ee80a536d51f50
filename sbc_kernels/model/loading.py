"""Compressed models out of files that `CompressedModel.save` wrote."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from torch import Tensor, nn

from ..arrays import NumpyArray
from ..errors import ParameterTypeError
from ..files.header import Record, readable_as
from ..files.packed import PackedTensor, dense_values, read_stored, require_modest, unpacked
from ..network.copies import copy_of, require_model, reset_states
from ..network.state import entry, identity, replace_module
from ..network.tensors import is_norm
from ..network.weight_table import WeightTable, layer_name
from ..weights import CompressedWeight, Pruned, Quantized
from .saving import BITS_OF

__all__ = ["load_compressed", "load_with_weights"]

_KIND = "a compressed model"


@overload
def load_compressed(model: nn.Module, path: str | Path) -> nn.Module: ...
@overload
def load_compressed(model: str | Path) -> dict[str, Tensor]: ...
def load_compressed(
    model: nn.Module | str | Path, path: str | Path | None = None
) -> nn.Module | dict[str, Tensor]:
    """Reads a file of `CompressedModel.save`: the same weights, bit for bit.

    ``load_compressed(model, path)`` puts them into a model, ``load_compressed(path)`` returns them as a
    plain state dict. Nothing that is in the file is executed.

    Parameters
    ----------
    model : built like the one that was compressed; in CPU memory or on a GPU. It is changed in place,
        and its neurons are put back to before their first time step. BatchNorms that had been folded
        (``fold=True``) are replaced by an Identity.
    path : of the file.

    Returns
    -------
    The model, or the state dict of dense tensors.

    Raises
    ------
    FileNotFoundError : no such file.
    TypeError, ValueError : the file is none of `CompressedModel.save`, is damaged, is of a version this
        release does not know, or is of another model, which is then left as it was. The message names
        what differs.
    """
    if path is None:
        if not isinstance(model, (str, Path)):
            raise TypeError(
                f"path is missing, and model is a {type(model).__name__}; accepted are "
                "load_compressed(model, path) and load_compressed(path)"
            )
        return _read_state(model)
    if not isinstance(model, nn.Module):
        raise ParameterTypeError(
            "model", model, "a torch.nn.Module", shown=f"a {type(model).__name__}"
        )
    if hasattr(model, "_orig_mod"):
        require_model(model)
    return load_with_weights(model, path)[0]


def load_with_weights(
    model: nn.Module, path: str | Path
) -> tuple[nn.Module, dict[str, CompressedWeight]]:
    """Does what `load_compressed` does, from one reading of the file.

    Returns
    -------
    (the model, the compressed weights by layer name, as `CompressedModel.weights` has them, in NumPy)
    """
    contents = _Contents.read(path)
    expected = _require_fits(model, contents, path)
    state, packed = contents.decoded(path)  # as much memory as the model's own tensors take
    for name in expected.tied:
        first, second = state[name], state[expected.tied[name]]
        if not torch.equal(_bits(first), _bits(second)):
            raise ValueError(
                f"{path} is of another model: {expected.tied[name]!r} and {name!r}, one tensor here, "
                "differ in it"
            )
    _require_agreement(model, state, path)
    modules = dict(model.named_modules())
    for layer, norm in contents.folded.items():
        replace_module(model, modules[norm], nn.Identity())
        bias = entry(layer, "bias")
        if modules[layer].bias is None and bias in state:
            fresh = torch.empty_like(state[bias], device=modules[layer].weight.device)
            modules[layer].bias = nn.Parameter(fresh)
    reset_states(model)
    model.load_state_dict(state)
    weights: dict[str, CompressedWeight] = {
        layer_name(name, modules): tensor
        for name, tensor in packed.items()
        if isinstance(tensor, (Pruned, Quantized))
    }
    return model, weights


def _require_agreement(model: nn.Module, state: Mapping[str, Tensor], path: str | Path) -> None:
    """Raises ValueError where weights that share memory here, one a view of the other, differ."""
    table = WeightTable(model)
    shared = {name: table.entangled(name) for name in table.weights if name in state}
    if not any(shared.values()):
        return
    table = WeightTable(copy_of(model))
    for name in shared:
        table.weights[name].copy_(state[name])
    for name, others in shared.items():
        if others and not torch.equal(_bits(table.weights[name].cpu()), _bits(state[name])):
            raise ValueError(
                f"{path} is of another model: {name!r} and {others[0]!r}, which share memory here, "
                "differ in it"
            )


def _read_state(path: str | Path) -> dict[str, Tensor]:
    """Returns the dense tensors of a file by name."""
    contents = _Contents.read(path)
    with readable_as(_KIND, path):
        require_modest(contents.records, Path(path).stat().st_size)
    return contents.decoded(path)[0]


@dataclass(frozen=True)
class _Contents:
    """A file of `CompressedModel.save` before its weights are decoded.

    Attributes
    ----------
    stored, records : of `read_stored`.
    casts : by tensor name, its dtype where NumPy does not have that.
    aliases : names that share another's tensor.
    folded : by layer name, the BatchNorm that was folded into it.
    transposed : names of tensors that are stored with their two axes swapped.
    tensors : shape and dtype of each tensor once it is decoded, by name, aliases included.
    """

    stored: dict[str, NumpyArray]
    records: dict[str, Record]
    casts: dict[str, torch.dtype]
    aliases: dict[str, str]
    folded: dict[str, str]
    transposed: dict[str, str]
    tensors: dict[str, tuple[list[int], torch.dtype]]

    @classmethod
    def read(cls, path: str | Path) -> _Contents:
        """Returns the contents. Raises FileNotFoundError or ValueError."""
        stored, records, metadata = read_stored(path, with_tensors=True)
        if "report" not in metadata:
            raise ValueError(f"{path} holds no model; accepted are files of CompressedModel.save")
        with readable_as(_KIND, path):
            casts = {name: _dtype(cast) for name, cast in _names(metadata["casts"]).items()}
            aliases, folded = (_names(metadata[key]) for key in ("aliases", "folded"))
            transposed = _names(metadata.get("transposed", {}))
            tensors = {
                name: (list(record.shape), _decoded_dtype(name, record, stored))
                for name, record in records.items()
            }
            for name, array in stored.items():
                if ":" not in name:
                    if name in tensors:
                        raise ValueError(f"it has two tensors {name!r}")
                    tensors[name] = (list(array.shape), _torch_dtype(array))
            for name, cast in casts.items():
                shape, dtype = tensors[name]
                quantized = name in records and records[name].bits is not None
                # Codes are decoded to float32; other tensors are the bits of that dtype.
                if dtype != (torch.float32 if quantized else BITS_OF.get(cast.itemsize)):
                    raise ValueError(f"tensor {name!r} is {dtype}, which holds no {cast}")
                tensors[name] = (shape, cast)
            for name in transposed:
                shape, dtype = tensors[name]
                if len(shape) != 2:
                    raise ValueError(f"tensor {name!r} is transposed and has {len(shape)} axes")
                tensors[name] = (shape[::-1], dtype)
            if clashing := [name for name in aliases if name in tensors]:
                raise ValueError(f"{clashing[0]!r} is both a tensor and another's name")
            tensors |= {name: tensors[owner] for name, owner in aliases.items()}
        return cls(stored, records, casts, aliases, folded, transposed, tensors)

    def decoded(
        self, path: str | Path
    ) -> tuple[dict[str, Tensor], dict[str, PackedTensor | NumpyArray]]:
        """Returns the dense tensors, and those of the file in compressed form, by name."""
        with readable_as(_KIND, path):
            packed = unpacked(self.stored, self.records)
            state: dict[str, Tensor] = {}
            for name, tensor in packed.items():
                dense = torch.from_numpy(dense_values(name, tensor).copy())
                if name in self.casts:
                    cast = self.casts[name]
                    dense = dense.to(cast) if isinstance(tensor, Quantized) else dense.view(cast)
                    if isinstance(tensor, Quantized) and not bool(dense.float().isfinite().all()):
                        raise ValueError(f"tensor {name!r}: its codes exceed {cast}")
                state[name] = dense.mT.contiguous() if name in self.transposed else dense
            return state | {name: state[owner] for name, owner in self.aliases.items()}, packed


def _decoded_dtype(name: str, record: Record, stored: dict[str, NumpyArray]) -> torch.dtype:
    if record.dtype is not None:
        dtype: torch.dtype = getattr(torch, record.dtype)
        return dtype
    return _torch_dtype(stored[f"{name}:values"])


def _torch_dtype(array: NumpyArray) -> torch.dtype:
    return torch.from_numpy(np.empty(0, array.dtype)).dtype


def _dtype(name: str) -> torch.dtype:
    """Returns the float dtype of this name that NumPy does not have. ValueError for any other."""
    dtype = getattr(torch, name)
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise ValueError(f"{name!r:.80} is no dtype of floats")
    if dtype.itemsize not in BITS_OF or dtype == torch.float16:
        raise ValueError(f"{name!r} is no dtype that NumPy lacks")
    return dtype


def _names(value: Any) -> dict[str, str]:
    """Returns a dictionary of strings. Raises TypeError for anything else."""
    if not isinstance(value, dict) or not all(isinstance(v, str) for v in value.values()):
        raise TypeError(f"{value!r:.80} is no table of names")
    return value


def _bits(tensor: Tensor) -> Tensor:
    """Returns the bytes of a tensor: NaN equals itself there."""
    return tensor.reshape(-1).view(torch.uint8)


@dataclass(frozen=True)
class _Expected:
    """What a model takes from a file.

    Attributes
    ----------
    tensors : shape and dtype by name.
    tied : by name, the first name of the same tensor.
    """

    tensors: dict[str, tuple[list[int], torch.dtype]]
    tied: dict[str, str]


def _require_fits(model: nn.Module, contents: _Contents, path: str | Path) -> _Expected:
    """Raises ValueError where names, shapes or dtypes differ from the model's, its norms folded."""
    fresh = copy_of(model)
    reset_states(fresh)
    tensors = fresh.state_dict()
    state = contents.tensors
    expected = _expected(model, tensors, contents, path)
    missing = [name for name in expected if name not in state]
    unknown = [name for name in state if name not in expected]
    for names, text in (
        (missing, "it has no tensor for {}"),
        (unknown, "it has a tensor for {}, which this model does not have"),
    ):
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise ValueError(f"{path} is of another model: {text.format(f'{names[0]!r}{more}')}")
    for name, (shape, dtype) in expected.items():
        if state[name] != (shape, dtype):
            raise ValueError(
                f"{path} is of another model: {name!r} is {state[name][1]} {state[name][0]} in it, "
                f"and {dtype} {shape} here"
            )
    for name, tensor in tensors.items():
        if any(
            step == 0 < size - 1 for size, step in zip(tensor.shape, tensor.stride(), strict=True)
        ):
            raise ValueError(
                f"{name!r} of this model is expanded: several of its values share memory; accepted are "
                "tensors that can be written, such as its clone()"
            )
    first: dict[Any, str] = {}
    owners = {
        name: first.setdefault(identity(name, tensor), name)
        for name, tensor in tensors.items()
        if name in expected
    }
    return _Expected(expected, {name: owner for name, owner in owners.items() if owner != name})


def _expected(
    model: nn.Module, tensors: dict[str, Tensor], contents: _Contents, path: str | Path
) -> dict[str, tuple[list[int], torch.dtype]]:
    """Returns shape and dtype of each tensor of the model, as they are once its norms are folded.

    Parameters
    ----------
    model : as the user built it.
    tensors : its state dict.
    contents : of the file. A layer without a bias has one where the file does.

    Raises
    ------
    ValueError : the model lacks one of the modules that were folded, or has another one in its place.
    """
    modules = dict(model.named_modules())
    names: dict[nn.Module, list[str]] = defaultdict(
        list
    )  # a module may be registered more than once
    for name, module in model.named_modules(remove_duplicate=False):
        names[module].append(name)
    expected = {name: (list(t.shape), t.dtype) for name, t in tensors.items()}
    for layer, norm in contents.folded.items():
        if layer not in modules or norm not in modules:
            raise ValueError(f"{path} is of another model: this one has no {layer!r} and {norm!r}")
        if not isinstance(modules[norm], nn.Identity) and not is_norm(modules[norm]):
            raise ValueError(
                f"{path} is of another model: {norm!r} was a BatchNorm that was folded, and is a "
                f"{type(modules[norm]).__name__} here"
            )
        weight = getattr(modules[layer], "weight", None)
        if layer == norm or not isinstance(weight, Tensor) or not hasattr(modules[layer], "bias"):
            raise ValueError(
                f"{path} is of another model: {layer!r} had a BatchNorm folded into it, and is a "
                f"{type(modules[layer]).__name__} here"
            )
        gone = tuple(f"{name}." for name in names[modules[norm]])
        expected = {n: what for n, what in expected.items() if not n.startswith(gone)}
        for bias in [entry(name, "bias") for name in names[modules[layer]]]:
            if bias in contents.tensors:
                expected.setdefault(bias, (list(weight.shape[:1]), contents.tensors[bias][1]))
    return expected
