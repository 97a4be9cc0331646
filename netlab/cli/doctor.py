"""`netlab doctor`: what this kernel and machine can run."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING

import click

from netlab.cli.common import output_option, print_json

if TYPE_CHECKING:
    from rich.table import Table

    from netlab.doctor import Report
    from netlab.kernel.features import Feature

PIPE_WIDTH = 80  # columns where there is no terminal
NAME_WIDTH = 25
MISSING_BASICS = 3  # the exit status of a machine that lacks something (errors.py)


@click.command("doctor")
@output_option
@click.pass_context
def doctor_command(ctx: click.Context, output: str) -> None:
    """Say what this kernel and machine can run, what they lack, who needs it and how to get it.

    Everything is tried in namespaces that end with the try; nothing of this machine is changed. Without root it is
    tried in a user namespace, as labs would run.

    Ends with status 3 when even the smallest lab cannot run (network namespaces, veth, bridge), else with 0.

    \b
    -o json prints one object:
      ready         can the smallest lab run
      rootless      would labs run in the user's own namespaces
      untried       why link types and packet filters could not be tried, or ""
      features      a list of {name, kind, available, detail, needed_by, how_to_get}
      without_root  what stays out of reach without root (empty for root)
    """
    from netlab.doctor import examine

    report = examine()
    if output == "json":
        print_json(report)
    else:
        _print(report)
    ctx.exit(0 if report.ready else MISSING_BASICS)


def _print(report: Report) -> None:
    from rich.console import Console

    width = None if sys.stdout.isatty() else PIPE_WIDTH
    console = Console(width=width, highlight=False)
    for kind, group in groupby(report.features, key=lambda feature: feature.kind):
        console.print(_table(kind.value, list(group)))
    if report.untried:
        console.print(f"Not tried: link types, queueing, packet filters.\n{report.untried}\n", markup=False)
    if report.without_root:
        console.print("Without root, labs run in your own user namespace. Out of their reach:")
        for line in report.without_root:
            console.print(f"- {line}", markup=False)
        console.print()
    console.print(verdict(report), markup=False)


def _table(title: str, features: Sequence[Feature]) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.title = Text(title, style="bold")
    table.title_justify = "left"
    table.add_column(width=7)
    table.add_column(width=NAME_WIDTH, overflow="fold")
    table.add_column(overflow="fold")
    for feature in features:
        colour = "green" if feature.available else "red"
        table.add_row(Text(mark(feature), colour), Text(feature.name), Text(story(feature)))
    table.add_row()
    return table


def mark(feature: Feature) -> str:
    """Return the word in front of a feature."""
    if feature.available:
        return "ok"
    return "low" if feature.kind == "limit" else "missing"


def story(feature: Feature) -> str:
    """Return what was found and, where something is missing, who needs it and how to get it."""
    if feature.available:
        return feature.detail
    return f"{feature.detail}; needed by {feature.needed_by}\nget it: {feature.how_to_get}"


def verdict(report: Report) -> str:
    """Return the last line: whether labs can run here."""
    if report.ready:
        return f"Labs can run here, {'without root' if report.rootless else 'as root'}."
    from netlab.doctor import BASIC

    available = {feature.name for feature in report.features if feature.available}
    return f"No lab can run here: {', '.join(sorted(BASIC - available))} missing."
