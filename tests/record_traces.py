"""Record what a trace sees, for the unit tests of netlab.trace: `python -m tests.record_traces FILE SRC DST`.

The lab must be up and root is needed. A record is JSON: sightings with their bytes, the devices of the namespaces that
were seen, netlink messages about rules and connections. Addresses in the kernel's memory become small numbers; the
clock begins at 0. `tests.unit.recorded_traces` reads it.

What is in tests/golden/trace/recorded came from topologies/services.yaml (cluster-ip, tcp; nftables with that proxy),
topologies/udp-2.yaml (udp), and the rest from two nodes with six pods: without the bridge's FDB entries (flooded), with
--size 3000 (fragments), with a chain of iptables-legacy that returns and a rule that drops (legacy-drop).
"""

from __future__ import annotations

import json
import select
import time
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

import click

from netlab.cli.common import find_lab, join
from netlab.cli.trace import make_question
from netlab.kernel.lookup import KernelTables
from netlab.kernel.symbols import Symbols
from netlab.trace import netfilter_watch
from netlab.trace.headers import Ports
from netlab.trace.layout import Target
from netlab.trace.mark import table
from netlab.trace.netfilter_watch import NetfilterWatch
from netlab.trace.places import find_namespaces
from netlab.trace.probe import Probe
from netlab.trace.question import Options
from netlab.trace.sighting import Sighting
from netlab.trace.watch import Watch

KEPT = 128  # bytes of a packet
MESSAGES = 40  # of each kind in each namespace
WAIT = 1.0  # seconds


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.argument("src")
@click.argument("dst")
@click.option("--protocol")
@click.option("--size", type=int)
@click.option("--rules", is_flag=True, help="Keep the messages about rules and connections.")
def main(file: Path, src: str, dst: str, protocol: str | None, size: int | None, rules: bool) -> None:
    """Send one probe and write FILE."""
    join()
    lab = find_lab(None)
    question = make_question(lab, (src, dst), protocol, None, Options(size=size))
    namespaces = find_namespaces(lab)
    nodes = [lab.netns(node.name) for node in lab.topology.cluster_nodes]
    ports = Ports()
    probe = Probe(question, lab.netns(src.partition("/")[2] or src))
    target = Target(probe.cookie[:4], frozenset(ports.vxlan), frozenset(ports.tunnel))
    with (
        NetfilterWatch(nodes, table(probe.cookie), lab.folder.path) as listening,
        Watch(target, namespaces, ports) as watch,
    ):
        sightings = _send(probe, watch)
        messages = _messages(listening) if rules else []
        reasons = watch.reasons
    probe.close()
    tables = {name: KernelTables(name) for name in sorted({one.namespace for one in sightings if one.namespace})}
    symbols = Symbols()
    lines = [_sighting(one, sightings, reasons, symbols) for one in sightings]
    devices = {name: [asdict(device) for device in known.devices()] for name, known in tables.items()}
    content = {"question": str(question), "sightings": lines, "devices": devices, "messages": messages}
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(_lines(content))


def _send(probe: Probe, watch: Watch) -> list[Sighting]:
    found: list[Sighting] = []
    probe.send()
    ready = select.poll()
    ready.register(probe.fileno(), select.POLLIN | select.POLLERR)
    end = time.monotonic() + WAIT
    while time.monotonic() < end:
        if ready.poll(50):
            probe.receive()
        found += watch.take()
    return found


def _messages(listening: NetfilterWatch) -> list[list[Any]]:
    """Return messages as they came: the namespace, what reads it, netlink's type and the bytes."""
    return [
        [name, read.__name__.removeprefix("_from_"), kind, body.hex()]
        for name, listener, read in listening._listeners
        for kind, body in islice(netfilter_watch._received(listener), MESSAGES)
    ]


def _sighting(one: Sighting, among: list[Sighting], reasons: Any, symbols: Symbols) -> dict[str, Any]:
    buffers = list(dict.fromkeys(other.buffer for other in among))
    return {
        "time": one.time - min(other.time for other in among),
        "kind": one.kind.name,
        "namespace": one.namespace,
        "device": one.device,
        "ifindex": one.ifindex,
        "frame": one.frame.hex(),
        "packet": one.packet[:KEPT].hex(),
        "length": one.length,
        "direction": one.direction.name,
        "buffer": 1 + buffers.index(one.buffer) if one.buffer else 0,
        "mark": one.mark,
        "reason": reasons.get(one.reason, "") if one.reason else "",
        "place": symbols.name(one.location) if one.location else "",
    }


def _lines(content: dict[str, Any]) -> str:
    """Write one line for each sighting, device and message."""
    parts = [f'"question": {json.dumps(content["question"])}']
    for name in ("sightings", "messages"):
        parts.append(f'"{name}": [\n' + ",\n".join(json.dumps(one) for one in content[name]) + "\n]")
    devices = content["devices"]
    known = ",\n".join(
        f"{json.dumps(name)}: [\n" + ",\n".join(json.dumps(one) for one in devices[name]) + "\n]" for name in devices
    )
    parts.append(f'"devices": {{\n{known}\n}}')
    return "{" + ",\n".join(parts) + "}\n"


if __name__ == "__main__":
    main()
