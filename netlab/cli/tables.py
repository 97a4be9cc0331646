"""Tables as kubectl prints them: columns of text under their heads, nothing else.

`rich` would draw finer ones, but loading it takes a third of the time that `netlab status` may take (docs/adr/0003).
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence

import click

GAP, NARROW = 3, 2


def print_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows under their heads. On a terminal the last column is folded to what the others leave of its width."""
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    for number, line in enumerate(table(heads, rows, width)):
        click.echo(click.style(line, bold=True) if number == 0 else line)


def table(heads: Sequence[str], rows: Sequence[Sequence[str]], width: int | None) -> list[str]:
    """Return a table's lines; none is longer than `width` columns unless the columns before the last are.

    Columns draw nearer before anything is folded.
    """
    cells = [heads, *rows]
    widths = [max(len(row[column]) for row in cells) for column in range(len(heads) - 1)]
    whole = sum(widths) + max(len(row[-1]) for row in cells)
    gap = NARROW if width and whole + GAP * len(widths) > width >= whole + NARROW * len(widths) else GAP
    indent = sum(widths) + gap * len(widths)
    room = max(width - indent, 20) if width else None
    lines = []
    for row in cells:
        front = "".join(cell.ljust(size + gap) for cell, size in zip(row, widths, strict=False))
        first, *rest = _fold(row[-1], room)
        lines += [front + first, *(" " * indent + line for line in rest)]
    return [line.rstrip() for line in lines]


def _fold(text: str, room: int | None) -> list[str]:
    import textwrap

    return textwrap.wrap(text, room, break_on_hyphens=False) or [""] if room and len(text) > room else [text]
