"""`netlab completion`: the shell's completion script."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class


@click.command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion_command(shell: str) -> None:
    """Print the completion script for a SHELL: eval "$(netlab completion bash)" """
    from netlab.cli.main import cli

    kind = get_completion_class(shell)
    assert kind is not None, "click.Choice admits only shells that click knows"
    click.echo(kind(cli, {}, "netlab", "_NETLAB_COMPLETE").source())
