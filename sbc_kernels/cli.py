"""The command line: ``sbc demo`` and ``sbc info``.

Exit codes: 0 done, 1 failed, 2 used wrongly, 130 interrupted.
"""

from __future__ import annotations

import platform
import sys
from enum import StrEnum
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

INSTALL = "pip install 'sbc-kernels[demo]'"
DEMO_NEEDS = {
    "torch": "torch",
    "sklearn": "scikit-learn",
    "matplotlib": "matplotlib",
    "rich": "rich",
    "safetensors": "safetensors",
}

try:
    import typer
except ModuleNotFoundError:  # this module is a program: without typer it can only say so
    raise SystemExit(f"sbc needs typer, which is not installed: {INSTALL}") from None

app = typer.Typer(
    help="Prune and quantize trained spiking neural networks in one pass.",
    no_args_is_help=True,
    add_completion=False,
)


class Data(StrEnum):
    digits = "digits"
    fashion_mnist = "fashion-mnist"


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for the report, picture and models.")] = Path(
        "sbc-demo"
    ),
    train: Annotated[bool, typer.Option("--train", help="Train the network anew first.")] = False,
    data: Annotated[Data, typer.Option(help="What the event camera looks at.")] = Data.digits,
    data_dir: Annotated[
        Path | None, typer.Option(help="Folder of IDX files, for --data fashion-mnist.")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print errors only.")] = False,
) -> None:
    """Compress a trained spiking network in 18 ways and measure what each costs."""
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
        _fail(f"the demo needs {', '.join(missing)}, not installed here: {INSTALL}")
    try:
        from .demo.run import run_demo

        run_demo(out, data=data.value, data_dir=data_dir, retrain=train, quiet=quiet)
    except FileNotFoundError as error:
        raise typer.BadParameter(str(error), param_hint="--data-dir") from error
    except (OSError, ValueError) as error:
        _fail(str(error))
    except KeyboardInterrupt:
        raise typer.Exit(130) from None


@app.command()
def info() -> None:
    """Versions, and the native code paths this machine runs."""
    import sbc_kernels

    native = sbc_kernels.native_info()
    lines = {
        "sbc-kernels": sbc_kernels.__version__,
        "python": f"{platform.python_version()} on {platform.system()} {platform.machine()}",
        **{name: _version(name) for name in ("numpy", "scipy", "torch", "safetensors")},
        "instruction set": f"{native['isa']} (of {', '.join(native['available_isas'])})",
        "threads": str(native["threads"]),
        "cuda": "not built in" if native["cuda"] is None else str(native["cuda"] or "no device"),
    }
    for name, value in lines.items():
        typer.echo(f"{name:<16} {value}")


def main() -> None:
    """Entry point of the console script."""
    app()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _fail(message: str) -> None:
    print(f"sbc: {message}", file=sys.stderr)
    raise typer.Exit(1)


if __name__ == "__main__":
    main()
