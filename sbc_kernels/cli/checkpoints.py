"""Checkpoints: state dictionaries from files, and how they are loaded into a network."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from .command import tell

if TYPE_CHECKING:
    from torch import Tensor, nn

# Keys under which checkpoints hold their state dictionary among other things.
WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "module")


def load_weights(model: nn.Module, path: Path) -> None:
    """Loads a checkpoint's weights into a model.

    States of neurons are not loaded, as they depend on the batch size.

    Raises
    ------
    typer.BadParameter : the file cannot be read, or entries are missing, unexpected or of other shapes.
    """
    state = read_weights(path)
    if state and all(key.startswith("module.") for key in state):  # from DataParallel
        state = {key.removeprefix("module."): tensor for key, tensor in state.items()}
    own = model.state_dict()
    states = _states(model, {*own, *state})
    missing = [key for key in own if key not in state and key not in states]
    unexpected = [key for key in state if key not in own and key not in states]
    shapes = [
        f"{key} is {list(state[key].shape)} and in the network {list(own[key].shape)}"
        for key in own
        if key in state and key not in states and own[key].shape != state[key].shape
    ]
    faults = [
        *shapes[:4],
        *([f"it lacks {_few(missing)}"] if missing else []),
        *([f"the network has no {_few(unexpected)}"] if unexpected else []),
    ]
    if faults:
        raise typer.BadParameter(
            f"{path} does not fit the network: {'; '.join(faults)}", param_hint="--checkpoint"
        )
    usable = {
        key: tensor
        for key, tensor in state.items()
        if key in own and own[key].shape == tensor.shape
    }
    model.load_state_dict(usable, strict=False)
    if ignored := sorted(key for key in state if key not in usable):
        tell(
            f"{path}: {_few(ignored)} ignored: neuron states, which start from their initial values"
        )


def _states(model: nn.Module, keys: set[str]) -> set[str]:
    """Returns those keys that belong to neurons and are no parameters: states of any batch size."""
    from ..network.copies import neurons_of

    inside = tuple(f"{name}." if name else "" for name in neurons_of(model))
    parameters = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    return {key for key in keys if key.startswith(inside) and key not in parameters}


def read_weights(path: Path) -> dict[str, Tensor]:
    """Returns the state dictionary of a safetensors, packed or torch.save file.

    Raises
    ------
    typer.BadParameter : there is no such file, or it holds no state dictionary.
    """
    hint = "--checkpoint"
    if not path.is_file():
        raise typer.BadParameter(f"there is no file {path}", param_hint=hint)
    try:
        if path.suffix == ".safetensors":
            return _read_safetensors(path)
        return _read_torch(path)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=hint) from error


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    """Returns the tensors of a safetensors file; those of a packed file are decoded."""
    import torch
    from safetensors import SafetensorError, safe_open
    from safetensors.torch import load_file

    from ..files import load_packed, read_metadata
    from ..files.packed import HEADER
    from ..model.loading import load_compressed

    try:
        with safe_open(path, framework="pt") as file:
            packed = HEADER in (file.metadata() or {})
        if packed and "report" in read_metadata(path):  # a whole model
            return load_compressed(path)
        if packed:
            dense = load_packed(path)
            return {name: torch.from_numpy(array) for name, array in dense.items()}
        state: dict[str, Tensor] = load_file(path)
        return state
    except SafetensorError as error:
        raise ValueError(f"{path} is not a whole safetensors file: {error}") from error


def _read_torch(path: Path) -> dict[str, Tensor]:
    """Returns the state dictionary in a torch.save file, alone or under one of `WRAPPERS`."""
    import pickle

    import torch

    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{path} holds more than tensors, which is not loaded: "
            "torch.save(model.state_dict(), ...) writes a file of weights alone"
        ) from error
    except Exception as error:  # torch raises many types for files that are not its own
        raise ValueError(f"{path} cannot be read by torch.load: {error!r}") from error
    for key in WRAPPERS:
        if isinstance(checkpoint, Mapping) and isinstance(checkpoint.get(key), Mapping):
            checkpoint = checkpoint[key]
            break
    if not isinstance(checkpoint, Mapping) or not checkpoint:
        raise ValueError(
            f"{path} holds a {type(checkpoint).__name__}; accepted is a state dictionary"
        )
    if others := [
        str(key)
        for key, value in checkpoint.items()
        if not (isinstance(key, str) and torch.is_tensor(value))
    ]:
        raise ValueError(
            f"{path} holds {_few(others)} besides tensors; accepted is a state dictionary, alone or "
            f"as the entry {' or '.join(WRAPPERS[:3])}"
        )
    return dict(checkpoint)


def _few(names: list[str], most: int = 5) -> str:
    """Returns a list of at most `most` names, with the number of the others."""
    rest = len(names) - most
    return ", ".join(names[:most]) + (f" and {rest} more" if rest > 0 else "")
