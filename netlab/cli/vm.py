"""`netlab vm`: small virtual machines on a private layer-2 network."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from netlab.cli.common import output_option, print_json, without_dashes
from netlab.cli.run import PASS_ON
from netlab.errors import UsageError

if TYPE_CHECKING:
    from netlab.vm.client import VmNetwork
    from netlab.vm.guest import GuestVm

DEFAULT = "vms"
DETACH = "Ctrl-]"

network_option = click.option("--network", default=DEFAULT, show_default=True, help="The VMs' network, by name.")


@click.group("vm", context_settings={"max_content_width": 100})
def vm_command() -> None:
    """Small virtual machines with a stock Debian kernel, on one private layer-2 network.

    They start in seconds, need no root, and leave nothing: what is written in them lives as long as they do. netlab
    itself is inside, as the `netlab` command and as the folder /netlab.
    """


@vm_command.command("up")
@click.option("-n", "--count", default=1, show_default=True, type=click.IntRange(1, 32), help="How many VMs.")
@click.option("--memory", default=1024, show_default=True, type=click.IntRange(256), help="MiB each may use.")
@network_option
def up_command(count: int, memory: int, network: str) -> None:
    """Start VMs: vm1 with 192.168.77.11, vm2 with 192.168.77.12 and so on.

    The first time this builds their image (about a minute).
    """
    import time

    from netlab.vm.client import VmNetwork

    _check_name(network)
    if found := VmNetwork.find(network):
        if len(found.vms) != count:
            raise UsageError(f"{network} is up with {len(found.vms)} VMs", "`netlab vm down` ends them")
        click.echo(f"{network} is up already")
        return
    started = time.monotonic()
    net = VmNetwork.start(
        network, count=count, memory=memory, detached=True, say=lambda line: click.echo(line, err=True)
    )
    _print(net)
    click.echo(f"ready in {time.monotonic() - started:.1f} s: `netlab vm exec 1 -- COMMAND`, `netlab vm down`")


@vm_command.command("down")
@network_option
def down_command(network: str) -> None:
    """End the VMs and everything that was made for them."""
    from netlab.vm.client import VmNetwork

    found = VmNetwork.find(network)
    if found is None:
        click.echo(f"{network} is not up")
        return
    found.end()
    click.echo(f"{network}: {len(found.vms)} VMs ended")


@vm_command.command("ls")
@output_option
def ls_command(output: str) -> None:
    """List the VMs of all networks."""
    from netlab.vm import folders
    from netlab.vm.client import VmNetwork

    found = [net for name in folders.names() if (net := VmNetwork.find(name))]
    if output == "json":
        print_json({net.name: net.describe() for net in found})
    elif not found:
        click.echo("no VM is up: `netlab vm up`")
    for net in found if output == "text" else ():
        click.echo(f"{net.name}:")
        _print(net)


@vm_command.command("exec", context_settings=PASS_ON)
@network_option
@click.argument("number", metavar="N")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def exec_command(network: str, number: str, command: tuple[str, ...]) -> None:
    """Run a COMMAND in VM number N: netlab vm exec 1 -- ip address

    Its exit status is netlab's own; standard input, the terminal and signals are passed through.
    """
    from netlab.vm.terminal import run_here

    sys.exit(run_here(_find(network, number), without_dashes(command)))


@vm_command.command("console")
@network_option
@click.argument("number", metavar="N")
def console_command(network: str, number: str) -> None:
    """Open the serial console of VM number N; Ctrl-] leaves it."""
    from netlab.vm.terminal import open_console

    vm = _find(network, number)
    click.echo(f"the console of {vm.name}; {DETACH} leaves it", err=True)
    open_console(vm.console_socket)


def _print(net: VmNetwork) -> None:
    for vm in net.describe():
        megabytes = f"{vm['memory'] >> 20} MB"
        story = f"Linux {vm['release']}, booted in {vm['boot_seconds']} s" if vm["state"] == "ready" else vm["why"]
        click.echo(f"  {vm['name']:<6} {vm['address']:<15} {vm['state']:<8} {megabytes:>7}  {story}")


def _find(network: str, number: str) -> GuestVm:
    from netlab.vm.client import VmNetwork

    found = VmNetwork.find(network)
    if found is None:
        raise UsageError(f"{network} is not up", "`netlab vm up` starts VMs")
    for vm in found.vms:
        if number in (vm.name, vm.name.removeprefix("vm")):
            return vm
    raise UsageError(f"there is no VM {number}", f"there are: {', '.join(vm.name for vm in found.vms)}")


def _check_name(network: str) -> None:
    from netlab.names import LABEL

    if not LABEL.match(network):
        raise UsageError(f"{network!r} is no name for a network", "use lower-case letters, digits and dashes")
