"""The names of kube-proxy's chains in iptables mode (facts.md 3.2 and 3.3). Pure.

A port's id is a hash of its name and protocol, so a name stays the same for as long as the port exists.
"""

from __future__ import annotations

from base64 import b32encode
from enum import StrEnum
from hashlib import sha256

from netlab.service.model import Endpoint, ServicePort

SERVICES = "KUBE-SERVICES"
NODE_PORTS = "KUBE-NODEPORTS"
EXTERNAL_SERVICES = "KUBE-EXTERNAL-SERVICES"
PROXY_FIREWALL = "KUBE-PROXY-FIREWALL"
FORWARD = "KUBE-FORWARD"
FIREWALL = "KUBE-FIREWALL"
POSTROUTING = "KUBE-POSTROUTING"
MARK_MASQ = "KUBE-MARK-MASQ"
CANARY = "KUBE-PROXY-CANARY"


class Prefix(StrEnum):
    """What the name of a chain that belongs to one port begins with."""

    EXTERNAL = "KUBE-EXT-"  # what comes to a NodePort, a load balancer's or an external address
    FIREWALL = "KUBE-FW-"  # loadBalancerSourceRanges
    CLUSTER = "KUBE-SVC-"  # choose among all endpoints
    LOCAL = "KUBE-SVL-"  # choose among those on this node
    ENDPOINT = "KUBE-SEP-"  # DNAT to one of them


def chain_name(prefix: Prefix, port: ServicePort) -> str:
    """Return the name of a port's chain, for any prefix but ENDPOINT."""
    return prefix + port_id(port)


def port_id(port: ServicePort) -> str:
    """Return what the names of a port's chains end in: 16 characters, the same under each prefix."""
    return _hashed(f"{port}{port.protocol.lower()}")


def endpoint_chain(port: ServicePort, endpoint: Endpoint) -> str:
    """Return the name of the chain that sends a port's packets to an endpoint."""
    return Prefix.ENDPOINT + _hashed(f"{port}{port.protocol.lower()}{endpoint}")


def _hashed(key: str) -> str:
    return b32encode(sha256(key.encode()).digest()[:10]).decode()  # 10 bytes are 16 characters
