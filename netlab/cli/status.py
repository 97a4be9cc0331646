"""`netlab status` and what it shows of a lab: members, addresses, routes, drift."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from netlab.cli.common import complete_lab, find_lab, join, output_option, print_json
from netlab.cli.tables import print_table

if TYPE_CHECKING:
    from netlab.lab import Lab, Status
    from netlab.supervisor.client import ProcessState

FEW_NODES = 8  # routes are listed for so many nodes, and counted beyond
DRIFTED = 1


@click.command("status")
@click.argument("lab", required=False, shell_complete=complete_lab)
@click.option("--counters", is_flag=True, help="Backend udp: also what the nodes' forwarders carried and dropped.")
@output_option
@click.pass_context
def status_command(ctx: click.Context, lab: str | None, counters: bool, output: str) -> None:
    """Show a LAB: nodes, pods, addresses, routes, and drift.

    Drift is what was changed by hand since `netlab up`, which also repairs it. Exit status 1 when there is any.
    """

    join()
    found = find_lab(lab)
    status = found.status()
    shown = _view(found, status)
    if counters:
        for row in shown["forwarders"]:
            row["counters"] = found.counters(row["node"])
    if output == "json":
        print_json(shown)
    else:
        _print(shown)
    ctx.exit(DRIFTED if shown["drift"] else 0)


def _view(lab: Lab, status: Status) -> dict[str, Any]:
    """Gather what there is to say, as JSON values."""
    from netlab import names
    from netlab.plan.build import pod_mtu
    from netlab.plan.drift import differences, name_of
    from netlab.plan.objects import ControlPlane, Forwarder, Process, Route
    from netlab.plan.summary import member_of

    topology, snapshot = lab.topology, lab.snapshot
    nodes = []
    for node in topology.nodes:
        lease = snapshot.leases.get(node.name)
        have = status.state.objects.get(names.netns(lab.name, node.name), frozenset())
        routes = sorted(name_of(entry).removeprefix("route ") for entry in have if isinstance(entry, Route))
        addresses = lease.public_ips if lease else snapshot.machines[node.name]
        cidrs = [str(cidr) for cidr in lease.pod_cidrs] if lease else []
        row = {"node": node.name, "addresses": [str(address) for address in addresses], "podCIDRs": cidrs}
        nodes.append({**row, "pods": sum(pod.node == node.name for pod in topology.pods), "routes": routes})
    pods = []
    for pod in topology.pods:
        found = lab.addresses(pod.name, snapshot)
        up = lab.netns(pod.name) in status.state.objects
        pods.append({"pod": pod.name, "node": pod.node, "addresses": [str(a) for a in found], "up": up})
    first = topology.cluster_nodes[0].name
    kept = lab.keeper.states()
    return {
        "lab": lab.name,
        "backend": topology.backend,
        "podMTU": pod_mtu(topology, first),
        "up": bool(status.state.objects),
        "nodes": nodes,
        "pods": pods,
        "containers": [
            {"pod": entry.owner, "container": entry.name, **_life(entry)}
            for entry in kept
            if isinstance(entry.process, Process)
        ],
        "forwarders": [
            {"node": entry.owner, "forwarder": entry.said, **_life(entry)}
            for entry in kept
            if isinstance(entry.process, Forwarder)
        ],
        "proxy": topology.proxy,
        "controlPlane": next((_life(entry) for entry in kept if isinstance(entry.process, ControlPlane)), None),
        "refusals": [f"{member_of(entry.netns)}: {entry.what}: {entry.why}" for entry in status.plan.refusals],
        "drift": [str(entry) for entry in differences(status.drift)],
        "foreign": [
            f"{member_of(netns)}: {name_of(entry)}"
            for netns, entries in sorted(status.state.foreign.items())
            for entry in sorted(entries, key=lambda entry: entry.key)
        ],
    }


def _life(entry: ProcessState) -> dict[str, Any]:
    """Return what became of a process."""
    return {
        "state": entry.life,
        "pid": entry.pid,
        "restarts": entry.restarts,
        "exitStatus": entry.exit_status,
        "signal": entry.signal,
        "reason": entry.reason,
    }


def _print(shown: dict[str, Any]) -> None:
    click.echo(
        f"{shown['lab']}: {'up' if shown['up'] else 'DOWN'}, {shown['backend'].type}, pod MTU {shown['podMTU']}\n"
    )
    nodes = [
        (row["node"], " ".join(row["addresses"]), " ".join(row["podCIDRs"]) or "-", str(row["pods"]))
        for row in shown["nodes"]
    ]
    print_table(("NODE", "ADDRESS", "PODCIDR", "PODS"), nodes)
    pods = [
        (row["pod"], row["node"], " ".join(row["addresses"]), "up" if row["up"] else "DOWN") for row in shown["pods"]
    ]
    if pods:
        click.echo()
        print_table(("POD", "NODE", "ADDRESS", "STATE"), pods)
    if shown["containers"]:
        click.echo()
        rows = [(row["pod"], row["container"], *_cells(row)) for row in shown["containers"]]
        print_table(("POD", "CONTAINER", "STATE", "PID", "RESTARTS"), rows)
    _print_forwarders(shown["forwarders"])
    if control := shown["controlPlane"]:
        state, pid, restarts = _cells(control)
        click.echo(f"\nServices: {shown['proxy']}; control plane {state}, pid {pid}, {restarts} restarts")
    routes = [(row["node"], route) for row in shown["nodes"] for route in row["routes"]]
    if routes and len(shown["nodes"]) <= FEW_NODES:
        click.echo()
        print_table(("NODE", "ROUTE"), routes)
    for title, key in (("left out by design", "refusals"), ("made by somebody else, left alone", "foreign")):
        if shown[key]:
            click.echo(f"\n{title}:")
            for line in shown[key]:
                click.echo(f"  {line}")
    if shown["drift"]:
        click.echo("\ndrift (`netlab up` repairs it):")
        for line in shown["drift"]:
            click.echo(f"  {line}")
    else:
        click.echo("\ndrift: none")


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    """Return a process's cells; one that does not run says why."""
    state = row["state"] if row["pid"] or not _end(row) else f"{row['state']} ({row['reason'] or _end(row)})"
    return state, str(row["pid"] or "-"), str(row["restarts"])


