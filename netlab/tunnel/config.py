"""What a forwarder is told, as a JSON file. Pure.

    {
      "device": "flannel0",
      "mtu": 1472,
      "local": "172.18.0.2",
      "port": 8285,
      "uplink": "eth0",
      "bridge": "cni0",
      "source": "10.244.1.0",
      "forwarder": "simple",
      "peers": [
        {"address": "172.18.0.3", "podCIDRs": ["10.244.2.0/24"]}
      ]
    }

A peer may say `"plain": true` (routes.Peer). The peers and the MTU may change while it runs; for all else it is
started again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, ip_network
from typing import Any

from netlab.tunnel.routes import Peer


@dataclass(frozen=True, slots=True)
class Config:
    """The whole file.

    device: the TUN device, which exists already. mtu: its MTU, in bytes of inner packet. local, port: where it
    receives; peers receive on the same port. uplink, bridge: the interfaces to the underlay and to the pods. source:
    the tunnel's own address, for ICMP errors. forwarder: `simple`, `batched`, `ebpf` or `auto`.
    """

    device: str
    mtu: int
    local: IPv4Address
    port: int
    uplink: str
    bridge: str
    source: IPv4Address
    forwarder: str
    peers: tuple[Peer, ...] = ()


def render(config: Config) -> str:
    """Return the file's text: a line for each field and each peer, which is what `netlab up --dry-run` shows."""
    fields = {
        "device": config.device,
        "mtu": config.mtu,
        "local": str(config.local),
        "port": config.port,
        "uplink": config.uplink,
        "bridge": config.bridge,
        "source": str(config.source),
        "forwarder": config.forwarder,
    }
    lines = [f"  {json.dumps(name)}: {json.dumps(value)}," for name, value in fields.items()]
    peers = ",\n".join(f"    {json.dumps(_peer_tree(peer))}" for peer in config.peers)
    return "\n".join(["{", *lines, f'  "peers": [\n{peers}\n  ]' if peers else '  "peers": []', "}", ""])


def _peer_tree(peer: Peer) -> dict[str, Any]:
    tree: dict[str, Any] = {"address": str(peer.address), "podCIDRs": [str(cidr) for cidr in peer.pod_cidrs]}
    return tree | ({"plain": True} if peer.plain else {})


def parse(text: str) -> Config:
    """Read the file's text. Raises ValueError that says what is wrong with it."""
    try:
        tree: Mapping[str, Any] = json.loads(text)
        return Config(
            device=str(tree["device"]),
            mtu=int(tree["mtu"]),
            local=IPv4Address(tree["local"]),
            port=int(tree["port"]),
            uplink=str(tree["uplink"]),
            bridge=str(tree["bridge"]),
            source=IPv4Address(tree["source"]),
            forwarder=str(tree["forwarder"]),
            peers=tuple(_peer(entry) for entry in tree["peers"]),
        )
    except KeyError as exc:
        raise ValueError(f"the field {exc} is missing") from exc
    except (TypeError, AttributeError) as exc:
        raise ValueError(f"it is not what netlab writes: {exc}") from exc


def _peer(tree: Mapping[str, Any]) -> Peer:
    return Peer(
        IPv4Address(tree["address"]), tuple(ip_network(cidr) for cidr in tree["podCIDRs"]), bool(tree.get("plain"))
    )
