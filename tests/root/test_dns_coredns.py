"""Cluster DNS against CoreDNS itself: both know one cluster, are asked the same, and say the same."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from ipaddress import ip_address
from pathlib import Path
from typing import Any, NamedTuple

import dns.edns
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import pytest

from netlab.dns.records import PodRecords
from netlab.dns.zone_file import Cluster, write
from netlab.kernel import netns
from tests.root.dns_cluster import CLUSTER, NAMES, POD_NAMES
from tests.root.fake_api import serving
from tests.root.serving import V4, open_socket, program, room, wait_until
from tests.tier.report import OPTIONAL

pytestmark = pytest.mark.root

VERSION = "1.15.0"  # of CoreDNS, from which the table below was made
COREFILE = """
cluster.local:{port} in-addr.arpa:{port} ip6.arpa:{port} {{
    kubernetes cluster.local in-addr.arpa ip6.arpa {{
        endpoint {api}
        pods {pods}
    }}
}}
"""
NAME = f"nl-tc{os.getpid()}.dns"
OURS = {mode: 5300 + number for number, mode in enumerate(PodRecords)}  # ports
THEIRS = {mode: 5310 + number for number, mode in enumerate(PodRecords)}
PATIENCE = 2.0  # seconds for one answer

TYPES = ("A", "AAAA", "SRV", "PTR", "TXT", "CNAME", "NS", "SOA", "MX", "ANY", "HTTPS", "AXFR")
# Why answers are other ones, by name and type.
OVERLOOKED = "CoreDNS reads four nibbles at a time and overlooks those that are left (dnsutil/reverse.go)"
NO_CASE = "CoreDNS looks for its own name servers in the letters of the question; names have no case (RFC 4343)"
NS_NAME = "Ns.dns.cluster.LOCAL."
ON_PURPOSE: Mapping[tuple[str, str], str] = {
    (f"x.{ip_address('fd00:96::50').reverse_pointer}.", "PTR"): OVERLOOKED,
    ("CLUSTER.local.", "NS"): NO_CASE,
    **{(NS_NAME, kind): NO_CASE for kind in ("A", "AAAA", "SRV", "CNAME", "NS", "MX", "ANY", "HTTPS")},
}
# In answers about these the letters are not compared: compression points to a name whatever its letters are (RFC 1035,
# 4.1.4), and CoreDNS does not compress what has room.
IN_ANY_LETTERS = {
    "DB-0.db.default.svc.cluster.local.",
    "WEB.Default.SVC.cluster.local.",
    "in.default.SVC.Cluster.local.",
    "DB.default.svc.cluster.LOCAL.",
    "FD00-244--9.default.pod.cluster.local.",
    NS_NAME,
}


class Said(NamedTuple):
    """A reply, as far as the two can be compared: sections sorted, the SOA's serial (a time) left out.

    Of sections that are cut only the lengths.
    """

    rcode: str
    flags: str
    question: tuple[str, ...]
    answers: tuple[str, ...]
    authority: tuple[str, ...]
    additional: tuple[str, ...]
    edns: str


def read(reply: dns.message.Message) -> Said:
    def records(section: list[dns.rrset.RRset]) -> tuple[str, ...]:
        lines = [line for rrset in section for line in rrset.to_text().splitlines()]
        return tuple(sorted(re.sub(r"(SOA \S+ \S+) \d+", r"\1 SERIAL", line) for line in lines))

    if reply.flags & dns.flags.TC:  # which ones are left out is chance, as with CoreDNS's plugin loadbalance
        answers: tuple[str, ...] = (f"{len(records(reply.answer))} records",)
        additional: tuple[str, ...] = (f"{len(records(reply.additional))} records",)
    else:
        answers, additional = records(reply.answer), records(reply.additional)
    edns = dns.flags.edns_to_text(reply.ednsflags) if reply.edns >= 0 else "none"
    return Said(
        dns.rcode.to_text(reply.rcode()),
        dns.flags.to_text(reply.flags),
        tuple(rrset.to_text() for rrset in reply.question),
        answers,
        records(reply.authority),
        additional,
        edns,
    )


@pytest.fixture(scope="module")
def coredns() -> str:
    found = shutil.which("coredns")
    if found is None:
        pytest.skip(f"{OPTIONAL}there is no CoreDNS: go install github.com/coredns/coredns@v{VERSION}")
    said = subprocess.run([found, "-version"], capture_output=True, text=True, check=True).stdout.split()[0]
    if said != f"CoreDNS-{VERSION}":
        pytest.skip(f"{OPTIONAL}this is {said}, and {VERSION} is what cluster DNS is held against")
    return found


@contextmanager
def coredns_running(coredns: str, folder: Path, api: str) -> Iterator[None]:
    """Run CoreDNS with a server for each of the ways in which pods have names."""
    corefile = folder / "Corefile"
    corefile.write_text("".join(COREFILE.format(port=port, api=api, pods=mode) for mode, port in THEIRS.items()))
    argv = [coredns, "-conf", str(corefile), "-quiet"]

    def start() -> subprocess.Popen[bytes]:
        return subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    process = netns.call(NAME, start)
    try:
        yield
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def servers(coredns: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Run both with the same cluster, and wait until each knows it."""
    folder = tmp_path_factory.mktemp("dns")
    with ExitStack() as stack:
        stack.enter_context(room(NAME))
        api = stack.enter_context(serving(NAME, CLUSTER))
        stack.enter_context(coredns_running(coredns, folder, api))
        for mode, port in OURS.items():
            zone = folder / mode
            write(zone, Cluster(CLUSTER.services, CLUSTER.namespaces, CLUSTER.pods, pod_records=mode))
            stack.enter_context(program(NAME, "netlab.dns", str(zone), "--port", str(port)))
        for port in (*OURS.values(), *THEIRS.values()):
            wait_until(lambda port=port: knows(port))  # type: ignore[misc]
        yield


