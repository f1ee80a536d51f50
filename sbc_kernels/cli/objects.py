"""What the command line names by text: functions, networks, checkpoints, neurons."""

from __future__ import annotations

import ast
import hashlib
import importlib
import importlib.util
import random
import sys
import traceback
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import typer

from .. import neurons
from .command import Failed, tell

if TYPE_CHECKING:
    from torch import Tensor, nn

_WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "module")  # keys of a checkpoint


# ---- code of the user's ------------------------------------------------------------------------


def load_object(text: str, param_hint: str) -> Any:
    """``file.py:name`` or ``package.module:name``. Bad use where there is no such thing.

    Raises
    ------
    Failed : the file is there and raised something.
    """
    place, _, name = text.rpartition(":")
    if not place or not all(part.isidentifier() for part in name.split(".")):
        raise typer.BadParameter(
            f"{text!r} names no function; accepted are file.py:function and package.module:function",
            param_hint=param_hint,
        )
    module = _file(Path(place), param_hint) if place.endswith(".py") else _module(place, param_hint)
    found: Any = module
    for part in name.split("."):
        if not hasattr(found, part):
            own = [n for n in vars(found) if not n.startswith("_")]
            near = get_close_matches(part, own, 1)
            functions = [n for n in own if callable(getattr(found, n))]
            raise typer.BadParameter(
                f"{place} has no {name!r}; "
                + (f"did you mean {near[0]!r}?" if near else f"it has {', '.join(functions[:8])}"),
                param_hint=param_hint,
            )
        found = getattr(found, part)
    return found


def _file(path: Path, param_hint: str) -> ModuleType:
    """A Python file as a module, once; it may import what lies beside it."""
    if not path.is_file():
        raise typer.BadParameter(
            f"there is no file {path} (from {Path.cwd()})", param_hint=param_hint
        )
    path = path.resolve()
    name = f"{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    if name in sys.modules and getattr(sys.modules[name], "__file__", None) == str(path):
        return sys.modules[name]
    if str(path.parent) not in sys.path:
        sys.path.insert(0, str(path.parent))
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise Failed(f"{path.name} cannot be imported: {_told(error, path)}") from error
    return module


def _module(name: str, param_hint: str) -> ModuleType:
    """A module by its dotted name, from the current folder or installed."""
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise Failed(f"{name} cannot be imported: {_told(error)}") from error
        raise typer.BadParameter(
            f"there is no module {error.name!r}, neither in {Path.cwd()} nor installed; a file is "
            "named with its ending, file.py:function",
            param_hint=param_hint,
        ) from error
    except Exception as error:
        raise Failed(f"{name} cannot be imported: {_told(error)}") from error


def call(function: Any, text: str, **arguments: Any) -> Any:
    """Calls what `load_object` gave, from the same random numbers each time."""
    import torch

    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002, for code that draws from it
    random.seed(0)
    try:
        return function(**arguments)
    except Exception as error:
        raise Failed(f"{text} failed: {_told(error)}") from error


def _told(error: Exception, path: Path | None = None) -> str:
    """An error of the user's code in a line, with the place it comes from."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if "importlib" not in f.filename and f.filename != __file__]
    if path is not None:
        own = [f for f in own if f.filename == str(path)] or own
    where = f" ({Path(own[-1].filename).name}, line {own[-1].lineno})" if own else ""
    if isinstance(error, ModuleNotFoundError) and error.name:
        package = error.name.partition(".")[0]
        return f"no module {error.name!r}{where}; is {package} installed?"
    return f"{type(error).__name__}: {error}{where}; --traceback shows all"


# ---- networks ----------------------------------------------------------------------------------


def load_model(
    text: str, arguments: Mapping[str, Any] | None = None, checkpoint: Path | None = None
) -> nn.Module:
    """The network that the factory gives, with the checkpoint's weights if there is one."""
    from torch import nn

    factory = load_object(text, "MODEL")
    if isinstance(factory, nn.Module):
        raise typer.BadParameter(
            f"{text} is a network; accepted is a function or class that makes one: def make(): "
            "return net",
            param_hint="MODEL",
        )
    if not callable(factory):
        raise typer.BadParameter(
            f"{text} is a {type(factory).__name__}; accepted is a function that returns a network",
            param_hint="MODEL",
        )
    model = call(factory, text, **(arguments or {}))
    if not isinstance(model, nn.Module):
        raise typer.BadParameter(
            f"{text} returned a {type(model).__name__}; accepted is a torch.nn.Module",
            param_hint="MODEL",
        )
    if checkpoint is not None:
        load_weights(model, checkpoint)
    return model


def load_device(text: str) -> Any:
    """A torch device that is there."""
    import torch

    try:
        device = torch.device(text)
        torch.empty(0, device=device)
    except (AssertionError, NotImplementedError, RuntimeError) as error:
        why = str(error).splitlines()[0]
        there = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
        raise typer.BadParameter(
            f"{text!r} cannot be used: {why}; this machine has {', '.join(there)}",
            param_hint="--device",
        ) from error
    return device


