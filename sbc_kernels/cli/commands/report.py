"""``sbc report``: what a compressed file tells of itself."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from .. import options as o
from ..command import Answer, need, require_absent


def report(
    ctx: typer.Context,
    file: o.Packed,
    out: Annotated[
        Path | None,
        typer.Option(rich_help_panel=o.OUTPUT, metavar="FILE.html", help="Write the page here."),
    ] = None,
    force: o.Force = False,
    json: o.Json = False,
    quiet: o.Quiet = False,
    traceback: o.Traceback = False,
    config: o.Config = None,
    save_config: o.SaveConfig = None,
) -> Answer:
    """Show the report that a compressed file carries; no network is needed.

    [bold]Examples[/bold]

    [cyan]  sbc report small/model.safetensors
      sbc report small/model.safetensors --out report.html
      sbc report small/model.safetensors --json | jq .layers[].sparsity[/cyan]
    """
    need("sbc report", {m: m for m in ("safetensors", "jinja2", "matplotlib")})
    found = read_report(file)
    from ...report.parsing import parse_report
    from ..tables import render, report_parts

    if out is None:
        return Answer(found, render(*report_parts(parse_report(found))))
    from ...report import write_html

    require_absent(ctx, [out], force)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_html(out, found)
    return Answer(found, f"{out} is written.")


def read_report(path: Path) -> dict[str, Any]:
    """The report in a file's header. Bad use where there is none."""
    from ...files import read_metadata

    try:
        metadata = read_metadata(path)
    except (OSError, ValueError) as error:
        raise typer.BadParameter(str(error), param_hint="FILE") from error
    if not isinstance(metadata.get("report"), dict):
        raise typer.BadParameter(
            f"{path} carries no report; accepted is what sbc compress or CompressedModel.save wrote",
            param_hint="FILE",
        )
    found: dict[str, Any] = metadata["report"]
    return found
