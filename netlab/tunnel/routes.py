"""Which peer holds an inner address: longest prefix first. Pure.

The same table answers both questions of a forwarder: where does a packet go, and may this sender speak for its source.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Network

from netlab.tunnel.packet import Drop

REMEMBERED = 4096  # answers; a bound for memory
Table = tuple[tuple[int, dict[int, "Peer"]], ...]  # bits behind the prefix -> prefix -> peer, longest prefix first


@dataclass(frozen=True, slots=True)
class Peer:
    """Another node: its address on the underlay and the podCIDRs that it holds.

    plain: its forwarder is a process only, as flannel's, and the link to it is virtual (veth, a bridge).
    """

    address: IPv4Address
    pod_cidrs: tuple[IPv4Network | IPv6Network, ...]
    plain: bool = False

    def __str__(self) -> str:
        return f"{self.address} ({' '.join(map(str, self.pod_cidrs))})"


class Routes:
    """The routes to a set of peers. Raises ValueError where two share an address or a podCIDR. Never changes."""

    def __init__(self, peers: Iterable[Peer]) -> None:
        self.peers = tuple(peers)
        self._senders = {str(peer.address): peer for peer in self.peers}
        if len(self._senders) != len(self.peers):
            raise ValueError("two peers have one address")
        self._tables = {4: self._table(4), 16: self._table(6)}  # by the length of an address, in bytes
        self._found: dict[int, Peer | None] = {}  # what was asked for, of IPv4

    def find(self, address: bytes) -> Peer | None:
        """Return the peer that holds an inner address of 4 or 16 bytes."""
        number = int.from_bytes(address, "big")
        return self.find_ipv4(number) if len(address) == 4 else self._search(16, number)

    def find_ipv4(self, number: int) -> Peer | None:
        """Return the peer that holds an inner IPv4 address, given as a number."""
        try:
            return self._found[number]
        except KeyError:
            if len(self._found) >= REMEMBERED:
                self._found.clear()
            peer = self._found[number] = self._search(4, number)
            return peer

    def _search(self, length: int, number: int) -> Peer | None:
        for shift, holders in self._tables[length]:
            peer = holders.get(number >> shift)
            if peer is not None:
                return peer
        return None

    def refusal(self, sender: str, source: bytes) -> Drop | None:
        """Return why a datagram from `sender`, an address as recvmsg gives it, may not carry this inner source."""
        peer = self._senders.get(sender)
        if peer is None:
            return Drop.UNKNOWN_SENDER
        return None if self.find(source) is peer else Drop.FOREIGN_SOURCE

    def admits(self, sender: str, source: bytes) -> bool:
        """Say whether `sender` is a peer and the one that holds this inner source."""
        return self.refusal(sender, source) is None

    def _table(self, version: int) -> Table:
        tables: dict[int, dict[int, Peer]] = defaultdict(dict)
        for peer in self.peers:
            for cidr in peer.pod_cidrs:
                if cidr.version != version:
                    continue
                shift = cidr.max_prefixlen - cidr.prefixlen
                holder = tables[shift].setdefault(int(cidr.network_address) >> shift, peer)
                if holder is not peer:
                    raise ValueError(f"{cidr} is the podCIDR of both {holder.address} and {peer.address}")
        return tuple(sorted(tables.items()))
