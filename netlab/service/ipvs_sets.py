"""The IP sets of kube-proxy's IPVS mode: names, kinds, entries, and the text of `ipset restore` (facts.md 4.4).

Pure. Entries are written exactly as `ipset save` prints them, so what is wanted and what is there compare as text.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from enum import StrEnum
from typing import NamedTuple

from netlab.topology.addresses import Address, Network
from netlab.topology.service import Protocol

NAME_LENGTH = 31  # IPSET_MAXNAMELEN - 1
FAMILY = {4: "inet", 6: "inet6"}


class Kind(StrEnum):
    """What the entries of a set are made of."""

    IP = "hash:ip"
    IP_PORT = "hash:ip,port"
    IP_PORT_IP = "hash:ip,port,ip"
    IP_PORT_NET = "hash:ip,port,net"
    PORT = "bitmap:port"


class IpSet(StrEnum):
    """Every set of a node in one IP version, by its IPv4 name."""

    LOOP_BACK = "KUBE-LOOP-BACK"
    CLUSTER_IP = "KUBE-CLUSTER-IP"
    EXTERNAL_IP = "KUBE-EXTERNAL-IP"
    EXTERNAL_IP_LOCAL = "KUBE-EXTERNAL-IP-LOCAL"
    LOAD_BALANCER = "KUBE-LOAD-BALANCER"
    LOAD_BALANCER_FW = "KUBE-LOAD-BALANCER-FW"
    LOAD_BALANCER_LOCAL = "KUBE-LOAD-BALANCER-LOCAL"
    SOURCE_IP = "KUBE-LOAD-BALANCER-SOURCE-IP"
    SOURCE_CIDR = "KUBE-LOAD-BALANCER-SOURCE-CIDR"
    NODE_PORT_TCP = "KUBE-NODE-PORT-TCP"
    NODE_PORT_LOCAL_TCP = "KUBE-NODE-PORT-LOCAL-TCP"
    NODE_PORT_UDP = "KUBE-NODE-PORT-UDP"
    NODE_PORT_LOCAL_UDP = "KUBE-NODE-PORT-LOCAL-UDP"
    NODE_PORT_SCTP = "KUBE-NODE-PORT-SCTP-HASH"
    NODE_PORT_LOCAL_SCTP = "KUBE-NODE-PORT-LOCAL-SCTP-HASH"
    HEALTH_CHECK = "KUBE-HEALTH-CHECK-NODE-PORT"
    IPVS_IPS = "KUBE-IPVS-IPS"

    def called(self, version: int) -> str:
        """Return the set's name in the kernel: IPv6 ones carry another prefix, and the longest is cut."""
        return str(self) if version == 4 else f"KUBE-6-{self.removeprefix('KUBE-')}"[:NAME_LENGTH]


KINDS = {
    IpSet.LOOP_BACK: Kind.IP_PORT_IP,
    IpSet.SOURCE_IP: Kind.IP_PORT_IP,
    IpSet.SOURCE_CIDR: Kind.IP_PORT_NET,
    IpSet.NODE_PORT_TCP: Kind.PORT,
    IpSet.NODE_PORT_LOCAL_TCP: Kind.PORT,
    IpSet.NODE_PORT_UDP: Kind.PORT,
    IpSet.NODE_PORT_LOCAL_UDP: Kind.PORT,
    IpSet.HEALTH_CHECK: Kind.PORT,
    IpSet.IPVS_IPS: Kind.IP,
}  # the others are of Kind.IP_PORT
NODE_PORT_SETS = {  # all, and those with externalTrafficPolicy Local
    Protocol.TCP: (IpSet.NODE_PORT_TCP, IpSet.NODE_PORT_LOCAL_TCP),
    Protocol.UDP: (IpSet.NODE_PORT_UDP, IpSet.NODE_PORT_LOCAL_UDP),
    Protocol.SCTP: (IpSet.NODE_PORT_SCTP, IpSet.NODE_PORT_LOCAL_SCTP),
}


class Entry(NamedTuple):
    """One entry of one set, as text."""

    set: IpSet
    text: str


def place(address: Address, protocol: Protocol, port: int) -> str:
    """Return an entry's "ip,port" part."""
    return f"{address},{protocol.lower()}:{port}"


def networks(network: Network) -> Iterator[str]:
    """Yield what stands for a network in a set: two halves for all addresses, which no set of networks can hold."""
    parts = network.subnets() if network.prefixlen == 0 else (network,)
    for part in parts:
        whole = part.prefixlen == part.max_prefixlen
        yield str(part.network_address) if whole else str(part)


def created(version: int) -> str:
    """Return the lines for `ipset restore` that make every set of an IP version that is not there yet."""
    return "".join(f"create {ip_set.called(version)} {_kind(ip_set, version)} -exist\n" for ip_set in IpSet)


def _kind(ip_set: IpSet, version: int) -> str:
    kind = KINDS.get(ip_set, Kind.IP_PORT)
    if kind is Kind.PORT:
        return f"{kind} range 0-65535"
    return f"{kind} family {FAMILY[version]} hashsize 1024 maxelem 65536"


def changed(version: int, added: Iterable[Entry], removed: Iterable[Entry]) -> str:
    """Return the lines for `ipset restore` that take entries out and put entries in; either may be done already."""
    names = {ip_set: ip_set.called(version) for ip_set in IpSet}
    return "".join(
        (
            *(f"del {names[entry.set]} {entry.text} -exist\n" for entry in removed),
            *(f"add {names[entry.set]} {entry.text} -exist\n" for entry in added),
        )
    )


def destroyed(version: int) -> str:
    """Return the lines for `ipset restore` that destroy every set of an IP version. All must be there, and unused."""
    return "".join(f"destroy {ip_set.called(version)}\n" for ip_set in IpSet)


def parsed(saved: str) -> Mapping[int, frozenset[Entry]]:
    """Return the entries that `ipset save` listed, by IP version. One whose sets are not all there is left out."""
    known = {ip_set.called(version): (version, ip_set) for version in FAMILY for ip_set in IpSet}
    present: dict[int, set[IpSet]] = defaultdict(set)
    entries: dict[int, set[Entry]] = defaultdict(set)
    for line in saved.splitlines():
        verb, name, text = line.split(" ", 2)
        if name not in known:
            continue
        version, ip_set = known[name]
        if verb == "create":
            present[version].add(ip_set)
        else:
            entries[version].add(Entry(ip_set, text.split(" ", 1)[0]))
    return {version: frozenset(entries[version]) for version, sets in present.items() if len(sets) == len(IpSet)}