def knows(port: int) -> bool:
    with suppress(OSError):
        return bool(ask(port, query("web.default.svc.cluster.local.", "A")).answers)
    return False


def query(name: str, kind: str, payload: int | None = 1232, flags: str = "RD") -> bytes:
    message = dns.message.make_query(name, kind, use_edns=payload is not None, payload=payload or 0, id=7)
    message.flags = dns.flags.from_text(flags)
    return message.to_wire()


def ask(port: int, wire: bytes, *, udp: bool = True) -> Said:
    with open_socket(NAME, socket.SOCK_DGRAM if udp else socket.SOCK_STREAM) as client:
        client.settimeout(PATIENCE)
        client.connect((V4, port))
        if udp:
            client.send(wire)
            return read(dns.message.from_wire(client.recv(65535)))
        client.sendall(len(wire).to_bytes(2, "big") + wire)
        with client.makefile("rb") as stream:
            return read(dns.message.from_wire(stream.read(int.from_bytes(stream.read(2), "big"))))


def differences(wires: Mapping[str, bytes], mode: PodRecords = PodRecords.INSECURE, *, udp: bool = True) -> list[str]:
    """Return what differs, in words, by what was asked: a name and more."""
    found = []
    for asked, wire in wires.items():
        ours, theirs = ask(OURS[mode], wire, udp=udp), ask(THEIRS[mode], wire, udp=udp)
        letters = str.lower if asked.split()[0] in IN_ANY_LETTERS else str
        for field, one, other in zip(Said._fields, ours, theirs, strict=True):
            if letters(str(one)) != letters(str(other)):
                found.append(f"{asked}: {field}: {one}, and CoreDNS: {other}")
    return found


@pytest.mark.usefixtures("servers")
@pytest.mark.parametrize("kind", TYPES)
def test_names_have_the_same_records(kind: str) -> None:
    asked = {f"{name} {kind}": query(name, kind) for name in NAMES if (name, kind) not in ON_PURPOSE}
    assert differences(asked) == []


@pytest.mark.usefixtures("servers")
def test_what_is_another_answer_on_purpose_still_is() -> None:
    for name, kind in ON_PURPOSE:
        assert differences({f"{name} {kind}": query(name, kind)}), (name, kind)


