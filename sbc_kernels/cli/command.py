"""Output, failures and interrupts, which every command handles alike."""

from __future__ import annotations

import contextlib
import inspect
import json
import shlex
import sys
import traceback
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NoReturn

import typer
from typer.core import TyperCommand, TyperGroup

from ..errors import ParameterError
from .config import save_config

INSTALL = "pip install 'sbc-kernels[cli]'"
_ARGUMENTS = "sbc_kernels.cli.arguments"  # key of ctx.meta
# Parameters of the package that a command knows by another name.
_ALSO = {"data": "test", "example": "calibration", "batch": "calibration"}


@dataclass(frozen=True)
class Answer:
    """The result of a command: data for --json, and text for people."""

    data: Any
    text: str


class Failed(Exception):
    """A failure whose message says all there is to say. Exit code 1."""


class Group(TyperGroup):
    """Remembers the arguments, so that a command can say how it was called."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        ctx.meta[_ARGUMENTS] = list(args)
        return super().parse_args(ctx, args)


class Command(TyperCommand):
    """Prints the `Answer` that its function gives, and turns what is raised into exit codes."""

    def invoke(self, ctx: Any) -> Any:
        options = ctx.params
        stream = sys.stderr if options.get("json") else sys.stdout
        try:
            if options.get("save_config") is not None:
                save_config(ctx)
            with contextlib.redirect_stdout(stream), _warnings_in_a_line():
                answer = super().invoke(ctx)  # a model's own prints are redirected as well
        except KeyboardInterrupt as stop:
            tell(f"sbc: {str(stop) or 'interrupted'}")
            raise typer.Exit(130) from None
        except (typer.BadParameter, typer.Exit, typer.Abort):
            raise
        except Exception as error:
            self._explain(ctx, error)
        if isinstance(answer, Answer):
            if options.get("json"):
                print(json.dumps(answer.data, indent=2, default=str))
            elif not options.get("quiet"):
                print(answer.text)

    def _explain(self, ctx: Any, error: Exception) -> NoReturn:
        if ctx.params.get("traceback"):
            traceback.print_exception(error)
        name = self._blamed(ctx, error)
        if name is not None and "\n" not in str(error):
            raise typer.BadParameter(str(error), ctx=ctx, param_hint=hint(ctx, name)) from error
        explained = isinstance(error, Failed) or name is not None
        plain = explained or (isinstance(error, (OSError, ValueError)) and _is_ours(error))
        text = str(error) if plain else f"{type(error).__name__}: {error}"
        tell(f"sbc: {text}")
        if not explained and not ctx.params.get("traceback"):
            tell("--traceback shows where it happened.")
        raise typer.Exit(1 if name is None else 2) from error

    def _blamed(self, ctx: Any, error: Exception) -> str | None:
        """The option of this command that holds the parameter which the error is about."""
        if not isinstance(error, ParameterError):
            return None
        name = _ALSO.get(error.parameter, error.parameter)
        return name if name in ctx.params else None


@contextlib.contextmanager
def _warnings_in_a_line() -> Iterator[None]:
    """Warnings without the line of code that gave them."""

    def show(message: Warning | str, *_: Any, **__: Any) -> None:
        tell(f"warning: {message}")

    with warnings.catch_warnings():
        warnings.showwarning = show
        yield


def flowed(text: str | None) -> str:
    """A docstring for any width of terminal: a paragraph becomes a line, examples stay as they are."""
    paragraphs = inspect.cleandoc(text or "").split("\n\n")
    return "\n\n".join(p if p.startswith("[") else " ".join(p.split()) for p in paragraphs)


def hint(ctx: Any, name: str) -> str:
    """A parameter as people type it."""
    (parameter,) = (param for param in ctx.command.params if param.name == name)
    option = str(parameter.opts[0])
    return option if option.startswith("-") else option.upper()


def command_line(ctx: Any) -> str:
    """Returns the command line of this call, quoted for a shell."""
    root = ctx.find_root()
    return f"{root.info_name} {shlex.join(ctx.meta.get(_ARGUMENTS, []))}"


def tell(text: str) -> None:
    """Prints a text for people on stderr, so that stdout holds the result alone."""
    print(text, file=sys.stderr)


def fail(message: str) -> NoReturn:
    tell(f"sbc: {message}")
    raise typer.Exit(1)


def need(what: str, modules: dict[str, str], install: str = INSTALL) -> None:
    """Fails, with the pip command, where one of the modules ({module: package}) is missing."""
    if missing := [package for module, package in modules.items() if find_spec(module) is None]:
        fail(f"{what} needs {', '.join(missing)}, not installed here: {install}")


def need_models(ctx: Any, *extra: str) -> None:
    """Fails where what whole models need is not installed."""
    modules = ["torch", "safetensors", *extra]
    need(f"sbc {ctx.info_name}", {module: module for module in modules})


def require_absent(ctx: Any, paths: Sequence[Path], force: bool) -> None:
    """Raises typer.BadParameter where a result would be overwritten without --force."""
    existing = [str(path) for path in paths if path.exists()]
    if existing and not force:
        raise typer.BadParameter(
            f"{' and '.join(existing)} {'is' if len(existing) == 1 else 'are'} there already; --force "
            "overwrites, or name another place",
            ctx=ctx,
            param_hint="--out",
        )


def _is_ours(error: BaseException) -> bool:
    """Whether code of this package raised it, and not a model, a loader or a library."""
    trace = error.__traceback__
    if trace is None:
        return False
    while trace.tb_next is not None:
        trace = trace.tb_next
    return str(trace.tb_frame.f_globals.get("__name__", "")).startswith("sbc_kernels")
