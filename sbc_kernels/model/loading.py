"""Compressed models out of files that `CompressedModel.save` wrote."""

from __future__ import annotations

from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import ParameterTypeError
from ..files.packed import read_packed
from ..network.copies import copy_of, require_model, reset_states
from ..network.state import identity, replace_module
from ..network.tensors import is_norm
from ..weights import Quantized

__all__ = ["load_compressed"]


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
        return _read_state(model)[0]
    if not isinstance(model, nn.Module):
        raise ParameterTypeError(
            "model", model, "a torch.nn.Module", shown=f"a {type(model).__name__}"
        )
    if hasattr(model, "_orig_mod"):
        require_model(model)
    state, folded = _read_state(path)
    _require_fits(model, state, folded, path)
    modules = dict(model.named_modules())
    for layer, norm in folded.items():
        replace_module(model, modules[norm], nn.Identity())
        if modules[layer].bias is None and f"{layer}.bias" in state:
            bias = torch.empty_like(state[f"{layer}.bias"], device=modules[layer].weight.device)
            modules[layer].bias = nn.Parameter(bias)
    reset_states(model)
    model.load_state_dict(state)
    return model


def _read_state(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Returns dense tensors by name, and by layer name the BatchNorm that was folded into it."""
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
                # Codes were decoded to float32; other tensors are the bits of that dtype.
                dense = dense.to(dtype) if isinstance(tensor, Quantized) else dense.view(dtype)
            state[name] = dense
        state |= {name: state[owner] for name, owner in aliases.items()}
    except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise ValueError(f"{path} cannot be read as a compressed model: {error!r}") from error
    return state, folded


def _names(value: Any) -> dict[str, str]:
    """Returns a dictionary of strings. Raises TypeError for anything else."""
    if not isinstance(value, dict) or not all(isinstance(v, str) for v in value.values()):
        raise TypeError(f"{value!r} is no table of names")
    return value


def _require_fits(
    model: nn.Module, state: dict[str, Tensor], folded: dict[str, str], path: str | Path
) -> None:
    """Raises ValueError where names, shapes or dtypes differ from the model's, its norms folded."""
    fresh = copy_of(model)
    reset_states(fresh)
    tensors = fresh.state_dict()
    expected = _expected(model, tensors, state, folded, path)
    missing = [name for name in expected if name not in state]
    unknown = [name for name in state if name not in expected]
    for names, text in (
        (missing, "it has no tensor for {}"),
        (unknown, "it has a tensor for {}, which this model does not have"),
    ):
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise ValueError(f"{path} is of another model: {text.format(f'{names[0]!r}{more}')}")
    shared: dict[Any, str] = {}
    for name, tensor in tensors.items():
        if name not in expected:
            continue
        first = shared.setdefault(identity(name, tensor), name)
        if first != name and not torch.equal(state[first], state[name]):
            raise ValueError(
                f"{path} is of another model: {first!r} and {name!r}, one tensor here, differ in it"
            )
    for name, (shape, dtype) in expected.items():
        if list(state[name].shape) != shape or state[name].dtype != dtype:
            raise ValueError(
                f"{path} is of another model: {name!r} is {state[name].dtype} "
                f"{list(state[name].shape)} in it, and {dtype} {shape} here"
            )


def _expected(
    model: nn.Module,
    tensors: dict[str, Tensor],
    state: dict[str, Tensor],
    folded: dict[str, str],
    path: str | Path,
) -> dict[str, tuple[list[int], torch.dtype]]:
    """Returns shape and dtype of each tensor of the model, as they are once its norms are folded.

    Parameters
    ----------
    model : as the user built it.
    tensors : its state dict.
    state : of the file. A layer without a bias has one where the file does.
    folded : by layer name, the BatchNorm that was folded into it.

    Raises
    ------
    ValueError : the model lacks one of these modules, or has another one in its place.
    """
    modules = dict(model.named_modules())
    expected = {name: (list(t.shape), t.dtype) for name, t in tensors.items()}
    for layer, norm in folded.items():
        if layer not in modules or norm not in modules:
            raise ValueError(f"{path} is of another model: this one has no {layer!r} and {norm!r}")
        if not isinstance(modules[norm], nn.Identity) and not is_norm(modules[norm]):
            raise ValueError(
                f"{path} is of another model: {norm!r} was a BatchNorm that was folded, and is a "
                f"{type(modules[norm]).__name__} here"
            )
        expected = {n: what for n, what in expected.items() if not n.startswith(f"{norm}.")}
        if f"{layer}.bias" in state:
            shape = list(modules[layer].weight.shape[:1])
            expected.setdefault(f"{layer}.bias", (shape, state[f"{layer}.bias"].dtype))
    return expected
