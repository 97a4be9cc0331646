"""`netlab down`: take a lab away."""

from __future__ import annotations

import time

import click

from netlab.cli.common import complete_lab, lab_name
from netlab.errors import UsageError


@click.command("down")
@click.argument("lab", required=False, shell_complete=complete_lab)
@click.option("-a", "--all", "everything", is_flag=True, help="Take every lab of yours away.")
@click.option("--wait", default=30.0, show_default=True, help="Seconds to wait for another netlab on the same lab.")
def down_command(lab: str | None, everything: bool, wait: float) -> None:
    """Take a LAB away, given by name or by topology file (default: the only one).

    Needs nothing but the namespaces themselves: a folder that is lost or broken is no obstacle.
    """
    if lab and everything:
        raise UsageError("a lab and --all were given", "give one of them")
    from netlab.found import labs
    from netlab.kernel.rootless import ensure_privileged, stop_keeper
    from netlab.lab import remove

    ensure_privileged()
    wanted = labs() if everything else [lab_name(lab)]
    for name in wanted:
        started = time.monotonic()
        if remove(name, wait=wait):
            click.echo(f"{name}: down in {time.monotonic() - started:.2f} s")
        else:
            raise UsageError(f"there is no lab {name}", f"labs here: {', '.join(labs()) or 'none'}")
    if not wanted:
        click.echo("no lab is up")
    if not labs():
        stop_keeper()
