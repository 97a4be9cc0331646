"""Cluster DNS against CoreDNS itself: both know one cluster, are asked the same, and say the same.

What CoreDNS said is recorded in tests/golden/dns/coredns.json. With CoreDNS in PATH it is asked again and must say what
is recorded; NETLAB_GOLDEN=write records it.
"""

from __future__ import annotations

import json
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
HEADER = 12  # bytes
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


GOLDEN = Path("tests/golden/dns/coredns.json")


class Said(NamedTuple):
    """A reply, as far as the two can be compared: sections sorted, the SOA's serial (a time) left out.

    Of sections that are cut only the lengths. The question is told only where it is not that of the query.
    """

    rcode: str
    flags: str
    question: tuple[str, ...]
    answers: tuple[str, ...]
    authority: tuple[str, ...]
    additional: tuple[str, ...]
    edns: str


def read(wire: bytes, asked: bytes) -> Said:
    """Return what a reply says to a query."""
    reply = dns.message.from_wire(wire)

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
        () if is_repeated(wire, asked) else tuple(rrset.to_text() for rrset in reply.question),
        answers,
        records(reply.authority),
        additional,
        edns,
    )


def is_repeated(wire: bytes, asked: bytes) -> bool:
    """Say whether a reply has the query's only question, letter by letter."""
    if wire[4:6] != asked[4:6] or asked[4:6] != b"\0\1":
        return False
    _, size = dns.name.from_wire(asked, HEADER)
    end = HEADER + size + 4  # type and class
    return wire[HEADER:end] == asked[HEADER:end]


class CoreDns:
    """What CoreDNS says: as it is recorded, or a server that runs, which `close` holds against the record."""

    def __init__(self, *, runs: bool) -> None:
        found = json.loads(GOLDEN.read_text()) if GOLDEN.exists() else {"said": [], "asked": {}}
        said = [Said(*(tuple(part) if isinstance(part, list) else part for part in one)) for one in found["said"]]
        self._recorded = {key: said[number] for key, number in found["asked"].items()}
        self._runs = runs
        self._heard: dict[str, Said] = {}

    def ask(self, mode: PodRecords, wire: bytes, asked: str, *, udp: bool = True) -> Said:
        """Return its answer to a query; `asked` names the query."""
        key = f"{mode} {'udp' if udp else 'tcp'} {asked}"
        if not self._runs:
            return self._recorded[key]
        self._heard[key] = ask(THEIRS[mode], wire, udp=udp)
        return self._heard[key]

    def close(self) -> None:
        """Record what was heard, or compare it with the record."""
        if os.environ.get("NETLAB_GOLDEN") == "write" and self._runs:
            said = sorted(set(self._heard.values()))
            numbers = {one: number for number, one in enumerate(said)}
            entries = {key: numbers[one] for key, one in sorted(self._heard.items())}
            GOLDEN.parent.mkdir(exist_ok=True)
            GOLDEN.write_text(json.dumps({"said": said, "asked": entries}, indent=0) + "\n")
            return
        assert {key: self._recorded.get(key) for key in self._heard} == self._heard


def find_coredns() -> str | None:
    """Return CoreDNS of the version that was recorded, if it is here."""
    found = shutil.which("coredns")
    if found is None:
        return None
    said = subprocess.run([found, "-version"], capture_output=True, text=True, check=True).stdout.split()[0]
    return found if said == f"CoreDNS-{VERSION}" else None


@contextmanager
def coredns_running(program_file: str, folder: Path) -> Iterator[None]:
    """Run CoreDNS with a server for each of the ways in which pods have names."""
    with serving(NAME, CLUSTER) as api:
        corefile = folder / "Corefile"
        corefile.write_text("".join(COREFILE.format(port=port, api=api, pods=mode) for mode, port in THEIRS.items()))
        argv = [program_file, "-conf", str(corefile), "-quiet"]

        def start() -> subprocess.Popen[bytes]:
            return subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

        process = netns.call(NAME, start)
        try:
            yield
        finally:
            process.kill()
            process.wait()


