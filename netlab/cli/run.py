"""`netlab exec` and `netlab shell`: commands inside a lab."""

from __future__ import annotations

import os
from typing import NoReturn

import click

from netlab.cli.common import complete_member, find_lab, join, without_dashes

PASS_ON = {"ignore_unknown_options": True, "allow_interspersed_args": False}


@click.command("exec", context_settings=PASS_ON)
@click.option("-l", "--lab", help="The lab, where there are several.")
@click.argument("member", metavar="POD|NODE", shell_complete=complete_member)
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def exec_command(lab: str | None, member: str, command: tuple[str, ...]) -> None:
    """Run a COMMAND in a pod, node or router: netlab exec web-1 -- ping -c1 10.244.2.2

    Its exit status is netlab's own; standard input, the terminal and signals are passed through.
    """
    _execute(lab, member, without_dashes(command))


@click.command("shell")
@click.option("-l", "--lab", help="The lab, where there are several.")
@click.argument("member", metavar="POD|NODE", shell_complete=complete_member)
def shell_command(lab: str | None, member: str) -> None:
    """Open a shell in a pod, node or router."""
    os.environ["PS1"] = f"{member}\\$ "
    shell = os.environ.get("SHELL", "/bin/sh")
    argv = (shell, "--norc") if os.path.basename(shell) == "bash" else (shell,)
    _execute(lab, member, argv)


def _execute(reference: str | None, member: str, argv: tuple[str, ...]) -> NoReturn:
    from netlab.kernel import enter

    join()
    lab = find_lab(reference)
    enter.execute(argv, place=lab.place(member))
