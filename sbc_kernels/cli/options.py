"""Options of the command line alone: networks, data, output. Commands put them together.

Those of the package stand in its records: see package_options.py.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from ..files.header import parse_json
from .config import load_config, parse_toml

WHAT = "What to do"
NETWORK = "The network"
DATA = "The data"
METHOD = "The method"
SWITCHES = "Switches"
RUN = "This run"
OUTPUT = "Output"


def _option(panel: str, *names: str, **more: Any) -> Any:
    return typer.Option(*names, rich_help_panel=panel, **more)


# ---- what comes as text ------------------------------------------------------------------------


def fraction_or_pattern(value: Any) -> Any:
    """Reads 0.9 as a number and leaves 2:4 as text."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise typer.BadParameter(f"{value!r} is no sparsity; accepted is a fraction 0..1, or 'N:M'")
    try:
        return value if isinstance(value, float) else float(value)
    except (TypeError, ValueError):
        return value


def table(value: Any) -> Any:
    """Reads a table: of a config file, from a TOML or JSON file, or JSON itself."""
    if isinstance(value, dict):
        return value
    text = str(value)
    try:
        if text.lstrip().startswith("{"):
            content = parse_json(text)
        elif Path(text).suffix == ".json":
            content = parse_json(Path(text).read_text())
        else:
            content = parse_toml(Path(text).read_text())
    except (OSError, ValueError) as error:  # JSONDecodeError and TOMLDecodeError are ValueErrors
        raise typer.BadParameter(
            f"{text!r:.200} cannot be read ({error}); accepted is a TOML or JSON file, or JSON such as "
            "'{\"fc1\": 0.9}'"
        ) from error
    if not isinstance(content, dict):
        raise typer.BadParameter(f"{text!r} holds a {type(content).__name__}; accepted is a table")
    return content


def name_or_table(value: Any) -> Any:
    """Leaves a word as it is and reads anything else as a `table`."""
    return value if isinstance(value, str) and re.fullmatch(r"[\w-]+", value) else table(value)


_UNITS = {"": 1} | {
    f"{letter}{end}": 1024**power
    for power, letter in enumerate("kmgt", start=1)
    for end in ("", "b", "ib")
}


def number_of_bytes(value: Any) -> int:
    """Reads a number of bytes such as 1073741824 or 1GiB."""
    match = re.fullmatch(r"\s*([\d.]+)\s*([a-z]*)\s*", str(value).lower())
    try:
        return int(float(match[1]) * _UNITS[match[2]]) if match else int("")
    except (KeyError, OverflowError, ValueError):
        raise typer.BadParameter(
            f"{value!r:.80} is no number of bytes; accepted are 4000000000, 500MiB, 4GiB"
        ) from None


def _one_of(*names: str) -> Callable[[str], list[str]]:
    def complete(incomplete: str) -> list[str]:
        return [name for name in names if name.startswith(incomplete)]

    return complete


# ---- the network -------------------------------------------------------------------------------

Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="[b]file.py:factory[/b] or [b]package.module:factory[/b]: code, which is run. The factory "
        "is called without arguments, with torch's seed at 0, and returns the network.",
        show_default=False,
    ),
]
Packed = Annotated[
    Path, typer.Argument(metavar="FILE", help="The model.safetensors that sbc compress wrote.")
]
ModelArgs = Annotated[
    Any,
    _option(
        NETWORK,
        parser=table,
        metavar="FILE|JSON",
        help="Keyword arguments for the factory: JSON such as '{\"width\": 64}', or a TOML or JSON "
        "file.",
    ),
]
Weights = Annotated[
    Path | None,
    _option(
        NETWORK,
        metavar="FILE",
        help="Its trained weights: a .safetensors file, or what torch.save wrote of "
        "model.state_dict(). Without it the factory has loaded them.",
    ),
]
Forward = Annotated[
    str | None,
    _option(
        NETWORK,
        metavar="FILE.py:NAME",
        help="Code that runs one whole sequence, forward(model, batch). Default: model(batch). For "
        "networks that are called once a time step.",
    ),
]

