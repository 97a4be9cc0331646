"""`netlab logs`: what a pod's containers, or a node's forwarder, have written."""

from __future__ import annotations

import click

from netlab.cli.common import complete_member, find_lab
from netlab.errors import UsageError


@click.command("logs")
@click.option("-l", "--lab", help="The lab, where there are several.")
@click.option("-c", "--container", help="Only this container.")
@click.option("--tail", type=int, help="Only so many last lines of each.")
@click.argument("pod", shell_complete=complete_member)
def logs_command(lab: str | None, container: str | None, tail: int | None, pod: str) -> None:
    """Show what the containers of a POD have written to their standard output and error.

    With the name of a node: what its forwarder has written (backend udp). With `control-plane`: what the lab's control
    plane has.
    """
    from netlab.supervisor.client import CONTROL_PLANE, FORWARDER

    found = find_lab(lab)
    entry = found.topology.find_pod(pod)
    names = [each.name for each in entry.containers] if entry else []
    if found.topology.backend.type == "udp" and found.topology.find_node(pod):
        names = [FORWARDER]
    if pod == CONTROL_PLANE and not entry:
        names = [CONTROL_PLANE]
    if not names or (container and container not in names):
        has = f"it has {', '.join(names)}" if names else "it has no containers"
        raise UsageError(f"there is no log of {pod}{f' container {container}' if container else ''}", has)
    for name in [container] if container else names:
        if len(names) > 1 and not container:
            click.echo(f"==> {name}", err=True)
        for line in found.log_lines(pod, name)[-tail if tail else None :]:
            click.echo(line)