@pytest.fixture(scope="module")
def coredns(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CoreDns]:
    """Run netlab's server, and CoreDNS where it is here, with the same cluster; wait until each knows it."""
    folder = tmp_path_factory.mktemp("dns")
    program_file = find_coredns()
    with ExitStack() as stack:
        stack.enter_context(room(NAME))
        if program_file:
            stack.enter_context(coredns_running(program_file, folder))
        for mode, port in OURS.items():
            zone = folder / mode
            write(zone, Cluster(CLUSTER.services, CLUSTER.namespaces, CLUSTER.pods, pod_records=mode))
            stack.enter_context(program(NAME, "netlab.dns", str(zone), "--port", str(port)))
        for port in (*OURS.values(), *(THEIRS.values() if program_file else ())):
            wait_until(lambda port=port: knows(port))  # type: ignore[misc]
        found = CoreDns(runs=bool(program_file))
        yield found
        found.close()


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
            return read(client.recv(65535), wire)
        client.sendall(len(wire).to_bytes(2, "big") + wire)
        with client.makefile("rb") as stream:
            return read(stream.read(int.from_bytes(stream.read(2), "big")), wire)


def differences(
    coredns: CoreDns, wires: Mapping[str, bytes], mode: PodRecords = PodRecords.INSECURE, *, udp: bool = True
) -> list[str]:
    """Return what differs, in words, by what was asked: a name and more."""
    found = []
    for asked, wire in wires.items():
        ours, theirs = ask(OURS[mode], wire, udp=udp), coredns.ask(mode, wire, asked, udp=udp)
        letters = str.lower if asked.split()[0] in IN_ANY_LETTERS else str
        for field, one, other in zip(Said._fields, ours, theirs, strict=True):
            if letters(str(one)) != letters(str(other)):
                found.append(f"{asked}: {field}: {one}, and CoreDNS: {other}")
    return found


@pytest.mark.parametrize("kind", TYPES)
def test_names_have_the_same_records(coredns: CoreDns, kind: str) -> None:
    asked = {f"{name} {kind}": query(name, kind) for name in NAMES if (name, kind) not in ON_PURPOSE}
    assert differences(coredns, asked) == []


def test_what_is_another_answer_on_purpose_still_is(coredns: CoreDns) -> None:
    for name, kind in ON_PURPOSE:
        assert differences(coredns, {f"{name} {kind}": query(name, kind)}), (name, kind)


@pytest.mark.parametrize("mode", PodRecords)
def test_pods_have_the_same_names(coredns: CoreDns, mode: PodRecords) -> None:
    asked = {f"{name} {kind}": query(name, kind) for name in POD_NAMES for kind in TYPES}
    assert differences(coredns, asked, mode) == []


@pytest.mark.parametrize("udp", [True, False], ids=["udp", "tcp"])
@pytest.mark.parametrize("name", ["many", "in-many", "_sql._tcp.many", "web", "no", "db"])
def test_what_is_too_long_is_cut_in_the_same_place(coredns: CoreDns, name: str, udp: bool) -> None:
    sizes = (None, 0, 100, 512, 600, 1232, 1500, 2000, 4096, 65535)
    full = f"{name}.default.svc.cluster.local."
    asked = {f"{full} {kind} {size}": query(full, kind, size) for size in sizes for kind in ("A", "AAAA", "SRV")}
    assert differences(coredns, asked, udp=udp) == []


WEB = query("web.default.svc.cluster.local.", "A", None)
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


@pytest.mark.parametrize("what", HEADERS)
def test_a_header_is_answered_alike(coredns: CoreDns, what: str) -> None:
    assert differences(coredns, {what: HEADERS[what]}) == []


@pytest.mark.parametrize("what", STRICTER)
def test_what_is_malformed_is_said_where_coredns_does_not(coredns: CoreDns, what: str) -> None:
    wire, rcode = STRICTER[what]
    mode = PodRecords.INSECURE
    assert (ask(OURS[mode], wire).rcode, coredns.ask(mode, wire, what).rcode) == (rcode, "NOERROR")
