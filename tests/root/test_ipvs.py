"""IPVS mode on the real kernel: what it makes, by `ipvsadm`, `ipset` and `ip`, and that any path leads to the same."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address
from typing import Any

import pytest

from netlab.control.modes import clear
from netlab.errors import KernelError
from netlab.kernel import netns
from netlab.proxy import leftovers, listing, tools
from netlab.proxy.ipvs import IpvsProxier
from netlab.proxy.ipvs_device import DEVICE
from netlab.proxy.proxier import NodeTarget, Options, PortKey
from netlab.proxy.watch import LOOKS
from netlab.service.ipvs import Flag, PortServers, VirtualServer, render
from netlab.service.ipvs_sets import IpSet, parsed
from netlab.service.model import Endpoint, Protocol, ServicePort
from netlab.topology.model import Proxy
from tests.root.proxy_nodes import nodes, rich, run
from tests.root.proxy_nodes import proxier as proxier_of
from tests.root.proxy_nodes import target as proxied
from tests.unit.service_ports import EVERYWHERE, HERE, NODE, NODE6, THERE, WEB

pytestmark = [pytest.mark.root, pytest.mark.usefixtures("ipvs")]

NAME, FRESH = "nl-ipvs-n1", "nl-ipvs-fresh"
OPTION = {Protocol.TCP: "-t", Protocol.UDP: "-u", Protocol.SCTP: "--sctp-service"}
SIDES = {4: NODE, 6: NODE6}


def proxier(name: str = NAME, options: Options | None = None) -> IpvsProxier:
    return IpvsProxier(NodeTarget(name, "n1", (NODE, NODE6), options or Options()))


@pytest.fixture
def node() -> Iterator[IpvsProxier]:
    with nodes(NAME, FRESH), closing(proxier()) as found:
        for name in (NAME, FRESH):
            run(name, "ip", "link", "set", "lo", "up")  # a node without any address may have no real server
        yield found


def state(name: str = NAME) -> dict[str, object]:
    """Return everything that IPVS mode makes in a node, as other programs list it."""
    return {
        "virtual": sorted(run(name, "ipvsadm", "-Sn").splitlines()),
        "sets": parsed(run(name, "ipset", "save")),
        "addresses": sorted(re.findall(r"inet6? (\S+)", run(name, "ip", "address", "show", DEVICE))),
        "rules": {version: listing.parse(tools.save(name, "iptables-nft", version)) for version in SIDES},
    }


def saved(ports: Iterable[ServicePort]) -> list[str]:
    """Return what `ipvsadm -Sn` prints of these ports, all real servers there and none leaving."""
    lines: list[str] = []
    for port in ports:
        for server in render(port, SIDES[port.cluster_ip.version]).virtual:
            at = f"{OPTION[server.key.protocol]} {_bracketed(server.key.address, server.key.port)}"
            lines.append(f"-A {at} -s {server.scheduler}{_persistence(server)}")
            lines += [f"-a {at} -r {_bracketed(real.address, real.port)} -m -w 1" for real in server.servers]
    return sorted(lines)


def _bracketed(address: object, port: int) -> str:
    return f"[{address}]:{port}" if ":" in str(address) else f"{address}:{port}"


def _persistence(server: VirtualServer) -> str:
    return f" -p {server.timeout}" if server.flags & Flag.PERSISTENT else ""


def virtual(name: str = NAME) -> list[str]:
    return sorted(line.strip() for line in run(name, "ipvsadm", "-Sn").splitlines())


# --- what is made ----------------------------------------------------------------------------------------------------


def test_every_kind_of_service_as_other_programs_list_it(node: IpvsProxier) -> None:
    ports = rich()
    node.sync(ports)
    rendered: dict[int, list[PortServers]] = {4: [], 6: []}
    for port in ports.values():
        rendered[port.key[-1]].append(render(port, SIDES[port.key[-1]]))
    assert virtual() == saved(ports.values())
    found = state()
    assert found["sets"] == {
        version: frozenset(entry for port in side for entry in port.entries) for version, side in rendered.items()
    }
    bound = {address for side in rendered.values() for port in side for address in port.addresses}
    assert found["addresses"] == sorted(f"{address}/{address.max_prefixlen}" for address in bound)
    assert node.is_intact()


def test_rules_are_in_the_order_of_kube_proxy(node: IpvsProxier) -> None:
    node.sync({EVERYWHERE.key: EVERYWHERE})
    tables = listing.parse(tools.save(NAME, "iptables-nft", 4))
    jumps = {rule.split("-j ")[1] for rule in tables["filter"]["INPUT"]}
    assert jumps == {"KUBE-NODE-PORT", "KUBE-PROXY-FIREWALL", "KUBE-IPVS-FILTER"}
    services = [re.sub(r'-m comment --comment ".*?" ', "", rule) for rule in tables["nat"]["KUBE-SERVICES"]]
    assert services[:3] == [
        "-s 127.0.0.0/8 -j RETURN",
        "-m set --match-set KUBE-LOAD-BALANCER dst,dst -j KUBE-LOAD-BALANCER",
        "! -s 10.244.0.0/16 -m set --match-set KUBE-CLUSTER-IP dst,dst -j KUBE-MARK-MASQ",
    ]
    assert tables["filter"]["KUBE-IPVS-OUT-FILTER"] == [
        "-s 203.0.113.7/32 -m ipvs --vproto 6 --vaddr 203.0.113.7 --vport 80 -j DROP"
    ]
    node.sync({EVERYWHERE.key: None})
    tables = listing.parse(tools.save(NAME, "iptables-nft", 4))
    assert [rule.rpartition(" ")[2] for rule in tables["nat"]["KUBE-SERVICES"]] == ["RETURN", "KUBE-NODE-PORT"]


def test_pyroute2_reads_the_same(node: IpvsProxier) -> None:
    from pyroute2 import IPVS, IPVSService

    node.sync({WEB.key: replace(WEB, affinity=300)})

    def read() -> list[tuple[object, ...]]:
        with IPVS() as ipvs:
            found: list[tuple[object, ...]] = []
            for message in ipvs.service("dump"):
                attributes = message.get_attr("IPVS_CMD_ATTR_SERVICE")
                found.append((attributes.get_attr("IPVS_SVC_ATTR_ADDR"), attributes.get_attr("IPVS_SVC_ATTR_TIMEOUT")))
                for real in ipvs.dest("dump", service=IPVSService.from_message(message)):
                    dest = real.get_attr("IPVS_CMD_ATTR_DEST")
                    names = ("ADDR", "PORT", "FWD_METHOD", "WEIGHT")
                    found.append(tuple(dest.get_attr(f"IPVS_DEST_ATTR_{name}") for name in names))
            return sorted(found, key=str)

    assert netns.call(NAME, read) == [
        ("10.244.1.5", 8080, 0, 1),
        ("10.244.2.6", 8080, 0, 1),
        ("10.96.0.50", 300),
    ]


@pytest.mark.parametrize("scheduler", ["rr", "wrr", "sh", "mh"])
def test_schedulers(node: IpvsProxier, scheduler: str) -> None:
    with closing(proxier(FRESH, Options(scheduler=scheduler))) as other:
        other.sync({WEB.key: WEB})
        (line, *_) = virtual(FRESH)
        flags = " -b mh-port" if scheduler == "mh" else ""
        assert line == f"-A -t 10.96.0.50:80 -s {scheduler}{flags}"


# --- changes ---------------------------------------------------------------------------------------------------------


def numbered(number: int, count: int = 2, **options: object) -> ServicePort:
    ends = tuple(Endpoint(IPv4Address(f"10.244.1.{10 * number + end}"), 80, "n1") for end in range(count))
    port = replace(WEB, name=f"s{number}", cluster_ip=WEB.cluster_ip + number, endpoints=ends)
    return replace(port, **options)  # type: ignore[arg-type]


PATH = [
    [numbered(1), numbered(2, node_port=30002), numbered(3, protocol=Protocol.UDP)],
    [numbered(1, affinity=60), numbered(2, count=1, node_port=30003), numbered(3, count=1, protocol=Protocol.UDP)],
    [numbered(1, count=0), EVERYWHERE],
    [numbered(2, external_ips=(IPv4Address("192.0.2.9"),)), replace(EVERYWHERE, source_ranges=())],
    [numbered(1, count=3), numbered(2, external_ips=(NODE.addresses[0],))],
    [],
]


def test_any_path_comes_to_what_a_fresh_node_has(node: IpvsProxier) -> None:
    before: dict[PortKey, ServicePort] = {}
    for ports in PATH:
        now = {port.key: port for port in ports}
        node.sync({port.key: now.get(port.key) for port in {**before, **now}.values()})
        with closing(proxier(FRESH)) as fresh:
            fresh.sync(now)
            assert state() == state(FRESH)
            assert node.is_intact()
            fresh.remove()
        before = now


def test_a_new_process_converges_from_whatever_an_old_one_left(node: IpvsProxier) -> None:
    node.sync({port.key: port for port in (numbered(1), numbered(2, affinity=60), EVERYWHERE)})
    run(NAME, "ipvsadm", "-e", "-t", "10.96.0.51:80", "-r", "10.244.1.10:80", "-m", "-w", "0")  # half-way out
    run(NAME, "ipvsadm", "-a", "-t", "10.96.0.51:80", "-r", "10.244.9.9:80", "-m", "-w", "0")
    run(NAME, "ipset", "add", IpSet.CLUSTER_IP.called(4), "10.96.9.9,tcp:80")
    run(NAME, "ip", "address", "add", "10.96.9.9/32", "dev", DEVICE)
    node.close()
    with closing(proxier()) as other, closing(proxier(FRESH)) as fresh:
        wanted = {port.key: port for port in (numbered(1), numbered(3))}
        other.sync(wanted)
        fresh.sync(wanted)
        assert other.tick(0.0) == 60.0
        assert other.tick(60.0) is None  # 10.244.9.9 had no connection
        assert state() == state(FRESH)


@pytest.mark.parametrize(
    "argv",
    [
        ("ipvsadm", "-C"),
        ("ipset", "flush", "KUBE-CLUSTER-IP"),
        ("ip", "address", "del", "10.96.0.50/32", "dev", DEVICE),
        ("ip", "link", "del", DEVICE),
        ("iptables", "-t", "nat", "-F", "KUBE-SERVICES"),
        ("iptables", "-F", "INPUT"),
        ("ipvsadm", "-d", "-t", "10.96.0.50:80", "-r", "10.244.1.5:8080"),
        ("ipvsadm", "-a", "-t", "10.96.0.50:80", "-r", "10.244.1.77:8080", "-m", "-w", "1"),
        ("ipvsadm", "-e", "-t", "10.96.0.50:80", "-r", "10.244.1.5:8080", "-m", "-w", "5"),
        ("ipvsadm", "-E", "-t", "10.96.0.50:80", "-s", "wrr"),
        ("ipvsadm", "-E", "-t", "10.96.0.50:80", "-s", "rr", "-p", "60"),
    ],
)
def test_what_somebody_took_away_is_noticed_and_comes_back(node: IpvsProxier, argv: tuple[str, ...]) -> None:
    node.sync({EVERYWHERE.key: EVERYWHERE})
    before = state()
    run(NAME, *argv)
    assert not node.is_intact()
    node.resync()
    assert node.is_intact()
    assert state() == before


@pytest.mark.parametrize(
    "command",
    [
        "ipset del KUBE-CLUSTER-IP 10.96.0.50,tcp:80; ipset add KUBE-CLUSTER-IP 10.96.9.9,tcp:80",
        "ipvsadm -E -t 10.96.0.50:80 -s rr -b flag-2",
    ],
)
def test_what_no_sign_shows_is_noticed_by_and_by(node: IpvsProxier, command: str) -> None:
    """As many entries as before, and a flag, which the kernel's table leaves out."""
    node.sync({WEB.key: WEB})
    before = state()
    assert [node.is_intact() for _ in range(LOOKS)] == [True] * LOOKS
    run(NAME, "sh", "-c", command)
    assert state() != before
    assert not all(node.is_intact() for _ in range(LOOKS))
    node.resync()
    assert node.is_intact()
    assert state() == before


