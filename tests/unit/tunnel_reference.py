"""What the tunnel's fast code is compared with: packets built and cut field by field, the slow and plain way.

`gso` follows the kernel's tcp_gso_segment, __udp_gso_segment and inet_gso_segment; nothing of netlab is used here.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace

TCP, UDP = 6, 17
FIN, SYN, RST, PSH, ACK, URG, ECE, CWR = (1 << bit for bit in range(8))
Vnet = tuple[int, int, int, int, int, int]  # flags, gso_type, hdr_len, gso_size, csum_start, csum_offset


def checksum(octets: bytes) -> int:
    """Add words one by one, carry by carry (RFC 1071)."""
    total = 0
    for (word,) in struct.iter_unpack(">H", octets + bytes(len(octets) % 2)):
        total += word
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


@dataclass(frozen=True)
class Packet:
    """An IP packet with TCP or UDP in it, in fields."""

    payload: bytes = b""
    version: int = 4
    protocol: int = TCP
    source: bytes = b"\x0a\xf4\x01\x05"
    destination: bytes = b"\x0a\xf4\x02\x07"
    ports: tuple[int, int] = (40000, 5201)
    tos: int = 0
    id: int = 0
    fragment: int = 0x4000  # flags and offset
    ttl: int = 64
    flow_label: int = 0
    ip_options: bytes = b""  # IPv4
    extension: bytes = b""  # IPv6: a destination options header whose next header is filled in
    sequence: int = 0
    acknowledgment: int = 0
    flags: int = ACK
    reserved: int = 0  # the low half of the byte of TCP's data offset; AE is 1
    window: int = 502
    urgent: int = 0
    tcp_options: bytes = b""
    has_checksum: bool = True

    def with_(self, **fields: object) -> Packet:
        return replace(self, **fields)  # type: ignore[arg-type]

    @property
    def network(self) -> int:
        return 20 + len(self.ip_options) if self.version == 4 else 40 + len(self.extension)

    def _addresses(self) -> bytes:
        if self.version == 4:
            return self.source + self.destination
        return self.source.rjust(16, b"\xfd") + self.destination.rjust(16, b"\xfd")

    def transport(self) -> bytes:
        """TCP's or UDP's header with checksum 0."""
        if self.protocol == UDP:
            return struct.pack(">HHHH", *self.ports, 8 + len(self.payload), 0)
        offset = (20 + len(self.tcp_options)) // 4
        numbers = (self.sequence % 2**32, self.acknowledgment, offset << 4 | self.reserved, self.flags)
        return struct.pack(">HHIIBBHHH", *self.ports, *numbers, self.window, 0, self.urgent) + self.tcp_options

    def _ip(self, length: int) -> bytes:
        if self.version == 6:
            following = 60 if self.extension else self.protocol
            extension = bytes([self.protocol]) + self.extension[1:] if self.extension else b""
            first = 6 << 28 | self.tos << 20 | self.flow_label
            fixed = struct.pack(">IHBB", first, length + len(extension), following, self.ttl)
            return fixed + self._addresses() + extension
        fields = (0x40 | self.network // 4, self.tos, self.network + length, self.id % 65536, self.fragment, self.ttl)
        before, after = struct.pack(">BBHHHBB", *fields, self.protocol), self._addresses() + self.ip_options
        return before + struct.pack(">H", checksum(before + b"\0\0" + after)) + after

    def _pseudo(self, length: int) -> bytes:
        if self.version == 4:
            return self._addresses() + struct.pack(">BBH", 0, self.protocol, length)
        return self._addresses() + struct.pack(">II", length, self.protocol)

    def _assemble(self, value: int) -> bytes:
        header = bytearray(self.transport())
        struct.pack_into(">H", header, 16 if self.protocol == TCP else 6, value)
        return self._ip(len(header) + len(self.payload)) + header + self.payload

    def __bytes__(self) -> bytes:
        """The packet as it is on the wire."""
        segment = self.transport() + self.payload
        value = checksum(self._pseudo(len(segment)) + segment)
        if self.protocol == UDP:
            value = (value or 0xFFFF) if self.has_checksum else 0
        return self._assemble(value)

    def super_packet(self, gso_size: int) -> tuple[Vnet, bytes]:
        """The packet as TUN gives it with TSO or USO: one piece, a partial checksum. gso_size 0: only the latter."""
        pseudo = -checksum(self._pseudo(len(self.transport()) + len(self.payload))) % 0xFFFF  # 0xFFFF counts as 0
        kind = 5 if self.protocol == UDP else 1 if self.version == 4 else 4
        kind |= 0x80 if self.protocol == TCP and self.flags & CWR else 0
        offset = 16 if self.protocol == TCP else 6
        header = self.network + len(self.transport())
        return (1, kind if gso_size else 0, header, gso_size, self.network, offset), self._assemble(pseudo)

    def segments(self, gso_size: int) -> list[Packet]:
        """What the kernel would make of the super-packet."""
        starts = range(0, len(self.payload), gso_size)
        found = []
        for number, start in enumerate(starts):
            drop = (0 if number == 0 else CWR) | (0 if number == len(starts) - 1 else FIN | PSH)
            found.append(
                self.with_(
                    payload=self.payload[start : start + gso_size],
                    id=self.id + number,
                    sequence=self.sequence + start,
                    flags=self.flags & ~drop,
                )
            )
        return found


def parse(packet: bytes) -> Packet:
    """Read a packet without IP extension headers back into fields."""
    if packet[0] >> 4 == 4:
        network = (packet[0] & 15) * 4
        _, tos, _, ident, fragment, ttl, protocol, _, source, destination = struct.unpack_from(">BBHHHBBH4s4s", packet)
        ip = Packet(tos=tos, id=ident, fragment=fragment, ttl=ttl, protocol=protocol, source=source)
        ip = ip.with_(destination=destination, ip_options=packet[20:network])
    else:
        network = 40
        first, _, protocol, ttl, source, destination = struct.unpack_from(">IHBB16s16s", packet)
        ip = Packet(version=6, tos=first >> 20 & 255, flow_label=first & 0xFFFFF, ttl=ttl, protocol=protocol)
        ip = ip.with_(source=source, destination=destination)
    if protocol == UDP:
        return ip.with_(ports=struct.unpack_from(">HH", packet, network), payload=packet[network + 8 :])
    sport, dport, sequence, acknowledgment, offset, flags, window, _, urgent = struct.unpack_from(
        ">HHIIBBHHH", packet, network
    )
    header = network + (offset >> 4) * 4
    return ip.with_(
        **{"ports": (sport, dport), "sequence": sequence, "acknowledgment": acknowledgment, "flags": flags},
        **{"reserved": offset & 15, "window": window, "urgent": urgent},
        **{"tcp_options": packet[network + 20 : header], "payload": packet[header:]},
    )


def gso(header: bytes, packet: bytes) -> list[bytes]:
    """Return what the kernel sends for a frame that was written to TUN; insist that its fields are consistent."""
    vnet: Vnet = struct.unpack("<BBHHHH", header)
    if vnet == (0, 0, 0, 0, 0, 0):
        return [packet]
    assert len(packet) <= 65535
    whole = parse(packet)
    assert (vnet, packet) == whole.super_packet(vnet[3])  # lengths, checksums, hdr_len, gso_type
    return [bytes(segment) for segment in whole.segments(vnet[3])]


def is_whole(packet: bytes) -> bool:
    """Say whether an IP packet is all there."""
    if len(packet) >= 20 and packet[0] >> 4 == 4:
        header, total = (packet[0] & 15) * 4, struct.unpack_from(">H", packet, 2)[0]
        return 20 <= header <= total <= len(packet)
    return len(packet) >= 40 and packet[0] >> 4 == 6 and 40 + struct.unpack_from(">H", packet, 4)[0] <= len(packet)


def hop(packet: bytes) -> bytes | None:
    """One forwarder's share of the way; a wrong checksum stays wrong (RFC 1624 equation 3). None: it ends here."""
    if not is_whole(packet):
        return None
    position = 8 if packet[0] >> 4 == 4 else 7
    if packet[position] < 2:
        return None
    changed = bytearray(packet)
    changed[position] -= 1
    if position == 8:
        words = (~struct.unpack_from(">H", packet, 10)[0] & 0xFFFF, ~struct.unpack_from(">H", packet, 8)[0] & 0xFFFF)
        struct.pack_into(">H", changed, 10, checksum(struct.pack(">HH", *words) + changed[8:10]))
    return bytes(changed)
