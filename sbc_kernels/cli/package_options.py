"""Options of the package on the command line, made of their records.

Name, default, accepted values and help come from `ModelOptions`. Here is only what a shell adds: how
text becomes a value, the panel of the help that an option stands in, and a few words on notation.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import Field, fields
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from ..backends.registry import available_backends
from ..errors import ParameterError
from ..method.fields import (
    Bytes,
    Check,
    Choice,
    Flag,
    Folder,
    Function,
    Integer,
    Names,
    Number,
    Sparsity,
    Table,
    checked,
)
from ..model.settings import ModelOptions
from . import options as o

Command = TypeVar("Command", bound=Callable[..., Any])

OPTIONS: dict[str, Field[Any]] = {option.name: option for option in fields(ModelOptions)}

# Panels of the help; switches have one of their own, and other options are details of the method.
_PANELS = {
    **dict.fromkeys(("sparsity", "bits", "allocation", "overrides", "ignore"), o.WHAT),
    **dict.fromkeys(("method", "hessian"), o.WHAT),
    **dict.fromkeys(("max_memory", "checkpoint_dir", "backend"), o.RUN),
    "forward": o.NETWORK,
}

# What the help says beside the record: notation, and what differs on a command line.
_NOTATION = {
    "allocation": "A dictionary is a TOML or JSON file, or JSON.",
    "backend": "See sbc info.",
    "checkpoint_dir": "Here: the folder unfinished in --out, removed at the end.",
    "forward": "For networks that are called once a time step.",
    "ignore": "As often as needed.",
    "inplace": "Not with --test.",
    "max_memory": "Or 4GiB.",
    "overrides": 'A TOML or JSON file, or JSON such as \'{"layer3.*": {"bits": 8}}\'. Neurons are '
    "written as LIF(tau=2.0).",
    "progress": "Elsewhere a line a layer.",
}


def package_options(*names: str, before: str) -> Callable[[Command], Command]:
    """Decorator: gives a command options of the package, in front of its own option `before`.

    The command takes them as ``**settings``. An option that it has itself is left to it.
    """

    def decorate(command: Command) -> Command:
        signature = inspect.signature(command, eval_str=True)
        own = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
        place = [p.name for p in own].index(before)
        added = [_parameter(OPTIONS[name]) for name in names if name not in signature.parameters]
        parameters = [*own[:place], *added, *own[place:]]
        command.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        return command

    return decorate


def _parameter(option: Field[Any]) -> inspect.Parameter:
    """One option as typer reads it from a signature."""
    check: Check = option.metadata["check"]
    kind, more = _typed(option, check)
    panel = o.SWITCHES if isinstance(check, Flag) else o.METHOD
    declaration = typer.Option(
        *more.pop("names", ()),
        rich_help_panel=_PANELS.get(option.name, panel),
        help=_help(option, check),
        **more,
    )
    return inspect.Parameter(
        option.name,
        inspect.Parameter.KEYWORD_ONLY,
        default=None if option.default == () else option.default,
        annotation=Annotated[kind, declaration],
    )


def _typed(option: Field[Any], check: Check) -> tuple[Any, dict[str, Any]]:
    """Returns the type of an option on the command line, and typer's settings for its values."""
    name = option.name
    match check:
        case Flag():
            shell = name.replace("_", "-")
            return bool | None if check.optional else bool, {
                "names": (f"--{shell}/--no-{shell}",),
                "metavar": "",
            }
        case Integer():
            low = check.low if check.special is None else min(check.low, check.special)
            return int | None if check.optional else int, {
                "metavar": "N",
                "min": low,
                "max": check.high,
            }
        case Number():
            return float, {"metavar": "X"}
        case Sparsity():
            return Any, {"metavar": "FRACTION|N:M", "parser": o.fraction_or_pattern}
        case Bytes():
            return Any, {"metavar": "BYTES", "parser": o.number_of_bytes}
        case Choice():
            return Any, {
                "metavar": "NAME|FILE|JSON" if check.mapping else "NAME",
                "parser": _choice(option, check),
                "autocompletion": _completion(name, check),
            }
        case Table():
            return Any, {"metavar": "FILE|JSON", "parser": o.table}
        case Names():
            return list[str] | None, {"metavar": "LAYER"}
        case Function():
            return str | None, {"metavar": "FILE.py:NAME"}
        case Folder():
            return Path | None, {"metavar": "DIR"}
    raise TypeError(f"the command line has no type for {name!r}, which is checked by {check!r}")


def _choice(option: Field[Any], check: Choice) -> Callable[[Any], Any]:
    """Reads a name. Names of a registry are checked later: the model's file may register more."""

    def name_or_table(value: Any) -> Any:
        value = o.name_or_table(value) if check.mapping else value
        if not check.is_registry:
            try:
                value = checked(option, value)
            except ParameterError as error:
                raise typer.BadParameter(str(error)) from error
        return value

    return name_or_table


def _completion(name: str, check: Choice) -> Callable[[str], list[str]]:
    def complete(incomplete: str) -> list[str]:
        names = available_backends() if name == "backend" else check.names
        return [choice for choice in names if choice.startswith(incomplete)]

    return complete


def _help(option: Field[Any], check: Check) -> str:
    """The record's line, the choices of a registry, and the notation of the shell."""
    parts = [option.metadata["doc"]]
    if isinstance(check, Choice) and isinstance(check.names, Mapping):
        docs = {name: getattr(entry, "doc", "") for name, entry in check.names.items()}
        if all(docs.values()):
            parts.append("; ".join(f"{name}: {doc}" for name, doc in docs.items()) + ".")
        else:
            parts.append(f"There are {', '.join(docs)}.")
    return " ".join([*parts, _NOTATION.get(option.name, "")]).strip()
