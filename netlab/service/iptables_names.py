"""The names of kube-proxy's chains in iptables mode (facts.md 3.2 and 3.3). Pure.

A port's id is a hash of its name and protocol, so a name stays the same for as long as the port exists.
"""

from __future__ import annotations

import string
from enum import StrEnum
from hashlib import sha256

from netlab.service.model import Endpoint, Protocol, ServicePort

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
    return destination_chain(str(port), port.protocol, str(endpoint))


def destination_chain(port: str, protocol: Protocol, endpoint: str) -> str:
    """Return the same for what is text already: many thousands are made at once."""
    return f"{Prefix.ENDPOINT}{_hashed(f'{port}{protocol.lower()}{endpoint}')}"


def _hashed(key: str) -> str:
    """Return 16 characters of base32 (RFC 4648): 80 bits of the hash, ten at a time."""
    number = int.from_bytes(sha256(key.encode()).digest()[:10], "big")
    return "".join([_TWO[number >> shift & 1023] for shift in _SHIFTS])


_LETTERS = string.ascii_uppercase + "234567"
_TWO = [first + second for first in _LETTERS for second in _LETTERS]
_SHIFTS = range(70, -1, -10)
