"""Every row of the DNS specification and every answer of CoreDNS's kubernetes plugin (facts.md 7.1 and 7.2)."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from netlab.dns.names import Name, labels_of
from netlab.dns.records import (
    Endpoint,
    Found,
    Kind,
    Outcome,
    Pod,
    PodRecords,
    Port,
    Record,
    Service,
    Srv,
    Type,
)
from netlab.dns.zone import Zone
from netlab.service.model import Protocol

V4, V6 = ip_address("10.96.0.50"), ip_address("fd00:96::50")
HTTP, METRICS = Port("http", Protocol.TCP, 80), Port("metrics", Protocol.TCP, 9100)
MX, NS, ANY, HTTPS = 15, 2, 255, 65
DB_PORT = (Port("sql", Protocol.TCP, 5432),)
SERVICES = (
    Service("default", "web", cluster_ips=(V4,), ports=(HTTP, Port("talk", Protocol.SCTP, 7))),
    Service("default", "dual", cluster_ips=(ip_address("10.96.0.51"), V6), ports=(HTTP,)),
    Service("default", "plain", cluster_ips=(ip_address("10.96.0.52"),), ports=(Port("", Protocol.TCP, 80),)),
    Service("default", "portless", cluster_ips=(ip_address("10.96.0.53"),)),
    Service(
        "default",
        "api",
        cluster_ips=(ip_address("10.96.0.54"),),
        ports=(HTTP,),
        endpoints=(Endpoint((ip_address("10.244.1.20"),), ports=(Port("http", Protocol.TCP, 8080),)),),
    ),
    Service(
        "default",
        "db",
        Kind.HEADLESS,
        ports=DB_PORT,
        endpoints=(
            Endpoint((ip_address("10.244.1.7"),), "db-0", ports=DB_PORT),
            Endpoint((ip_address("10.244.2.8"),), ports=(Port("sql", Protocol.TCP, 6543),)),
            Endpoint((ip_address("fd00:244::9"),), ports=DB_PORT),
            Endpoint((ip_address("10.244.2.10"),), "db-9", published=False, ports=DB_PORT),
        ),
    ),
    Service("default", "twice", Kind.HEADLESS, endpoints=(Endpoint((ip_address("10.244.1.30"),), ports=(HTTP,)),) * 2),
    Service(
        "default",
        "same-name",
        Kind.HEADLESS,
        endpoints=tuple(Endpoint((ip_address(f"10.244.1.4{n}"),), "one", ports=(HTTP,)) for n in range(2)),
    ),
    Service("default", "open", Kind.HEADLESS, endpoints=(Endpoint((ip_address("10.244.1.50"),)),)),
    Service("default", "short", Kind.HEADLESS, endpoints=(Endpoint((ip_address("fd00:244::"),)),)),
    Service("default", "nobody", Kind.HEADLESS, ports=DB_PORT),
    Service("default", "unready", Kind.HEADLESS, endpoints=(Endpoint((V4,), published=False, ports=DB_PORT),)),
    Service("default", "out", Kind.EXTERNAL_NAME, external_name="Example.com."),
    Service("default", "in", Kind.EXTERNAL_NAME, external_name="web.default.svc.cluster.local"),
    Service("default", "in-in", Kind.EXTERNAL_NAME, external_name="in.default.svc.cluster.local"),
    Service("default", "lost", Kind.EXTERNAL_NAME, external_name="no.default.svc.cluster.local"),
    Service("default", "self", Kind.EXTERNAL_NAME, external_name="self.default.svc.cluster.local"),
    Service("default", "ping", Kind.EXTERNAL_NAME, external_name="pong.default.svc.cluster.local"),
    Service("default", "pong", Kind.EXTERNAL_NAME, external_name="ping.default.svc.cluster.local"),
    Service("default", "literal", Kind.EXTERNAL_NAME, external_name="192.0.2.1"),
    Service("default", "literal6", Kind.EXTERNAL_NAME, external_name="2001:db8::1"),
    Service("default", "blank", Kind.EXTERNAL_NAME),
    Service("nowhere", "web", cluster_ips=(ip_address("10.96.0.99"),), ports=(HTTP,)),
)
PODS = (Pod("default", ip_address("10.244.1.7")), Pod("default", ip_address("fd00:244::9")))
NAMESPACES = ("default", "kube-system")


def zone(pod_records: PodRecords = PodRecords.INSECURE) -> Zone:
    return Zone.of(SERVICES, PODS, NAMESPACES, pod_records=pod_records)


def full(name: str) -> Name:
    """Return a name's labels; one that ends in "." stands as it is, others are under the cluster's domain."""
    return labels_of(name if name.endswith(".") else f"{name}.cluster.local" if name else "cluster.local")


def look_up(name: str, kind: int, pod_records: PodRecords = PodRecords.INSECURE) -> Found:
    return zone(pod_records).look_up(full(name), kind)


def text(record: Record) -> str:
    """Return a record's content as a person writes it, names without the cluster's domain."""

    def short(name: Name) -> str:
        return ".".join(name[:-2] if name[-2:] == ("cluster", "local") else (*name, ""))

    match record.value:
        case Srv(priority, weight, port, target):
            return f"{priority} {weight} {port} {short(target)}"
        case tuple(target):
            return short(target)
    return str(record.value)


FOUND = [
    # 7.1, row by row
    ("dns-version", Type.TXT, ["1.1.0"]),
    ("web.default.svc", Type.A, ["10.96.0.50"]),
    ("dual.default.svc", Type.A, ["10.96.0.51"]),
    ("dual.default.svc", Type.AAAA, ["fd00:96::50"]),
    ("_http._tcp.web.default.svc", Type.SRV, ["0 100 80 web.default.svc"]),
    ("_talk._sctp.web.default.svc", Type.SRV, ["0 100 7 web.default.svc"]),
    ("50.0.96.10.in-addr.arpa.", Type.PTR, ["web.default.svc"]),
    (f"{V6.reverse_pointer}.", Type.PTR, ["dual.default.svc"]),
    ("db.default.svc", Type.A, ["10.244.1.7", "10.244.2.8"]),
    ("db.default.svc", Type.AAAA, ["fd00:244::9"]),
    ("db-0.db.default.svc", Type.A, ["10.244.1.7"]),
    ("10-244-2-8.db.default.svc", Type.A, ["10.244.2.8"]),
    ("fd00-244--9.db.default.svc", Type.AAAA, ["fd00:244::9"]),
    (
        "_sql._tcp.db.default.svc",
        Type.SRV,
        [
            "0 33 5432 db-0.db.default.svc",
            "0 33 6543 10-244-2-8.db.default.svc",
            "0 33 5432 fd00-244--9.db.default.svc",
        ],
    ),
    ("7.1.244.10.in-addr.arpa.", Type.PTR, ["db-0.db.default.svc"]),
    (f"{ip_address('fd00:244::9').reverse_pointer}.", Type.PTR, ["fd00-244--9.db.default.svc"]),
    ("out.default.svc", Type.CNAME, ["Example.com."]),
    # names are case-insensitive by their labels; see test_dns_answer for the letters of the reply
    # 7.2: what exists without what one would expect
    ("plain.default.svc", Type.A, ["10.96.0.52"]),
    ("portless.default.svc", Type.A, ["10.96.0.53"]),
    ("open.default.svc", Type.A, ["10.244.1.50"]),
    ("10-244-1-50.open.default.svc", Type.A, ["10.244.1.50"]),
    # CoreDNS, handler_test.go: a Service's own name has the SRV records of all its ports; endpoints of every kind
    ("web.default.svc", Type.SRV, ["0 50 80 web.default.svc", "0 50 7 web.default.svc"]),
    ("dual.default.svc", Type.SRV, ["0 50 80 dual.default.svc"]),
    ("10-244-1-20.api.default.svc", Type.A, ["10.244.1.20"]),
    ("20.1.244.10.in-addr.arpa.", Type.PTR, ["10-244-1-20.api.default.svc"]),
    ("54.0.96.10.in-addr.arpa.", Type.PTR, ["api.default.svc"]),
    # a port without a name has its record at the Service's own name, and where any port is asked for
    ("plain.default.svc", Type.SRV, ["0 100 80 plain.default.svc"]),
    ("_._tcp.plain.default.svc", Type.SRV, ["0 100 80 plain.default.svc"]),
    ("_http._.web.default.svc", Type.SRV, ["0 100 80 web.default.svc"]),
    ("http.tcp.web.default.svc", Type.SRV, ["0 100 80 web.default.svc"]),
    ("_._.portless.default.svc", Type.A, ["10.96.0.53"]),
    # an address that ends in a colon
    ("fd00-244--0.short.default.svc", Type.AAAA, ["fd00:244::"]),
    # one endpoint in two slices; two endpoints of one hostname
    ("twice.default.svc", Type.A, ["10.244.1.30"]),
    ("_http._tcp.twice.default.svc", Type.SRV, ["0 50 80 10-244-1-30.twice.default.svc"]),
    ("one.same-name.default.svc", Type.A, ["10.244.1.40", "10.244.1.41"]),
    ("_http._tcp.same-name.default.svc", Type.SRV, ["0 50 80 one.same-name.default.svc"]),
    # ExternalName
    ("out.default.svc", Type.A, ["Example.com."]),
    ("out.default.svc", Type.AAAA, ["Example.com."]),
    ("in.default.svc", Type.A, ["web.default.svc", "10.96.0.50"]),
    ("in-in.default.svc", Type.A, ["in.default.svc", "web.default.svc", "10.96.0.50"]),
    ("in-in.default.svc", Type.CNAME, ["in.default.svc"]),
    ("lost.default.svc", Type.CNAME, ["no.default.svc"]),
    # pods: insecure answers whatever is asked
    ("10-244-1-7.default.pod", Type.A, ["10.244.1.7"]),
    ("192-0-2-1.kube-system.pod", Type.A, ["192.0.2.1"]),
    ("fd00-244--9.default.pod", Type.AAAA, ["fd00:244::9"]),
    ("--ffff-af4-107.default.pod", Type.A, ["10.244.1.7"]),
    ("10-244-1-7.default.pod", Type.SRV, ["0 100 0 10-244-1-7.default.pod"]),
    ("a.10-244-1-7.default.pod", Type.A, ["10.244.1.7"]),
    ("a.b.10-244-1-7.default.pod", Type.SRV, ["0 100 0 10-244-1-7.default.pod"]),
]


@pytest.mark.parametrize(("name", "kind", "want"), FOUND)
def test_a_name_has_its_records(name: str, kind: Type, want: list[str]) -> None:
    found = look_up(name, kind)
    assert found.outcome is Outcome.ANSWER
    assert [text(record) for record in found.answers] == want
    assert found.answers[0].name == full(name)
    assert {record.ttl for record in found.answers} == {28800 if kind is Type.TXT else 5}
    assert found.origin == (full(name)[-2:])


NODATA = [
    # empty names that others are under
    ("", Type.A),
    ("svc", Type.A),
    ("pod", Type.A),
    ("default.svc", Type.A),
    ("default.svc", NS),
    ("kube-system.svc", Type.SRV),
    ("default.pod", Type.A),
    ("in-addr.arpa.", Type.PTR),
    ("ip6.arpa.", Type.PTR),
    # known names of another type
    ("web.default.svc", MX),
    ("web.default.svc", ANY),
    ("web.default.svc", HTTPS),
    ("web.default.svc", Type.CNAME),
    ("web.default.svc", Type.AAAA),
    ("db-0.db.default.svc", Type.AAAA),
    ("fd00-244--9.db.default.svc", Type.A),
    ("portless.default.svc", Type.SRV),
    ("open.default.svc", Type.SRV),
    ("out.default.svc", Type.SRV),
    ("out.default.svc", MX),
    ("10-244-1-7.default.pod", Type.AAAA),
    # CoreDNS does not look at the name where it is asked for an SOA
    ("web.default.svc", Type.SOA),
    ("no.default.svc", Type.SOA),
    ("1.2.0.192.in-addr.arpa.", Type.SOA),
    # an ExternalName that leads nowhere inside the cluster
    ("lost.default.svc", Type.A),
    ("in.default.svc", Type.AAAA),
    ("self.default.svc", Type.A),
    ("ping.default.svc", Type.A),
]


@pytest.mark.parametrize(("name", "kind"), NODATA)
def test_a_name_without_this_type_is_nodata(name: str, kind: int) -> None:
    assert look_up(name, kind) == Found(Outcome.NODATA, full(name)[-2:])


NXDOMAIN = [
    "no-such.svc",
    "web.no-such.svc",
    "web.nowhere.svc",  # the Service is there, its namespace is not
    "no.default.svc",
    "web.kube-system.svc",
    "no.db.default.svc",
    "no.web.default.svc",
    "db-9.db.default.svc",  # not published
    "_no._tcp.web.default.svc",
    "_http._udp.web.default.svc",
    "_tcp.web.default.svc",
    "_._udp.plain.default.svc",
    "_._tcp.portless.default.svc",
    "fd00-244--.short.default.svc",
    "_http._tcp.10-244-1-20.api.default.svc",
    "a.b.c.web.default.svc",
    "nobody.default.svc",
    "unready.default.svc",
    "_sql._tcp.nobody.default.svc",
    "literal.default.svc",
    "literal6.default.svc",
    "blank.default.svc",
    "a.out.default.svc",
    "_http._tcp.out.default.svc",
    "web.default",
    "no",
    "a.dns-version",
    "no-such.pod",
    "10-244-1-7.no-such.pod",
    "10-244-1.default.pod",
    "10-244-1-256.default.pod",
    "web.default.pod",
    "fe80--1%eth0.default.pod",
    "a.b.c.10-244-1-7.default.pod",
    "10-244-1-7.a.default.pod",
    "99.0.96.10.in-addr.arpa.",  # of a namespace that is not
    "1.2.0.192.in-addr.arpa.",
    "10.2.244.10.in-addr.arpa.",  # not published
    "96.10.in-addr.arpa.",
    "1.50.0.96.10.in-addr.arpa.",
    "x.in-addr.arpa.",
    "0.ip6.arpa.",
    V6.reverse_pointer.replace("ip6", "0.ip6") + ".",
    f"{ip_address('fd00:96::51').reverse_pointer}.",
    f"{'_.' * 32}ip6.arpa.",
]


@pytest.mark.parametrize("name", NXDOMAIN)
@pytest.mark.parametrize("kind", [Type.A, Type.SRV, Type.TXT, Type.PTR, MX])
def test_no_such_name(name: str, kind: int) -> None:
    assert look_up(name, kind) == Found(Outcome.NXDOMAIN, full(name)[-2:])


HIDDEN = [  # names that exist, and are NXDOMAIN for a type that they lack: CoreDNS answers so
    ("", Type.TXT),
    ("svc", Type.TXT),
    ("default.svc", Type.TXT),
    ("default.pod", Type.TXT),
    ("in-addr.arpa.", Type.TXT),
    ("dns-version", Type.A),
    ("ns.dns", Type.TXT),
    ("ns.dns", Type.PTR),
    ("50.0.96.10.in-addr.arpa.", Type.A),
    (f"{V6.reverse_pointer}.", Type.TXT),
]


@pytest.mark.parametrize(("name", "kind"), HIDDEN)
def test_some_names_exist_for_some_types_only(name: str, kind: int) -> None:
    assert look_up(name, kind) == Found(Outcome.NXDOMAIN, full(name)[-2:])


@pytest.mark.parametrize("name", [".", "local.", "example.com.", "xcluster.local.", "arpa.", "ip6.int.", "10.in-addr."])
def test_other_names_are_outside(name: str) -> None:
    assert look_up(name, Type.A) == Found(Outcome.OUTSIDE)


@pytest.mark.parametrize(
    ("pod_records", "name", "want"),
    [
        (PodRecords.DISABLED, "10-244-1-7.default.pod", Outcome.NXDOMAIN),
        (PodRecords.DISABLED, "default.pod", Outcome.NXDOMAIN),
        (PodRecords.DISABLED, "pod", Outcome.NODATA),
        (PodRecords.VERIFIED, "10-244-1-7.default.pod", Outcome.ANSWER),
        (PodRecords.VERIFIED, "10-244-1-8.default.pod", Outcome.NXDOMAIN),
        (PodRecords.VERIFIED, "10-244-1-7.kube-system.pod", Outcome.NXDOMAIN),
        (PodRecords.VERIFIED, "fd00-244--9.default.pod", Outcome.NODATA),
        (PodRecords.VERIFIED, "fd00-0244--9.default.pod", Outcome.NXDOMAIN),  # another spelling
        (PodRecords.VERIFIED, "default.pod", Outcome.NODATA),
        (PodRecords.INSECURE, "10-244-1-8.default.pod", Outcome.ANSWER),
    ],
)
def test_pod_records(pod_records: PodRecords, name: str, want: Outcome) -> None:
    assert look_up(name, Type.A, pod_records).outcome is want


def test_srv_brings_the_addresses_of_its_targets_once() -> None:
    found = look_up("_sql._tcp.db.default.svc", Type.SRV)
    assert [(record.type, text(record)) for record in found.additional] == [
        (Type.A, "10.244.1.7"),
        (Type.A, "10.244.2.8"),
        (Type.AAAA, "fd00:244::9"),
    ]
    assert [record.name[0] for record in found.additional] == ["db-0", "10-244-2-8", "fd00-244--9"]
    assert [text(record) for record in look_up("dual.default.svc", Type.SRV).additional] == ["10.96.0.51", str(V6)]
    assert [text(r) for r in look_up("web.default.svc", Type.SRV).additional] == ["10.96.0.50"]
    assert not look_up("db.default.svc", Type.A).additional


@pytest.mark.parametrize(("count", "weight"), [(1, 100), (3, 33), (100, 1), (101, 1), (250, 1)])
def test_srv_weight_is_a_hundredth_part_and_at_least_one(count: int, weight: int) -> None:
    endpoints = tuple(Endpoint((ip_address(0x0AF40000 + n),), ports=(HTTP,)) for n in range(count))
    many = Zone.of([Service("a", "b", Kind.HEADLESS, endpoints=endpoints)], (), ["a"])
    found = many.look_up(full("_http._tcp.b.a.svc"), Type.SRV)
    assert len(found.answers) == count
    assert {record.value.weight for record in found.answers if isinstance(record.value, Srv)} == {weight}


def test_what_a_cname_leads_to_keeps_its_letters() -> None:
    end = Service("a", "end", cluster_ips=(V4,))
    alias = Service("a", "alias", Kind.EXTERNAL_NAME, external_name="End.A.svc.Cluster.local")
    found = Zone.of([alias, end], (), ["a"]).look_up(full("alias.a.svc"), Type.A)
    written = ("End", "A", "svc", "Cluster", "local")
    assert [(record.name, record.value) for record in found.answers] == [(full("alias.a.svc"), written), (written, V4)]


def test_a_long_chain_ends() -> None:
    chain = [
        Service("a", f"s{n}", Kind.EXTERNAL_NAME, external_name=f"s{n + 1}.a.svc.cluster.local") for n in range(20)
    ]
    end = Service("a", "s20", cluster_ips=(V4,))
    long = Zone.of([*chain, end], (), ["a"])
    assert long.look_up(full("s0.a.svc"), Type.A).outcome is Outcome.NODATA
    assert [record.type for record in long.look_up(full("s9.a.svc"), Type.A).answers] == [Type.CNAME] * 11 + [Type.A]
    assert long.look_up(full("s8.a.svc"), Type.A).outcome is Outcome.NODATA


def test_domain_and_ttl_are_the_clusters_own() -> None:
    own = Zone.of(SERVICES, PODS, NAMESPACES, domain="Lab.Example.", ttl=30)
    assert own.look_up(labels_of("web.default.svc.lab.example"), Type.A).answers[0].ttl == 30
    assert own.look_up(full("web.default.svc"), Type.A).outcome is Outcome.OUTSIDE
    (pointer,) = own.look_up(labels_of("50.0.96.10.in-addr.arpa"), Type.PTR).answers
    assert pointer.value == ("web", "default", "svc", "lab", "example")


@pytest.mark.parametrize("domain", ["", ".", "a..b", "x" * 64, "é.local", ".".join(["x" * 60] * 5)])
def test_a_domain_that_dns_cannot_carry_is_refused(domain: str) -> None:
    with pytest.raises(ValueError, match="cluster domain"):
        Zone.of((), (), (), domain=domain)


def test_names_that_dns_cannot_carry_are_left_out() -> None:
    endpoints = (Endpoint((V4,), "x" * 64, ports=(HTTP,)), Endpoint((ip_address("10.244.0.9"),), ports=(HTTP,)))
    odd = Zone.of(
        [Service("a", "b", Kind.HEADLESS, endpoints=endpoints), Service("a", "é", cluster_ips=(V4,))], (), "a"
    )
    assert [text(record) for record in odd.look_up(full("b.a.svc"), Type.A).answers] == ["10.244.0.9"]
    assert odd.look_up(full("é.a.svc"), Type.A).outcome is Outcome.NXDOMAIN
    assert odd.look_up(labels_of(V4.reverse_pointer), Type.PTR).outcome is Outcome.NXDOMAIN
