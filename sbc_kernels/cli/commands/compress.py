"""``sbc compress``: a network in, a folder with the compressed one and its report out."""

from __future__ import annotations

import json as json_module
import logging
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ...errors import ParameterError
from ...files.lock import FolderInUse
from ...method.fields import option_names
from ...model.journal import TRIALS
from ...model.settings import ModelOptions
from .. import options as o
from ..command import Answer, command_line, need_models, require_absent
from ..data import Cut, load_data, on_device
from ..interrupt import prompt_interrupts
from ..objects import layer_options, load_device, load_model, load_object
from ..package_options import package_options

if TYPE_CHECKING:
    from ...model import CompressedModel

MODEL, PAGE, REPORT = "model.safetensors", "report.html", "report.json"
UNFINISHED = "unfinished"  # the folder of --checkpoint-dir within --out


@package_options(*option_names(ModelOptions), before="device")
def compress(
    ctx: typer.Context,
    model: o.Model,
    *,
    checkpoint: o.Weights = None,
    model_args: o.ModelArgs = None,
    forward: o.Forward = None,
    readout: o.Readout = None,
    calibration: o.Calibration,
    test: o.OptionalTest = None,
    num_calibration_samples: o.NumCalibrationSamples = None,
    batch_size: o.BatchSize = None,
    batch_axis: o.BatchAxis = None,
    time_steps: o.TimeSteps = None,
    dtype: o.Dtype = "float32",
    device: o.Device = "cpu",
    out: Annotated[
        Path,
        typer.Option(
            rich_help_panel=o.OUTPUT,
            metavar="DIR",
            help=f"Folder for {MODEL}, {PAGE} and {REPORT}.",
            show_default=False,
        ),
    ],
    force: o.Force = False,
    json: o.Json = False,
    quiet: o.Quiet = False,
    traceback: o.Traceback = False,
    config: o.Config = None,
    save_config: o.SaveConfig = None,
    **settings: Any,
) -> Answer:
    """Prune and quantize a trained spiking network in one pass, without training.

    Without --sparsity and --bits, 90 % of the weights are pruned. The same command given
    again resumes a run that was interrupted or killed.

    [bold]Examples[/bold]

    [cyan]  sbc compress net.py:make --checkpoint best.pt --calibration cal.npz \\
        --out small
      sbc compress net.py:make --calibration cal.npz --test test.npz \\
        --sparsity 0.95 --bits 4 --out small
      sbc compress net.py:make --calibration cal.npz --out small --sparsity 2:4 \\
        --overrides '{"head": {"bits": 8}}' --save-config run.toml
      sbc compress --config run.toml --out smaller --sparsity 0.99[/cyan]
    """
    need_models(ctx, "jinja2", "matplotlib")
    files = [out / name for name in (MODEL, PAGE, REPORT)]
    if not (out / UNFINISHED / "run.json").is_file():  # else what is there was never finished
        require_absent(ctx, files, force)
    if settings["inplace"] and test is not None:
        raise typer.BadParameter(
            "--test compares with the dense network, of which --inplace leaves nothing",
            param_hint="--inplace",
        )
    from ... import metrics
    from ...files.atomic import write_atomic
    from ...model import compress_model
    from ...model.saving import require_storable
    from ...report import write_html

    functions = {
        "forward": None if forward is None else load_object(forward, "--forward"),
        "readout": None if readout is None else load_object(readout, "--readout"),
    }
    target = load_device(device)
    network = load_model(model, model_args, checkpoint).to(target)
    checkpoints = settings["checkpoint_dir"] or out / UNFINISHED
    settings |= {
        "overrides": layer_options(settings["overrides"]),
        "ignore": settings["ignore"] or (),
        "forward": functions["forward"],
        "checkpoint_dir": checkpoints,
        "progress": False if quiet else settings["progress"],
    }
    ModelOptions(**settings)  # values are checked before the data is read
    require_storable(network.state_dict())  # before the work, not after it
    cut = Cut.of(ctx.params, num_calibration_samples)
    samples = on_device(load_data(calibration, cut, "--calibration"), target)
    test_data = None
    if test is not None:
        test_data = on_device(load_data(test, Cut.of(ctx.params), "--test"), target)
    out.mkdir(parents=True, exist_ok=True)
    with _resumable(ctx, checkpoints), _log_lines(quiet, ctx.params["progress"]):
        result: CompressedModel = compress_model(network, samples, **settings)
        comparison = (
            None if test_data is None else metrics.compare(network, result, test_data, **functions)
        )
    packed = result.packed_file(comparison)
    write_atomic(files[0], packed.data)
    write_html(files[1], packed.report)
    write_atomic(files[2], (json_module.dumps(packed.report, indent=2) + "\n").encode())
    if ctx.params["checkpoint_dir"] is None:
        shutil.rmtree(checkpoints)
    return Answer(packed.report, _text(result, packed.report, out))


def _text(result: CompressedModel, report: dict[str, Any], out: Path) -> str:
    """Returns what the terminal shows of a finished run."""
    from ...report.parsing import parse_report
    from ..tables import comparison_parts, render, size_line

    parsed = parse_report(report)
    parts: list[Any] = [result.table(), size_line(parsed)]
    if parsed.comparison is not None:
        parts += ["", *comparison_parts(parsed.comparison)]
    return render(*parts, "", f"{out} has {MODEL}, {PAGE} and {REPORT}.")


@contextmanager
def _resumable(ctx: typer.Context, checkpoints: Path) -> Iterator[None]:
    """Tells the user how to resume a run that is interrupted, or why it cannot be resumed."""

    def advice() -> str:
        count = len(list(checkpoints.glob("*.safetensors"))) if checkpoints.is_dir() else 0
        trials = checkpoints / TRIALS
        measured = trials.read_bytes().count(b"\n") if trials.is_file() else 0
        more = f", with {measured} measurements of the allocation," if measured else ""
        return (
            f"interrupted. {count} finished {'part is' if count == 1 else 'parts are'}{more} in "
            f"{checkpoints}; the same command goes on there:\n  {command_line(ctx)}"
        )

    try:
        with prompt_interrupts(lambda: f"sbc: {advice()}"):
            yield
    except KeyboardInterrupt:
        raise KeyboardInterrupt(advice()) from None
    except ParameterError as error:
        if error.parameter != "checkpoint_dir":
            raise
        in_use = isinstance(error, FolderInUse)  # and nothing may be removed under the other run
        raise typer.BadParameter(
            str(error) if in_use else f"{error}. To start anew, remove {checkpoints}",
            param_hint="--out" if ctx.params["checkpoint_dir"] is None else "--checkpoint-dir",
        ) from error


@contextmanager
def _log_lines(quiet: bool, progress: bool | None) -> Iterator[None]:
    """Prints a line for each layer where no progress bars are shown."""
    logger = logging.getLogger("sbc_kernels")
    if quiet or progress is not None or sys.stderr.isatty():
        yield
        return
    handler, level = logging.StreamHandler(sys.stderr), logger.level
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
