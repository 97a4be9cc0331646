"""Every hop of a probe on every pod network and in every proxy mode, held against what is known to be right."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from netlab.codec import from_json
from netlab.control import protocol
from netlab.lab import Lab
from netlab.service.known import Known
from netlab.trace.collect import Mechanism
from netlab.trace.model import Trace, Verdict
from netlab.trace.question import Options, Protocol, ask
from netlab.trace.run import trace
from tests.root.trace_golden import check

pytestmark = pytest.mark.root

TOPOLOGY = """
backend: {backend}
proxy: {proxy}
nodes: 2
external: [client]
pods:
- {{name: p, node: n1}}
- {{name: near, node: n1}}
- name: web
  node: n2
  labels: {{app: web}}
  containers: [{{name: echo, ports: [8080, {{containerPort: 53, protocol: UDP}}]}}]
services:
- name: web
  type: NodePort
  clusterIP: 10.96.0.80
  selector: {{app: web}}
  ports: [{{port: 80, targetPort: 8080, nodePort: 30080}}]
"""
BACKENDS = {
    "vxlan": "vxlan",
    "host-gw": "host-gw",
    "udp-simple": "{type: udp, forwarder: simple}",
    "udp-batched": "{type: udp, forwarder: batched}",
}


@contextmanager
def lab_of(backend: str, proxy: str) -> Iterator[Lab]:
    """Bring a lab up in which everybody has heard of everybody: nothing is flooded any more."""
    with Lab.loads(TOPOLOGY.format(backend=backend, proxy=proxy), name="ways") as lab:
        for sender, receiver in (("p", "web"), ("p", "near"), ("client", "n1"), ("client", "n2"), ("n1", "web")):
            assert lab.exec(sender, ["ping", "-c1", "-W5", lab.address(receiver)]).returncode == 0
        yield lab


def probe(
    lab: Lab,
    src: str,
    dst: str,
    kind: Protocol | None = None,
    by: Mechanism | None = None,
) -> Trace:
    """Trace as the command does."""

    def known(namespace: str, name: str) -> Known:
        return from_json(Known, protocol.ask(lab.name, {"verb": "service", "namespace": namespace, "name": name}))

    snapshot = lab.snapshot
    question = ask(
        lab.topology,
        snapshot,
        (src, dst),
        protocol=kind,
        version=None,
        options=Options(),
        find_service=known,
        find_addresses=lambda member: lab.addresses(member, snapshot),
    )
    return trace(lab, question, by)


@pytest.mark.parametrize("backend", BACKENDS)
def test_pod_networks(backend: str) -> None:
    check_network(backend, BACKENDS[backend])


@pytest.mark.usefixtures("ipip")
def test_ipip() -> None:
    check_network("ipip", "ipip")


def check_network(name: str, backend: str) -> None:
    with lab_of(backend, "none") as lab:
        check(
            f"network-{name}",
            [
                probe(lab, "p", "web"),
                probe(lab, "p", "pod/web:8080"),
                probe(lab, "p", "web:53", Protocol.UDP),
                probe(lab, "p", "near"),
                probe(lab, "n1", "web"),
                probe(lab, "p", "web:9", Protocol.UDP),
            ],
        )


@pytest.mark.parametrize("proxy", ["iptables", "nftables"])
def test_services(proxy: str) -> None:
    check_services(proxy)


@pytest.mark.usefixtures("ipvs")
def test_services_of_ipvs() -> None:
    check_services("ipvs")


def check_services(proxy: str) -> None:
    with lab_of("vxlan", proxy) as lab:
        check(
            f"services-{proxy}",
            [
                probe(lab, "p", "svc/web:80"),
                probe(lab, "n1", "svc/web"),
                probe(lab, "client", "node/n1:30080"),
                probe(lab, "client", "node/n2:30080"),
                probe(lab, "web", "svc/web"),
            ],
        )


def test_packet_sockets_see_the_same_way() -> None:
    with lab_of("vxlan", "iptables") as lab:
        for target in ("web", "svc/web", "near"):
            one, other = (probe(lab, "p", target, by=by) for by in (Mechanism.EBPF, Mechanism.SOCKETS))
            assert one.verdict is other.verdict is Verdict.ANSWERED
            assert hops(one) == hops(other)


def hops(found: Trace) -> list[list[tuple[str, str, str]]]:
    return [
        [(hop.member, hop.device, hop.event) for hop in way.hops if hop.event in ("in", "out")] for way in found.ways
    ]
