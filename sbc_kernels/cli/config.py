"""``--config file.toml`` and ``--save-config file.toml``: options by their Python names.

Reading such a file runs nothing. Its options may name Python files and modules, as on the command line:
those are run.
"""

from __future__ import annotations

import tomllib
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import typer

from ..files.header import require_shallow

NOT_SAVED = ("config", "save_config", "help")


def parse_toml(text: str) -> dict[str, Any]:
    """Returns the table of a TOML text.

    Raises
    ------
    ValueError : it is no TOML, or is nested deeper than files of this package are.
    """
    try:
        table = tomllib.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    require_shallow(table, "it")
    return table


def load_config(ctx: typer.Context, path: Path | None) -> Path | None:
    """Callback of ``--config``: values of the file become the defaults of options that are not given.

    Raises
    ------
    typer.BadParameter : the file is no TOML, or has a key that is no option of any command.
    """
    if path is None or ctx.resilient_parsing:
        return path
    try:
        options = parse_toml(path.read_text())
    except (OSError, ValueError) as error:
        raise typer.BadParameter(f"{path} cannot be read as TOML: {error}") from error
    own = _names(ctx.command)
    group: Any = ctx.parent.command if ctx.parent is not None else None
    others = {
        name for command in getattr(group, "commands", {}).values() for name in _names(command)
    }
    for key in options:
        if key not in own | others:
            near = get_close_matches(key, sorted(own), 1) or get_close_matches(
                key, sorted(others), 1
            )
            raise typer.BadParameter(
                f"{path} has {key!r}, which is no option"
                + (
                    f"; did you mean {near[0]!r}?"
                    if near
                    else f"; accepted are {', '.join(sorted(own))}"
                )
            )
    ctx.default_map = {key: value for key, value in options.items() if key in own}
    return path


def _names(command: Any) -> set[str]:
    """Returns the Python names of the options of a command that a file may hold."""
    return {param.name for param in command.params if param.name not in NOT_SAVED}


def save_config(ctx: Any) -> None:
    """Writes the options of this run to a file that ``--config`` reads.

    TOML has no null, so an option that is None is left out, and None inside a table is written "none".
    """
    path = Path(ctx.params["save_config"])
    if find_spec("tomli_w") is None:
        raise typer.BadParameter("needs tomli-w, not installed here: pip install tomli-w",
                                 ctx=ctx, param_hint="--save-config")  # fmt: skip
    import tomli_w

    options = {
        name: _plain(ctx.params[name])
        for name in (param.name for param in ctx.command.params)
        if name not in NOT_SAVED and ctx.params.get(name) is not None
    }
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"# sbc {ctx.info_name} --config {path.name}\n\n{tomli_w.dumps(options)}")
    except OSError as error:
        raise typer.BadParameter(str(error), ctx=ctx, param_hint="--save-config") from error


def _plain(value: object) -> object:
    """Returns the value as numbers, strings, lists and tables."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if value is None:
        return "none"
    return value if isinstance(value, (bool, int, float)) else str(value)
