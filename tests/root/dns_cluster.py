"""A cluster with every kind of Service that DNS tells apart, and the names that are asked of it."""

from __future__ import annotations

from ipaddress import ip_address

from netlab.dns.records import Endpoint, Kind, Pod, Port, Service
from netlab.dns.zone_file import Cluster
from netlab.topology.service import Protocol
from tests.root.serving import V4

HTTP, METRICS = Port("http", Protocol.TCP, 80), Port("metrics", Protocol.TCP, 9100)
SQL = (Port("sql", Protocol.TCP, 5432),)
DNS_PORTS = (Port("dns", Protocol.UDP, 53), Port("dns-tcp", Protocol.TCP, 53), METRICS)


def _cluster_ip(
    name: str, *addresses: str, ports: tuple[Port, ...] = (HTTP,), endpoints: tuple[Endpoint, ...] = ()
) -> Service:
    return Service("default", name, cluster_ips=tuple(map(ip_address, addresses)), ports=ports, endpoints=endpoints)


def _headless(name: str, *endpoints: Endpoint, ports: tuple[Port, ...] = SQL) -> Service:
    return Service("default", name, Kind.HEADLESS, ports=ports, endpoints=endpoints)


def _external(name: str, target: str) -> Service:
    return Service("default", name, Kind.EXTERNAL_NAME, external_name=target)


def _pod(address: str, hostname: str = "", ports: tuple[Port, ...] = SQL, *, ready: bool = True) -> Endpoint:
    return Endpoint((ip_address(address),), hostname, ready, ports)


SERVICES = (
    Service("kube-system", "kube-dns", Kind.CLUSTER_IP, (ip_address("10.96.0.10"),), "", DNS_PORTS, (_pod(V4),)),
    _cluster_ip("web", "10.96.0.50", ports=(HTTP, Port("talk", Protocol.SCTP, 7))),
    _cluster_ip("dual", "10.96.0.51", "fd00:96::50", ports=(HTTP, METRICS)),
    _cluster_ip("plain", "10.96.0.52", ports=(Port("", Protocol.TCP, 80),)),
    _cluster_ip("portless", "10.96.0.53", ports=()),
    _cluster_ip("api", "10.96.0.54", endpoints=(_pod("10.244.1.20"), _pod("10.244.1.21", "api-1"))),
    _cluster_ip("same", "10.96.0.55", ports=(Port("a", Protocol.TCP, 80), Port("b", Protocol.UDP, 80))),
    _headless(
        "db",
        _pod("10.244.1.7", "db-0"),
        _pod("10.244.2.8", ports=(Port("sql", Protocol.TCP, 6543), METRICS)),
        _pod("fd00:244::9"),
        _pod("fd00:244::"),
        _pod("10.244.2.10", "db-9", ready=False),
    ),
    _headless("two", Endpoint((ip_address("10.244.1.60"), ip_address("fd00:244::60")), "two-0", ports=SQL)),
    _headless("twice", _pod("10.244.1.30"), _pod("10.244.1.30")),
    _headless("twins", _pod("10.244.1.40", "one"), _pod("10.244.1.41", "one")),
    _headless(
        "silent", _pod("10.244.1.50", ports=()), _pod("10.244.1.51", ports=(Port("", Protocol.TCP, 9),)), ports=()
    ),
    _headless("mixed", _pod("10.244.1.52", ports=()), _pod("10.244.1.53"), _pod("10.244.1.54")),
    _headless("nobody"),
    _headless("unready", _pod("10.244.1.55", "gone", ready=False)),
    _headless("many", *(_pod(f"10.244.3.{number}", f"many-{number}") for number in range(1, 120))),
    _external("out", "Example.com."),
    _external("in", "web.default.svc.cluster.local"),
    _external("in-in", "in.default.svc.cluster.local"),
    _external("in-many", "many.default.svc.cluster.local"),
    _external("lost", "no.default.svc.cluster.local"),
    _external("self", "self.default.svc.cluster.local"),
    _external("ping", "pong.default.svc.cluster.local"),
    _external("pong", "ping.default.svc.cluster.local"),
    _external("literal", "192.0.2.1"),
    _external("literal6", "2001:db8::1"),
    *(_external(f"hop-{n}", f"hop-{n + 1}.default.svc.cluster.local") for n in range(14)),
    _external("hop-14", "web.default.svc.cluster.local"),
)
PODS = (Pod("default", ip_address("10.244.1.7")), Pod("default", ip_address("fd00:244::9")))
CLUSTER = Cluster(SERVICES, ("default", "empty", "kube-system"), PODS)

