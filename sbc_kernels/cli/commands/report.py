"""``sbc report``: the report that a compressed file holds."""

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
        typer.Option(
            rich_help_panel=o.OUTPUT, metavar="FILE.html", help="Write the HTML page to this file."
        ),
    ] = None,
    force: o.Force = False,
    json: o.Json = False,
    quiet: o.Quiet = False,
    traceback: o.Traceback = False,
    config: o.Config = None,
    save_config: o.SaveConfig = None,
) -> Answer:
    """Show the report stored in a compressed file. The network itself is not needed.

    [bold]Examples[/bold]

    [cyan]  sbc report small/model.safetensors
      sbc report small/model.safetensors --out report.html
      sbc report small/model.safetensors --json | jq .layers[].sparsity[/cyan]
    """
    need("sbc report", {m: m for m in ("safetensors", "jinja2", "matplotlib")})
    values = read_report(file)
    from ...report.parsing import parse_report
    from ..tables import render, report_parts

    if out is None:
        return Answer(values, render(*report_parts(parse_report(values))))
    from ...report import write_html

    require_absent(ctx, [out], force)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_html(out, values)
    return Answer(values, f"{out} is written, {out.stat().st_size:,} bytes.")


def read_report(path: Path) -> dict[str, Any]:
    """Returns the report in a file's header. Raises typer.BadParameter if there is none."""
    from ...files import read_metadata

    try:
        metadata = read_metadata(path)
    except (OSError, ValueError) as error:
        raise typer.BadParameter(str(error), param_hint="FILE") from error
    if not isinstance(metadata.get("report"), dict):
        raise typer.BadParameter(
            f"{path} holds no report; accepted is a file of sbc compress or CompressedModel.save",
            param_hint="FILE",
        )
    report: dict[str, Any] = metadata["report"]
    return report