def load_compressed_model(
    text: str, arguments: Mapping[str, Any] | None, path: Path, param_hint: str = "--compressed"
) -> nn.Module:
    """The network with the weights of a file of `sbc compress`."""
    from ..model.loading import load_compressed

    model = load_model(text, arguments)
    try:
        return load_compressed(model, path)
    except (OSError, ValueError) as error:
        raise typer.BadParameter(str(error), param_hint=param_hint) from error


def load_weights(model: nn.Module, path: Path) -> None:
    """Puts a checkpoint's weights into a model. Bad use that names the entries that do not fit."""
    state = read_weights(path)
    if state and all(key.startswith("module.") for key in state):  # of DataParallel
        state = {key.removeprefix("module."): tensor for key, tensor in state.items()}
    own = model.state_dict()
    passing = _states(model, {*own, *state})
    missing = [key for key in own if key not in state and key not in passing]
    unexpected = [key for key in state if key not in own and key not in passing]
    shapes = [
        f"{key} is {list(state[key].shape)} and in the network {list(own[key].shape)}"
        for key in own
        if key in state and key not in passing and own[key].shape != state[key].shape
    ]
    faults = [
        *shapes[:4],
        *([f"it lacks {_few(missing)}"] if missing else []),
        *([f"the network has no {_few(unexpected)}"] if unexpected else []),
    ]
    if faults:
        raise typer.BadParameter(
            f"{path} does not go with the network: {'; '.join(faults)}", param_hint="--checkpoint"
        )
    usable = {
        key: tensor
        for key, tensor in state.items()
        if key in own and own[key].shape == tensor.shape
    }
    model.load_state_dict(usable, strict=False)
    if left := sorted(key for key in state if key not in usable):
        tell(f"{path}: {_few(left)} passed over: a neuron's state, which begins anew")


def _states(model: nn.Module, keys: set[str]) -> set[str]:
    """Of these entries, those of neurons that are no parameters: their states, of any batch size."""
    from ..network.copies import neurons_of

    inside = tuple(f"{name}." if name else "" for name in neurons_of(model))
    parameters = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    return {key for key in keys if key.startswith(inside) and key not in parameters}


def read_weights(path: Path) -> dict[str, Tensor]:
    """A state dictionary: of safetensors, of a packed file of this package, or of torch.save."""
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
    import pickle

    import torch

    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{path} holds more than tensors, and nothing else is loaded: "
            "torch.save(model.state_dict(), ...) writes a file of weights alone"
        ) from error
    except (
        Exception
    ) as error:  # of a file that is none of its own, torch raises what it stumbles on
        raise ValueError(f"{path} cannot be read by torch.load: {error!r}") from error
    for key in _WRAPPERS:
        if isinstance(found, Mapping) and isinstance(found.get(key), Mapping):
            found = found[key]
            break
    if not isinstance(found, Mapping) or not found:
        raise ValueError(f"{path} holds a {type(found).__name__}; accepted is a state dictionary")
    if strangers := [
        str(key)
        for key, value in found.items()
        if not (isinstance(key, str) and torch.is_tensor(value))
    ]:
        raise ValueError(
            f"{path} holds {_few(strangers)} beside tensors; accepted is a state dictionary, alone or "
            f"as the entry {' or '.join(_WRAPPERS[:3])}"
        )
    return dict(found)


def _few(names: list[str], most: int = 5) -> str:
    rest = len(names) - most
    return ", ".join(names[:most]) + (f" and {rest} more" if rest > 0 else "")


# ---- options of single layers ------------------------------------------------------------------


def layer_options(said: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Overrides as `compress_model` takes them: "none" is None, "LIF(tau=2.0)" a neuron."""
    if said is None:
        return None
    return {
        pattern: {key: _value(pattern, key, value) for key, value in rule.items()}
        if isinstance(rule, Mapping)
        else rule
        for pattern, rule in said.items()
    }


def _value(pattern: str, key: str, value: Any) -> Any:
    if value == "none":
        return None
    return neuron(value, f"overrides[{pattern!r}]") if key == "neuron" else value


def neuron(text: Any, where: str) -> Any:
    """``LIF(tau=2.0)``, as `sbc inspect` prints it."""
    names = sorted([*neurons.models.__all__, "Kernel"])
    try:
        call = ast.parse(text, mode="eval").body
        assert isinstance(call, ast.Call)
        assert isinstance(call.func, ast.Name)
        assert call.func.id in names
        made = getattr(neurons, call.func.id)
        return made(
            *(ast.literal_eval(value) for value in call.args),
            **{str(item.arg): ast.literal_eval(item.value) for item in call.keywords},
        )
    except (AssertionError, SyntaxError, TypeError, ValueError) as error:
        why = f" ({error})" if str(error) else ""
        raise typer.BadParameter(
            f"{where} has the neuron {text!r}{why}; accepted is such as LIF(tau=2.0), of "
            f"{', '.join(names)}",
            param_hint="--overrides",
        ) from error
