"""Tables for a terminal."""

from __future__ import annotations

from collections.abc import Collection, Sequence


def text_table(
    head: tuple[str, ...], rows: Sequence[tuple[str, ...]], left: Collection[int]
) -> list[str]:
    """Lines of a table; the columns with the numbers `left` are flushed left, the others right."""
    table = [head, *rows]
    widths = [max(len(row[i]) for row in table) for i in range(len(head))]
    table.insert(1, tuple("-" * width for width in widths))
    lines = []
    for row in table:
        cells = (
            cell.ljust(width) if i in left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        lines.append("  ".join(cells).rstrip())
    return lines
