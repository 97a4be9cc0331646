"""`netlab doctor`: what this kernel and machine can run."""

from __future__ import annotations

import os
import sys
import textwrap
from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING

import click

from netlab.cli.common import output_option, print_json

if TYPE_CHECKING:
    from rich.table import Table

    from netlab.doctor import Report, Row
    from netlab.kernel.features import Feature

PIPE_WIDTH = 80  # columns where there is no terminal
NAME_WIDTH = 25
MISSING_BASICS = 3  # the exit status of a machine that lacks something (errors.py)


@click.command("doctor")
@click.option("--vm", is_flag=True, help="Also try the kernel of netlab's VMs, and show both side by side.")
@output_option
@click.pass_context
def doctor_command(ctx: click.Context, vm: bool, output: str) -> None:
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
    with --vm: {here, guest, release}, two such objects and the guest kernel's release
    """
    from netlab.doctor import examine

    if vm:
        _show_both(output)
        return
    report = examine()
    if output == "json":
        print_json(report)
    else:
        _print(report)
    ctx.exit(0 if report.ready else MISSING_BASICS)


def _show_both(output: str) -> None:
    from netlab.doctor import compare, examine
    from netlab.vm.doctor import examine_guest

    release, guest = examine_guest(lambda line: click.echo(line, err=True))
    here = examine()
    if output == "json":
        print_json({"here": here, "guest": guest, "release": release})
        return
    _print_both(compare(here, guest), os.uname().release, release)


def _print_both(rows: Sequence[Row], here: str, guest: str) -> None:
    """Print one line a feature: its name, then a word for each kernel."""
    click.echo(f"this machine: Linux {here}\nnetlab's VMs: Linux {guest}\n")
    click.echo(f"{'':<{NAME_WIDTH}}  here     guest")
    for kind, group in groupby(rows, key=lambda row: row.kind):
        click.echo(kind.value)
        for row in group:
            front = f"  {row.name:<{NAME_WIDTH - 2}}  {mark(row.here):<7}  {mark(row.guest):<7}  "
            remark = row.here.needed_by if row.guest.available and not row.here.available else ""
            first, *rest = textwrap.wrap(remark, PIPE_WIDTH - len(front)) or [""]
            click.echo((front + first).rstrip())
            for line in rest:
                click.echo(" " * len(front) + line)
    click.echo("\nTo use what only the VMs have: netlab vm up; netlab vm exec 1 -- netlab up FILE")


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
