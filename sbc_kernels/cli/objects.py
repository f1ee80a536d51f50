"""Objects that the command line names by text: functions, networks, devices and neurons."""

from __future__ import annotations

import ast
import hashlib
import importlib
import importlib.util
import random
import sys
import traceback
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import typer

from .. import neurons
from .checkpoints import load_weights
from .command import Failed

if TYPE_CHECKING:
    import torch
    from torch import nn

    from ..weights import CompressedWeight


# ---- the user's code ---------------------------------------------------------------------------


def load_object(text: str, param_hint: str) -> Any:
    """Returns the object that ``file.py:name`` or ``package.module:name`` names.

    Raises
    ------
    typer.BadParameter : there is no such file, module or object.
    Failed : importing the file or module raised an exception.
    """
    source, _, name = text.rpartition(":")
    if not source or not all(part.isidentifier() for part in name.split(".")):
        raise typer.BadParameter(
            f"{text!r} names no function; accepted are file.py:function and package.module:function",
            param_hint=param_hint,
        )
    is_file = source.endswith(".py")
    target: Any = _file(Path(source), param_hint) if is_file else _module(source, param_hint)
    for part in name.split("."):
        if not hasattr(target, part):
            own = [n for n in vars(target) if not n.startswith("_")]
            near = get_close_matches(part, own, 1)
            functions = [n for n in own if callable(getattr(target, n))]
            raise typer.BadParameter(
                f"{source} has no {name!r}; "
                + (f"did you mean {near[0]!r}?" if near else f"it has {', '.join(functions[:8])}"),
                param_hint=param_hint,
            )
        target = getattr(target, part)
    return target


def _file(path: Path, param_hint: str) -> ModuleType:
    """Imports a Python file, once. It may import modules from its own folder."""
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
    if spec is None or spec.loader is None:  # a link.py to a file of another name
        raise typer.BadParameter(
            f"{path} is no Python file; accepted are files whose names end in .py",
            param_hint=param_hint,
        )
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise Failed(f"{path.name} cannot be imported: {_summary(error, path)}") from error
    return module


def _module(name: str, param_hint: str) -> ModuleType:
    """Imports a module by its dotted name, from the current folder or installed."""
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise Failed(f"{name} cannot be imported: {_summary(error)}") from error
        raise typer.BadParameter(
            f"there is no module {error.name!r}, neither in {Path.cwd()} nor installed; write a file "
            "with its extension, file.py:function",
            param_hint=param_hint,
        ) from error
    except Exception as error:
        raise Failed(f"{name} cannot be imported: {_summary(error)}") from error


def call(function: Callable[..., Any], text: str, **arguments: object) -> Any:
    """Calls a function of `load_object` with the same random seed each time.

    Raises Failed, with a line about the exception, if the function raises one.
    """
    import torch

    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002, for code that draws from it
    random.seed(0)
    try:
        return function(**arguments)
    except Exception as error:
        raise Failed(f"{text} failed: {_summary(error)}") from error


def _summary(error: Exception, path: Path | None = None) -> str:
    """Returns one line about an error in the user's code, with the file and line that raised it."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if "importlib" not in f.filename and f.filename != __file__]
    if path is not None:
        own = [f for f in own if f.filename == str(path)] or own
    position = f" ({Path(own[-1].filename).name}, line {own[-1].lineno})" if own else ""
    if isinstance(error, ModuleNotFoundError) and error.name:
        package = error.name.partition(".")[0]
        return f"no module {error.name!r}{position}; is {package} installed?"
    return f"{type(error).__name__}: {error}{position}; --traceback shows all"


# ---- networks ----------------------------------------------------------------------------------


def load_model(
    text: str, arguments: Mapping[str, Any] | None = None, checkpoint: Path | None = None
) -> nn.Module:
    """Returns the network that the factory `text` makes, with the checkpoint's weights if given.

    Raises
    ------
    typer.BadParameter : `text` names no factory of a network, or the checkpoint does not fit.
    Failed : the factory raised an exception.
    """
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


def load_device(text: str) -> torch.device:
    """Returns the torch device. Raises typer.BadParameter if this machine does not have it."""
    import torch

    try:
        device = torch.device(text)
        torch.empty(0, device=device)
    except (AssertionError, NotImplementedError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        devices = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
        raise typer.BadParameter(
            f"{text!r} cannot be used: {reason}; this machine has {', '.join(devices)}",
            param_hint="--device",
        ) from error
    return device


def load_compressed_model(
    text: str, arguments: Mapping[str, Any] | None, path: Path, param_hint: str = "--compressed"
) -> tuple[nn.Module, dict[str, CompressedWeight]]:
    """Returns the network with the weights of a file that `sbc compress` wrote, and these weights by
    layer name in compressed form.

    Raises typer.BadParameter if the file cannot be read or does not fit.
    """
    from ..model.loading import load_with_weights

    model = load_model(text, arguments)
    try:
        return load_with_weights(model, path)
    except (OSError, ValueError) as error:
        raise typer.BadParameter(str(error), param_hint=param_hint) from error


# ---- options of single layers ------------------------------------------------------------------


def layer_options(overrides: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Returns overrides as `compress_model` takes them.

    On the command line "none" stands for None, and text such as "LIF(tau=2.0)" for a neuron.
    """
    if overrides is None:
        return None
    return {
        pattern: {key: _value(pattern, key, value) for key, value in rule.items()}
        if isinstance(rule, Mapping)
        else rule
        for pattern, rule in overrides.items()
    }


def _value(pattern: str, key: str, value: object) -> object:
    """Returns the value of one option of an override."""
    if value == "none":
        return None
    return parse_neuron(str(value), f"overrides[{pattern!r}]") if key == "neuron" else value


def parse_neuron(text: str, owner: str) -> neurons.Neuron:
    """Returns the neuron written as ``LIF(tau=2.0)``, which is how `sbc inspect` prints it.

    Raises typer.BadParameter, which names the `owner` of the text, if it is anything else.
    """
    names = sorted([*neurons.models.__all__, "Kernel"])
    try:
        call = ast.parse(text, mode="eval").body
        if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Name)):
            raise ValueError
        if call.func.id not in names:
            raise ValueError
        make: Callable[..., neurons.Neuron] = getattr(neurons, call.func.id)
        return make(
            *(ast.literal_eval(value) for value in call.args),
            **{str(item.arg): ast.literal_eval(item.value) for item in call.keywords},
        )
    except (
        ArithmeticError,
        MemoryError,
        RecursionError,
        SyntaxError,
        TypeError,
        ValueError,
    ) as error:
        reason = f" ({error})" if str(error) else ""
        raise typer.BadParameter(
            f"{owner} has the neuron {text!r:.200}{reason}; accepted is a call such as LIF(tau=2.0) of "
            f"{', '.join(names)}",
            param_hint="--overrides",
        ) from error