def test_a_look_starts_no_program_while_nothing_changes(node: IpvsProxier, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[tuple[str, ...]] = []
    real = tools.run

    def noted(name: str, argv: tuple[str, ...], *rest: Any, **how: Any) -> str:
        started.append(argv)
        return real(name, argv, *rest, **how)

    monkeypatch.setattr(tools, "run", noted)
    node.sync(rich())
    assert started
    started.clear()
    assert all(node.is_intact() for _ in range(LOOKS - 1))
    assert not started
    assert node.is_intact()
    assert [argv[0].partition("-")[2] or argv[0] for argv in started].count("ipset") == len(SIDES)


def test_after_a_failure_the_next_sync_makes_up_for_it(node: IpvsProxier) -> None:
    """Also for the IP version that it did not come to."""
    node.sync({WEB.key: WEB})
    run(NAME, "ipvsadm", "-C")
    fewer = replace(WEB, endpoints=(THERE,))
    other = replace(WEB, cluster_ip=IPv6Address("fd00:96::50"), endpoints=())
    with pytest.raises(KernelError, match=r"change real server: 10\.96\.0\.50 TCP port 80") as caught:
        node.sync({fewer.key: fewer, other.key: other})
    assert NAME in str(caught.value)
    assert not node.is_intact()
    node.sync({})
    assert virtual() == saved([fewer, other])
    assert node.is_intact()


def test_others_things_stay_and_ours_go(node: IpvsProxier) -> None:
    run(NAME, "ipset", "create", "theirs", "hash:ip")
    run(NAME, "iptables", "-A", "INPUT", "-s", "192.0.2.77", "-j", "ACCEPT")
    before = run(NAME, "iptables-save").replace(":INPUT ACCEPT", "")
    node.sync(rich())
    node.remove()
    assert virtual() == []
    assert run(NAME, "ipset", "list", "-n").split() == ["theirs"]
    assert DEVICE not in run(NAME, "ip", "link")
    found = listing.parse(run(NAME, "iptables-save"))
    assert {chain for chains in found.values() for chain in chains if chain.startswith("KUBE")} == set()
    assert found["filter"]["INPUT"] == ["-s 192.0.2.77/32 -j ACCEPT"]
    assert "192.0.2.77" in before


@pytest.mark.parametrize(("variant", "mode"), [("iptables-nft", Proxy.IPTABLES), ("nftables", Proxy.NFTABLES)])
def test_what_a_killed_control_plane_left_of_another_mode_goes(node: IpvsProxier, variant: str, mode: Proxy) -> None:
    target = proxied(variant, NAME)
    node.sync(rich())
    node.close()
    assert leftovers.find(target, Proxy.IPVS) == []
    assert leftovers.find(target, mode) == [Proxy.IPVS]
    clear(target, mode)
    assert leftovers.find(target, mode) == []
    assert (virtual(), run(NAME, "ipset", "list", "-n")) == ([], "")
    with closing(proxier_of(variant, NAME)) as other:
        other.sync(rich())
    assert leftovers.find(target, mode) == []
    assert leftovers.find(target, Proxy.IPVS) == [mode]
    clear(target, Proxy.IPVS)
    with closing(proxier()) as again, closing(proxier(FRESH)) as fresh:
        for one in (again, fresh):
            one.sync(rich())
        found, wanted = state(), state(FRESH)
        assert found["virtual"] == wanted["virtual"]
        assert ours(found) == ours(wanted)


def ours(found: dict[str, Any]) -> dict[tuple[int, str, str], list[str]]:
    """Return the chains that have rules: built-in ones stay once a table was used."""
    return {
        (version, table, chain): rules
        for version, tables in found["rules"].items()
        for table, chains in tables.items()
        for chain, rules in chains.items()
        if rules
    }


def test_a_removed_udp_server_and_an_idle_tcp_one_go_at_once(node: IpvsProxier) -> None:
    for protocol in (Protocol.UDP, Protocol.TCP):
        port = replace(WEB, protocol=protocol, endpoints=(HERE, THERE))
        node.sync({port.key: port})
        node.sync({port.key: replace(port, endpoints=(HERE,))})
        assert virtual() == saved([replace(port, endpoints=(HERE,))])
        assert node.tick(0.0) is None
        node.sync({port.key: None})
