"""`netlab address`: the address of a member, for use in other commands."""

from __future__ import annotations

import click

from netlab.cli.common import complete_member, find_lab
from netlab.errors import UsageError


@click.command("address")
@click.option("-l", "--lab", help="The lab, where there are several.")
@click.option("-6", "--ipv6", is_flag=True, help="The IPv6 address.")
@click.argument("member", metavar="POD|NODE", shell_complete=complete_member)
def address_command(lab: str | None, ipv6: bool, member: str) -> None:
    """Print the address of a pod, node or router: ping $(netlab address web-2)"""
    found = find_lab(lab)
    addresses = found.addresses(member, found.snapshot)
    wanted = [address for address in addresses if address.version == (6 if ipv6 else addresses[0].version)]
    if not wanted:
        raise UsageError(f"{member} of lab {found.name} has no IPv6 address")
    click.echo(str(wanted[0]))
