"""The words of a command line: every form, and what is said about each that makes no sense."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netlab.errors import UsageError
from netlab.service.known import Known
from netlab.service.model import Protocol as ServiceProtocol
from netlab.service.model import ServicePort
from netlab.store.store import Snapshot
from netlab.topology.addresses import Address
from netlab.topology.model import Node, Role, Topology
from netlab.topology.service import Service, ServiceType
from netlab.trace.question import KINDS, Options, Protocol, Question, Reference, ask, parse
from tests.labs import topology

BASE = topology("shop", nodes=2, pods=2, dual_stack=True)
LAB = replace(BASE, nodes=(*BASE.nodes, Node("client", "underlay", Role.EXTERNAL)))
ADDRESSES = {
    "p-1": ("10.244.1.2", "fd00:10:244:1::2"),
    "p-2": ("10.244.2.2", "fd00:10:244:2::2"),
    "n1": ("172.18.0.2",),
    "n2": ("172.18.0.3",),
    "client": (),
}
WEB4, WEB6 = ip_address("10.96.0.80"), ip_address("fd00:10:96::80")


def port(name: str, number: int, address: Address = WEB4, protocol: str = "TCP") -> ServicePort:
    return ServicePort("default", "web", name, ServiceProtocol(protocol), address, number)


WEB = (port("http", 80), port("dns", 53, protocol="UDP"), port("sip", 99, protocol="SCTP"), port("http", 80, WEB6))
NAMES = (("default", "web"), ("default", "db"), ("shop", "web"))
SERVICES = {
    ("default", "web"): Known(Service("web"), WEB, names=NAMES),
    ("shop", "web"): Known(Service("web", "shop"), WEB[1:2], names=NAMES),
    ("default", "peers"): Known(Service("peers", headless=True), names=NAMES),
    ("default", "outside"): Known(Service("outside", type=ServiceType.EXTERNAL_NAME), names=NAMES),
    ("default", "new"): Known(Service("new"), names=NAMES),
}


def question(
    src: str,
    dst: str,
    *,
    protocol: Protocol | None = None,
    version: int | None = None,
    lab: Topology = LAB,
    names: tuple[tuple[str, str], ...] = NAMES,
) -> Question:
    return ask(
        lab,
        Snapshot(),
        (src, dst),
        protocol=protocol,
        version=version,
        options=Options(),
        find_service=lambda namespace, name: SERVICES.get((namespace, name), Known(names=names)),
        find_addresses=lambda member: [ip_address(one) for one in ADDRESSES[member]],
    )


# --- references ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "kind", "name", "port"),
    [
        ("web-1", "", "web-1", ""),
        ("web-1:80", "", "web-1", "80"),
        ("pod/web-1:http", "pod", "web-1", "http"),
        ("svc/web", "svc", "web", ""),
        ("svc/web.shop:http-alt", "svc", "web.shop", "http-alt"),
        ("node/n1:30080", "node", "n1", "30080"),
        ("10.96.0.80", "", "10.96.0.80", ""),
        ("10.96.0.80:80", "", "10.96.0.80", "80"),
        ("fd00::80", "", "fd00::80", ""),
        ("fd00::80:80", "", "fd00::80:80", ""),
        ("::1", "", "::1", ""),
        ("1:2:3:4:5:6:7:8", "", "1:2:3:4:5:6:7:8", ""),
        ("[fd00::80]:80", "", "fd00::80", "80"),
        ("[fd00::80]", "", "fd00::80", ""),
        ("::ffff:10.0.0.1", "", "::ffff:10.0.0.1", ""),
        ("dead:80", "", "dead", "80"),
    ],
)
def test_references(text: str, kind: str, name: str, port: str) -> None:
    assert parse(text) == Reference(kind, name, port)


@pytest.mark.parametrize("kind", KINDS)
def test_every_word_for_a_kind(kind: str) -> None:
    assert parse(f"{kind}/x").kind == KINDS[kind]
    assert KINDS[kind] in ("pod", "node", "svc", "machine")


@pytest.mark.parametrize(
    "text", ["", "/", "pod/", "pot/web", "web:", "web:80:90", "a/b/c", "web:-1", "[::1", "[]", "web 1:"]
)
def test_what_is_no_reference(text: str) -> None:
    with pytest.raises(UsageError) as raised:
        parse(text)
    assert repr(text) in raised.value.message
    assert raised.value.hint == "write pod/NAME, node/NAME, svc/NAME:PORT, a name or an address"


@given(st.text("ab1:./[]%-", max_size=12))
def test_any_text_is_a_reference_or_refused(text: str) -> None:
    try:
        found = parse(text)
    except UsageError:
        return
    assert found.name


# --- questions -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dst", "address", "protocol", "number"),
    [
        ("p-2", "10.244.2.2", "icmp", 0),
        ("pod/p-2", "10.244.2.2", "icmp", 0),
        ("p-2:8080", "10.244.2.2", "tcp", 8080),
        ("node/n1:30080", "172.18.0.2", "tcp", 30080),
        ("10.1.2.3", "10.1.2.3", "icmp", 0),
        ("10.1.2.3:65535", "10.1.2.3", "tcp", 65535),
        ("[fd00::1]:80", "fd00::1", "tcp", 80),
        ("svc/web", "10.96.0.80", "tcp", 80),
        ("svc/web:80", "10.96.0.80", "tcp", 80),
        ("svc/web:http", "10.96.0.80", "tcp", 80),
        ("svc/web:dns", "10.96.0.80", "udp", 53),
        ("svc/web.shop", "10.96.0.80", "udp", 53),
        ("service/web.default", "10.96.0.80", "tcp", 80),
    ],
)
def test_what_is_asked(dst: str, address: str, protocol: str, number: int) -> None:
    wanted = Question("p-1", dst, ip_address(address), Protocol(protocol), number, Options())
    assert question("p-1", dst) == wanted


def test_the_protocol_may_be_said() -> None:
    assert question("p-1", "p-2", protocol=Protocol.TCP).port == 80
    assert question("p-1", "p-2", protocol=Protocol.UDP).port == 33434
    assert question("p-1", "p-2:7", protocol=Protocol.UDP).port == 7
    assert question("p-1", "svc/web", protocol=Protocol.UDP).protocol is Protocol.UDP


def test_the_version_may_be_said() -> None:
    assert question("p-1", "p-2", version=6).address == ip_address("fd00:10:244:2::2")
    assert question("p-1", "svc/web", version=6).address == WEB6
    assert question("p-1", "svc/web", version=4).address == WEB4


def test_the_source_is_kept_by_its_name_alone() -> None:
    assert question("pod/p-1", "p-2").source == "p-1"
    assert question("machine/client", "p-2").source == "client"
    assert question("node/n1", "p-2").source == "n1"


def test_a_question_in_words() -> None:
    assert str(question("p-1", "svc/web")) == "p-1 -> svc/web (tcp to 10.96.0.80:80)"
    assert str(question("p-1", "p-2")) == "p-1 -> p-2 (icmp to 10.244.2.2)"
    assert str(question("p-1", "[fd00::1]:80")) == "p-1 -> [fd00::1]:80 (tcp to [fd00::1]:80)"
    assert str(question("p-1", "fd00::1")) == "p-1 -> fd00::1 (icmp to fd00::1)"


# --- what makes no sense ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("src", "dst", "message", "hint"),
    [
        ("p-9", "p-2", "lab shop has no member 'p-9'", "did you mean p-"),
        ("zzz", "p-2", "lab shop has no member 'zzz'", "there are n1, n2, client, p-1, p-2"),
        ("node/p-1", "p-2", "lab shop has no node 'p-1'", "there are n1, n2"),
        ("node/n11", "p-2", "lab shop has no node 'n11'", "did you mean n1"),
        ("pod/n1", "p-2", "lab shop has no pod 'n1'", "there are p-1, p-2"),
        ("machine/n1", "p-2", "lab shop has no machine 'n1'", "there are client"),
        ("p-1", "node/client", "lab shop has no node 'client'", "there are n1, n2"),
        ("p-1", "p-9", "lab shop has no member 'p-9'", "did you mean p-"),
        ("svc/web", "p-2", "service 'web' cannot send", "a Service is only an address: trace from a pod or node"),
        ("p-1:80", "p-2", "'p-1:80': a source has no port", "the kernel chooses one"),
        ("p-1", "p-2:http", "'http' is not a port's number", "names of ports are for Services"),
        ("p-1", "p-2:0", "there is no port 0", "ports are 1 to 65535"),
        ("p-1", "p-2:65536", "there is no port 65536", "ports are 1 to 65535"),
        ("p-1", "svc/wep", "there is no service 'wep'", "did you mean web"),
        ("p-1", "svc/zzz", "there is no service 'zzz'", "there are web, db, web.shop"),
        ("p-1", "svc/web.shops", "there is no service 'web.shops'", "did you mean web.shop"),
        ("p-1", "svc/web:81", "service web has no port '81'", "it has 80/TCP, 53/UDP, 99/SCTP"),
        ("p-1", "svc/web:web", "service web has no port 'web'", "it has 80/TCP"),
        ("p-1", "svc/web:sip", "port 99 of service web is SCTP", "probes are TCP, UDP or ICMP"),
        ("p-1", "svc/peers", "service peers has no cluster IP", "it is one of names only: trace to one of its pods"),
        ("p-1", "svc/outside", "service outside has no cluster IP", "it is one of names only"),
        ("p-1", "svc/new", "service new has no rules yet", "see `netlab status`"),
        ("p-1", "client", "client has no address", "see `netlab inspect`"),
    ],
)
def test_errors_say_what_is_there(src: str, dst: str, message: str, hint: str) -> None:
    with pytest.raises(UsageError) as raised:
        question(src, dst)
    assert raised.value.message == message
    assert hint in raised.value.hint


def test_an_echo_request_has_no_port() -> None:
    for dst in ("p-2:80", "svc/web"):
        with pytest.raises(UsageError, match="an echo request has no port") as raised:
            question("p-1", dst, protocol=Protocol.ICMP)
        assert raised.value.hint == "leave --icmp or the port out"


def test_an_address_of_a_version_that_is_not_there() -> None:
    with pytest.raises(UsageError, match="n1 has no IPv6 address"):
        question("p-1", "n1", version=6)
    with pytest.raises(UsageError, match=r"web\.shop has no IPv6 address"):
        question("p-1", "svc/web.shop", version=6)


def test_a_lab_without_any_of_a_kind() -> None:
    for kind, lab in {"pod": topology("shop", pods=0), "machine": BASE}.items():
        with pytest.raises(UsageError) as raised:
            question(f"{kind}/n1", "n2", lab=lab)
        assert raised.value.message == f"lab shop has no {kind} 'n1'"
        assert raised.value.hint == "there are none"


def test_a_lab_without_services() -> None:
    with pytest.raises(UsageError) as raised:
        question("p-1", "svc/zzz", names=())
    assert raised.value.hint == "there are none"
