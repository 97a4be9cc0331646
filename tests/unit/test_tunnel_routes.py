"""The routes against the standard library's plain way of asking every podCIDR."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netlab.tunnel.packet import Drop
from netlab.tunnel.routes import Peer, Routes

NEAR = Peer(IPv4Address("172.18.0.2"), (IPv4Network("10.244.1.0/24"), IPv6Network("fd00:1::/64")))
WIDE = Peer(IPv4Address("172.18.0.3"), (IPv4Network("10.244.0.0/16"), IPv6Network("fd00::/16")))
ALL = Peer(IPv4Address("172.18.0.4"), (IPv4Network("0.0.0.0/0"),))
HOST = Peer(IPv4Address("172.18.0.5"), (IPv4Network("10.244.1.9/32"),))


@pytest.mark.parametrize(
    ("address", "peer"),
    [
        ("10.244.1.5", NEAR),
        ("10.244.1.9", HOST),
        ("10.244.2.5", WIDE),
        ("10.245.0.1", ALL),
        ("fd00:1::5", NEAR),
        ("fd00:2::5", WIDE),
        ("fd01::1", None),
    ],
)
@pytest.mark.parametrize("order", [(NEAR, WIDE, ALL, HOST), (HOST, ALL, WIDE, NEAR)])
def test_the_longest_prefix_wins(address: str, peer: Peer | None, order: tuple[Peer, ...]) -> None:
    assert Routes(order).find(ip_address(address).packed) is peer


def test_no_peers() -> None:
    assert Routes(()).find(bytes(4)) is None
    assert Routes(()).find(bytes(16)) is None
    assert Routes(()).refusal("172.18.0.2", bytes(4)) is Drop.UNKNOWN_SENDER


@pytest.mark.parametrize(
    ("sender", "source", "refusal"),
    [
        ("172.18.0.2", "10.244.1.5", None),
        ("172.18.0.2", "10.244.1.0", None),  # the peer's own tunnel address
        ("172.18.0.2", "fd00:1::1", None),
        ("172.18.0.3", "10.244.2.5", None),
        ("172.18.0.2", "10.244.2.5", Drop.FOREIGN_SOURCE),
        ("172.18.0.2", "10.244.1.9", Drop.FOREIGN_SOURCE),  # inside its podCIDR, but a peer has the address for itself
        ("172.18.0.3", "10.244.1.5", Drop.FOREIGN_SOURCE),
        ("172.18.0.2", "192.168.0.1", Drop.FOREIGN_SOURCE),
        ("172.18.0.2", "fd02::1", Drop.FOREIGN_SOURCE),
        ("172.18.0.99", "10.244.1.5", Drop.UNKNOWN_SENDER),
        ("", "10.244.1.5", Drop.UNKNOWN_SENDER),
    ],
)
def test_who_may_speak_for_a_source(sender: str, source: str, refusal: Drop | None) -> None:
    routes = Routes((NEAR, WIDE, HOST))
    assert routes.refusal(sender, ip_address(source).packed) is refusal
    assert routes.admits(sender, ip_address(source).packed) is (refusal is None)


def test_what_cannot_be() -> None:
    with pytest.raises(ValueError, match=r"10\.244\.1\.0/24 is the podCIDR of both 172\.18\.0\.2 and 172\.18\.0\.9"):
        Routes((NEAR, Peer(IPv4Address("172.18.0.9"), (IPv4Network("10.244.1.0/24"),))))
    with pytest.raises(ValueError, match="one address"):
        Routes((NEAR, Peer(NEAR.address, ())))


V4_NETWORKS = st.builds(
    lambda number, bits: IPv4Network((number << 24 | number, bits), strict=False),
    *(st.integers(0, 7), st.integers(0, 32)),
)
V6_NETWORKS = st.builds(
    lambda number, bits: IPv6Network((number << 120 | number, bits), strict=False),
    *(st.integers(0, 7), st.integers(0, 128)),
)
ADDRESSES = st.builds(
    lambda high, low: IPv4Address(high << 24 | low), st.integers(0, 7), st.integers(0, 7)
) | st.builds(lambda high, low: IPv6Address(high << 120 | low), st.integers(0, 7), st.integers(0, 7))


@given(st.lists(st.lists(V4_NETWORKS | V6_NETWORKS, max_size=4), max_size=8), st.lists(ADDRESSES, min_size=1))
def test_as_asking_every_network(cidrs: list[list[IPv4Network | IPv6Network]], addresses: list[IPv4Address]) -> None:
    seen: set[object] = set()
    peers = []
    for number, wanted in enumerate(cidrs):
        own = tuple(cidr for cidr in dict.fromkeys(wanted) if cidr not in seen)
        seen |= set(own)
        peers.append(Peer(IPv4Address((172 << 24) + number), own))
    routes = Routes(peers)
    for address in addresses:
        matches = [(cidr.prefixlen, peer) for peer in peers for cidr in peer.pod_cidrs if address in cidr]
        best = max(matches, key=lambda match: match[0])[1] if matches else None
        assert routes.find(address.packed) is best
        for peer in peers:
            assert routes.admits(str(peer.address), address.packed) is (peer is best)


def test_a_peer_in_words() -> None:
    assert str(NEAR) == "172.18.0.2 (10.244.1.0/24 fd00:1::/64)"
    assert ip_network("10.244.1.0/24") in NEAR.pod_cidrs
