"""Runs the code blocks of README.md and of these pages, and compares their output with the output
shown.

    python docs/blocks.py            # runs every page and prints the differences
    python docs/blocks.py --write    # also replaces the output shown
    python docs/blocks.py docs/method.md

The blocks of a page run one after the other, in one namespace and one empty folder:

    ```python     is executed; if its first line is a comment "# name.py", it is written to that file
    ```text       is the output of the blocks since the last such block, or title
    ```console    lines "$ sbc ..." are run, and the lines below are their output; "$ pip", "$ make" and
                  "$ cmake" install or build, and are left to the reader

In the output shown, "..." stands for anything, and a line "..." for any number of lines. White
space and the lengths of rules are ignored. Integers must be equal and percentages within 1. Numbers
with a decimal point or thousands separators must be within 3 % or 0.02, because processors add in
different orders.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import re
import shlex
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
FENCE = re.compile(r"^```([^\n`]*)\n(.*?)^```$", re.M | re.S)
TITLE = re.compile(r"^#{1,6} ", re.M)
NUMBER = re.compile(r"(?<![\w.])-?\d[\d,]*(?:\.\d+)?(?:e[-+]\d+)?")
LEFT_TO_THE_READER = ("pip", "make", "cmake", "cd")


@dataclass(frozen=True)
class Block:
    """A fenced block: language, text, position in the page, and the number of its first line."""

    language: str
    text: str
    start: int
    end: int
    line: int


@dataclass(frozen=True)
class Shown:
    """An output that a page shows, and the actual output."""

    block: Block
    expected: str
    printed: str

    def differs(self) -> str | None:
        return difference(self.expected, self.printed)


@dataclass
class Run:
    """A page that was run.

    Attributes
    ----------
    shown : each output that the page shows.
    printed : output of all its Python blocks.
    names : names that these blocks defined.
    commands : commands of its console blocks that were run.
    """

    shown: list[Shown] = field(default_factory=list)
    printed: str = ""
    names: dict[str, Any] = field(default_factory=lambda: {"__name__": "__main__"})
    commands: list[str] = field(default_factory=list)


def pages() -> list[Path]:
    """README.md and every Markdown page in docs/."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks_of(page: str) -> list[Block]:
    return [
        Block(m[1].strip(), m[2], m.start(2), m.end(2), page.count("\n", 0, m.start(2)) + 1)
        for m in FENCE.finditer(page)
    ]


def run_page(path: Path, folder: Path) -> Run:
    """Runs the blocks of a page with `folder` as the current folder."""
    page = path.read_text(encoding="utf-8")
    run, printed, at = Run(), "", 0
    with contextlib.chdir(folder):
        for block in blocks_of(page):
            if TITLE.search(page, at, block.start):
                printed = ""
            at = block.end
            if block.language == "python":
                new = _execute(block, path, run.names)
                printed += new
                run.printed += new
            elif block.language == "console":
                for command, expected, out in _console(block, path):
                    run.commands.append(command)
                    if expected.strip():
                        run.shown.append(Shown(block, expected, out))
            elif block.language == "text":
                run.shown.append(Shown(block, block.text, printed))
                printed = ""
            elif block.language == "" and path.name == "README.md":
                _require_left_to_the_reader(block, path)
            elif not block.language.startswith("{"):  # a directive of MyST
                raise ValueError(
                    f"{path}:{block.line} is a block of {block.language!r}; accepted are python, "
                    "text, console and {directives}"
                )
    return run


def _execute(block: Block, path: Path, names: dict[str, Any]) -> str:
    if file := re.match(r"# (\w+\.py)\n", block.text):
        Path(file[1]).write_text(block.text, encoding="utf-8")
        return ""
    code = compile("\n" * (block.line - 1) + block.text, str(path), "exec")
    with contextlib.redirect_stdout(io.StringIO()) as out:
        exec(code, names)
    return out.getvalue()