IN_DEFAULT = (  # below default.svc.cluster.local
    *(service.name for service in SERVICES if service.namespace == "default"),
    *("kube-dns", "no", "x.web", "x.y.z.web", "_http._tcp.x.web"),
    *(
        "_http._tcp.web",
        "_http._udp.web",
        "_no._tcp.web",
        "_tcp.web",
        "_http.web",
        "_talk._sctp.web",
        "_http._sctp.web",
    ),
    *("_http._sctp.web", "http.tcp.web", "_http.tcp.web", "http._tcp.web", "_._tcp.web", "_http._.web", "_._.web"),
    *("_http._tcp.dual", "_metrics._tcp.dual", "_._tcp.dual", "_._tcp.plain", "_tcp._tcp.plain", "_a._tcp.same"),
    "_tcp._http.web",
    *("_http._tcp.portless", "_._tcp.portless", "_http._tcp.api", "_sql._tcp.api", "10-244-1-20.api", "api-1.api"),
    *("_sql._tcp.db", "_metrics._tcp.db", "db-0.db", "DB-0.db", "db-9.db", "db-1.db", "_sql._tcp.db-0.db"),
    *("10-244-1-7.db", "10-244-2-8.db", "fd00-244--9.db", "fd00-244--.db", "fd00-244--0.db", "two-0.two"),
    *("_sql._tcp.two", "10-244-1-60.two", "_sql._tcp.twice", "10-244-1-30.twice", "one.twins", "_sql._tcp.twins"),
    *("_._tcp.silent", "10-244-1-50.silent", "10-244-1-51.silent", "_sql._tcp.mixed", "_sql._tcp.nobody", "x.nobody"),
    *("gone.unready", "_sql._tcp.unready", "many-7.many", "_http._tcp.out", "x.out", "_http._tcp.in", "*", "*.web"),
)
NAMES = (
    *(f"{name}.default.svc.cluster.local." for name in IN_DEFAULT),
    *(f"{name}.cluster.local." for name in ("svc", "pod", "default.svc", "empty.svc", "nowhere.svc", "empty.pod")),
    *(f"{name}.cluster.local." for name in ("nowhere.pod", "web.nowhere.svc", "web.empty.svc", "web.kube-system.svc")),
    *(f"{name}.cluster.local." for name in ("dns-version", "x.dns-version", "ns.dns", "x.ns.dns", "dns", "apex.dns")),
    *(f"{name}.cluster.local." for name in ("kube-dns.kube-system.svc", "_dns._udp.kube-dns.kube-system.svc", "no")),
    *(
        "cluster.local.",
        "web.default.",
        "local.",
        "example.com.",
        ".",
        "in-addr.arpa.",
        "ip6.arpa.",
        "ns.dns.in-addr.arpa.",
    ),
    *(ip_address(text).reverse_pointer + "." for text in ("10.96.0.50", "10.96.0.10", "10.244.1.7", "10.244.2.8")),
    *(ip_address(text).reverse_pointer + "." for text in ("10.244.1.30", "10.244.1.40", "10.244.1.20", "10.244.2.10")),
    *(ip_address(text).reverse_pointer + "." for text in ("fd00:96::50", "fd00:244::9", "fd00:244::", "fd00::1", V4)),
    *("10.in-addr.arpa.", "0.96.10.in-addr.arpa.", "1.50.0.96.10.in-addr.arpa.", "x.0.96.10.in-addr.arpa."),
    *("0.d.f.ip6.arpa.", f"x.{ip_address('fd00:96::50').reverse_pointer}."),
    *("WEB.Default.SVC.cluster.local.", "web.default.svc.CLUSTER.Local.", "CLUSTER.local.", "Ns.dns.cluster.LOCAL."),
    *("_HTTP._tcp.dual.default.svc.CLUSTER.local.", "in.default.SVC.Cluster.local.", "DB.default.svc.cluster.LOCAL."),
    *("50.0.96.10.IN-ADDR.arpa.", "Dns-Version.CLUSTER.local.", "no.default.svc.Cluster.Local."),
)
POD_NAMES = tuple(
    f"{name}.pod.cluster.local."
    for name in (
        *("10-244-1-7.default", "10-244-1-5.default", "10-244-1-7.empty", "10-244-1-7.nowhere", "fd00-244--9.default"),
        *("fd00-244--8.default", "10-244-1.default", "10-244-1-999.default", "web.default", "x.10-244-1-7.default"),
        *("_a._tcp.10-244-1-7.default", "a.b.c.10-244-1-7.default", "default", "nowhere", "10-244-01-7.default"),
        *("--1.default", "fd00-0244--9.default", "--ffff-af4-107.default", "FD00-244--9.default", "010-1-1-1.default"),
    )
)
