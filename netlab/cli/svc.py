"""`netlab svc`: a Service's rules on a node, as its kernel has them, with counters and in words."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.shell_completion import CompletionItem

from netlab.cli.common import complete_member, join, look_into, output_option, print_json
from netlab.errors import UsageError

if TYPE_CHECKING:
    from netlab.explain.report import View
    from netlab.found import FoundLab
    from netlab.service.known import Known

F = TypeVar("F", bound=Callable[..., Any])


def complete_node(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete the name of a cluster node."""
    try:
        topology = look_into(ctx.params.get("lab")).topology
    except UsageError:
        return []
    return [CompletionItem(node.name) for node in topology.cluster_nodes if node.name.startswith(incomplete)]


def _shared_options(command: F) -> F:
    """Add what both commands take."""
    for decorate in (
        output_option,
        click.option("-l", "--lab", help="The lab, where there are several."),
        click.option("--node", shell_complete=complete_node, help="Whose rules; the first node's without."),
        click.option("-n", "--namespace", default="default", show_default=True, help="The Service's namespace."),
        click.argument("service", metavar="SERVICE"),
    ):
        command = decorate(command)
    return command


@click.group("svc", context_settings={"max_content_width": 100})
def svc_command() -> None:
    """A Service's rules on a node: as the kernel has them, and in words."""


@svc_command.command("rules")
@_shared_options
def rules_command(service: str, namespace: str, node: str | None, lab: str | None, output: str) -> None:
    """Show every rule of a SERVICE on a node in a packet's order, with packets and bytes so far."""
    from netlab.explain.report import rules_json, rules_text

    view = _view(lab, service, namespace, node, None)
    _print(rules_json(view) if output == "json" else rules_text(view, _width()))


@svc_command.command("explain")
@click.option(
    "--from",
    "sender",
    metavar="MEMBER",
    shell_complete=complete_member,
    help="A pod's, node's or machine's packets only.",
)
@_shared_options
def explain_command(
    service: str, namespace: str, node: str | None, lab: str | None, output: str, sender: str | None
) -> None:
    """Say in words what a SERVICE's rules do, and with which probability each endpoint is chosen.

    With --from, what the packets of a pod or node meet on its own node, or those of a machine outside on --node: which
    conditions hold for them, and which do not.
    """
    from netlab.explain.report import explain_json, explain_text

    view = _view(lab, service, namespace, node, sender)
    _print(explain_json(view) if output == "json" else explain_text(view, _width()))


def _view(reference: str | None, service: str, namespace: str, node: str | None, sender: str | None) -> View:
    """Read the node's rules and pick the Service's."""
    from netlab.explain.question import ask
    from netlab.explain.read import read
    from netlab.explain.report import view
    from netlab.proxy.ipvs_netlink import virtual_servers

    join()
    lab = look_into(reference)
    known = find_known(lab, service, namespace)
    question = ask(lab.topology, lab.snapshot, service, namespace, node=node, sender=sender, known=known)
    _require_up(lab, question.node)
    reading = read(
        lambda argv: lab.exec(question.node, argv),
        lab.topology.families,
        f"{namespace}/{service}",
        servers=lambda version: virtual_servers(lab.netns(question.node), version),
    )
    return view(question, reading)


def find_known(lab: FoundLab, service: str, namespace: str) -> Known:
    """Return what the control plane knows of a Service, or, when it does not answer, what the topology says."""
    from netlab.codec import from_json
    from netlab.control import protocol
    from netlab.errors import NetlabError
    from netlab.service.known import Known, declared

    try:
        answer = protocol.ask(lab.name, {"verb": "service", "namespace": namespace, "name": service})
    except NetlabError:
        return declared(lab.topology, service, namespace)
    return from_json(Known, answer)


def _require_up(lab: FoundLab, node: str) -> None:
    from netlab.errors import NetlabError
    from netlab.kernel import netns

    if not netns.is_alive(lab.netns(node)):
        raise NetlabError(f"lab {lab.name} is not up: there is no namespace of node {node}", "run `netlab up`")


def _width() -> int:
    return shutil.get_terminal_size().columns


def _print(shown: Any) -> None:
    """Print lines, or a JSON value."""
    if isinstance(shown, dict):
        print_json(shown)
        return
    for line in shown:
        click.echo(line)