def _end(row: dict[str, Any]) -> str:
    """Say how a process ended last; empty when it has not."""
    if row["signal"] is not None:
        return f"signal {row['signal']}"
    return f"exit {row['exitStatus']}" if row["exitStatus"] is not None else str(row["reason"])


def _print_forwarders(rows: list[dict[str, Any]]) -> None:
    """Show what carries packets between the nodes, what happened to it, and its counters where they were asked for."""
    if not rows:
        return
    click.echo()
    cells = [(row["node"], row["forwarder"] or "-", *_cells(row), _end(row) or "-") for row in rows]
    print_table(("NODE", "FORWARDER", "STATE", "PID", "RESTARTS", "LAST END"), cells)
    if "counters" in rows[0]:
        from netlab.tunnel.counters import TOTALS

        click.echo()
        header = ("NODE", *("SENT", "BYTES", "BATCHES"), *("RECEIVED", "BYTES", "BATCHES"), "DROPPED")
        totals = [[str(row["counters"].get(name, 0)) for name in TOTALS] for row in rows]
        print_table(header, [(row["node"], *cells, _drops(row)) for row, cells in zip(rows, totals, strict=True)])


def _drops(row: dict[str, Any]) -> str:
    """Return the reasons for which packets were dropped, those that there were."""
    from netlab.tunnel.packet import Drop

    return ", ".join(f"{name} {row['counters'][name]}" for name in Drop if row["counters"].get(name)) or "-"
