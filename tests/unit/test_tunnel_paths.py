"""What routers say about a path that is too narrow, as bytes."""

from __future__ import annotations

from ipaddress import IPv4Address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.packet import Raw

from netlab.tunnel.paths import read_error

PORT = 8285
OURS = IP(src="172.18.0.2", dst="172.18.0.3") / UDP(sport=PORT, dport=PORT) / Raw(bytes(8))


def told(quoted: Any = OURS, **fields: Any) -> bytes:
    """Return a router's error, which quotes a packet of ours."""
    return bytes(
        IP(src="172.18.0.1", dst="172.18.0.2") / ICMP(**{"type": 3, "code": 4, "nexthopmtu": 1400, **fields}) / quoted
    )


def test_a_narrow_path_is_read() -> None:
    assert read_error(told(), PORT) == (IPv4Address("172.18.0.3"), 1400)


@pytest.mark.parametrize(
    "message",
    [
        told(code=3),
        told(type=11, code=0),
        told(IP(dst="172.18.0.3") / UDP(sport=9, dport=PORT) / Raw(bytes(8))),
        told(IP(dst="172.18.0.3") / TCP(sport=PORT)),
        told()[:-20],
    ],
    ids=["port unreachable", "time exceeded", "another port", "TCP", "cut short"],
)
def test_other_news_is_none(message: bytes) -> None:
    assert read_error(message, PORT) is None


@given(st.binary(min_size=20, max_size=100))
def test_any_packet_is_read_or_not(message: bytes) -> None:
    found = read_error(message, PORT)
    start = (message[0] & 0x0F) * 4
    assert found is None or message[start : start + 2] == b"\3\4"
