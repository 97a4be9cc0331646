"""The proxy modes as the benchmarks of Services name them, and the Services that all of them get."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Address

from netlab.errors import NotSupported
from netlab.kernel import features
from netlab.proxy.iptables import IptablesProxier
from netlab.proxy.ipvs import IpvsProxier
from netlab.proxy.nftables import NftablesProxier
from netlab.proxy.proxier import NodeTarget, Options, Proxier
from netlab.service.model import Endpoint, Protocol, ProxyNode, ServicePort

VARIANTS = ("iptables-legacy", "iptables-nft", "nftables", "ipvs")
IPTABLES = "iptables-nft"  # writes the few rules of mode ipvs
FIRST_IP, FIRST_POD = IPv4Address("10.96.0.1"), IPv4Address("10.128.0.1")
PORT, POD_PORT = 80, 8080


def missing(variant: str) -> str:
    """Say why a mode cannot be had here; empty when it can."""
    if variant == "ipvs":
        try:
            for feature in ("ipvs", "ipset"):
                features.require(feature, "proxy ipvs")
        except NotSupported as exc:
            return f"{exc}, or add --vm"
    return ""


def proxier(variant: str, netns: str, node: ProxyNode) -> Proxier:
    """Return netlab's proxier of a mode for a namespace."""
    match variant:
        case "nftables":
            return NftablesProxier(NodeTarget(netns, node.name, (node,)))
        case "ipvs":
            return IpvsProxier(NodeTarget(netns, node.name, (node,), Options(tool=IPTABLES)))
        case _:
            return IptablesProxier(NodeTarget(netns, node.name, (node,), Options(tool=variant)))


def ports(services: int, endpoints: int) -> Iterator[ServicePort]:
    """Yield Services of one port each, with consecutive addresses; a third of the endpoints is on n1."""
    for number in range(services):
        addresses = (FIRST_POD + number * endpoints + end for end in range(endpoints))
        ends = tuple(Endpoint(address, POD_PORT, f"n{int(address) % 3}") for address in addresses)
        yield ServicePort("default", f"svc-{number}", "http", Protocol.TCP, FIRST_IP + number, PORT, endpoints=ends)
