"""The few rules of kube-proxy's IPVS mode, whose number does not depend on that of the Services (facts.md 4.5). Pure.

They ask IP sets. A set without entries has no rule of its own, so the text changes only when a set's first entry comes
or its last one goes, and with the rules of KUBE-IPVS-OUT-FILTER. The functions stand in packet order.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator

from netlab.service.iptables import Chain, appended
from netlab.service.iptables_names import FORWARD, MARK_MASQ, POSTROUTING, PROXY_FIREWALL, SERVICES
from netlab.service.iptables_restore import MARK, Jump
from netlab.service.ipvs_sets import NODE_PORT_SETS, IpSet
from netlab.service.model import ProxyNode

NODE_PORT = "KUBE-NODE-PORT"
LOAD_BALANCER = "KUBE-LOAD-BALANCER"
SOURCE_RANGES_FIREWALL = "KUBE-SOURCE-RANGES-FIREWALL"
IPVS_FILTER = "KUBE-IPVS-FILTER"
IPVS_OUT_FILTER = "KUBE-IPVS-OUT-FILTER"
LOOPBACK = {4: "127.0.0.0/8", 6: "::1/128"}
SHIELDED = (IpSet.LOAD_BALANCER, IpSet.CLUSTER_IP, IpSet.EXTERNAL_IP, IpSet.EXTERNAL_IP_LOCAL)

COMMENTS = {
    IpSet.LOOP_BACK: "Kubernetes endpoints dst ip:port, source ip for solving hairpin purpose",
    IpSet.CLUSTER_IP: "Kubernetes service cluster ip + port for masquerade purpose",
    IpSet.EXTERNAL_IP: "Kubernetes service external ip + port for masquerade and filter purpose",
    IpSet.EXTERNAL_IP_LOCAL: "Kubernetes service external ip + port with externalTrafficPolicy=local",
    IpSet.LOAD_BALANCER: "Kubernetes service lb portal",
    IpSet.LOAD_BALANCER_FW: "Kubernetes service load balancer ip + port for load balancer with sourceRange",
    IpSet.LOAD_BALANCER_LOCAL: "Kubernetes service load balancer ip + port with externalTrafficPolicy=local",
    IpSet.SOURCE_IP: "Kubernetes service load balancer ip + port + source IP for packet filter purpose",
    IpSet.SOURCE_CIDR: "Kubernetes service load balancer ip + port + source cidr for packet filter purpose",
    IpSet.NODE_PORT_TCP: "Kubernetes nodeport TCP port for masquerade purpose",
    IpSet.NODE_PORT_LOCAL_TCP: "Kubernetes nodeport TCP port with externalTrafficPolicy=local",
    IpSet.NODE_PORT_UDP: "Kubernetes nodeport UDP port for masquerade purpose",
    IpSet.NODE_PORT_LOCAL_UDP: "Kubernetes nodeport UDP port with externalTrafficPolicy=local",
    IpSet.NODE_PORT_SCTP: "Kubernetes nodeport SCTP port for masquerade purpose with type 'hash ip:port'",
    IpSet.NODE_PORT_LOCAL_SCTP: (
        "Kubernetes nodeport SCTP port with externalTrafficPolicy=local with type 'hash ip:port'"
    ),
    IpSet.HEALTH_CHECK: "Kubernetes health check node port",
}


def restore_input(
    node: ProxyNode, filled: Collection[IpSet], out_filter: Iterable[str] = (), jumps: Iterable[Jump] = ()
) -> str:
    """Return the input for `iptables-restore --noflush` of a node, of the IP version of its first address.

    `filled` are the sets that have entries, `jumps` are those that are missing. Every set must be there.
    """
    missing = tuple(jumps)
    return "".join(
        (
            _table("nat", tuple(nat_chains(node, filled)), missing),
            _table("filter", tuple(filter_chains(node, filled, out_filter)), missing),
        )
    )


def _table(table: str, chains: tuple[Chain, ...], jumps: Iterable[Jump]) -> str:
    declared = "".join(f":{chain.name} - [0:0]\n" for chain in chains)
    inserted = "".join(f"-I {jump.chain} {jump.rule}\n" for jump in jumps if jump.table == table)
    return f"*{table}\n{declared}{appended(chains)}{inserted}COMMIT\n"


def jumps() -> tuple[Jump, ...]:
    """Return the rules that lead from built-in chains to ours. Put them in one by one, each in front."""

    def jump(table: str, chain: str, target: str, comment: str) -> Jump:
        return Jump(table, chain, f'-m comment --comment "{comment}" -j {target}')

    return (
        jump("nat", "OUTPUT", SERVICES, "kubernetes service portals"),
        jump("nat", "PREROUTING", SERVICES, "kubernetes service portals"),
        jump("nat", "POSTROUTING", POSTROUTING, "kubernetes postrouting rules"),
        jump("filter", "FORWARD", FORWARD, "kubernetes forwarding rules"),
        jump("filter", "INPUT", NODE_PORT, "kubernetes health check rules"),
        jump("filter", "INPUT", PROXY_FIREWALL, "kube-proxy firewall rules"),
        jump("filter", "FORWARD", PROXY_FIREWALL, "kube-proxy firewall rules"),
        jump("filter", "INPUT", IPVS_FILTER, "kubernetes ipvs access filter"),
        jump("filter", "OUTPUT", IPVS_OUT_FILTER, "kubernetes ipvs access filter"),
    )


# --- table nat -------------------------------------------------------------------------------------------------------


def nat_chains(node: ProxyNode, filled: Collection[IpSet]) -> Iterator[Chain]:
    """Yield our chains of table nat."""
    version = node.addresses[0].version
    yield Chain(SERVICES, tuple(_services(node, filled)))
    yield Chain(LOAD_BALANCER, (*_asked([IpSet.LOAD_BALANCER_LOCAL], filled, version, "RETURN"), f"-j {MARK_MASQ}"))
    yield Chain(NODE_PORT, tuple(_node_ports(version, filled)))
    yield Chain(POSTROUTING, tuple(_postrouting(version, filled)))
    yield Chain(MARK_MASQ, (f"-j MARK --or-mark {MARK}",))


def _services(node: ProxyNode, filled: Collection[IpSet]) -> Iterator[str]:
    version = node.addresses[0].version
    yield f"-s {LOOPBACK[version]} -j RETURN"
    yield from _asked([IpSet.LOAD_BALANCER], filled, version, LOAD_BALANCER)
    if IpSet.CLUSTER_IP in filled:
        foreign = "" if node.masquerade_all or node.local is None else f" ! -s {node.local}"
        own = not node.masquerade_all and node.local is None  # a node that talks to itself has the VIP as source
        yield f"{_match(IpSet.CLUSTER_IP, version, 'src,dst' if own else 'dst,dst')}{foreign} -j {MARK_MASQ}"
    for ip_set in (IpSet.EXTERNAL_IP, IpSet.EXTERNAL_IP_LOCAL):
        if ip_set in filled:
            match = _match(ip_set, version)
            if ip_set is IpSet.EXTERNAL_IP:
                yield f"{match} -j {MARK_MASQ}"
            yield f"{match} -m physdev ! --physdev-is-in -m addrtype ! --src-type LOCAL -j ACCEPT"
            yield f"{match} -m addrtype --dst-type LOCAL -j ACCEPT"
    yield f"-m addrtype --dst-type LOCAL -j {NODE_PORT}"
    for ip_set in (IpSet.CLUSTER_IP, IpSet.LOAD_BALANCER):
        if ip_set in filled:
            yield f"-m set --match-set {ip_set.called(version)} dst,dst -j ACCEPT"


def _node_ports(version: int, filled: Collection[IpSet]) -> Iterator[str]:
    for protocol, (everyone, local) in NODE_PORT_SETS.items():
        match = f"-p {protocol.lower()} "
        for ip_set, target in ((local, "RETURN"), (everyone, MARK_MASQ)):
            if ip_set in filled:
                directions = "dst,dst" if protocol == "SCTP" else "dst"
                yield f"{match}{_match(ip_set, version, directions)} -j {target}"


def _postrouting(version: int, filled: Collection[IpSet]) -> Iterator[str]:
    if IpSet.LOOP_BACK in filled:
        yield f"{_match(IpSet.LOOP_BACK, version, 'dst,dst,src')} -j MASQUERADE"
    yield f"-m mark ! --mark {MARK}/{MARK} -j RETURN"
    yield f"-j MARK --xor-mark {MARK}"
    yield '-m comment --comment "kubernetes service traffic requiring SNAT" -j MASQUERADE --random-fully'


# --- table filter ----------------------------------------------------------------------------------------------------


def filter_chains(node: ProxyNode, filled: Collection[IpSet], out_filter: Iterable[str]) -> Iterator[Chain]:
    """Yield our chains of table filter."""
    version = node.addresses[0].version
    yield Chain(NODE_PORT, (f"{_match(IpSet.HEALTH_CHECK, version, 'dst')} -j ACCEPT",))
    firewall = _asked([IpSet.LOAD_BALANCER_FW], filled, version, SOURCE_RANGES_FIREWALL)
    yield Chain(PROXY_FIREWALL, tuple(firewall))
    passed = _asked([IpSet.SOURCE_CIDR, IpSet.SOURCE_IP], filled, version, "RETURN", "dst,dst,src")
    yield Chain(SOURCE_RANGES_FIREWALL, (*passed, "-j DROP"))
    yield Chain(IPVS_FILTER, tuple(_ipvs_filter(version)))
    yield Chain(FORWARD, tuple(_forward()))
    yield Chain(IPVS_OUT_FILTER, tuple(out_filter))


def _ipvs_filter(version: int) -> Iterator[str]:
    """Yield what keeps the node's own listeners from answering at a Service's address."""
    for ip_set in SHIELDED:
        yield f"-m set --match-set {ip_set.called(version)} dst,dst -j RETURN"
    yield f"-m set --match-set {IpSet.HEALTH_CHECK.called(version)} dst -j RETURN"
    addresses = f"-m set --match-set {IpSet.IPVS_IPS.called(version)} dst"
    yield f"-m conntrack --ctstate NEW {addresses} -j REJECT"


def _forward() -> Iterator[str]:
    yield f'-m comment --comment "kubernetes forwarding rules" -m mark --mark {MARK}/{MARK} -j ACCEPT'
    related = "-m conntrack --ctstate RELATED,ESTABLISHED"
    yield f'-m comment --comment "kubernetes forwarding conntrack rule" {related} -j ACCEPT'


def _asked(
    sets: Iterable[IpSet], filled: Collection[IpSet], version: int, target: str, directions: str = "dst,dst"
) -> Iterator[str]:
    for ip_set in sets:
        if ip_set in filled:
            yield f"{_match(ip_set, version, directions)} -j {target}"


def _match(ip_set: IpSet, version: int, directions: str = "dst,dst") -> str:
    return f'-m comment --comment "{COMMENTS[ip_set]}" -m set --match-set {ip_set.called(version)} {directions}'
