"""`netlab graph`: draw a lab."""

from __future__ import annotations

from pathlib import Path

import click

from netlab.cli.common import complete_lab, find_lab, looks_like_file
from netlab.errors import NetlabError


@click.command("graph")
@click.argument("lab", required=False, metavar="LAB|FILE", shell_complete=complete_lab)
@click.option("--mermaid", "kind", flag_value="mermaid", help="Mermaid flowchart, for Markdown.")
@click.option("--dot", "kind", flag_value="dot", help="Graphviz dot.")
@click.option("--svg", "kind", flag_value="svg", default="svg", help="A picture (the default).")
@click.option("-w", "--write", type=click.Path(), help="Write to this file; its ending chooses the format.")
def graph_command(lab: str | None, kind: str, write: str | None) -> None:
    """Draw a lab that is up, or a topology FILE that is not."""
    from netlab.graph import GraphFormat, render
    from netlab.lab import Lab

    found = Lab.load(lab) if lab and looks_like_file(lab) else find_lab(lab)
    endings = {".mmd": "mermaid", ".md": "mermaid", ".dot": "dot", ".gv": "dot", ".svg": "svg"}
    chosen = endings.get(Path(write).suffix, kind) if write else kind
    text = render(found.topology, found.snapshot, GraphFormat(chosen))
    if write is None:
        click.echo(text, nl=not text.endswith("\n"))
        return
    try:
        Path(write).write_text(text)
    except OSError as exc:
        raise NetlabError(f"cannot write {write}: {exc.strerror}") from exc
