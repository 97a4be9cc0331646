"""`netlab demo`: guided demos, each with a small lab of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.shell_completion import CompletionItem

from netlab.errors import NetlabError

if TYPE_CHECKING:
    from netlab.demo.model import Demo, Step


def complete_demo(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete the name of a demo."""
    from netlab.demo.model import names

    return [CompletionItem(name) for name in names() if name.startswith(incomplete)]


@click.command("demo")
@click.option("--no-wait", is_flag=True, help="Go on without waiting for Enter; so it is without a terminal.")
@click.argument("name", required=False, shell_complete=complete_demo)
def demo_command(no_wait: bool, name: str | None) -> None:
    """Show one thing step by step in a small lab, with the commands that reveal it. Without NAME: list the demos.

    The lab is taken down at the end, and when you leave with Ctrl-C.
    """
    from netlab.demo.model import load, names

    if name is None:
        for one in names():
            click.echo(f"{one:12} {load(one).title}")
        return
    waits = not no_wait and sys.stdin.isatty() and sys.stdout.isatty()
    _show(load(name), waits)


def _show(demo: Demo, waits: bool) -> None:
    from netlab.demo.model import lab_name

    click.secho(demo.title, bold=True)
    with tempfile.TemporaryDirectory(prefix="netlab-demo-") as folder:
        file = Path(folder) / "topology.yaml"
        file.write_text(demo.topology)
        _netlab("up", str(file))
        try:
            for step in demo.steps:
                _step(step, lab_name(demo.name), waits)
        finally:
            _netlab("down", lab_name(demo.name))


def _step(step: Step, lab: str, waits: bool) -> None:
    click.echo()
    for line in click.wrap_text(step.say, min(shutil.get_terminal_size().columns, 100)).splitlines():
        click.secho(line, fg="cyan")
    if step.run:
        click.secho(f"$ {step.run}", bold=True)
        if waits:
            click.pause("")
        sys.stdout.flush()
        done = subprocess.run(["sh", "-c", step.run], env=_environment(lab), check=False)
        if done.returncode and not step.fails:
            raise NetlabError(f"this step of the demo failed: {step.run}", "that should not be: please report it")
    elif waits:
        click.pause("")


def _environment(lab: str) -> dict[str, str]:
    """Return the environment of a step: `netlab` is this one, and means the demo's lab."""
    path = f"{Path(sys.argv[0]).absolute().parent}:{Path(sys.executable).parent}:{os.environ.get('PATH', '')}"
    return {**os.environ, "PATH": path, "NETLAB_LAB": lab}


def _netlab(*words: str) -> None:
    """Run a command of netlab's."""
    from netlab.cli.main import cli

    cli.main(list(words), prog_name="netlab", standalone_mode=False)
