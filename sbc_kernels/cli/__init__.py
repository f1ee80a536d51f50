"""The command line: ``sbc compress`` and what goes with it.

    command.py    answers, failures, interrupts: what all commands share
    options.py    every option once
    config.py     --config and --save-config
    objects.py    file.py:function, checkpoints
    data.py       batches from files
    tables.py     what is seen on a terminal
    commands/     a file a command

Exit codes: 0 done, 1 failed, 2 used wrongly, 130 interrupted.
"""

from __future__ import annotations

import platform
from enum import StrEnum
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

from .._version import __version__
from ..backends.registry import available_backends, native_info

try:
    import typer

    from . import options as o
    from .command import Answer, Command, Failed, Group, fail, flowed
    from .commands.compress import compress
    from .commands.evaluate import evaluate
    from .commands.export import export
    from .commands.inspect import inspect
    from .commands.report import report
except ModuleNotFoundError as error:  # this is a program: without typer it can only say so
    if error.name != "typer":
        raise
    raise SystemExit(
        "sbc needs typer, which is not installed: pip install 'sbc-kernels[cli]'"
    ) from None

INSTALL = "pip install 'sbc-kernels[demo]'"
DEMO_NEEDS = {
    "torch": "torch",
    "sklearn": "scikit-learn",
    "matplotlib": "matplotlib",
    "rich": "rich",
    "safetensors": "safetensors",
}
LIBRARIES = ("numpy", "torch", "safetensors")
FRAMEWORKS = ("spikingjelly", "snntorch", "norse", "sinabs", "nir")

app = typer.Typer(
    cls=Group,
    no_args_is_help=True,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["--help", "-h"]},
    pretty_exceptions_enable=False,
)


class Data(StrEnum):
    digits = "digits"
    fashion_mnist = "fashion-mnist"


def _print_version(value: bool) -> None:
    if value:
        typer.echo(f"sbc-kernels {__version__}")
        raise typer.Exit


def root(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    """Prune and quantize trained spiking neural networks in one pass.

    [bold]The usual way[/bold]

    [cyan]  sbc inspect net.py:make --checkpoint best.pt --calibration cal.npz
      sbc compress net.py:make --checkpoint best.pt --calibration cal.npz \\
        --out small
      sbc evaluate net.py:make --checkpoint best.pt --test test.npz \\
        --compressed small/model.safetensors[/cyan]

    net.py has a function make() that returns the network; cal.npz has an array x, time
    first, of a few hundred samples. Each command's --help says more. Exit codes: 0 done,
    1 failed, 2 used wrongly, 130 interrupted.
    """


def demo(
    out: Annotated[Path, typer.Option(help="Folder for the report, picture and models.")] = Path(
        "sbc-demo"
    ),
    train: Annotated[bool, typer.Option("--train", help="Train the network anew first.")] = False,
    data: Annotated[Data, typer.Option(help="What the event camera looks at.")] = Data.digits,
    data_dir: Annotated[
        Path | None, typer.Option(help="Folder of IDX files, for --data fashion-mnist.")
    ] = None,
    quiet: o.Quiet = False,
    traceback: o.Traceback = False,
) -> None:
    """Compress a trained spiking network in 18 ways and measure what each costs.

    Nothing is needed: network and data come along, and it takes about a minute.

    [bold]Example[/bold]

    [cyan]  sbc demo --out sbc-demo[/cyan]
    """
    if data is Data.fashion_mnist and data_dir is None:
        raise typer.BadParameter(
            "--data fashion-mnist needs the folder of the IDX files", param_hint="--data-dir"
        )
    if data is Data.digits and data_dir is not None:
        raise typer.BadParameter(
            "digits come with scikit-learn; the folder is for --data fashion-mnist",
            param_hint="--data-dir",
        )
    if missing := [package for module, package in DEMO_NEEDS.items() if find_spec(module) is None]:
        fail(f"the demo needs {', '.join(missing)}, not installed here: {INSTALL}")
    try:
        from ..demo.run import run_demo

        run_demo(out, data=data.value, data_dir=data_dir, retrain=train, quiet=quiet)
    except FileNotFoundError as error:
        raise typer.BadParameter(str(error), param_hint="--data-dir") from error
    except (OSError, ValueError) as error:
        raise Failed(str(error)) from error


def info(json: o.Json = False) -> Answer:
    """Versions, and the native code paths this machine runs.

    [bold]Example[/bold]

    [cyan]  sbc info --json[/cyan]
    """
    native = native_info()
    cuda = native["cuda"]
    lines = {
        "sbc-kernels": __version__,
        "python": f"{platform.python_version()} on {platform.system()} {platform.machine()}",
        **{name: _version(name) for name in LIBRARIES + FRAMEWORKS},
        "instruction set": f"{native['isa']} (of {', '.join(native['available_isas'])})",
        "backends": ", ".join(available_backends()),
        "threads": str(native["threads"]),
        "cuda": "not built in" if cuda is None else str(cuda or "no device"),
    }
    facts = {
        "versions": {
            name: lines[name] for name in ("sbc-kernels", "python", *LIBRARIES, *FRAMEWORKS)
        },
        **native,
        "backends": available_backends(),
    }
    return Answer(facts, "\n".join(f"{name:<16} {value}" for name, value in lines.items()))


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


app.callback(help=flowed(root.__doc__))(root)
for function in (demo, info, inspect, compress, evaluate, report, export):
    app.command(cls=Command, help=flowed(function.__doc__))(function)


def main() -> None:
    """Entry point of the console script."""
    app()
