"""`netlab init` and `netlab schema`: what one needs to write a topology file."""

from __future__ import annotations

from pathlib import Path

import click

from netlab.cli.common import DEFAULT_FILES, print_json
from netlab.errors import NetlabError, UsageError


@click.command("init")
@click.argument("file", default=DEFAULT_FILES[0], type=click.Path(allow_dash=True))
@click.option("-f", "--force", is_flag=True, help="Replace a file that exists.")
def init_command(file: str, force: bool) -> None:
    """Write a commented topology FILE to start from (default: topology.yaml; - prints it)."""
    from netlab.topology.starter import starter

    text = starter()
    if file == "-":
        click.echo(text, nl=False)
        return
    try:
        with open(file, "w" if force else "x") as target:
            target.write(text)
    except FileExistsError as exc:
        raise UsageError(f"{file} exists already", "name another file, or use --force") from exc
    except OSError as exc:
        raise NetlabError(f"cannot write {file}: {exc.strerror}") from exc
    click.echo(f"wrote {file}; next: netlab up {Path(file)}")


@click.command("schema")
def schema_command() -> None:
    """Print the JSON Schema of topology files.

    In an editor with a YAML language server: `netlab schema > netlab.schema.json`, and as the file's first line
    `# yaml-language-server: $schema=netlab.schema.json`.
    """
    from netlab.topology.schema import json_schema

    print_json(json_schema())