# ---- the data ----------------------------------------------------------------------------------

_KINDS = (
    ".npz (arrays x and y), .npy, a folder of them (each file a batch), IDX images, or "
    "[b]file.py:loader[/b], code with a function or list that gives batches."
)
Calibration = Annotated[
    str,
    _option(
        DATA,
        metavar="DATA",
        help="A few hundred samples, labels not needed: " + _KINDS,
        show_default=False,
    ),
]
Test = Annotated[
    str,
    _option(
        DATA, metavar="DATA", help="Samples, with labels for the accuracy: " + _KINDS,
        show_default=False,
    ),
]  # fmt: skip
OptionalTest = Annotated[
    str | None,
    _option(
        DATA,
        metavar="DATA",
        help="Samples that dense and compressed network are compared on; as --calibration, with "
        "labels for the accuracy.",
    ),
]
BatchSize = Annotated[
    int | None,
    _option(
        DATA,
        min=1,
        metavar="N",
        help="Samples a batch. Default: 64 of a single file; a folder's files are batches as they are.",
    ),
]
BatchAxis = Annotated[
    int | None,
    _option(
        DATA,
        metavar="AXIS",
        min=0,
        help="The axis that samples lie along. Default: 1, for time comes first "
        "[dim]\\[T, N, ...][/dim]; 0 of IDX images and with --time-steps.",
    ),
]
TimeSteps = Annotated[
    int | None,
    _option(
        DATA,
        metavar="T",
        min=1,
        help="The data is static: show each sample for N time steps, "
        "[dim]\\[N, ...][/dim] becomes [dim]\\[T, N, ...][/dim].",
    ),
]
NumCalibrationSamples = Annotated[
    int | None,
    _option(DATA, metavar="N", min=1, help="Use only the first N samples. Default: all."),
]
Dtype = Annotated[
    Literal["float32", "float64", "float16", "keep"],
    _option(
        DATA,
        metavar="TYPE",
        help="What inputs become: float32, float64, float16, or keep. Bytes of IDX images become "
        "0..1.",
    ),
]

# ---- the run -----------------------------------------------------------------------------------

Device = Annotated[
    str,
    _option(
        RUN,
        metavar="DEVICE",
        autocompletion=lambda incomplete: _one_of("cpu", "cuda")(incomplete),
        help="Where network and data are taken: cpu, cuda, cuda:1.",
    ),
]
Readout = Annotated[
    str | None,
    _option(
        NETWORK,
        metavar="FILE.py:NAME",
        help="Code that turns the network's output into class scores [dim]\\[N, classes][/dim].",
    ),
]

# ---- output ------------------------------------------------------------------------------------

Force = Annotated[bool, _option(OUTPUT, "--force", metavar="", help="Overwrite an earlier result.")]
Quiet = Annotated[bool, _option(OUTPUT, "--quiet", "-q", metavar="", help="Print errors only.")]
Json = Annotated[
    bool,
    _option(
        OUTPUT,
        "--json",
        metavar="",
        help="Print the result as JSON on stdout, everything else on stderr.",
    ),
]
Traceback = Annotated[
    bool,
    _option(OUTPUT, "--traceback", metavar="", help="Show where in the code an error happened."),
]
Config = Annotated[
    Path | None,
    _option(
        OUTPUT,
        is_eager=True,
        callback=load_config,
        metavar="FILE.toml",
        help="Any of these options by its Python name, such as [b]sparsity = 0.95[/b]. The command "
        "line wins; options of other commands are ignored. MODEL, forward, readout and the data may "
        "name Python files and modules, which are then [b]run[/b]: use files you trust.",
    ),
]
SaveConfig = Annotated[
    Path | None,
    _option(
        OUTPUT, metavar="FILE.toml", help="Write the options of this run, for --config."
    ),
]  # fmt: skip
