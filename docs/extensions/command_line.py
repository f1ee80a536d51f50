"""The directive ``sbc-help``: the output of ``sbc COMMAND --help`` when the pages are built."""

from __future__ import annotations

from typing import Any

from docutils import nodes
from sphinx.util.docutils import SphinxDirective
from typer.main import get_command
from typer.testing import CliRunner

from sbc_kernels.cli import app as sbc

WIDTH = "94"


def help_of(*command: str) -> str:
    """The help text of a command, without colours."""
    shown = CliRunner().invoke(
        sbc, [*command, "--help"], prog_name="sbc", env={"COLUMNS": WIDTH, "NO_COLOR": "1"}
    )
    if shown.exit_code != 0:
        raise RuntimeError(f"sbc {' '.join(command)} --help failed: {shown.output}")
    return "\n".join(line.rstrip() for line in shown.output.strip("\n ").splitlines())


class HelpDirective(SphinxDirective):
    """The help of ``sbc``, and a section for each of its commands."""

    def run(self) -> list[nodes.Node]:
        content: list[nodes.Node] = [self._block(help_of())]
        for name in get_command(sbc).commands:  # type: ignore[attr-defined]
            section = nodes.section(ids=[f"sbc-{name}"])
            section += nodes.title("", f"sbc {name}")
            section += self._block(help_of(name))
            content.append(section)
        return content

    def _block(self, text: str) -> nodes.literal_block:
        return nodes.literal_block(text, text, language="none")


def setup(app: Any) -> dict[str, bool]:
    app.add_directive("sbc-help", HelpDirective)
    return {"parallel_read_safe": True}