def _console(block: Block, path: Path) -> Iterator[tuple[str, str, str]]:
    """Runs the commands of a block. Yields each command, the output shown below it, and its output."""
    from typer.testing import CliRunner

    from sbc_kernels.cli import app

    for part in re.split(r"^\$ ", block.text, flags=re.M)[1:]:
        command, _, expected = part.partition("\n")
        program, *arguments = shlex.split(command)
        if program in LEFT_TO_THE_READER:
            continue
        if program != "sbc":
            raise ValueError(f"{path}:{block.line} runs {program!r}; accepted is sbc")
        environment = {"COLUMNS": "100", "NO_COLOR": "1"}
        done = CliRunner().invoke(app, arguments, prog_name="sbc", env=environment)
        if done.exit_code != 0:
            raise RuntimeError(
                f"{path}:{block.line}: {command} ended with {done.exit_code}\n{done.output}"
            )
        yield command, expected, done.stdout


def _require_left_to_the_reader(block: Block, path: Path) -> None:
    for line in block.text.splitlines():
        if line.split()[:1] and line.split()[0] not in LEFT_TO_THE_READER:
            raise ValueError(f"{path}:{block.line} has {line!r} in a block of no language")


# ---- comparison --------------------------------------------------------------------------------


def difference(expected: str, printed: str) -> str | None:
    """How `printed` differs from `expected`, or None if it does not."""
    printed = printed.replace("\xa0", " ")
    pattern = "".join(map(_pattern, expected.strip().splitlines()))
    match = re.fullmatch(pattern, printed.strip() + "\n")
    if match is None:
        return f"shown:\n{expected.strip()}\nprinted:\n{printed.strip()}"
    for shown, number in zip(NUMBER.finditer(expected), match.groups(), strict=True):
        percent = expected.startswith(" %", shown.end())
        if not _close(shown[0], number, percent):
            return f"{shown[0]} is shown and {number} printed:\n{printed.strip()}"
    return None


def _pattern(line: str) -> str:
    """A regular expression for one line of output, with a group for each number."""
    if line.strip() == "...":
        return r"(?:[^\n]*\n)*?"
    parts = []
    for piece in re.split(f"({NUMBER.pattern}|\\.\\.\\.|[-─]{{3,}}|\\s+)", line.strip()):
        if NUMBER.fullmatch(piece):
            parts.append(f"({NUMBER.pattern})")
        elif piece == "...":
            parts.append(r"[^\n]*")
        elif piece[:3] in ("---", "───"):
            parts.append(f"{piece[0]}+")
        else:
            parts.append(r"[ \t]+" if piece.isspace() else re.escape(piece))
    return r"[ \t]*" + "".join(parts) + r"[ \t]*\n"


def _close(shown: str, printed: str, percent: bool) -> bool:
    a, b = (float(text.replace(",", "")) for text in (shown, printed))
    if not set(",.e") & set(shown + printed):
        return abs(a - b) <= percent
    return abs(a - b) <= max(0.03 * max(abs(a), abs(b)), 0.02)


# ---- from a terminal ---------------------------------------------------------------------------


def main() -> None:
    parser = argparse.ArgumentParser(description="Run the code blocks of README.md and the pages.")
    parser.add_argument("pages", nargs="*", type=Path, default=pages())
    parser.add_argument("--write", action="store_true", help="replace the output shown")
    options = parser.parse_args()
    failed = 0
    for path in options.pages:
        with tempfile.TemporaryDirectory() as folder:
            shown = run_page(path.resolve(), Path(folder)).shown
        wrong = [item for item in shown if item.differs()]
        for item in wrong:
            print(f"{path}:{item.block.line}: {item.differs()}")
        if options.write:
            page = path.read_text(encoding="utf-8")
            for item in reversed([item for item in wrong if item.block.language == "text"]):
                lines = [line.rstrip() for line in item.printed.strip("\n").splitlines()]
                text = "\n".join(lines) + "\n"
                page = page[: item.block.start] + text + page[item.block.end :]
            path.write_text(page, encoding="utf-8")
        failed += len(wrong)
    if failed and not options.write:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
