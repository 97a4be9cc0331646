"""`netlab inspect`: every object of a lab, as the kernel has it now."""

from __future__ import annotations

import click

from netlab.cli.common import complete_lab, complete_member, find_lab, join, output_option, print_json


@click.command("inspect")
@click.argument("lab", required=False, shell_complete=complete_lab)
@click.option("-m", "--member", shell_complete=complete_member, help="Only this pod, node or router.")
@output_option
def inspect_command(lab: str | None, member: str | None, output: str) -> None:
    """Show everything in a LAB, namespace by namespace, as the kernel has it now."""
    from netlab.plan.drift import name_of
    from netlab.plan.summary import member_of

    join()
    found = find_lab(lab)
    state = found.status().state
    wanted = {found.netns(member)} if member else set(state.objects)
    shown = {
        netns: sorted(state.objects[netns], key=lambda entry: entry.key)
        for netns in sorted(wanted & set(state.objects))
    }
    if output == "json":
        named = {
            netns: [{"kind": type(entry).__name__.lower(), "object": entry} for entry in entries]
            for netns, entries in shown.items()
        }
        print_json({"lab": found.name, "source": found.source, "namespaces": named})
        return
    for netns, entries in shown.items():
        click.echo(f"{member_of(netns)}  (ip netns exec {netns} ...)")
        for entry in entries:
            click.echo(f"  {name_of(entry)}{_details(entry)}")


def _details(entry: object) -> str:
    """Return an interface's properties, a setting's value, a ruleset's rules."""
    match type(entry).__name__:
        case "Sysctl":
            return f" = {getattr(entry, 'value', '')}"
        case "Ruleset":
            return "".join(f"\n      {rule}" for rule in getattr(entry, "rules", ()))
        case "Process":
            return f": {' '.join(getattr(entry, 'argv', ()))}"
        case "ControlPlane":
            return ": Services and cluster DNS"
        case "Forwarder":
            return (
                f": {getattr(entry, 'kind', '')}, {getattr(entry, 'dev', '')} to UDP port {getattr(entry, 'port', '')}"
            )
    words = []
    for name in ("vni", "port", "local", "parent", "master", "mtu", "mac"):
        value = getattr(entry, name, None)
        if value is not None and hasattr(entry, "up"):
            words.append(f"{name} {value}")
    if getattr(entry, "hairpin", False):
        words.append("hairpin")
    if not getattr(entry, "up", True):
        words.append("DOWN")
    return f"  {' '.join(words)}" if words else ""
