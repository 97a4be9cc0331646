"""`netlab ls`: the labs on this machine."""

from __future__ import annotations

from typing import Any

import click

from netlab.cli.common import output_option, print_json
from netlab.cli.tables import print_table


@click.command("ls")
@output_option
def ls_command(output: str) -> None:
    """List the labs on this machine."""
    from netlab.found import labs
    from netlab.kernel.rootless import join_if_kept

    rows = [_row(name) for name in labs()] if join_if_kept() else []
    if output == "json":
        print_json(rows)
    elif rows:
        print_table(("LAB", "BACKEND", "NODES", "PODS", "FILE"), [[str(cell) for cell in row.values()] for row in rows])
    else:
        click.echo("no lab is up")


def _row(name: str) -> dict[str, Any]:
    from netlab.lab import Lab

    lab = Lab.find(name)
    if lab is None:
        return {"lab": name, "backend": "?", "nodes": "?", "pods": "?", "file": "(its folder is lost)"}
    topology = lab.topology
    return {
        "lab": name,
        "backend": topology.backend.type,
        "nodes": len(topology.nodes),
        "pods": len(topology.own_pods),
        "file": lab.source,
    }