@pytest.mark.usefixtures("servers")
@pytest.mark.parametrize("mode", PodRecords)
def test_pods_have_the_same_names(mode: PodRecords) -> None:
    asked = {f"{name} {kind}": query(name, kind) for name in POD_NAMES for kind in TYPES}
    assert differences(asked, mode) == []


@pytest.mark.usefixtures("servers")
@pytest.mark.parametrize("udp", [True, False], ids=["udp", "tcp"])
@pytest.mark.parametrize("name", ["many", "in-many", "_sql._tcp.many", "web", "no", "db"])
def test_what_is_too_long_is_cut_in_the_same_place(name: str, udp: bool) -> None:
    sizes = (None, 0, 100, 512, 600, 1232, 1500, 2000, 4096, 65535)
    full = f"{name}.default.svc.cluster.local."
    asked = {f"{full} {kind} {size}": query(full, kind, size) for size in sizes for kind in ("A", "AAAA", "SRV")}
    assert differences(asked, udp=udp) == []


WEB = query("web.default.svc.cluster.local.", "A", None)
HEADER = 12  # bytes
OPTIONS = [dns.edns.GenericOption(dns.edns.OptionType.make(number), b"") for number in (3, 65001)]  # NSID; nobody's


def opcode(number: int) -> bytes:
    return WEB[:2] + bytes([WEB[2] | number << 3]) + WEB[3:]


def questions(count: int) -> bytes:
    return WEB[:4] + count.to_bytes(2, "big") + WEB[6:HEADER] + WEB[HEADER:] * count


def changed(**options: Any) -> bytes:
    return dns.message.make_query("web.default.svc.cluster.local.", "A", **options).to_wire()


HEADERS: Mapping[str, bytes] = {
    "no flags": query("web.default.svc.cluster.local.", "A", flags=""),
    "checking disabled": query("web.default.svc.cluster.local.", "A", flags="RD CD"),
    "authentic": query("web.default.svc.cluster.local.", "A", flags="RD AD"),
    "chaos": changed(rdclass="CH"),
    "any class": changed(rdclass="ANY"),
    "EDNS 1": changed(use_edns=1, payload=1232),
    "EDNS elsewhere": query("example.com.", "A", 4096),
    "EDNS options": changed(use_edns=0, options=OPTIONS),
    "DNSSEC": changed(want_dnssec=True),
    "DNSSEC of nothing": dns.message.make_query("no.cluster.local.", "A", want_dnssec=True).to_wire(),
    **{f"opcode {number}": opcode(number) for number in (1, 2, 3, 5, 6, 15)},
    **{f"{count} questions": questions(count) for count in (0, 2)},
    **{f"type {kind}": query("cluster.local.", kind) for kind in ("IXFR", "OPT", "TSIG", "TYPE0", "DNSKEY", "DS")},
}
STRICTER: Mapping[str, tuple[bytes, str]] = {  # with our answer, where CoreDNS answers as if nothing were wrong
    "NOTIFY": (opcode(4), "NOTIMP"),  # RFC 1996: cluster DNS has no primary
    "bytes behind the message": (WEB + b"x", "FORMERR"),
    "two OPT records": (
        WEB[:11] + b"\2" + WEB[HEADER:] + (b"\0\0\x29\4\xd0" + bytes(6)) * 2,
        "FORMERR",
    ),  # RFC 6891, 6.1.1
}


@pytest.mark.usefixtures("servers")
@pytest.mark.parametrize("what", HEADERS)
def test_a_header_is_answered_alike(what: str) -> None:
    assert differences({what: HEADERS[what]}) == []


@pytest.mark.usefixtures("servers")
@pytest.mark.parametrize("what", STRICTER)
def test_what_is_malformed_is_said_where_coredns_does_not(what: str) -> None:
    wire, rcode = STRICTER[what]
    mode = PodRecords.INSECURE
    assert (ask(OURS[mode], wire).rcode, ask(THEIRS[mode], wire).rcode) == (rcode, "NOERROR")
