"""`netlab up`: make a lab what its topology file says."""

from __future__ import annotations

import shutil
import sys
from typing import TYPE_CHECKING, Any

import click

from netlab.cli.common import default_file, output_option, print_json
from netlab.cli.sctp import warn_of_sctp
from netlab.errors import UsageError

NO_BR_NETFILTER = """\
note: br_netfilter is not loaded: Services and cluster DNS do not work between the pods of one node
  hint: modprobe br_netfilter, which every node of a Kubernetes cluster has"""

if TYPE_CHECKING:
    from netlab.lab import Lab, Outcome


@click.command("up")
@click.argument("file", required=False, type=click.Path(allow_dash=True))
@click.option("-t", "--topo", type=click.Path(allow_dash=True), help="The topology file, as an option.")
@click.option("-n", "--name", help="Name the lab; the file's own name stands aside.")
@click.option(
    "--backend", metavar="B", help="Use this backend instead of the file's: bridge, vxlan, host-gw, ipip, udp."
)
@click.option("--forwarder", metavar="F", help="Backend udp: carry packets by this: auto, simple, batched, ebpf.")
@click.option("--proxy", metavar="P", help="Services in this mode: iptables, nftables, ipvs, none.")
@click.option("--dry-run", is_flag=True, help="Print the commands that would do it by hand, and change nothing.")
@click.option("--wait", default=30.0, show_default=True, help="Seconds to wait for another netlab on the same lab.")
@output_option
def up_command(
    file: str | None,
    topo: str | None,
    name: str | None,
    backend: str | None,
    forwarder: str | None,
    proxy: str | None,
    dry_run: bool,
    wait: float,
    output: str,
) -> None:
    """Make a lab what its topology FILE says (default: topology.yaml).

    Nothing that is right already is touched: run it again after an edit, after a mistake by hand, after a crash.
    """
    if file and topo:
        raise UsageError("two topology files were given", "give FILE or --topo, not both")
    from netlab.kernel.rootless import ensure_privileged
    from netlab.lab import Lab

    lab = Lab.load(file or topo or default_file(), backend=backend, forwarder=forwarder, name=name, proxy=proxy)
    ensure_privileged()
    if dry_run:
        _print_commands(lab.up(dry_run=True), output)
        return
    with _Progress(quiet=output == "json") as progress:
        outcome = lab.up(wait=wait, begin=progress.begin, progress=progress.advance)
    _report(lab, outcome, output)


def _print_commands(outcome: Outcome, output: str) -> None:
    from netlab.plan.text import commands

    lines = list(commands(outcome.ops))
    if output == "json":
        print_json({"commands": lines, "refusals": outcome.plan.refusals})
        return
    for line in lines:
        click.echo(line)
    for refusal in outcome.plan.refusals:
        click.echo(f"# left out in {refusal.netns}: {refusal.what}: {refusal.why}")
    if not lines:
        click.echo("# nothing to do")


def _report(lab: Lab, outcome: Outcome, output: str) -> None:
    """Say what was done."""
    from netlab.kernel import sysctl
    from netlab.plan.summary import FEW, numbered, summarize
    from netlab.topology.model import Proxy

    if output == "json":
        print_json(_json(lab, outcome))
        return
    for refusal in outcome.plan.refusals:
        click.echo(f"left out: {refusal.what}: {refusal.why}", err=True)
    topology = lab.topology
    if topology.proxy is not Proxy.NONE and not sysctl.has_br_netfilter():
        click.echo(NO_BR_NETFILTER, err=True)
    containers = ((f"pod {pod.name}", container) for pod in topology.pods for container in pod.containers)
    warn_of_sctp(topology.services, containers)
    size = (
        f"{numbered(len(topology.nodes), 'node')}, {numbered(len(topology.own_pods), 'pod')}, {topology.backend.type}"
    )
    if not outcome.ops:
        click.echo(f"{lab.name}: nothing to do ({size})")
        return
    width = shutil.get_terminal_size().columns
    for line in summarize(outcome.ops):
        is_count = len(outcome.ops) > FEW  # the others are commands, which stay whole to be copied
        click.echo(click.wrap_text(line, width, "  ", "        ") if is_count else f"  {line}")
    click.echo(f"{lab.name}: up ({size}) in {outcome.seconds:.2f} s")


def _json(lab: Lab, outcome: Outcome) -> dict[str, Any]:
    return {
        "lab": lab.name,
        "changed": bool(outcome.ops),
        "operations": len(outcome.ops),
        "seconds": round(outcome.seconds, 4),
        "refusals": outcome.plan.refusals,
    }


class _Progress:
    """A bar on a terminal; nothing where output goes to a file: the report's plain lines say it all."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet or not sys.stderr.isatty()
        self._bar: Any = None

    def begin(self, total: int) -> None:
        if not self._quiet and total:
            self._bar = click.progressbar(length=total, label="building", file=sys.stderr, width=30)
            self._bar.__enter__()

    def advance(self, done: int) -> None:
        if self._bar is not None:
            self._bar.update(done)

    def __enter__(self) -> _Progress:
        return self

    def __exit__(self, *exc: object) -> None:
        if self._bar is not None:
            self._bar.__exit__(None, None, None)
