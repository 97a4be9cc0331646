"""`netlab get`, `delete`, `scale` and `rollout`: the objects of a lab, in kubectl's words."""

from __future__ import annotations

import math
from typing import Any

import click

from netlab.cli.common import complete_lab, join, lab_name, output_option, print_json
from netlab.cli.tables import print_table
from netlab.control.protocol import ask
from netlab.control.resources import Reference, Resource, parse
from netlab.errors import NetlabError, UsageError
from netlab.topology.service import DEFAULT_NAMESPACE

COLUMNS = {
    Resource.SERVICES: ("name", "type", "cluster-ip", "external-ip", "ports"),
    Resource.ENDPOINTS: ("name", "endpoints"),
    Resource.ENDPOINT_SLICES: ("name", "service", "ports", "endpoints"),
    Resource.PODS: ("name", "ready", "status", "restarts", "ip", "node"),
    Resource.DEPLOYMENTS: ("name", "ready", "up-to-date", "available"),
    Resource.STATEFUL_SETS: ("name", "ready"),
    Resource.DAEMON_SETS: ("name", "desired", "current", "ready", "up-to-date", "available"),
    Resource.NODES: ("name", "status", "proxy", "internal-ip", "pod-cidr"),
    Resource.NAMESPACES: ("name", "status"),
}
IN_NO_NAMESPACE = (Resource.NODES, Resource.NAMESPACES)

lab_option = click.option("-l", "--lab", help="The lab, where there are several.", shell_complete=complete_lab)
namespace_option = click.option(
    "-n", "--namespace", default=DEFAULT_NAMESPACE, show_default=True, help="The namespace."
)


def control_plane(lab: str | None) -> str:
    """Return the name of the lab whose control plane is meant, with the rights to speak to it. Raises UsageError."""
    join()
    return lab_name(lab)


@click.command("get")
@lab_option
@namespace_option
@click.option("-A", "--all-namespaces", is_flag=True, help="Objects of every namespace.")
@output_option
@click.argument("words", metavar="KIND [NAME]...", nargs=-1, required=True)
def get_command(lab: str | None, namespace: str, all_namespaces: bool, output: str, words: tuple[str, ...]) -> None:
    """Show objects: services, endpoints, pods, deployments, statefulsets, daemonsets, endpointslices, nodes.

    There are namespaces too; all kinds have kubectl's short names.
    """
    wanted = parse(words)
    name = control_plane(lab)
    shown: list[Any] = []
    for kind in dict.fromkeys(reference.kind for reference in wanted):
        request = {"verb": "get", "kind": kind, "namespace": "" if all_namespaces else namespace}
        items = ask(name, request)["items"]
        names = [reference.name for reference in wanted if reference.kind is kind and reference.name]
        items = _pick(kind, items, names, namespace)
        if output == "json":
            shown += items
        else:
            _print_items(kind, items, all_namespaces=all_namespaces)
    if output == "json":
        print_json(shown)


def _pick(kind: Resource, items: list[dict[str, Any]], names: list[str], namespace: str) -> list[dict[str, Any]]:
    """Return the items of these names, all for none. Raises UsageError for one that is not there."""
    if not names:
        return items
    by_name = {item["name"]: item for item in items}
    missing = [name for name in names if name not in by_name]
    if missing:
        raise UsageError(
            f"there is no {Reference(kind, missing[0])} in namespace {namespace}", f"`netlab get {kind} -A`"
        )
    return [by_name[name] for name in names]


def _print_items(kind: Resource, items: list[dict[str, Any]], *, all_namespaces: bool) -> None:
    columns = (*(("namespace",) if all_namespaces and kind not in IN_NO_NAMESPACE else ()), *COLUMNS[kind])
    if not items:
        click.echo(f"no {kind}")
        return
    print_table([column.upper() for column in columns], [[str(item[column]) for column in columns] for item in items])


@click.command("delete")
@lab_option
@namespace_option
@click.option("-f", "--file", "files", multiple=True, type=click.Path(allow_dash=True), help="Delete what it declares.")
@click.argument("words", metavar="KIND NAME...", nargs=-1)
def delete_command(lab: str | None, namespace: str, files: tuple[str, ...], words: tuple[str, ...]) -> None:
    """Delete objects that `netlab apply` made, as `service/web` or by the file that declares them.

    A pod of a Deployment comes back under another name: delete the Deployment.
    """
    if files and words:
        raise UsageError("objects are named both by files and by words", "give one of the two")
    if files:
        from netlab.cli.apply import references

        wanted = [(reference, space) for file in files for reference, space in references(file)]
    else:
        wanted = [(reference, namespace) for reference in parse(words)]
    if any(not reference.name for reference, _ in wanted):
        raise UsageError("no object was named", "as in `netlab delete service/web`")
    keys = [{"kind": reference.kind, "namespace": space, "name": reference.name} for reference, space in wanted]
    for line in ask(control_plane(lab), {"verb": "delete", "keys": keys})["outcomes"]:
        click.echo(line)


@click.command("scale")
@lab_option
@namespace_option
@click.option("--replicas", type=click.IntRange(0, 100_000), required=True, help="How many pods there should be.")
@click.option("--wait", is_flag=True, help="Return when they are there and available.")
@click.argument("words", metavar="KIND/NAME", nargs=-1, required=True)
def scale_command(lab: str | None, namespace: str, replicas: int, wait: bool, words: tuple[str, ...]) -> None:
    """Change the number of pods of a Deployment or StatefulSet."""
    name = control_plane(lab)
    for reference in parse(words):
        key = {"kind": reference.kind, "namespace": namespace, "name": reference.name}
        ask(name, {"verb": "scale", "replicas": replicas, **key})
        click.echo(f"{reference} scaled")
        if wait:
            await_rollout(name, key, reference, 600.0)


@click.command("rollout")
@lab_option
@namespace_option
@click.option("--timeout", default=600.0, show_default=True, help="Seconds to wait at most.")
@click.argument("verb", type=click.Choice(["status", "restart"]))
@click.argument("words", metavar="KIND/NAME", nargs=-1, required=True)
def rollout_command(lab: str | None, namespace: str, timeout: float, verb: str, words: tuple[str, ...]) -> None:
    """Wait until a workload's pods are all new and available (`status`), or replace them all (`restart`)."""
    name = control_plane(lab)
    for reference in parse(words):
        key = {"kind": reference.kind, "namespace": namespace, "name": reference.name}
        if verb == "restart":
            ask(name, {"verb": "restart", **key})
            click.echo(f"{reference} restarted")
        else:
            await_rollout(name, key, reference, timeout)


def await_rollout(lab: str, key: dict[str, Any], reference: Reference, timeout: float) -> None:
    """Wait until a workload is rolled out, and say so. Raises NetlabError after `timeout` seconds."""
    answer = ask(lab, {"verb": "wait", "timeout": timeout, **key}, timeout=timeout + math.ceil(timeout / 10) + 5)
    if not answer["done"]:
        raise NetlabError(f"{reference} is not rolled out after {timeout:g} s: {answer['status']}", "`netlab get pods`")
    click.echo(f"{reference}: {answer['status']}")
