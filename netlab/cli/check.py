"""`netlab check`: who reaches whom."""

from __future__ import annotations

import shutil

import click

from netlab.cli.common import complete_lab, find_lab, join, output_option, print_json

FAILED = 1


@click.command("check")
@click.argument("lab", required=False, shell_complete=complete_lab)
@click.option("--limit", default=20_000, show_default=True, help="Probe at most so many pairs; sample beyond.")
@click.option("--wait", default=0.0, metavar="SECONDS", help="Try again for so long when something fails.")
@output_option
@click.pass_context
def check_command(ctx: click.Context, lab: str | None, limit: int, wait: float, output: str) -> None:
    """Test who reaches whom in a LAB: every pod to every pod, every node to every pod, and the file's own `checks:`.

    Exit status 1 when something is not as it should be. What a backend cannot do by design counts as right.
    """
    from netlab.check.text import render, to_json

    join()
    report = find_lab(lab).check(limit, wait=wait)
    if output == "json":
        print_json(to_json(report))
    else:
        for line in render(report, shutil.get_terminal_size().columns):
            click.echo(line)
    ctx.exit(0 if report.ok else FAILED)
