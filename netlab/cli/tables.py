"""Tables for the terminal: borderless, one line a row, folded to the terminal's width."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterable, Sequence


def print_table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print rows under their heads. Cells that are too wide are folded, never cut."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, header_style="bold")
    for head in heads:
        table.add_column(head, overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    # a pipe has no width: give long paths room, so that every row stays one line for grep
    width = None if sys.stdout.isatty() else max(200, shutil.get_terminal_size().columns)
    Console(width=width, highlight=False).print(table)
